"""Progress of long tasks: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from scpseg.errors import printable

T = TypeVar("T")
LINE_SECONDS = 10.0


def progress(items: Iterable[T], total: int, what: str, done: int = 0) -> Iterator[T]:
    """Yield `items` and show how many of `total` are done, counting `done` from before the start."""
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


@contextmanager
def byte_progress(what: str, done: int = 0) -> Iterator[Callable[[int, int | None], None]]:
    """Show the number of bytes that are done; the block calls the function it receives with (done, total or None).

    `done` may decrease when a download restarts; `done` bytes were there before the start.
    """
    if sys.stderr.isatty():
        with tqdm(desc=what, initial=done, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True) as bar:

            def draw(now: int, total: int | None) -> None:
                bar.total = total
                bar.update(now - bar.n)

            yield draw
        return
    start = shown = time.monotonic()
    gained, before, last = 0, done, done

    def report(now: int, total: int | None) -> None:
        nonlocal shown, gained, before, last
        gained += max(now - last, 0)
        last = now
        moment = time.monotonic()
        if moment - shown < LINE_SECONDS:
            return
        rate = max(now - before, 0) / (moment - shown)
        of = f" of {_bytes(total)}" if total is not None else ""
        left = f", about {(total - now) / rate:.0f} s left" if total is not None and rate else ""
        say(f"{what}: {_bytes(now)}{of}, {_bytes(rate)}/s{left}")
        shown, before = moment, now

    yield report
    seconds = time.monotonic() - start
    say(f"{what}: {_bytes(gained)} in {seconds:.0f} s, {_bytes(gained / max(seconds, 1e-3))}/s")


def say(line: str) -> None:
    """Print a line to stderr without breaking a progress bar."""
    tqdm.write(printable(line), file=sys.stderr)
    sys.stderr.flush()


def _bytes(count: float) -> str:
    """Format a number of bytes with a binary unit."""
    return tqdm.format_sizeof(count, "iB" if count >= 999.5 else "B", 1024)
