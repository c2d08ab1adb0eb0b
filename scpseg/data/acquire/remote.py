"""A file as its upstream names it, and the finished copy of it on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scpseg.data.acquire.digests import Digests
from scpseg.data.acquire.manifest import FileRecord
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.progress import byte_progress, say

CHECKSUMS = ("sha256", "md5", "crc32")


@dataclass(frozen=True)
class Remote:
    """A file behind an address, or a window of one.

    Attributes:
        url: its address, http or https.
        name: relative posix path of the copy below the folder it goes to.
        size: bytes, where known.
        sha256: hex checksum, where known; so `md5`.
        crc32: a zip's checksum, where known.
        first: where the window [first, first + size) of the address begins; a window needs its `size`.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    crc32: int | None = None
    first: int = 0

    def __post_init__(self) -> None:
        """Refuse names that lead elsewhere, and windows without an end.

        Raises:
            UserError: the name is absolute or goes up.
        """
        path = PurePosixPath(self.name)
        if path.is_absolute() or ".." in path.parts or "\\" in self.name or not path.name:
            raise UserError(f"{self.name!r} of {self.url} is no safe relative path; take another source")
        if self.first and not self.size:
            raise ValueError(f"{self.name}: a window needs its size")

    @property
    def checksums(self) -> dict[str, str | int]:
        """The checksums that are known, by name; hex ones in lower case."""
        known = ((name, getattr(self, name)) for name in CHECKSUMS)
        return {name: value.lower() if isinstance(value, str) else value for name, value in known if value is not None}

    def differs(self, found: dict[str, str | int]) -> str | None:
        """In words, the first known checksum that a file does not have; None where it is the right one."""
        for name, value in self.checksums.items():
            if found[name] != value:
                return f"{name} {found[name]} instead of {value}"
        return None


def finished(remote: Remote, target: Path) -> FileRecord | None:
    """The record of the copy at `target`, if it is there and right; a wrong one is removed, saying so.

    What was verified once, and has not changed since, is not read again.
    """
    if not target.is_file():
        return None
    size = target.stat().st_size
    why = f"it has {size} bytes instead of {remote.size}" if remote.size not in (None, size) else None
    if not why:
        noted = _note_of(target)
        if noted and all(noted.get(name) == value for name, value in remote.checksums.items()):
            return FileRecord(remote.name, size, noted["sha256"])
        digests = Digests(remote.checksums)
        with byte_progress(f"{remote.name}: checking what is there") as show:
            digests.read(target, show)
        found = digests.result()
        why = remote.differs(found)
    if not why:
        return note(remote, target, found)
    say(f"{remote.name} is there but {why}; fetching it again")
    target.unlink()
    return None


def note(remote: Remote, target: Path, found: dict[str, str | int]) -> FileRecord:
    """Write beside the copy that it was verified, so that it need not be read again; return its record."""
    status = target.stat()
    write_json(_note_path(target), {**found, "size": status.st_size, "mtime_ns": status.st_mtime_ns})
    return FileRecord(remote.name, status.st_size, str(found["sha256"]))


def _note_of(target: Path) -> dict[str, Any] | None:
    """What stands beside the copy, if it is about the file that lies there now."""
    path, status = _note_path(target), target.stat()
    if not path.is_file():
        return None
    noted: dict[str, Any] = read_json(path, "size", "mtime_ns", "sha256")
    return noted if (noted["size"], noted["mtime_ns"]) == (status.st_size, status.st_mtime_ns) else None


def _note_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.verified.json")
