"""Start and end of every stage: errors, interrupts and exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pipelines.freshness import UNENDED, error_file, record_error
from scpseg.errors import UserError
from scpseg.files import without_room

FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EBUSY})
LOADING = (
    "MemoryError in DataLoader worker",
    "killed by signal: Killed",
    "DataLoader worker (pid(s)",  # exited unexpectedly: torch's message if the kernel killed it first
    "out of shared memory",
)
"""Messages of torch if a data loading process runs out of memory or is killed by the kernel."""
SHARED = ("unable to allocate shared memory", "unable to open shared memory", "unable to mmap", "torch_shm_manager")
"""Messages of torch if /dev/shm is too small or not writable."""

RECORDED = ("mirror", "download", "prepare", "train", "evaluate", "profile")
"""Stages whose last error is shown in the report."""


def run_stage(work: Callable[[], None], less: str = "close other programs, or take a machine with more") -> NoReturn:
    """Run a stage and exit: 0, or 1 after one sentence if the user can correct the error, or 130 if interrupted.

    The report shows the errors.

    Args:
        work: the stage.
        less: what to do if memory runs out.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII console has no multiplication sign
    words = [Path(sys.argv[0]).stem, *sys.argv[1:]]
    # With options it is not a stage of dvc.yaml; `download --source` may be given an address with a secret.
    options = any(word.startswith("-") for word in words)
    recorded = words[0] in RECORDED and not options and Path("dvc.yaml").is_file()
    if recorded:
        _record(words, UNENDED)
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has ended, as `head` does: end like a program that the signal ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if recorded:
            _record(words, "whoever read its output ended")
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print("interrupted; run the same command to continue", file=sys.stderr, flush=True)
        if recorded:
            _record(words, "it was interrupted")
        sys.exit(130)
    except Exception as error:
        sentence = explained(error, less)
        if recorded:
            _record(words, sentence or " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]]))
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        sys.unraisablehook = lambda _: None  # nothing after the sentence, as of a loader that torch had half made
        sys.exit(1)
    if recorded:
        error_file(words).unlink(missing_ok=True)
    sys.exit(0)


def _record(words: list[str], sentence: str) -> None:
    # The stage itself reports a full or read-only disk.
    with contextlib.suppress(OSError):
        record_error(words, sentence)


def explained(error: Exception, less: str) -> str | None:
    """One sentence for the user, or None if the user cannot correct the error: then its traceback is needed."""
    if isinstance(error, UserError):
        # An error in a data loading process arrives as the text of its traceback.
        return str(error).rpartition("scpseg.errors.UserError: ")[2].strip()
    if any(words in str(error) for words in SHARED) or _no_semaphore(error):
        return (
            "data loading processes (machine.workers) have no room in /dev/shm: increase it (docker run --shm-size=8g) "
            "or set machine.workers to 0"
        )
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return (
            "a folder starts with ~, but there is no home directory: write it without ~ in data.cache or data.source "
            "(params.yaml) or in SCPSEG_CACHE, or set HOME"
        )
    if _out_of_memory(error):
        first = " ".join((str(error).strip() or "no details").splitlines()[0].split())
        return f"out of memory ({first}): {less}"
    if full := without_room(error):
        where = f"{full.filename} cannot be written" if full.filename else "a file cannot be written"
        return f"{where} ({full.strerror}): free some space there and run the same command again"
    if isinstance(error, OSError) and (name := error.filename2 or error.filename):
        if error.errno in FORBIDDEN:
            return f"{name} cannot be read or written ({error.strerror}): change its permissions or use another path"
        if error.errno in IN_THE_WAY:
            return f"{_obstacle(Path(os.fsdecode(name)))} is in the way ({error.strerror}): move it elsewhere"
    return None


def _no_semaphore(error: Exception) -> bool:
    """Whether Python could not make a lock between processes: a file in /dev/shm, which the error does not name."""
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).match("multiprocessing/synchronize.py") for frame in frames)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory of the host or the GPU ran out; torch is asked only if the stage imported it."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in LOADING):
        return True
    if "torch" not in sys.modules:
        return False
    from scpseg.profiling.workload import is_oom

    return is_oom(error)


def _obstacle(path: Path) -> Path:
    """The file in the place of a parent folder of `path`, or `path` itself."""
    return next((folder for folder in path.parents if folder.exists() and not folder.is_dir()), path)
