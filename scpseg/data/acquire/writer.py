"""Writing behind: a thread writes what was received while the next bytes are received and hashed."""

from __future__ import annotations

import threading
from io import FileIO
from queue import Queue

from scpseg.data.acquire.digests import CHUNK

AHEAD = 16
"""Chunks that may wait to be written: bounds the memory to AHEAD * CHUNK."""


class Writer:
    """Writes chunks to the end of an unbuffered file, in order; the first error stops it and is raised here."""

    def __init__(self, stream: FileIO) -> None:
        """Start the thread; from now on only it and `truncate` touch `stream`."""
        self._stream = stream
        self._queue: Queue[bytes | None] = Queue(AHEAD)
        self._error: OSError | None = None
        # glibc learns from a freed block this big to keep freed chunks instead of returning their pages to the system
        # each time: 10 to 20 % less time of the receiving thread (2 GiB, loopback). Elsewhere it does nothing.
        bytearray((2 * AHEAD - 1) * CHUNK)
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def write(self, chunk: bytes) -> None:
        """Hand over bytes, which must not change afterwards; waits while too many are ahead.

        Raises:
            OSError: earlier ones could not be written.
        """
        if self._error:
            raise self._error
        self._queue.put(chunk)

    def settle(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: some could not be.
        """
        self._queue.join()
        if self._error:
            raise self._error

    def truncate(self) -> None:
        """Empty the file."""
        self.settle()
        self._stream.truncate(0)

    def close(self) -> None:
        """Write what is left and close the file; raises nothing, whoever needs to know has called `settle`."""
        self._queue.put(None)
        self._thread.join()
        self._stream.close()

    def _work(self) -> None:
        while (chunk := self._queue.get()) is not None:
            rest = memoryview(b"" if self._error else chunk)
            try:
                while rest:
                    rest = rest[self._stream.write(rest) :]
            except OSError as error:
                self._error = error
            self._queue.task_done()
