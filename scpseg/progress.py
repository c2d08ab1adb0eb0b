"""Progress of long work: a bar on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_SECONDS = 10.0


def progress(items: Iterable[T], total: int, what: str, done: int = 0) -> Iterator[T]:
    """Pass `items` through and show how many of `total` are done (`done` of them before the start)."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, initial=done, desc=what, dynamic_ncols=True)
        return
    start = shown = time.monotonic()
    for number, item in enumerate(items, done + 1):
        yield item
        now = time.monotonic()
        if now - shown >= LINE_SECONDS and number < total:
            left = (now - start) / (number - done) * (total - number)
            print(f"{what}: {number} of {total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            shown = now
    print(f"{what}: {total} of {total} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
