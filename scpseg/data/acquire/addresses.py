"""Files behind plain addresses: those of an offer, or those that a mirror of the user's choice lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from scpseg.benchmarks.base import Source
from scpseg.data.acquire.connection import Connection
from scpseg.data.acquire.sources import MIRROR_LIST
from scpseg.data.acquire.space import check_space
from scpseg.data.acquire.transfer import Remote, transfer
from scpseg.errors import UserError


def files(offer: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Fetch the files of an offer, or its one archive.

    Raises:
        UserError: too little space, or a transfer fails.
    """
    remotes = [
        Remote(
            offer.address if offer.how == "archive" else f"{offer.address}/{quote(file.name)}",
            file.name,
            size=file.size,
            sha256=file.sha256,
            md5=file.md5,
        )
        for file in offer.wanted(labels)
    ]
    _fetch(offer, remotes, folder, connection)
    return {}


def mirror(offer: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Fetch what archives.json lists at a mirror, checked by its sums; without that file the archives' usual names.

    Returns:
        {"listed": its name} where it is there.

    Raises:
        UserError: archives.json is none, too little space, or a transfer fails.
    """
    answer = connection.get(f"{offer.address}/{MIRROR_LIST}", allowed=(404,))
    if answer.status_code == 404:
        return files(offer, labels, folder, connection)
    try:
        entries = [
            (str(entry["name"]), int(entry["size"]), str(entry["sha256"]))
            for entry in json.loads(answer.text)["archives"]
        ]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{offer.address}/{MIRROR_LIST} is no list of archives with name, size and sha256; correct it, or remove "
            "it and serve the archives under their usual names"
        ) from None
    remotes = [Remote(f"{offer.address}/{quote(name)}", name, size, sha256) for name, size, sha256 in entries]
    _fetch(offer, remotes, folder, connection)
    return {"listed": MIRROR_LIST}


def _fetch(offer: Source, remotes: Sequence[Remote], folder: Path, connection: Connection) -> None:
    for remote in remotes:
        host = urlsplit(remote.url).hostname
        if host in connection.unverified and remote.sha256 is None:
            raise UserError(
                f"{host} stands in upstream.unverified_hosts and no SHA-256 of {remote.name} is known, so nothing "
                "would vouch for it; take the host out, or take another source"
            )
    lacking = [remote for remote in remotes if not (folder / remote.name).is_file()]
    parts = [folder / f"{remote.name}.part" for remote in lacking]
    there = sum(part.stat().st_size for part in parts if part.is_file())
    needed = sum(remote.size or 0 for remote in lacking) - there
    check_space(folder, needed, f"fetching {len(lacking)} files from {offer.name}")
    for remote in remotes:
        transfer(remote, folder, connection)
