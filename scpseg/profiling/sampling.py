"""The measuring process's end of the line to its sampler."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import scpseg
from scpseg.profiling.sources import Sample, SourceError

PERIOD = 0.008
"""Seconds between two samples."""
PATIENCE = 60.0
"""Seconds to wait for an answer: opening NVML takes some where there are many GPUs, a driver in trouble never ends."""


class SamplerLost(Exception):
    """The sampling process is gone, and what it knew with it; the message says how."""


class Sampler:
    """A sampling process (`scpseg.profiling.sampler`) and what it answers."""

    def __init__(self, request: dict[str, Any], period: float = PERIOD) -> None:
        """Start sampling; `facts` then holds what the source knows about itself, as of the last mark.

        Args:
            request: {'source': 'rss' or 'tree', 'pid': ...} or {'source': 'nvml', 'uuid': ..., 'visible': ...}.
            period: seconds between two samples.

        Raises:
            SourceError: the source cannot be read, and why.
            SamplerLost: the process did not live to say so.
        """
        root = str(Path(scpseg.__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scpseg.profiling.sampler"],
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
        """One sample, taken now.

        Raises:
            SamplerLost: the process is gone.
        """
        answer = self._ask("mark")
        self.facts = answer["facts"]
        sample: Sample = answer["sample"]
        return sample

    def stop(self) -> list[tuple[float, Sample]]:
        """A last sample now, then every sample with its time (`time.monotonic`); the process ends.

        Raises:
            SamplerLost: the process is gone.
        """
        samples = [(at, sample) for at, sample in self._ask("stop")["samples"]]
        self.close()
        return samples

    def close(self) -> None:
        """End the process if it is still there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            # An unsent line is lost with its reader.
            return

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


def gaps(samples: list[tuple[float, Sample]]) -> tuple[float, float]:
    """Mean and longest time between two samples, milliseconds; 0 for fewer than two."""
    times = [at for at, _ in samples]
    between = [(late - early) * 1000 for early, late in pairwise(times)]
    return (sum(between) / len(between), max(between)) if between else (0.0, 0.0)
