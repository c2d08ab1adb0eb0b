"""Show what `dvc repro` would run with the current parameters, with iterations, disk space and time.

Runs and writes nothing. Times are extrapolated from measurements on this device: trainings and profiles in results/,
and training steps in a committed reference of this GPU. Without a measurement, the time is reported as unknown.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import paths
from pipelines.check import check
from pipelines.preflight import check_surroundings
from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.space import free_bytes, size_text
from scpseg.data.splits import read_folds
from scpseg.files import Shape, read_json
from scpseg.params import DataParams, EvaluationParams, MachineParams, MirrorParams, Params, SharedTrainParams
from scpseg.profiling.records import read_references

REFERENCE = Path("results/reference")
_TRAINED: Shape = {
    "iterations": (int, None),
    "segmenter": dict,
    "model": {"patch": int},
    "batch": (int, str),
    "precision": str,
}
_PROFILED: Shape = {
    "model": ({"patch": int}, None),
    "environment?": {"device": str},
    "seconds_per_image": (float, None),
    "height": int,
    "width": int,
}
_MEASURED: Shape = {"seconds": float, "environment": {"device": str}}
STORE_BYTES = 4
"""Bytes of a pixel in the store: three channels and a label."""


@dataclass(frozen=True)
class Job:
    """A stage that would run: its kind ('train', ...), and the parts of its name, '' or None if it lacks them."""

    kind: str
    benchmark: str = ""
    method: str = ""
    seed: int | None = None


def pending() -> list[str]:
    """Names of the stages that would run, in DVC's order: changed stages and all that use their outputs.

    The output of `check` is constant, so nothing reruns because of it.
    """
    from dvc.repo import Repo
    from dvc.repo.graph import get_pipelines
    from networkx import descendants, topological_sort

    with Repo(".", _wait_for_lock=True) as repo:
        changed = set(repo.status())
        names = []
        for pipeline in get_pipelines(repo.index.graph):
            flow = pipeline.reverse(copy=True)
            for stage in [stage for stage in flow if stage.addressing in changed and stage.name != "check"]:
                changed |= {later.addressing for later in descendants(flow, stage)}
            names += [stage.addressing for stage in topological_sort(flow)]
        return [name for name in names if name in changed]


def job_of(name: str) -> Job:
    """Parse a stage's name: 'train-baseline@inria-glnet-0' trains glnet on inria with seed 0."""
    kind, _, identity = name.partition("@")
    parts = identity.split("-") if identity else []
    kind, _, group = kind.partition("-")
    benchmark = parts.pop(0) if parts else ""
    seed = int(parts.pop()) if kind in ("train", "evaluate") and parts else None
    return Job(kind, benchmark, "scpseg" if group == "scpseg" else "-".join(parts), seed)


def training_seconds(params: Params, benchmark: str, method: str, device: str | None = None) -> float | None:
    """Expected seconds of one training on `device` (default: that of the parameters); None = not measured.

    Uses steps with the same segmenter, patch, batch size and precision, on any benchmark; else a committed reference
    of the device with the same patch, which is measured with the paper's batch size.
    """
    if params.values.get(method, {}).get("recipe", "suite") != "suite":
        return None  # the authors' epochs apply, not train.iterations
    train, own = params.section("train", SharedTrainParams), params.benchmark(benchmark)
    device = device or device_name(params)
    wanted = (params.values["segmenter"], own.patch, str(own.batch), train.precision, device)
    steps = [
        record["seconds"] / record["iterations"] / record["folds"]
        for record in _trainings(method)
        if record["iterations"]
        and wanted
        == (
            record["segmenter"],
            record["model"]["patch"],
            # For a method whose phases differ, the first: the others follow from it.
            str(record["batch"]).partition(":")[0],
            record["precision"],
            record["environment"]["device"],
        )
    ]
    steps = steps or list(_reference_steps(benchmark, method, own.patch, device))
    folds = len(read_folds(BENCHMARKS[benchmark], own.split))
    return statistics.median(steps) * train.iterations * folds if steps else None


def _trainings(method: str) -> Iterator[dict[str, Any]]:
    """Records of the finished trainings of a method, on any benchmark, with seconds, environment and folds."""
    for path in sorted(Path("results/runs").glob(f"*/{method}/*/training.json")):
        benchmark, _, seed = path.parent.parts[-3:]
        measured = paths.provenance(benchmark, method, int(seed), "training")
        if measured.is_file():
            folds = len(list(path.parent.glob("fold*"))) or 1
            yield {**read_json(path, _TRAINED), **read_json(measured, _MEASURED), "folds": folds}


