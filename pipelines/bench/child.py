"""A fresh process of the bench: peak resident memory of one function above the memory before it.

A function that returns a whole number has measured its own peak.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from pathlib import Path

from scpseg.files import write_json


def status(key: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Read the request, make the work, measure it, and write the answer."""
    request = json.load(sys.stdin)
    module, name = request["function"].split(":")
    work = getattr(importlib.import_module(module), name)(*request["arguments"])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    found = work()
    write_json(Path(sys.argv[1]), {"bytes": found if isinstance(found, int) else status("VmHWM") - before})


if __name__ == "__main__":
    main()
