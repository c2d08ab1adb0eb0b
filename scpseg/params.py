"""The sections of params.yaml as frozen dataclasses.

Each dataclass below is one section of the file. The sections of a method are defined in its own module and read with
`Params.section`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.tuning import GRID, Optimizer, parse
from scpseg.validation import NonNegative, Positive, Range, Share, advice, build, invalid, nearest, parse_yaml

T = TypeVar("T")
Names = tuple[str, ...] | tuple[()]
"""A list that can be empty."""
LAST_SEED = 2**32 - 1
Seed = Annotated[int, Range(0, LAST_SEED)]
Batch = Annotated[int, Range(1, 4096)]
Steps = Annotated[int, Range(1, 10**9)]


@dataclass(frozen=True)
class SuiteParams:
    """Section `suite`: what is compared, benchmarks x (scpseg + baselines) x seeds."""

    benchmarks: tuple[str, ...]
    baselines: Names
    seeds: tuple[Seed, ...]


@dataclass(frozen=True)
class DataParams:
    """Section `data`: where archives come from, and where they are stored.

    `source` is 'mirror' (synthetic miniatures), 'upstream' (the sources in section `upstream`), a folder (relative to
    the root of the repository), or an address: one archive (.../name.zip, .../name.7z), or a folder that contains
    <benchmark>/archives.json (name, size and sha256 of each archive, as in data/mirror/<benchmark>) or, without that
    file, <benchmark>/ with the archives that the benchmark's module in `scpseg.benchmarks` names.
    """

    source: str
    partial: bool
    cache: str


@dataclass(frozen=True)
class UpstreamParams:
    """Section `upstream`: sources of each benchmark, tried in order: names from `scpseg.benchmarks`, or addresses.

    `unverified_hosts` are hosts whose certificate is not checked; only files with a known SHA-256 are fetched there.
    """

    sources: Mapping[str, tuple[str, ...]]
    unverified_hosts: tuple[str, ...] = ()

    def of(self, benchmark: str) -> tuple[str, ...]:
        """The sources of one benchmark."""
        return self.sources.get(benchmark, ())


UPSTREAM_KEYS = make_dataclass(
    "UPSTREAM_KEYS",
    [
        ("unverified_hosts", Names),
        *(
            (name, Names, field(default=tuple(source.name for source in spec.sources)))
            for name, spec in BENCHMARKS.items()
            if not spec.invented
        ),
    ],
    frozen=True,
)
"""Section `upstream` in params.yaml: one list per real benchmark, by default all its sources."""


@dataclass(frozen=True)
class MirrorParams:
    """Section `mirror`: the synthetic miniatures, with the side of an image in pixels and the images per split."""

    seed: Seed
    side: Annotated[int, Range(64)]
    train: Annotated[int, Range(2)]
    val: Positive
    test: Positive


@dataclass(frozen=True)
class SegmenterParams:
    """Section `segmenter`: `weights` is 'imagenet' or 'random'; `auxiliary` enables the published auxiliary losses."""

    name: str
    encoder: str
    output_stride: Literal[8, 16, 32]
    weights: Literal["imagenet", "random"]
    auxiliary: bool


@dataclass(frozen=True)
class SharedTrainParams:
    """Section `train`: settings that all methods share in training; `momentum` is that of SGD."""

    iterations: Steps
    momentum: Share
    weight_decay: NonNegative
    precision: Literal["fp32", "fp16", "bf16"]
    flips: bool
    turns: bool
    log_every: Steps


@dataclass(frozen=True)
class TrainParams(SharedTrainParams):
    """Training settings of one method: section `train` with the method's optimiser from section `tuned`."""

    optimizer: Optimizer
    learning_rate: float


@dataclass(frozen=True)
class MachineParams:
    """Section `machine`: nothing in it is part of a method. `threads` and `workers` 0 = the library's default.

    `devices` is the number of processes, each with its own GPU, that share a training and an evaluation.
    """

    device: Literal["auto", "cpu", "cuda"]
    deterministic: bool
    tf32: bool
    threads: Annotated[int, Range(0, 1024)]
    workers: Annotated[int, Range(0, 256)]
    devices: Annotated[int, Range(1, 64)] = 1


@dataclass(frozen=True)
class InferenceParams:
    """Section `inference`: `overlap` is the minimum overlap of neighbouring patches, relative to their side."""

    overlap: Annotated[float, Range(0, 0.9)]
    batch: Batch


@dataclass(frozen=True)
class EvaluationParams:
    """Section `evaluation`: which images are scored, and how many are shown in the report."""

    split: Literal["test", "val"]
    pictures: Annotated[int, Range(0)]


