"""Where stages read and write."""

from __future__ import annotations

from pathlib import Path


def manifest(benchmark: str) -> Path:
    """Sizes and checksums of the files that a benchmark is prepared from."""
    return Path("data/manifests") / f"{benchmark}.json"


def store(benchmark: str) -> Path:
    """The prepared images of a benchmark."""
    return Path("data") / benchmark


def run(benchmark: str, method: str, seed: int) -> Path:
    """What training leaves: weights.safetensors, history.csv, training.json. Equal runs leave equal bytes."""
    return Path("results/runs") / benchmark / method / str(seed)


def scores(benchmark: str, method: str, seed: int) -> Path:
    """What evaluation leaves: metrics.json, confusion.npz, pictures/; of the probe objects.csv."""
    return Path("results/metrics") / benchmark / method / str(seed)


def provenance(benchmark: str, method: str, seed: int, stage: str) -> Path:
    """When and on what a run was made, `stage` being training or evaluation: revision, environment, seconds.

    These differ from machine to machine and from day to day, so no other computation depends on them.
    """
    return Path("results/provenance") / benchmark / method / str(seed) / f"{stage}.json"


def profile(benchmark: str, method: str) -> Path:
    """Memory and speed of a method at a benchmark's image size."""
    return Path("results/profile") / benchmark / f"{method}.json"


def memory() -> Path:
    """Computed memory of all declared methods at the benchmarks' real sizes, a list of records."""
    return Path("results/memory.json")
