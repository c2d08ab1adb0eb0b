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


class Tree:
    """Resident memory of a process and all that it has started, without file pages, from Linux's /proc.

    Pages that a fork shares with its parent until one of them writes are counted in both.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        """Read process `pid` and its children.

        Raises:
            SourceError: there is no such process, or no /proc that lists children.
        """
        self.pid, self.page = int(request["pid"]), os.sysconf("SC_PAGE_SIZE")
        self.facts: dict[str, Any] = {}
        if not os.path.exists(f"/proc/{self.pid}/task/{self.pid}/children"):
            raise SourceError("/proc/PID/task/TID/children cannot be read")

    def read(self) -> Sample:
        """{'rss': bytes}; None once all are gone."""
        sizes = []
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            try:
                with open(f"/proc/{pid}/statm", "rb") as stream:
                    _, resident, shared = stream.read().split()[:3]
                sizes.append((int(resident) - int(shared)) * self.page)
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                        waiting += map(int, stream.read().split())
            except (OSError, ValueError):
                continue  # it has ended meanwhile
        return {"rss": sum(sizes) if sizes else None}
