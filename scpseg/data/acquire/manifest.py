"""What a benchmark was prepared from: archives and files with size and SHA-256, without any place of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scpseg.errors import UserError
from scpseg.files import read_json, sha256, write_json
from scpseg.progress import progress


@dataclass(frozen=True)
class FileRecord:
    """One file: relative posix path, size in bytes, hex SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of one benchmark.

    Attributes:
        benchmark: its name.
        source: 'mirror' (synthetic miniatures), 'folder' (the user's) or 'upstream' (fetched from the network).
        labels: which variant of the label files.
        archives: those that images and labels are in, parts of split ones one by one; path is `name` in JSON.
        files: images and labels that lie loose.
    """

    benchmark: str
    source: str
    labels: str
    archives: tuple[FileRecord, ...]
    files: tuple[FileRecord, ...]

    @property
    def synthetic(self) -> bool:
        """Whether the images are procedural miniatures."""
        return self.source == "mirror"

    def write(self, path: Path) -> None:
        """Write as JSON."""
        archives = [{"name": record.path, "size": record.size, "sha256": record.sha256} for record in self.archives]
        files = [asdict(record) for record in self.files]
        write_json(path, {**asdict(self), "synthetic": self.synthetic, "archives": archives, "files": files})

    @classmethod
    def read(cls, path: Path, benchmark: str) -> Manifest:
        """Read what `write` wrote.

        Raises:
            UserError: there is no manifest, or it is damaged.
        """
        if not path.is_file():
            raise UserError(f"{path.as_posix()} is missing; run `dvc repro download@{benchmark}` first")
        values: dict[str, Any] = read_json(path, "benchmark", "source", "labels", "archives", "files")
        archives = read_listed(values["archives"])
        files = tuple(FileRecord(**entry) for entry in values["files"])
        return cls(values["benchmark"], values["source"], values["labels"], archives, files)


def read_listed(entries: Sequence[dict[str, Any]]) -> tuple[FileRecord, ...]:
    """Archives as lists of them name them: {"name", "size", "sha256"}."""
    return tuple(FileRecord(entry["name"], entry["size"], entry["sha256"]) for entry in entries)


def hash_files(folder: Path, paths: Sequence[str], what: str) -> tuple[FileRecord, ...]:
    """Records of files given as relative posix paths.

    Raises:
        UserError: a file cannot be read.
    """
    records = []
    for path in progress(paths, len(paths), what) if paths else ():
        try:
            records.append(FileRecord(path, (folder / path).stat().st_size, sha256(folder / path)))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions and the disk") from error
    return tuple(records)


def verify_archives(folder: Path, records: Sequence[FileRecord], remedy: str) -> None:
    """Check that archives are those of their records, sizes of all first since that costs nothing.

    Raises:
        UserError: an archive is missing, has another size or another SHA-256; `remedy` ends the sentence.
    """
    for record in records:
        path = folder / record.path
        if not path.is_file():
            raise UserError(f"archive {record.path} is missing; {remedy}")
        size = path.stat().st_size
        if size != record.size:
            why = "is truncated" if size < record.size else "is too long"
            raise UserError(f"archive {record.path} {why}: {size} bytes instead of {record.size}; {remedy}")
    for record, found in zip(records, hash_files(folder, [r.path for r in records], "checking archives"), strict=True):
        if found.sha256 != record.sha256:
            raise UserError(
                f"archive {record.path} has the wrong checksum: SHA-256 {found.sha256} "
                f"instead of {record.sha256}; {remedy}"
            )
