"""How time and memory grow: inference with the image's side, the training step with the batch, prepare with images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from baselines import patch as plain
from pipelines.bench import inference, method, stages
from pipelines.bench.child import status
from pipelines.bench.rows import MIB, Row, Work, alone, interleaved, peak
from scpseg.benchmarks import get_benchmark
from scpseg.data.acquire.layout import KINDS, Slot
from scpseg.data.prepare.fill import Choice, Job, Task, decode_file
from scpseg.evaluation.streaming import segment
from scpseg.files import csv_rows, sha256, write_text
from scpseg.reporting.charts import draw_growth

GROWTH, COLUMNS = Path("results/bench-growth.csv"), ("what", "x", "seconds", "mib")
SIDES = (1000, 2000, 5000, 10000, 20000)
BATCHES = (2, 4, 8, 16)
IMAGES = (1, 2, 4, 8)
PATCH, SMALL_SIDE = 64, 1000
"""Patch of the training step, with the sample's network; side of the images that are prepared."""
WIDTH_ONLY = 2.2
"""Highest ratio of the memory at twice the width; 4 would be growth with the area."""


def sparse(folder: Path, side: int, channels: int) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    """A memory-mapped array of zeros that takes no space on the disk: an image as in the store, or a label."""
    shape = (side, channels, side) if channels > 1 else (side, side)
    array = np.lib.format.open_memmap(folder / f"{side}-{channels}.npy", mode="w+", dtype=np.uint8, shape=shape)
    return array.transpose(0, 2, 1) if channels > 1 else array


def ready_inference(side: int) -> Work:
    """For a fresh process: anonymous memory of whole-image inference from a mapped image into a mapped result."""
    torch.set_num_threads(1)
    folder = tempfile.TemporaryDirectory(prefix="scpseg-bench-")
    network = inference.Instant()
    segment(network, sparse(Path(folder.name), inference.WINDOW, 3), inference.CLASSES, inference.CPU)
    image, out = sparse(Path(folder.name), side, 3), sparse(Path(folder.name), side, 1)
    before, highest = status("RssAnon"), [0]

    def note(_: int) -> None:
        highest[0] = max(highest[0], status("RssAnon"))

    def work() -> int:
        with folder:
            segment(network, image, inference.CLASSES, inference.CPU, tick=note, out=out)
        return highest[0] - before

    return work


def ready_step(batch: int) -> Work:
    """For a fresh process: a training step of the sample's network."""
    torch.set_num_threads(1)
    step(2)()
    return step(batch)


def step(batch: int) -> Work:
    """Losses and gradient of `batch` random windows."""
    return method.step(plain.build(method.setting(PATCH, method.SMALL)), batch)


def ready_prepare(images: int) -> Work:
    """For a fresh process: decode `images` pairs one after another."""
    folder = tempfile.TemporaryDirectory(prefix="scpseg-bench-")
    work = preparing(Path(folder.name), images)

    def all_of_them() -> None:
        with folder:
            work()

    return all_of_them


def preparing(folder: Path, images: int) -> Work:
    """Decode a JPEG image and its PNG label `images` times."""
    spec = get_benchmark("deepglobe")
    paths = stages.write_pair(folder / "pair", spec, SMALL_SIDE)
    sums = {kind: sha256(path) for kind, path in paths.items()}
    job = Job(spec, True, Choice("", {}, True, False), folder / "work")

    def work() -> None:
        for number in range(images):
            for kind in KINDS:
                decode_file(Task(job, Slot("train", str(number), kind), paths[kind].name, paths[kind], sums[kind]))

    return work


def measured(folder: Path, repeats: int, sides: tuple[int, ...] = SIDES) -> list[tuple[str, int, float, float]]:
    """(what, x, seconds of processor time, peak MiB) of every point."""
    network = inference.Instant()
    works: dict[tuple[str, int], Work] = {}
    for side in sides:
        image, out = sparse(folder, side, 3), sparse(folder, side, 1)
        works["inference", side] = partial(segment, network, image, inference.CLASSES, inference.CPU, out=out)
    works |= {("step", batch): step(batch) for batch in BATCHES}
    works |= {("prepare", images): preparing(folder / str(images), images) for images in IMAGES}
    took = interleaved({f"{what} {x}": work for (what, x), work in works.items()}, min(repeats, 2))
    return [(what, x, min(took[f"{what} {x}"]), peak(f"{__name__}:ready_{what}", x)) for what, x in works]


def text(points: list[tuple[str, int, float, float]]) -> str:
    """The points as CSV."""
    cells = [(what, x, f"{seconds:.4g}", f"{mib:.4g}") for what, x, seconds, mib in points]
    return csv_rows(COLUMNS, [dict(zip(COLUMNS, point, strict=True)) for point in cells])


def rows(folder: Path, repeats: int) -> Iterator[Row]:
    """Measure, write results/bench-growth.csv and its figure, and check how memory grows."""
    points = measured(folder, repeats)
    write_text(GROWTH, text(points))
    draw_growth(GROWTH, GROWTH.with_suffix(""))
    memory = {x: mib for what, x, _, mib in points if what == "inference"}
    (_, before), (side, after) = sorted(memory.items())[-2:]
    name = f"host memory of inference at {side} pixels over that at half the side"
    band = inference.CLASSES * inference.WINDOW * side * 4 / MIB
    limit = f"{after:.0f} MiB, of which the band of logits is {band:.0f}; image and labels are memory-mapped"
    yield alone("growth", name, "x", [after / before], WIDTH_ONLY, limit)
