"""The unfinished file: its bytes so far, and beside them what they are of, so that a later run can go on."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from scpseg.data.acquire.answers import Version
from scpseg.data.acquire.digests import Digests
from scpseg.data.acquire.remote import Remote
from scpseg.data.acquire.writer import Writer
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.progress import byte_progress, say


class Part:
    """`<name>.part` with `<name>.part.json`, open for appending while the context lasts.

    Attributes:
        have: bytes that are there.
        total: bytes that there will be, None as long as nobody said.
        version: of the file that they are of.
    """

    def __init__(self, remote: Remote, target: Path, digests: Digests) -> None:
        """Every byte that `target` will hold passes `digests`, in order."""
        self.remote, self.target, self.digests = remote, target, digests
        self.path = target.with_name(f"{target.name}.part")
        self.origin = target.with_name(f"{target.name}.part.json")
        self.have, self.total, self.version = 0, remote.size, Version()
        self._changes = 0

    def __enter__(self) -> Part:
        """Take over what an earlier run left."""
        self._go_on()
        self._writer = Writer(self.path.open("ab", buffering=0))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave it for a later run."""
        self._writer.close()

    @property
    def host(self) -> str | None:
        """Where it comes from."""
        return urlsplit(self.remote.url).hostname

    @property
    def provable(self) -> bool:
        """Whether bytes of two answers can be told to belong together."""
        return self.version.known or bool(self.remote.checksums)

    def begin(self, version: Version, total: int | None) -> None:
        """Start from zero with a file of this version and length."""
        if self.have:  # an empty file is left alone: ext4 writes one that was truncated through to the disk on closing
            self._writer.truncate()
            self.digests.reset()
        self.have, self.total, self.version = 0, total, version
        origin = {"url": self.remote.url, "first": self.remote.first, "size": total}
        write_json(self.origin, {**origin, "etag": version.etag, "last_modified": version.last_modified})

    def changed(self) -> None:
        """Start from zero because the file on the server is another one now, once.

        Raises:
            UserError: it changed before, in this same run.
        """
        self._changes += 1
        if self._changes > 1:
            self.discard()
            raise UserError(
                f"{self.remote.name} changed on {self.host} twice while it was being fetched; wait until it is "
                "complete there and run the same command again, or take another source"
            )
        say(f"{self.remote.name} changed on {self.host}: starting it again from zero")
        self.begin(Version(), self.remote.size)

    def append(self, chunk: bytes) -> None:
        """Take bytes that follow.

        Raises:
            UserError: they are more than there should be.
            OSError: earlier ones could not be written.
        """
        if self.total is not None and self.have + len(chunk) > self.total:
            self.discard()
            raise UserError(
                f"{self.remote.name} from {self.host} is longer than {self.total} bytes; it was removed, run the same "
                "command again or take another source"
            )
        self._writer.write(chunk)
        self.digests.update(chunk)
        self.have += len(chunk)

    def settle(self) -> None:
        """Wait until what was taken is written.

        Raises:
            OSError: it could not be.
        """
        self._writer.settle()

    def finish(self) -> dict[str, str | int]:
        """Check the complete and settled file and give it its name; returns its checksums.

        Raises:
            UserError: a checksum is wrong; the file is removed.
        """
        found = self.digests.result()
        if why := self.remote.differs(found):
            self.discard()
            raise UserError(
                f"{self.remote.name} from {self.host} is damaged or another file: {why}; it was removed, run the same "
                "command again or take another source"
            )
        self.path.replace(self.target)
        self.origin.unlink(missing_ok=True)
        return found

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """Take over what an earlier run left, if it can be told to be a part of the same file."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if not size:
            return
        why = self._strange(size)
        if why:
            say(f"{self.remote.name}: {size} bytes of an earlier run are not used ({why}); starting from zero")
            self.discard()
            return
        say(f"{self.remote.name}: going on after {size} bytes of an earlier run, which are read again to check them")
        with byte_progress(f"{self.remote.name}: reading again") as show:
            self.digests.read(self.path, show)
        self.have = size

    def _strange(self, size: int) -> str | None:
        """Why the part on disk cannot be used, or None; sets `version` and `total` from its origin."""
        if not self.origin.is_file():
            return "what they are of is not known"
        origin = read_json(self.origin, "first", "url", "etag", "last_modified", "size")
        if origin["first"] != self.remote.first:
            return "they are another window"
        if origin["url"] == self.remote.url:
            self.version = Version(origin["etag"], origin["last_modified"])
        if not self.provable:
            return "neither the server nor a checksum can tell whether the file is still the same"
        if None not in (self.total, origin["size"]) and self.total != origin["size"]:
            return f"of a file of {origin['size']} bytes, it has {self.total} now"
        self.total = origin["size"] if self.total is None else self.total
        return f"it has only {self.total}" if self.total is not None and size > self.total else None