def _reference_steps(benchmark: str, method: str, patch: int, device: str) -> Iterator[float]:
    for facts, records in read_references(REFERENCE):
        for record in records if facts["gpu"] == device else ():
            same = (record["benchmark"], record["method"], record.get("patch")) == (benchmark, method, patch)
            if same and record.get("seconds_per_step"):
                yield record["seconds_per_step"]


def evaluation_seconds(params: Params, benchmark: str, method: str, device: str | None = None) -> float | None:
    """Expected seconds to evaluate all images of the split; None if no image of that size was measured here."""
    path = paths.profile(benchmark, method)
    if not path.is_file():
        return None
    record: dict[str, Any] = read_json(path, _PROFILED)
    patch = (record.get("model") or {}).get("patch")
    here = record.get("environment", {}).get("device") == (device or device_name(params))
    if not here or not record.get("seconds_per_image") or patch != params.benchmark(benchmark).patch:
        return None
    side, counts = params.image_side(benchmark), _images(params, benchmark)
    split = params.section("evaluation", EvaluationParams).split
    folds = read_folds(BENCHMARKS[benchmark], params.benchmark(benchmark).split)
    count = sum(len(fold[split]) for fold in folds) if len(folds) > 1 else counts[split]
    measured = record["height"] * record["width"]
    return float(record["seconds_per_image"] * side**2 / measured * count)


def device_name(params: Params) -> str:
    """Name of the device that the parameters select, as in result rows."""
    from scpseg.environment import choose_device, environment

    return str(environment(choose_device(params.section("machine", MachineParams).device))["device"])


def store_bytes(params: Params, benchmark: str) -> int:
    """Size of the prepared images of a complete benchmark."""
    return STORE_BYTES * params.image_side(benchmark) ** 2 * sum(_images(params, benchmark).values())


def _images(params: Params, benchmark: str) -> dict[str, int]:
    """Images per split: the benchmark's or the miniature's."""
    if params.section("data", DataParams).source == "mirror":
        mirror = params.section("mirror", MirrorParams)
        return {"train": mirror.train, "val": mirror.val, "test": mirror.test}
    return dict(zip(("train", "val", "test"), BENCHMARKS[benchmark].counts, strict=True))


def duration(seconds: float | None) -> str:
    """Seconds as text, in a suitable unit."""
    if seconds is None:
        return "not measured"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun; `many` is the plural if it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def report(params: Params, names: Iterable[str]) -> str:
    """The plan as plain text."""
    jobs = [job_of(name) for name in names]
    if not jobs:
        return "nothing to do: every result is up to date with the parameters, code and data"
    device = device_name(params)
    lines = [f"{counted(len(jobs), 'stage')} would run on {device}"]
    for kind in ("mirror", "download", "prepare"):
        mine = [job.benchmark for job in jobs if job.kind == kind]
        if not mine:
            continue
        need = f", {size_text(sum(store_bytes(params, name) for name in mine))} of disk" if kind == "prepare" else ""
        lines.append(f"{kind:10} {', '.join(mine)}{need}")
    if any(job.kind == "prepare" for job in jobs):
        lines.append(f"{'':10} {size_text(free_bytes(Path('.')))} are free here; archives go to data.cache")
    iterations = params.section("train", SharedTrainParams).iterations
    known: list[float] = []
    unknown = 0
    for kind, ask in (("train", training_seconds), ("evaluate", evaluation_seconds)):
        chosen = [job for job in jobs if job.kind == kind]
        for benchmark, method in dict.fromkeys((job.benchmark, job.method) for job in chosen):
            seeds = [job.seed for job in chosen if (job.benchmark, job.method) == (benchmark, method)]
            each = ask(params, benchmark, method, device)
            known += [each] * len(seeds) if each is not None else []
            unknown += len(seeds) if each is None else 0
            what = f"{iterations} iterations, " if kind == "train" else ""
            runs = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            time = f"{duration(each)} each" if each is not None and len(seeds) > 1 else duration(each)
            lines.append(f"{kind:10} {benchmark} {method}, {runs}: {what}{time}")
    profiles = sum(job.kind == "profile" for job in jobs)
    if profiles:
        lines.append(f"{'profile':10} {counted(profiles, 'workload')}")
    if any(job.kind == "report" for job in jobs):
        lines.append("report")
    words = ("training or evaluation", "trainings and evaluations")
    parts = [f"{duration(sum(known))} for {counted(len(known), *words)} like one measured here"] if known else []
    parts += [f"unknown time for {counted(unknown, *words)} unlike any measured here"] if unknown else []
    return "\n".join(lines + ([f"expected: {'; '.join(parts)}"] if parts else []))


def work() -> None:
    """Print the plan."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    params = Params.load()
    check_surroundings(params)
    check(params)
    print(report(params, pending()))


if __name__ == "__main__":
    run_stage(work)
