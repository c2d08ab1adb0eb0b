"""Whole stages: decoding, computed memory, start-up, and a `dvc repro` with nothing to do."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.bench.rows import Peer, Row, Work, alone, child_clock, compared, interleaved, run, same
from pipelines.bench.scene import scene
from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.layout import KINDS, Slot
from scpseg.data.prepare.fill import Choice, Job, Task, decode_file
from scpseg.data.windows import Bytes
from scpseg.errors import UserError
from scpseg.files import sha256

ROOT = Path(__file__).resolve().parents[2]
PAIRS = {"inria": ("tif", "tif"), "deepglobe": ("jpg", "png")}
"""Formats of image and label of two benchmarks."""
HELP = 1.0
COMPUTE = """
from pathlib import Path
from pipelines.memory import requests_of
from pipelines.profile import computed
from scpseg.params import Params
for request in requests_of(Params.load(Path("profiles/paper.yaml")), ["deepglobe"], ["scpseg"]):
    assert computed(request)["status"] == "ok"
"""
SUITE = """
import sys
from pathlib import Path
from pipelines.methods import METHODS
from scpseg.params import SuiteParams
folder, rivals = Path(sys.argv[1]), tuple(name for name in METHODS if name != "scpseg")
suite = SuiteParams(("deepglobe", "inria", "potsdam", "blu"), rivals, (0, 1, 2))
"""
INVENT = f"""{SUITE}
sys.path.insert(0, "tests/scpseg/reporting")
from conftest import fill_whole
fill_whole(folder / "results", suite)
"""
REPORT = f"""{SUITE}
from scpseg.reporting.build import build_report
build_report(folder / "results", folder / "reports", suite, False)
"""
"""Writes the invented results of the tests, and builds the report of them."""
IMPORTS = "import torch, segmentation_models_pytorch"
PLACEHOLDERS = """
from pathlib import Path
from dvc.repo import Repo
repo = Repo(".")
for out in repo.index.outs:
    path = Path(out.fs_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text(out.def_path)
    else:
        path.mkdir(exist_ok=True)
        (path / "file").write_text(out.def_path)
repo.commit(force=True)
"""
"""Makes every output of the stages, and records them as if they had run."""


def write_pair(folder: Path, spec: Benchmark, side: int) -> dict[str, Path]:
    """An image and its label in the benchmark's formats and colours."""
    folder.mkdir(parents=True, exist_ok=True)
    image, label = scene(side)
    colours = np.array([cls.colour for cls in spec.classes], dtype=np.uint8)
    painted = colours[label % len(colours)]
    endings = PAIRS[spec.name]
    paths: dict[str, Path] = {kind: folder / f"{kind}.{ending}" for kind, ending in zip(KINDS, endings, strict=True)}
    Image.fromarray(image).save(paths["image"], quality=95)
    Image.fromarray(painted[..., 0] if spec.name == "inria" else painted).save(paths["label"])
    return paths


def by_pillow(paths: dict[str, Path], spec: Benchmark, folder: Path) -> None:
    """What a user writes: Pillow, one comparison per colour, numpy.save."""
    np.save(folder / "image.npy", np.asarray(Image.open(paths["image"])))
    pixels = np.asarray(Image.open(paths["label"]))
    ids = np.full(pixels.shape[:2], 255, dtype=np.uint8)
    for index, cls in enumerate(spec.classes):
        equal = pixels == np.array(cls.colour, np.uint8) if pixels.ndim == 3 else pixels == cls.colour[0]
        ids[equal.all(axis=-1) if pixels.ndim == 3 else equal] = index
    np.save(folder / "label.npy", ids)


def decoding(folder: Path, repeats: int, sides: dict[str, int] | None = None) -> list[Row]:
    """One pair of each benchmark to the store, in one process; the suite also takes four checksums."""
    found = []
    for name in PAIRS:
        spec = get_benchmark(name)
        side = (sides or {}).get(name, spec.side)
        base = folder / "prepare" / name
        paths = write_pair(base, spec, side)
        job = Job(spec, True, Choice("", {}, True, False), base / "work")
        slots = {kind: Slot("train", "1", kind) for kind in KINDS}

        def ours(job: Job = job, slots: Any = slots, paths: Any = paths) -> None:
            for kind, slot in slots.items():
                decode_file(Task(job, slot, paths[kind].name, paths[kind], _checksum(paths[kind])))

        def pillow(paths: Any = paths, spec: Benchmark = spec, base: Path = base) -> None:
            by_pillow(paths, spec, base)

        def checksums(paths: Any = paths, job: Job = job, slots: Any = slots) -> None:
            for kind, slot in slots.items():
                sha256(paths[kind])
                sha256(job.array(slot))

        works: dict[str, Work] = {"ours": ours, "pillow": pillow, "checksums": checksums}
        took = interleaved(works, repeats)
        same(_load(job.array(slots["image"])).transpose(0, 2, 1), _load(base / "image.npy"), f"image of {name}")
        same(_load(job.array(slots["label"])), _load(base / "label.npy"), f"label of {name}")
        peers = [Peer("Pillow, a comparison per colour, numpy.save", "pillow", "pillow", 1.0)]
        formats = " and ".join(path.suffix[1:].upper() for path in paths.values())
        what = f"prepare one pair of {side} x {side}, {formats}, one process"
        taken = statistics.median(took["checksums"])
        limit = f"SHA-256 of what is read and of what is written takes {taken:.2f} s of it; the peer takes none"
        found += compared("stages", what, "s", 1.0, took, peers, limit, "both write the same arrays")
    return found


_checksum = cache(sha256)
"""The manifest's, which the suite compares with the file's."""


def _load(path: Path) -> Bytes:
    found: Bytes = np.load(path)
    return found


def commands() -> list[str]:
    """Modules of `pipelines` that are commands."""
    found = [path for path in sorted((ROOT / "pipelines").glob("*.py")) if "__main__" in path.read_text("utf-8")]
    return [f"pipelines.{path.stem}" for path in found if path.stem != "__init__"] + ["pipelines.bench"]


def starting(repeats: int) -> list[Row]:
    """Processor time of `--help` of every command, and of the memory of one method beyond the imports."""
    modules = commands()
    works: dict[str, Work] = {name: partial(run, "-m", name, "--help") for name in modules}
    took = interleaved(works, min(repeats, 2), child_clock)
    slowest = max(modules, key=lambda name: min(took[name]))
    above = [name for name in modules if min(took[name]) > HELP]
    limit = f"above {HELP:g} s: {', '.join(above) or 'none'}"
    rows = [
        alone("stages", f"--help of {len(modules)} commands: the slowest", "s", took[slowest], HELP, limit, slowest)
    ]
    codes = {"all": COMPUTE, "imports": IMPORTS}
    took = interleaved({name: partial(run, "-c", code) for name, code in codes.items()}, min(repeats, 3), child_clock)
    name = "memory of one method computed, inference and training step, with start-up"
    limit = f"importing torch and segmentation_models_pytorch takes {min(took['imports']):.1f} s of it"
    return [*rows, alone("stages", name, "s", took["all"], 3.0, limit, "scpseg on deepglobe at the paper's sizes")]


def reporting(folder: Path, repeats: int) -> list[Row]:
    """The report of 4 benchmarks, 12 methods and 3 seeds with invented results, with start-up."""
    run("-c", INVENT, str(folder / "report"))
    build = partial(run, "-c", REPORT, str(folder / "report"))
    took = interleaved({"ours": build}, min(repeats, 2), child_clock)["ours"]
    what = "report of 4 benchmarks, 12 methods and 3 seeds"
    return [alone("stages", what, "s", took, 20.0, "most of it draws figures, each as PNG, SVG and PDF")]


def idle(folder: Path, repeats: int) -> list[Row]:
    """`dvc repro` where every stage is up to date: the same stages with small files as outputs."""
    clone = folder / "idle"
    try:
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone)], check=True)
        subprocess.run([sys.executable, "-c", PLACEHOLDERS], cwd=clone, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"the stages cannot be copied for the row `dvc repro` ({error}); run it in a clone") from error

    def repro() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro"], cwd=clone, check=True, capture_output=True, text=True
        )
        if "Running stage" in done.stdout:
            raise UserError("`dvc repro` ran a stage where none has changed; report this")

    imports = partial(run, "-c", "import dvc.cli, dvc.commands.repro, dvc.repo")
    took = interleaved({"ours": repro, "imports": imports}, min(repeats, 2), child_clock)
    limit = f"importing DVC takes {min(took['imports']):.1f} s of it"
    return [alone("stages", "`dvc repro` with nothing to do, the sample's stages", "s", took["ours"], 5.0, limit)]


def rows(folder: Path, repeats: int) -> Iterator[Row]:
    """All rows of this topic."""
    yield from decoding(folder, repeats)
    yield from starting(repeats)
    yield from reporting(folder, repeats)
    yield from idle(folder, repeats)
