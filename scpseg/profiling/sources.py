"""What a sampler can read: resident memory of a process here, a GPU's memory in `scpseg.profiling.nvml`."""

from __future__ import annotations

import os
from typing import Any

Sample = dict[str, int | None]
"""Bytes by key: 'rss' of a process; or 'device' and 'reserved' of a GPU and each process on it by its id."""


class SourceError(Exception):
    """Memory cannot be read this way; the message says why."""


class Resident:
    """Resident memory of a process without its file pages, from Linux's /proc."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Read process `pid`.

        Raises:
            SourceError: there is no such process, or no /proc.
        """
        try:
            # Opened once and read anew each time: a sample costs next to nothing.
            self.file = os.open(f"/proc/{request['pid']}/statm", os.O_RDONLY)
        except OSError as error:
            raise SourceError(f"/proc/PID/statm cannot be read ({error.strerror})") from None
        self.page = os.sysconf("SC_PAGE_SIZE")
        self.facts: dict[str, Any] = {}

    def read(self) -> Sample:
        """{'rss': bytes}; None once the process is gone."""
        try:
            _, resident, shared = os.pread(self.file, 128, 0).split()[:3]
        except (OSError, ValueError):
            return {"rss": None}
        return {"rss": (int(resident) - int(shared)) * self.page}