@dataclass(frozen=True)
class ProfileParams:
    """Section `profile`: side of the measured image ('real' = the benchmark's), and images after one warm-up.

    No parameter may be called `size` or `nfiles`: DVC's run cache ignores these keys, so it would restore a result of
    another value.
    """

    side: Annotated[int, Range(64)] | Literal["real"]
    repeats: Positive


@dataclass(frozen=True)
class BenchmarkParams:
    """Section of a benchmark: patch side L in pixels, windows per training step, split (name or folder), labels.

    The available kinds of labels are in the benchmark's module in `scpseg.benchmarks`.
    """

    patch: Annotated[int, Range(32)]
    batch: Batch
    split: str
    labels: str


GENERAL: dict[str, type] = {
    "suite": SuiteParams,
    "data": DataParams,
    "upstream": UPSTREAM_KEYS,
    "mirror": MirrorParams,
    "segmenter": SegmenterParams,
    "train": SharedTrainParams,
    "machine": MachineParams,
    "inference": InferenceParams,
    "evaluation": EvaluationParams,
    "profile": ProfileParams,
}


class Params:
    """A parameter file whose sections are read and checked on request."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        """Store the plain values of the file `path`."""
        self.values = values
        self.path = path

    @classmethod
    def load(cls, path: Path = Path("params.yaml")) -> Params:
        """Read a YAML file of sections.

        Raises:
            UserError: the file is missing, is not valid YAML, is not a mapping of sections, or has a duplicated key.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            above = next(
                (up for up in Path.cwd().parents if (up / path).is_file() and (up / "dvc.yaml").is_file()), None
            )
            if above and not path.is_absolute():
                where = os.path.relpath(above)
                raise UserError(
                    f"{path} is in {where}, not here: run this command in the root of the repository ({where})"
                ) from None
            todo = "copy one of profiles/*.yaml to it" if path.name == "params.yaml" else "name an existing file"
            raise UserError(f"{path} is missing; {todo}") from None
        except OSError as error:
            why = f"{path} cannot be read ({error.strerror})"
            raise UserError(f"{why}; make it a file like profiles/*.yaml") from None
        except UnicodeDecodeError:
            raise UserError(f"{path.name} is not UTF-8 text{advice(path.name)}") from None
        values = parse_yaml(text, path.name)
        if not isinstance(values, dict):
            raise UserError(f"{path.name} has no sections{advice(path.name)}")
        return cls(values, path)

    def section(self, name: str, cls: type[T]) -> T:
        """Read one section as its dataclass.

        Raises:
            UserError: the section is missing, or one of its keys or values is not valid.
        """
        return build(cls, self.values.get(name), name, self.path.name)

    def training(self, method: str) -> TrainParams:
        """Training settings of a method.

        Raises:
            UserError: section `train` is not valid, or section `tuned` has no valid value for the method.
        """
        shared, values = self.section("train", SharedTrainParams), self.values.get("tuned")
        if not isinstance(values, Mapping) or method not in values:
            why = f"tuned.{method} is missing; add it as in profiles/*.yaml, or as {method}: {GRID[0]}"
            raise UserError(f"{self.path.name}: {why}")
        tuned = parse(values[method])
        if tuned is None:
            why = f"it must be an optimiser (sgd or adam) and a learning rate above 0, such as '{GRID[0]}'"
            raise self.invalid(f"tuned.{method}", values[method], why)
        return TrainParams(**asdict(shared), **tuned._asdict())

    @property
    def suite(self) -> SuiteParams:
        """Section `suite`."""
        return self.section("suite", SuiteParams)

    @property
    def upstream(self) -> UpstreamParams:
        """Section `upstream`."""
        lists = dict(vars(self.section("upstream", UPSTREAM_KEYS)))
        return UpstreamParams(unverified_hosts=lists.pop("unverified_hosts"), sources=lists)

    def benchmark(self, name: str) -> BenchmarkParams:
        """The section of one benchmark.

        Raises:
            UserError: the benchmark is unknown, or its section is not valid.
        """
        if name not in BENCHMARKS:
            raise UserError(f"{self.path.name}: unknown benchmark {name!r}; {nearest(name, BENCHMARKS)}")
        return self.section(name, BenchmarkParams)

    def image_side(self, benchmark: str) -> int:
        """Side of the benchmark's images in pixels: of its miniature if `data.source` is 'mirror', else of the real."""
        drawn = self.section("data", DataParams).source == "mirror"
        return self.section("mirror", MirrorParams).side if drawn else BENCHMARKS[benchmark].side

    def invalid(self, key: str, value: object, why: str) -> UserError:
        """The error for an invalid value: file, key, value, reason with a remedy, and how to restore the file."""
        return invalid(self.path.name, key, value, why)
