"""Check the environment of the project before anything long starts: git, folders, home, shared memory.

Does not import torch, so that errors are reported within a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from scpseg.errors import UserError
from scpseg.params import Params

SHARED_MEMORY = Path("/dev/shm")
SITE_CACHE = Path("/var/tmp/dvc")
FOLDERS = ("data", "results", "reports")
"""Outputs of stages; DVC does not follow a link in their place."""


def check_surroundings(params: Params) -> None:
    """Check what the stages need besides valid parameters; stages run by hand, without dvc.yaml, need no git.

    Raises:
        UserError: the first problem, and what to do.
    """
    if Path("dvc.yaml").is_file():
        check_repository()
        check_folders()
        warn_of_site_cache()
        # The stages of an experiment find its repository here; `dvc repro` also works in a shallow clone.
        if "DVC_EXP_NAME" in os.environ:
            check_experiments(Path(os.environ.get("DVC_ROOT", ".")))
    check_home(params.values.get("data") or {})
    check_shared_memory(params)


def check_repository(root: Path = Path()) -> None:
    """Check that the project is its own git repository, which DVC needs.

    Raises:
        UserError: it is not, or git does not read it.
    """
    try:
        done = _git(root, "rev-parse", "--show-prefix")
    except FileNotFoundError:
        raise UserError("git is not installed, and DVC needs it: install git") from None
    own = "`git init && git add -A && git commit -m start` here"
    if done.returncode and "dubious ownership" in done.stderr:
        why = "git does not read this repository, because it belongs to another user"
        raise UserError(f"{why}: git config --global --add safe.directory {root.resolve()}")
    if done.returncode:
        raise UserError(f"the project is not in a git repository, which DVC needs: `git clone` it, or {own}")
    if done.stdout.strip():
        raise UserError(f"the project is inside another git repository: move it out of there, or {own}")


def check_experiments(root: Path = Path()) -> None:
    """Check that DVC can save experiments here, which sweeps need.

    Raises:
        UserError: the clone is shallow, or `dvc exp run --temp` does not support its path.
    """
    if _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        why = "this clone is shallow (git clone --depth), and DVC cannot save experiments in it"
        raise UserError(f"{why}: git fetch --unshallow")
    path = str(root.resolve())
    if not path.isascii():
        why = f"{path} contains non-ASCII characters, and `dvc exp run --temp` fails there"
        raise UserError(f"{why}: move the project to a path with ASCII characters only")


def check_folders() -> None:
    """Check that output folders are not links.

    Raises:
        UserError: one of them is.
    """
    for name in FOLDERS:
        if Path(name).is_symlink():
            raise UserError(
                f"{name} is a link to {os.readlink(name)}, which DVC does not follow: remove the link; to use another "
                "disk, clone the whole project there, or link data/<benchmark> alone"
            )


def warn_of_site_cache() -> None:
    """Warn if DVC's site cache belongs to another user: DVC unpickles its files, which can run that user's code.

    A private cache cannot be set in .dvc/config: with a relative path, `dvc exp run --temp` of DVC 3.67 fails.
    """
    folder = Path(os.environ.get("DVC_SITE_CACHE_DIR") or SITE_CACHE)
    if folder.is_dir() and folder.stat().st_uid not in (0, os.getuid()):
        print(
            f"warning: {folder}, the site cache of DVC, belongs to another user, who could run code as you: "
            "export DVC_SITE_CACHE_DIR=$HOME/.cache/dvc-site before every `dvc` and `make`",
            file=sys.stderr,
        )


def check_home(data: dict[str, Any]) -> None:
    """Check that the folder of the archives can be found if its path starts with ~.

    Raises:
        UserError: there is no home directory.
    """
    cache = os.environ.get("SCPSEG_CACHE") or str(data.get("cache", ""))
    if os.path.expanduser(cache).startswith("~"):
        key = "SCPSEG_CACHE" if os.environ.get("SCPSEG_CACHE") else "data.cache"
        raise UserError(
            f"{key} is {cache}, but that home directory does not exist here: use a folder without ~ in data.cache "
            "(params.yaml) or in SCPSEG_CACHE, or set HOME"
        )


def check_shared_memory(params: Params) -> None:
    """Check that two batches per data loading process fit into shared memory.

    Raises:
        UserError: they do not fit, or shared memory is not writable.
    """
    workers = (params.values.get("machine") or {}).get("workers")
    if not isinstance(workers, int) or workers < 1 or not SHARED_MEMORY.is_dir():
        return
    todo = "increase it (docker run --shm-size=8g) or set machine.workers to 0"
    if not os.access(SHARED_MEMORY, os.W_OK):
        raise UserError(f"machine.workers is {workers}, but {SHARED_MEMORY} cannot be written: {todo}")
    need = 2 * workers * _batch_bytes(params)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < need:
        why = f"needs {need / 2**20:.0f} MiB in {SHARED_MEMORY}, but {free / 2**20:.0f} MiB are free"
        raise UserError(f"machine.workers is {workers}, which {why}: {todo}")


def _batch_bytes(params: Params) -> int:
    """Bytes of SCPSeg's largest batch: three of colour and one of label per pixel of the context windows."""
    context = (params.values.get("csm") or {}).get("context")
    sizes = [params.values.get(name) or {} for name in (params.values.get("suite") or {}).get("benchmarks") or []]
    found = [0]
    for size in sizes:
        patch, batch = size.get("patch"), size.get("batch")
        if isinstance(patch, int) and isinstance(batch, int) and isinstance(context, (int, float)):
            found.append(int(4 * batch * (patch * context) ** 2))
    return max(found)


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
