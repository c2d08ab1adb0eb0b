"""Where a benchmark's files lie: the mirror, the folder that the user names, or what came from upstream."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.archives import Group, Listing, group_archives, holds_wanted, list_members
from scpseg.data.acquire.layout import role_of
from scpseg.data.acquire.manifest import read_listed, verify_archives
from scpseg.errors import UserError
from scpseg.files import read_json
from scpseg.params import DataParams

MIRROR = "mirror"
MIRROR_LIST = "archives.json"
UPSTREAM = "upstream"


@dataclass(frozen=True)
class Found:
    """What a folder holds of a benchmark: loose files (relative posix paths) and archives worth unpacking."""

    loose: tuple[str, ...]
    groups: Mapping[Group, Listing]


def root() -> Path:
    """The repository; inside a queued experiment the one that it was queued in."""
    return Path(os.environ.get("DVC_ROOT") or ".")


def cache_folder(benchmark: str, data: DataParams) -> Path:
    """A benchmark's place in the cache; environment variable SCPSEG_CACHE overrides data.cache.

    Raises:
        UserError: a file is in the way.
    """
    folder = root() / Path(os.environ.get("SCPSEG_CACHE") or data.cache).expanduser() / benchmark
    for part in (folder / UPSTREAM, folder, *folder.parents):
        if part.exists():
            if part.is_dir():
                break
            raise unusable_cache(data, f"{part} is no folder")
    return folder


def unusable_cache(data: DataParams, why: str) -> UserError:
    """The refusal of a cache, by the name under which the user chose it."""
    asked = os.environ.get("SCPSEG_CACHE")
    chosen = f"SCPSEG_CACHE is {asked!r}" if asked else f"data.cache is {data.cache!r}"
    return UserError(f"{chosen}, but {why}; name another folder")


def upstream_folder(benchmark: str, data: DataParams) -> Path:
    """Where each source of a benchmark has its folder of what was fetched from it."""
    return cache_folder(benchmark, data) / UPSTREAM


def is_address(source: str) -> bool:
    """Whether a source is an http or https address with a host."""
    parts = urlsplit(source)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def from_network(data: DataParams) -> bool:
    """Whether the files are fetched into the cache (`scpseg.data.acquire.acquire`) before they are read."""
    return data.source == UPSTREAM or is_address(data.source)


def source_folder(benchmark: str, data: DataParams) -> Path:
    """The folder that `data.source` means for a benchmark.

    Raises:
        UserError: it does not exist.
    """
    if data.source == MIRROR:
        folder = Path("data") / MIRROR / benchmark
        if not (folder / MIRROR_LIST).is_file():
            raise UserError(f"{folder.as_posix()}/{MIRROR_LIST} is missing; run {_remedy(benchmark)}")
        return folder
    folder = root() / Path(data.source).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"data.source is {data.source!r}, which is no folder; give an existing one (a relative path counts from "
            f"the repository's root) or set data.source: {UPSTREAM}, or {MIRROR}"
        )
    return folder / benchmark if (folder / benchmark).is_dir() else folder


def find(spec: Benchmark, variant: str, data: DataParams, folder: Path | None = None) -> Found:
    """Look for the images and the labels `variant` of a benchmark; the mirror's archives are verified.

    Where both images and labels lie loose, archives beside them are left alone. `folder` is what was fetched from
    upstream; without it the one that `data.source` means is searched.

    Raises:
        UserError: an archive, or the mirror's list of them, is missing, damaged, altered or unsafe.
    """
    folder = folder or source_folder(spec.name, data)
    if data.source == MIRROR:
        listed = read_listed(read_json(folder / MIRROR_LIST, "archives")["archives"])
        verify_archives(folder, listed, f"write it again with {_remedy(spec.name)}")
        return Found((), _usable(spec, variant, folder, [record.path for record in listed]))
    paths = sorted(_walk(folder))
    roles = {path: role for path in paths if (role := role_of(spec, variant, path))}
    kinds = {role.kind for role in roles.values()}
    return Found(tuple(roles), {} if len(kinds) == 2 else _usable(spec, variant, folder, paths))


def expect_both(spec: Benchmark, variant: str, paths: Iterable[str], data: DataParams) -> None:
    """Refuse a source without images or without labels.

    Raises:
        UserError: it names the folder and what is expected there.
    """
    kinds = {role.kind for path in paths if (role := role_of(spec, variant, path))}
    lacking = " and ".join(f"no {kind}" for kind in ("image", "label") if kind not in kinds)
    if lacking:
        where = "expected is" if from_network(data) else f"expected there, or in its folder {spec.name}/, is"
        raise UserError(
            f"data.source {data.source!r} holds {lacking} of {spec.name}; {where} an archive (.zip, .7z, .7z.001, ...) "
            f"or files with paths that end like {_readable(spec.layout.image)} and "
            f"{_readable(spec.layout.labels[variant])}"
        )


def _usable(spec: Benchmark, variant: str, folder: Path, paths: list[str]) -> dict[Group, Listing]:
    listings = {group: list_members(group, folder) for group in group_archives(paths)}
    return {
        group: listing
        for group, listing in listings.items()
        if holds_wanted(listing, lambda path: role_of(spec, variant, path) is not None)
    }


def _walk(folder: Path) -> Iterator[str]:
    """Relative posix paths of all files, through links too, each real folder once."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            yield (Path(here) / name).relative_to(folder).as_posix()


def _readable(pattern: str) -> str:
    """A layout pattern as people write it: train/images/<id>.tif."""
    plain = re.sub(r"\(\?P<id>[^)]*\)", "<id>", pattern.removeprefix("(^|/)").removesuffix("$"))
    return re.sub(r"\(\?P<split>([^)]*)\)", r"(\1)", plain).replace("s?/", "/").replace("\\", "")


def _remedy(benchmark: str) -> str:
    return f"`dvc repro -f mirror@{benchmark}`"
