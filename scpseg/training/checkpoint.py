"""Resuming an interrupted training: state in a scratch folder named by a fingerprint of everything that shapes it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scpseg.files import replacing


def fingerprint(settings: Any, sources: Iterable[Path]) -> str:
    """Hex digest of JSON-able settings and of the contents of source files, in the order of their names."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def scratch(name: str) -> Path:
    """Folder for what must outlive a killed run; below the parent repository inside a queued DVC experiment."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch" / name


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state atomically."""
    with replacing(folder / "checkpoint.pt") as temporary:
        torch.save(dict(state), temporary)


def load(folder: Path) -> dict[str, Any] | None:
    """The saved state in host memory, or None when there is none.

    Whoever takes a part moves it: the device never holds two copies, and Adam's counts of steps stay on the host,
    where they were; on a GPU each of them would be waited for in every step.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


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
