"""Command line and provenance of the stages that process one run.

Provenance (date and machine of a run) is separate from the results, so that equal runs have equal results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import paths
from pipelines.methods import METHODS
from scpseg.benchmarks import BENCHMARKS
from scpseg.files import write_json
from scpseg.params import LAST_SEED

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add BENCHMARK METHOD SEED to a command line."""
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    parser.add_argument("method", choices=list(METHODS))
    parser.add_argument("seed", type=_seed, help=f"a whole number from 0 to {LAST_SEED}")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > LAST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LAST_SEED}")
    return int(text)


def write_provenance(benchmark: str, name: str, seed: int, stage: str, device: torch.device, **measured: Any) -> None:
    """Write the provenance of a run, with `stage` training or evaluation and the `measured` values."""
    from scpseg.environment import environment  # imports torch, which the command line does not need

    record = {"benchmark": benchmark, "method": name, "seed": seed, **measured, "environment": environment(device)}
    write_json(paths.provenance(benchmark, name, seed, stage), record)


def revision(root: Path = ROOT) -> str | None:
    """Commit of the code, with + if the code differs from it; None if `root` is not the top of a git work tree.

    Prints a warning if git does not read the repository, for example because it belongs to another user.
    """
    try:
        prefix, head = _git(root, "rev-parse", "--show-prefix", "--short=12", "HEAD").split("\n")[:2]
        changed = _git(root, "status", "--porcelain", "--", *paths.CODE)
    except FileNotFoundError:
        return None
    except subprocess.CalledProcessError as error:
        if "dubious ownership" in error.stderr:
            why = f"it belongs to another user: git config --global --add safe.directory {root}"
            print(f"warning: no revision in the results: git does not read this repository ({why})", file=sys.stderr)
        return None
    # A project that was unpacked inside another repository does not belong to that repository's commit.
    return None if prefix else head + ("+" if changed.strip() else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
