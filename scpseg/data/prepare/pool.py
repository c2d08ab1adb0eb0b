"""Decoding on all cores while files go on coming: few wait at a time, which bounds memory and the spool."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, parent_process
from signal import SIG_IGN, SIGINT, signal
from threading import Thread

from scpseg.data.prepare.filework import Record, Task, decode_file
from scpseg.errors import UserError

AHEAD = 2
"""Files that wait for a process, beyond one for each."""


def decode_all(tasks: Iterator[Task], needed: int, workers: int) -> Iterator[tuple[Task, Record]]:
    """Decode the files of `tasks` as they come, with `workers` processes, and give each back with its record.

    At most workers + AHEAD of them are taken and not yet decoded. Those that are taken are finished even when `tasks`
    or another of them fails.

    Raises:
        UserError: what `decode_file` refuses, always of the first such file; or a process was killed.
    """
    if workers == 1:
        for task in tasks:
            yield task, decode_file(task, needed)
        return
    waiting: deque[tuple[Task, Future[Record]]] = deque()
    try:
        with ProcessPoolExecutor(workers, initializer=_follow_parent) as pool:
            pool.submit(os.getpid).result()  # processes are copies of this one: make them while it is small
            for task in tasks:
                waiting.append((task, pool.submit(decode_file, task, needed)))
                if len(waiting) >= workers + AHEAD:
                    yield waiting[0][0], waiting[0][1].result()
                    waiting.popleft()
            for task, future in waiting:
                yield task, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decoded an image was killed, most probably for want of memory; finished images are kept: "
            "free some memory and run the same command again"
        ) from error


def _follow_parent() -> None:
    """Let a worker end with the process that started it, also when that is killed; leave Ctrl-C to the parent."""
    signal(SIGINT, SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        os._exit(1)

    Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
