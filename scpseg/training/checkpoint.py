"""Checkpoints of interrupted trainings, in a scratch folder named by a fingerprint of all settings and code."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from scpseg.files import replacing, root, sha256

KEPT = ("checkpoint.pt", "checkpoint-before.pt")
"""Files of a scratch folder: the last state and the one before it."""


def fingerprint(settings: Any, sources: Iterable[Path]) -> str:
    """Hex digest of JSON-serialisable settings and of the contents of source files, in the order of their names."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def scratch(name: str) -> Path:
    """Folder for files that must survive a killed run; in an experiment, in the repository that it belongs to."""
    return root() / ".scratch" / name


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of this scratch folder, so that only one process trains the run; other processes wait.

    A process that a killed dvc left behind saves its state before it ends. A killed process releases its lock at once.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("waiting for another process that trains the same run", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state atomically, followed by its checksum, which torch.load ignores; keep the one before it."""
    newest, older = (folder / name for name in KEPT)
    with replacing(newest) as temporary:
        with temporary.open("wb") as stream:  # torch's own writer loses the error if the disk is full
            torch.save(dict(state), stream)
        digest = bytes.fromhex(sha256(temporary))
        with temporary.open("ab") as stream:
            stream.write(digest)
        if newest.exists():
            newest.replace(older)


def load(folder: Path) -> dict[str, Any] | None:
    """The last saved state in host memory; if it is damaged (which is printed), the one before it, or None.

    The caller moves each part: the device never holds two copies, and Adam's step counts stay on the host, where they
    were; on a GPU, each of them would cause a synchronisation in every step.
    """
    for path in (folder / name for name in KEPT):
        if path.exists() and _whole(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        if path.exists():
            print(f"{path} is damaged (wrong checksum) and not used", flush=True)
    return None


def _whole(path: Path) -> bool:
    """Whether a file matches the checksum at its end."""
    digest = hashlib.sha256()
    left = path.stat().st_size - digest.digest_size
    with path.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
        return digest.digest() == stream.read()


def discard(folder: Path) -> None:
    """Remove the scratch folder of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)


def digest(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""
    result = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()
