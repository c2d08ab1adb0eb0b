"""Memory sampled every few milliseconds by a process of its own, and the measuring process's connection to it.

A thread of the measured process would starve while the network holds the interpreter. The sampling process is this
module run by `python -m`. It imports neither torch nor numpy, so it is small and starts fast. It reads lines from its
standard input (a JSON request, then `mark` or `stop`) and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import scpseg
from scpseg.processes import end_with_parent

PERIOD = 0.008
"""Seconds between two samples."""
PATIENCE = 60.0
"""Seconds to wait for an answer: opening NVML is slow where there are many GPUs, and may hang if the driver does."""
Sample = dict[str, int | None]
"""Bytes by key: 'rss' of a process; or 'device' and 'reserved' of a GPU, and each process on it by its id."""
TimedSamples = list[tuple[float, Sample]]
"""Samples with their times (`time.monotonic`)."""


class SourceError(Exception):
    """Memory cannot be read this way; the message says why."""


class SamplerLost(Exception):
    """The sampling process ended early; the message says how."""


class Sampler:
    """A sampling process; `facts` is what the source said about itself at the last mark."""

    def __init__(self, request: dict[str, Any], period: float = PERIOD) -> None:
        """Start sampling every `period` seconds.

        Args:
            request: {'source': 'rss' or 'tree', 'pid': ...} or {'source': 'nvml', 'uuid': ..., 'visible': ...}.
            period: seconds between two samples.

        Raises:
            SourceError: the source cannot be read.
            SamplerLost: the process ended before it answered.
        """
        paths = [str(Path(scpseg.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scpseg.profiling.sampling"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        answer = self._ask(json.dumps({**request, "period": period}))
        if "error" in answer:
            self.close()
            raise SourceError(answer["error"])
        self.facts: dict[str, Any] = answer["facts"]

    def mark(self) -> Sample:
        """Take a sample now.

        Raises:
            SamplerLost: the process has ended.
        """
        answer = self._ask("mark")
        self.facts = answer["facts"]
        sample: Sample = answer["sample"]
        return sample

    def stop(self) -> TimedSamples:
        """Every sample, with a last one taken now; the process ends.

        Raises:
            SamplerLost: the process has ended.
        """
        samples = [(at, sample) for at, sample in self._ask("stop")["samples"]]
        self.close()
        return samples

    def close(self) -> None:
        """End the process if it still runs."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            return  # an unsent line is lost with its reader

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                self.close()
                raise SamplerLost(f"the sampling process did not answer within {PATIENCE:.0f} s")
            answer = self.process.stdout.readline()
        except (BrokenPipeError, ValueError):
            answer = b""
        if not answer.endswith(b"\n"):
            self.close()
            code = self.process.returncode
            how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            raise SamplerLost(f"the sampling process ended too early ({how})")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed


def gaps(samples: TimedSamples) -> tuple[float, float]:
    """Mean and longest time between two samples in milliseconds; 0 for fewer than two samples."""
    between = [(late - early) * 1000 for early, late in pairwise(at for at, _ in samples)]
    return (sum(between) / len(between), max(between)) if between else (0.0, 0.0)


class Resident:
    """Resident memory of a process without file pages, from Linux's /proc; with `tree`, of its children too.

    Pages that a fork shares with its parent until one of them writes are counted in both.
    """

    def __init__(self, pid: int, tree: bool) -> None:
        """Read process `pid`.

        Raises:
            SourceError: there is no such process, or no /proc.
        """
        self.pid, self.tree, self.page = pid, tree, os.sysconf("SC_PAGE_SIZE")
        self.facts: dict[str, Any] = {}
        needed = f"/proc/{pid}/task/{pid}/children" if tree else f"/proc/{pid}/statm"
        if not os.path.exists(needed):
            raise SourceError(f"{needed} cannot be read")

    def read(self) -> Sample:
        """{'rss': bytes}; None once all processes have ended."""
        sizes, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            try:
                with open(f"/proc/{pid}/statm", "rb", buffering=0) as stream:
                    _, resident, shared = stream.read().split()[:3]
                sizes.append((int(resident) - int(shared)) * self.page)
                for thread in os.listdir(f"/proc/{pid}/task") if self.tree else ():
                    with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                        waiting += map(int, stream.read().split())
            except (OSError, ValueError):
                continue  # it has ended meanwhile
        return {"rss": sum(sizes) if sizes else None}


def main() -> NoReturn:
    """Sample until told to stop, or until the measuring process is gone."""
    # Ctrl-C reaches the whole terminal group; the measuring process decides, and its end is seen as end of input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with open(0, "rb", buffering=0) as commands:
        request = json.loads(commands.readline())
        try:
            source = _source(request)
        except SourceError as error:
            _say({"error": str(error)})
        else:
            _say({"facts": source.facts})
            _sample(source, request["period"], commands)
    sys.exit(0)


def _source(request: dict[str, Any]) -> Any:
    if request["source"] in ("rss", "tree"):
        return Resident(int(request["pid"]), request["source"] == "tree")
    # Imported here: on a machine without an NVIDIA GPU nothing of NVML is touched.
    from scpseg.profiling.nvml import Device

    return Device(request["uuid"], request["visible"])


def _sample(source: Any, period: float, commands: Any) -> None:
    """Read `source` every `period` seconds and serve the commands, until `stop` or the end of input."""
    samples: TimedSamples = []
    due = time.monotonic()
    while True:
        if select.select([commands], [], [], max(0.0, due - time.monotonic()))[0]:
            command = commands.readline().strip()
            if not command:
                return
            samples.append((time.monotonic(), source.read()))
            if command == b"stop":
                return _say({"samples": samples})
            _say({"sample": samples[-1][1], "facts": source.facts})
        else:
            samples.append((time.monotonic(), source.read()))
            # A late sample delays the next: samples that pile up would only repeat each other.
            due = max(due + period, time.monotonic())


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    # The imported module, not this copy of it, so that an error raised in another module is of the class caught here.
    from scpseg.profiling.sampling import main as imported_main

    imported_main()
