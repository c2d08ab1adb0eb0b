"""Members of archives: what is known of one, and the refusal of those that no honest archive holds."""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from scpseg.errors import UserError


@dataclass(frozen=True)
class Member:
    """One entry of an archive: posix name, declared size in bytes, whether it is a folder."""

    name: str
    size: int
    folder: bool = False


class Names:
    """The names of one archive, each accepted once."""

    def __init__(self, archive: str) -> None:
        """Start with none; `archive` is for messages."""
        self.archive = archive
        self._known: set[str] = set()

    def accept(self, name: str, folder: bool = False, mode: int = 0) -> str:
        """The posix name of an entry; `mode` is its Unix mode, 0 where unknown.

        Raises:
            UserError: it points outside, is a link or a device, or stands twice.
        """
        plain = name.replace("\\", "/")
        why = None
        if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
            why = "has an absolute path"
        elif ".." in plain.split("/"):
            why = "points outside with '..'"
        elif any(ord(letter) < 32 for letter in plain):
            why = "has a control character in its name"
        elif stat.S_ISLNK(mode):
            why = "is a link"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "is no plain file"
        elif not folder and plain in self._known:
            why = "stands twice"
        if why:
            raise UserError(
                f"{self.archive}: member {name!r} {why}, so nothing of this archive is unpacked; "
                "fetch it from a trusted source"
            )
        self._known.add(plain)
        return plain


class Checked:
    """The bytes of one member as they pass: size and CRC-32 so far, and the comparison with what was declared.

    `size` None = not declared before the bytes (zip with a data descriptor).
    """

    def __init__(self, what: str, size: int | None, crc: int | None) -> None:
        """Nothing passed yet; `what` names archive and member."""
        self.what, self.declared, self.declared_crc = what, size, crc
        self.size = self.crc = 0

    def passing(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks.

        Raises:
            UserError: more or fewer bytes than declared, or another CRC-32.
        """
        for chunk in chunks:
            self.size += len(chunk)
            if self.declared is not None and self.size > self.declared:
                raise UserError(
                    f"{self.what} unpacks to more than the {self.declared} bytes it declares; "
                    "the archive is damaged or hostile: fetch it again"
                )
            self.crc = zlib.crc32(chunk, self.crc)
            yield chunk
        self.compare(self.declared, self.declared_crc)

    def compare(self, size: int | None, crc: int | None) -> None:
        """Refuse what passed where it has not the size and CRC-32 given.

        Raises:
            UserError: it has not.
        """
        if size is not None and self.size != size:
            raise UserError(
                f"{self.what} unpacks to {self.size} of the {size} bytes it declares; "
                "the archive is damaged: fetch it again"
            )
        if crc is not None and self.crc != crc:
            raise UserError(f"{self.what} has the wrong CRC-32; the archive is damaged: fetch it again")
