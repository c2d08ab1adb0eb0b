"""Paths that the stages read and write."""

from __future__ import annotations

from pathlib import Path

CODE = ("scpseg", "baselines", "pipelines")
"""Folders with the code of this project."""


def manifest(benchmark: str) -> Path:
    """Sizes and checksums of the files from which a benchmark is prepared."""
    return Path("data/manifests") / f"{benchmark}.json"


def store(benchmark: str) -> Path:
    """The prepared images of a benchmark."""
    return Path("data") / benchmark


def run(benchmark: str, method: str, seed: int) -> Path:
    """Outputs of training: weights.safetensors, history.csv, training.json. Equal runs write equal bytes."""
    return Path("results/runs") / benchmark / method / str(seed)


def fold(folder: Path, number: int, folds: int) -> Path:
    """Folder of a fold below that of a run: the same if the split is not a rotation."""
    return folder / f"fold{number}" if folds > 1 else folder


def scores(benchmark: str, method: str, seed: int) -> Path:
    """Outputs of evaluation: metrics.json, confusion.npz, pictures/; for the probe also objects.csv."""
    return Path("results/metrics") / benchmark / method / str(seed)


def provenance(benchmark: str, method: str, seed: int, stage: str) -> Path:
    """Origin of a run, with `stage` training or evaluation: revision, environment, seconds, date.

    These differ between machines and days, so no other stage depends on them.
    """
    return Path("results/provenance") / benchmark / method / str(seed) / f"{stage}.json"


def profile(benchmark: str, method: str) -> Path:
    """Memory and speed of a method at a benchmark's image size."""
    return Path("results/profile") / benchmark / f"{method}.json"


def memory() -> Path:
    """Computed memory of all declared methods at the benchmarks' real sizes, as a list of records."""
    return Path("results/memory.json")
