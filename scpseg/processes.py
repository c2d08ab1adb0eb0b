"""Run git; end child processes with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import psutil  # type: ignore[import-untyped]

from scpseg.errors import UserError

_PR_SET_PDEATHSIG = 1


def git(*words: str) -> str:
    """The output of a git command.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or "no message").splitlines()[-1]
        todo = "; commit the project first" if "HEAD" in why else ""
        raise UserError(f"git {words[2] if words[0] == '-C' else words[0]} failed ({why}){todo}")
    return done.stdout


def end_with_parent() -> None:
    """Make the kernel send SIGTERM to this process when its parent ends for any reason (Linux only)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent ended before the call
        os.kill(os.getpid(), signal.SIGTERM)


def end_tree(process: subprocess.Popen[bytes], grace: float) -> None:
    """End a process and those that it started: SIGTERM, and after `grace` seconds SIGKILL; return when all have ended.

    The process itself gets the signal; the others get it from the kernel, see `end_with_parent`.
    """
    try:
        others = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        others = []
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(grace)
        _, alive = psutil.wait_procs(others, timeout=grace)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
        alive = others
    for other in alive:
        if other.is_running():
            other.kill()
