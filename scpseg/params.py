"""Reading params.yaml into frozen dataclasses; a mistake ends in one sentence with the nearest valid value.

Each dataclass below is one section of the file. Sections of a method stand in the method's own file and are read
with `Params.section`.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from scpseg.errors import UserError

T = TypeVar("T")
RESTORE = "restore the file with `git checkout params.yaml` or set another value with `-S {key}=...`"


@dataclass(frozen=True)
class Range:
    """Valid numbers: low..high, `low` itself excluded where `above` is set."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def problem(self, value: float) -> str | None:
        """None for a valid value, else what is expected and the nearest valid value."""
        if (value > self.low if self.above else value >= self.low) and value <= self.high:
            return None
        span = f"{'above' if self.above else 'at least'} {self.low:g}" if self.low > -math.inf else ""
        if self.high < math.inf:
            span += f"{' and ' if span else ''}at most {self.high:g}"
        if value > self.high:
            near = f"the nearest valid value is {self.high:g}"
        elif self.above:
            near = f"take a value above {self.low:g}"
        else:
            near = f"the nearest valid value is {self.low:g}"
        return f"it must be {span}; {near}"


Positive = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]


@dataclass(frozen=True)
class SuiteParams:
    """What is compared: benchmarks x (scpseg + baselines) x seeds."""

    benchmarks: tuple[str, ...]
    baselines: tuple[str, ...]
    seeds: tuple[Annotated[int, Range(0)], ...]


@dataclass(frozen=True)
class DataParams:
    """Where archives come from: `source` is 'mirror' or a folder (relative to the repository's root)."""

    source: str
    partial: bool
    cache: str


@dataclass(frozen=True)
class MirrorParams:
    """The procedural miniatures: side of an image in pixels, images per split."""

    seed: Annotated[int, Range(0)]
    side: Annotated[int, Range(64)]
    train: Annotated[int, Range(2)]
    val: Positive
    test: Positive


@dataclass(frozen=True)
class SegmenterParams:
    """The base segmenter; `weights` is 'imagenet' or 'random'."""

    name: str
    encoder: str
    output_stride: Literal[8, 16, 32]
    weights: Literal["imagenet", "random"]


@dataclass(frozen=True)
class TrainParams:
    """The recipe that every method shares."""

    iterations: Positive
    learning_rate: Annotated[float, Range(0, above=True)]
    momentum: Share
    weight_decay: NonNegative
    precision: Literal["fp32", "fp16", "bf16"]
    flips: bool
    turns: bool
    log_every: Positive


@dataclass(frozen=True)
class MachineParams:
    """How a machine is used; nothing here is part of a method. `threads` and `workers` 0 = decided by the library."""

    device: Literal["auto", "cpu", "cuda"]
    deterministic: bool
    tf32: bool
    threads: Annotated[int, Range(0)]
    workers: Annotated[int, Range(0)]


@dataclass(frozen=True)
class InferenceParams:
    """Whole-image inference: `overlap` is the share of a patch that the next one covers again."""

    overlap: Annotated[float, Range(0, 0.9)]
    batch: Positive


@dataclass(frozen=True)
class EvaluationParams:
    """Which images are scored, and how many become pictures in the report."""

    split: Literal["test", "val"]
    pictures: Annotated[int, Range(0)]


@dataclass(frozen=True)
class ProfileParams:
    """The measured workload: side of the image ('real' = the benchmark's own), images after one warm-up."""

    size: Annotated[int, Range(64)] | Literal["real"]
    repeats: Positive


@dataclass(frozen=True)
class BenchmarkParams:
    """One benchmark: patch L in pixels, windows per training step, split by name or folder, kind of labels.

    The kinds of labels stand in the benchmark's spec (`scpseg.data.specs`).
    """

    patch: Annotated[int, Range(32)]
    batch: Positive
    split: str
    labels: str


GENERAL: dict[str, type] = {
    "suite": SuiteParams,
    "data": DataParams,
    "mirror": MirrorParams,
    "segmenter": SegmenterParams,
    "train": TrainParams,
    "machine": MachineParams,
    "inference": InferenceParams,
    "evaluation": EvaluationParams,
    "profile": ProfileParams,
}
BENCHMARKS = ("deepglobe", "inria", "potsdam", "blu")


