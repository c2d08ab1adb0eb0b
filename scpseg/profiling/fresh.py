"""Run one workload in a fresh process, so that its memory contains nothing of an earlier one.

The process is `python -m MODULE ARGUMENTS ANSWER`: it reads a JSON request from standard input and writes its answer to
the file ANSWER. Its allocator returns freed tensors to the system at once, so that resident memory follows live memory:
one arena, and a separate mapping for every block of 64 KiB or more. (Measured on six windows of a small network: five
processes then agree within 0.2 %; with glibc's defaults they differ by 25 %, and the peak is 1.5 times as high, because
the threshold moves while the program runs.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from scpseg.files import read_json

RETURNING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Settings of glibc with which freed memory leaves the process."""


class ChildKilled(Exception):
    """The fresh process wrote no answer; `status` is 'oom' if it was killed for lack of memory, or else 'failed'."""

    def __init__(self, code: int, oom: bool) -> None:
        """Describe how the process ended."""
        self.status = "oom" if oom else "failed"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code} and left no answer"
        super().__init__("the system ran out of memory and killed the process" if oom else f"the process {how}")


def run_fresh(arguments: list[str], request: Any, timeout: float | None = None) -> Any:
    """Run `python -m *arguments ANSWER` and return what it wrote to ANSWER; its output goes to ours.

    Raises:
        ChildKilled: the process ended without an answer.
        TimeoutError: the process did not end within `timeout` seconds.
    """
    kills = oom_kills()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", *arguments, str(answer)]
        environment = {**os.environ, **RETURNING}
        try:
            done = subprocess.run(command, input=json.dumps(request).encode(), env=environment, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the process did not end within {timeout:.0f} s") from None
        if answer.is_file():
            return read_json(answer)
    raise ChildKilled(done.returncode, done.returncode == -9 and oom_kills() > kills)


def oom_kills() -> int:
    """Number of processes that the kernel has killed for lack of memory since it started; 0 if unknown."""
    counters = Path("/proc/vmstat")
    lines = counters.read_text().splitlines() if counters.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def memory_limit() -> int:
    """Bytes of memory of the machine or of the control group, whichever is less."""
    files = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    limits = [path.read_text().strip() for path in files if path.is_file()]
    return min([int(psutil.virtual_memory().total), *(int(text) for text in limits if text.isdigit())])


def allocator() -> dict[str, str | None]:
    """The allocator settings with which this process was started."""
    return {name: os.environ.get(name) for name in (*RETURNING, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")}
