"""What must be right around the project before anything long starts: git, folders, home, shared memory.

Nothing here imports torch, so that a mistake is told within a second.
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
"""What stages write; DVC does not follow a link in their place."""


def check_surroundings(params: Params) -> None:
    """Check what the stages need besides valid parameters; stages run by hand, without dvc.yaml, need no git.

    Raises:
        UserError: the first thing that is not right, and what to do.
    """
    if Path("dvc.yaml").is_file():
        check_repository()
        check_folders()
        warn_of_site_cache()
        # An experiment's stages find the repository that it belongs to here; `dvc repro` works in a shallow clone.
        if "DVC_EXP_NAME" in os.environ:
            check_experiments(Path(os.environ.get("DVC_ROOT", ".")))
    check_home(params.values.get("data") or {})
    check_shared_memory(params)


def check_repository(root: Path = Path()) -> None:
    """Check that the project is a git repository of its own, which DVC needs.

    Raises:
        UserError: it is not, or git does not read it.
    """
    try:
        done = _git(root, "rev-parse", "--show-prefix")
    except FileNotFoundError:
        raise UserError("git is not installed, and DVC needs it: install git") from None
    own = "`git init && git add -A && git commit -m start` here"
    if done.returncode and "dubious ownership" in done.stderr:
        why = "git does not read this repository, which belongs to another user"
        raise UserError(f"{why}: git config --global --add safe.directory {root.resolve()}")
    if done.returncode:
        raise UserError(f"the project is not in a git repository, which DVC needs: `git clone` it, or {own}")
    if done.stdout.strip():
        raise UserError(f"the project is inside another git repository: move it out of there, or {own}")


def check_experiments(root: Path = Path()) -> None:
    """Check that DVC can save experiments here, which sweeps are made of.

    Raises:
        UserError: the clone is shallow, or its path is one that `dvc exp run --temp` cannot write down.
    """
    if _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        why = "this clone is shallow (git clone --depth), and DVC saves no experiment in one"
        raise UserError(f"{why}: git fetch --unshallow")
    path = str(root.resolve())
    if not path.isascii():
        why = f"{path} has other letters than ASCII, and `dvc exp run --temp` fails there"
        raise UserError(f"{why}: move the project to a path of ASCII letters")


def check_folders() -> None:
    """Check that what the stages write is not a link.

    Raises:
        UserError: it is one.
    """
    for name in FOLDERS:
        if Path(name).is_symlink():
            raise UserError(
                f"{name} is a link to {os.readlink(name)}, which DVC does not follow: remove the link; to use another "
                "disk, clone the whole project there, or link data/<benchmark> alone"
            )


def warn_of_site_cache() -> None:
    """Warn where DVC's site cache belongs to somebody else: DVC unpickles what is there, and so runs their code.

    A private one cannot be set in .dvc/config: with a relative path `dvc exp run --temp` of DVC 3.67 fails.
    """
    folder = Path(os.environ.get("DVC_SITE_CACHE_DIR") or SITE_CACHE)
    if folder.is_dir() and folder.stat().st_uid not in (0, os.getuid()):
        print(
            f"warning: {folder}, the site cache of DVC, belongs to another user, who could run code as you: "
            "export DVC_SITE_CACHE_DIR=$HOME/.cache/dvc-site before every `dvc` and `make`",
            file=sys.stderr,
        )


def check_home(data: dict[str, Any]) -> None:
    """Check that the folder of the archives can be found where it begins with ~.

    Raises:
        UserError: there is no home directory.
    """
    cache = os.environ.get("SCPSEG_CACHE") or str(data.get("cache", ""))
    if os.path.expanduser(cache).startswith("~"):
        key = "SCPSEG_CACHE" if os.environ.get("SCPSEG_CACHE") else "data.cache"
        raise UserError(
            f"{key} is {cache}, but that home directory is not known here: name a folder without ~ in data.cache "
            "(params.yaml) or in SCPSEG_CACHE, or set HOME"
        )


def check_shared_memory(params: Params) -> None:
    """Check that the batches which loading processes hand over fit into shared memory, two for each process.

    Raises:
        UserError: they do not fit, or nothing can be written there.
    """
    workers = (params.values.get("machine") or {}).get("workers")
    if not isinstance(workers, int) or workers < 1 or not SHARED_MEMORY.is_dir():
        return
    todo = "give more (docker run --shm-size=8g) or set machine.workers to 0"
    if not os.access(SHARED_MEMORY, os.W_OK):
        raise UserError(f"machine.workers is {workers}, but {SHARED_MEMORY} cannot be written: {todo}")
    need = 2 * workers * _batch_bytes(params)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < need:
        why = f"needs {need / 2**20:.0f} MiB in {SHARED_MEMORY}, but {free / 2**20:.0f} MiB are free"
        raise UserError(f"machine.workers is {workers}, which {why}: {todo}")


def _batch_bytes(params: Params) -> int:
    """Of SCPSeg's largest batch: three bytes of colour and one of label for each pixel of its context windows."""
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
