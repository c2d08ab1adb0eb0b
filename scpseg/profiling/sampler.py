"""The sampler: a process of its own that reads memory every few milliseconds.

A thread of the measured process would starve while the network holds the interpreter. This process imports neither
torch nor numpy, so that it is small and starts in a blink. It is told what to do by lines on its standard input
(a JSON request first, then `mark` or `stop`) and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import select
import signal
import sys
import time
from typing import Any, NoReturn

from scpseg.processes import end_with_parent
from scpseg.profiling.sources import Resident, Sample, SourceError, Tree


def source_of(request: dict[str, Any]) -> Any:
    """The source that a request names: an object with `facts` and `read()`."""
    if request["source"] in ("rss", "tree"):
        return {"rss": Resident, "tree": Tree}[request["source"]](request)
    # Imported here: on a machine without an NVIDIA GPU nothing of NVML is touched.
    from scpseg.profiling.nvml import Device

    return Device(request["uuid"], request["visible"])


def main() -> NoReturn:
    """Sample until told to stop, or until whoever asked is gone."""
    # Ctrl-C reaches the whole terminal group; the measuring process decides, and its end is seen as end of input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with open(0, "rb", buffering=0) as commands:
        request = json.loads(commands.readline())
        try:
            source = source_of(request)
            answer: dict[str, Any] = {"facts": source.facts}
        except SourceError as error:
            answer = {"error": str(error)}
        say(answer)
        if "error" not in answer:
            sample_until_told(source, request["period"], commands)
    sys.exit(0)


def sample_until_told(source: Any, period: float, commands: Any) -> None:
    """Read `source` every `period` seconds and serve the commands; returns after `stop` or at the end of input."""
    samples: list[tuple[float, Sample]] = []
    due = time.monotonic()
    while True:
        if select.select([commands], [], [], max(0.0, due - time.monotonic()))[0]:
            command = commands.readline().strip()
            if not command:
                return
            samples.append((time.monotonic(), source.read()))
            if command == b"stop":
                say({"samples": samples})
                return
            say({"sample": samples[-1][1], "facts": source.facts})
        else:
            samples.append((time.monotonic(), source.read()))
            # A late sample delays the next: samples that pile up would only repeat each other.
            due = max(due + period, time.monotonic())


def say(answer: dict[str, Any]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