def nearest(name: object, known: Iterable[str]) -> str:
    """The closest known name in words, or all of them where none is close."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


class Params:
    """One parameter file. Sections are read and checked on request."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        """Keep the plain values of `path`."""
        self.values = values
        self.path = path

    @classmethod
    def load(cls, path: Path = Path("params.yaml")) -> Params:
        """Read a YAML file of sections.

        Raises:
            UserError: the file is missing, is no YAML, or is no mapping of sections.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path.name} is missing: copy one of profiles/*.yaml to params.yaml") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path.name} is no valid YAML ({reason}); restore it with `git checkout {path.name}`"
            ) from None
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise UserError(f"{path.name} holds no sections; restore it with `git checkout {path.name}`")
        return cls(values, path)

    def section(self, name: str, cls: type[T]) -> T:
        """One section as its dataclass.

        Raises:
            UserError: the section is missing, or a key or value of it is not valid.
        """
        return build(cls, self.values.get(name), name, self.path.name)

    @property
    def suite(self) -> SuiteParams:
        """What is compared."""
        return self.section("suite", SuiteParams)

    def benchmark(self, name: str) -> BenchmarkParams:
        """The section of one benchmark.

        Raises:
            UserError: the benchmark is not known, or its section is not valid.
        """
        if name not in BENCHMARKS:
            raise UserError(f"{self.path.name}: {name!r} is no benchmark; {nearest(name, BENCHMARKS)}")
        return self.section(name, BenchmarkParams)

    def refuse(self, key: str, value: object, why: str) -> UserError:
        """The sentence for a value that is impossible: file, key, value, reason with remedy, how to restore."""
        return refusal(self.path.name, key, value, why)


def refusal(file: str, key: str, value: object, why: str) -> UserError:
    """The sentence for an impossible value; `why` names what is valid."""
    return UserError(f"{file}: {key} is {value!r}, but {why}; {RESTORE.format(key=key)}")


def build(cls: type[T], values: object, where: str, file: str = "params.yaml") -> T:
    """Make dataclass `cls` from the plain mapping `values` of section `where`.

    Raises:
        UserError: no mapping, an unknown or missing key, a wrong type, a value outside its range.
    """
    assert is_dataclass(cls)
    if not isinstance(values, Mapping):
        got = "is missing" if values is None else f"is {values!r}, not a section of keys"
        raise UserError(f"{file}: section {where} {got}; {RESTORE.format(key=where)}")
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]
    for key in values:
        if key not in names:
            raise UserError(
                f"{file}: {where}.{key} is no parameter ({nearest(key, names)}); {RESTORE.format(key=f'{where}.KEY')}"
            )
    for name in names:
        if name not in values:
            raise UserError(f"{file}: {where}.{name} is missing; {RESTORE.format(key=f'{where}.{name}')}")
    made = {name: _value(hints[name], values[name], f"{where}.{name}", file) for name in names}
    result: T = cls(**made)
    return result


class _Mismatch(Exception):
    """The value is not of the asked type; the message says what is expected."""


def _value(hint: Any, value: Any, key: str, file: str) -> Any:
    try:
        return _convert(hint, value)
    except _Mismatch as problem:
        raise refusal(file, key, value, str(problem)) from None


def _convert(hint: Any, value: Any) -> Any:
    """`value` as `hint` (bool, int, float, str, Literal, tuple, union, each perhaps with a Range)."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, valid = get_args(hint)
        value = _convert(inner, value)
        problem = valid.problem(value)
        if problem:
            raise _Mismatch(problem)
        return value
    if origin is Literal:
        options = get_args(hint)
        if not any(value == option and type(value) is type(option) for option in options):
            raise _Mismatch(f"it must be one of {', '.join(map(str, options))}{_hint(value, options)}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value)
    if origin is tuple:
        if not isinstance(value, list) or not value:
            raise _Mismatch("it must be a list with at least one entry")
        item = get_args(hint)[0]
        made = tuple(_convert(item, entry) for entry in value)
        if len(set(made)) != len(made):
            raise _Mismatch("it names an entry twice; every entry must stand once")
        return made
    return _convert_scalar(hint, value)


def _convert_union(options: tuple[Any, ...], value: Any) -> Any:
    problems = []
    for option in options:
        try:
            return _convert(option, value)
        except _Mismatch as problem:
            problems.append(str(problem).removeprefix("it must be "))
    raise _Mismatch("it must be " + ", or ".join(problems))


def _convert_scalar(hint: Any, value: Any) -> Any:
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text where DVC reads a number.
        try:
            value = float(value)
        except ValueError:
            raise _Mismatch("it must be a number") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", type(None): "null"}
        raise _Mismatch(f"it must be {words[hint]}")
    return value


def _hint(value: Any, options: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(str(value), [str(option) for option in options], n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    numbers = [option for option in options if isinstance(option, int)]
    if isinstance(value, (int, float)) and numbers:
        return f" (the nearest is {min(numbers, key=lambda option: abs(option - value))})"
    return ""
