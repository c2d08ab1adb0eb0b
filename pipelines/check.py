"""Stage `check`: validate all parameters before anything long starts.

Its output is constant, so a changed value reruns only the stages that use it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path

from pipelines import paths
from pipelines.methods import METHODS, build_method, module_of
from pipelines.preflight import check_surroundings
from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS, custom
from scpseg.benchmarks.base import Ids
from scpseg.benchmarks.checks import check_benchmark
from scpseg.data.acquire.manifest import MIRROR, UPSTREAM, Manifest, cache_folder, from_network
from scpseg.data.acquire.sources import check_upstream, is_address
from scpseg.data.splits import PARTS, read_folds
from scpseg.errors import UserError
from scpseg.files import comparable, read_json, root, sha256, write_text
from scpseg.params import (
    GENERAL,
    BenchmarkParams,
    DataParams,
    EvaluationParams,
    MachineParams,
    Params,
    SharedTrainParams,
    SuiteParams,
)
from scpseg.validation import advice, nearest

OUTPUT = Path("results/check.txt")


def sections() -> dict[str, type]:
    """The sections that params.yaml must have, with their dataclasses."""
    known: dict[str, type] = {**GENERAL, **dict.fromkeys(BENCHMARKS, BenchmarkParams)}
    for name in METHODS:
        known.update(module_of(name).SECTIONS)
    known["tuned"] = make_dataclass("TunedParams", [(name, str) for name in METHODS])
    return known


def check(params: Params) -> None:
    """Check every benchmark's file and all parameters.

    Raises:
        UserError: a benchmark's file is not valid, a section or key is unknown or missing, a value has the wrong type
            or is not valid. The first error is raised.
    """
    for name, spec in BENCHMARKS.items():
        check_benchmark(name, spec)
    known = sections()
    for name in params.values:
        if name not in known:
            file = params.path.name
            raise UserError(f"{file}: {name} is not a section ({nearest(name, known)}){advice(file)}")
    for name, cls in known.items():
        params.section(name, cls)
    for name in METHODS:
        params.training(name)
    check_upstream(params)
    _check_machine(params)
    suite = params.suite
    for name in suite.benchmarks:
        if name not in BENCHMARKS:
            raise params.invalid("suite.benchmarks", name, f"it is not a benchmark; {nearest(name, BENCHMARKS)}")
    for name in suite.baselines:
        rivals = [method for method in METHODS if method != "scpseg"]
        if name not in rivals:
            raise params.invalid("suite.baselines", name, f"it is not a baseline; {nearest(name, rivals)}")
    for benchmark in suite.benchmarks:
        _check_mirror(params, benchmark)
    _check_source(params)
    for benchmark in suite.benchmarks:
        _check_labels(params, benchmark)
        _check_split(params, benchmark)
        batch, devices = params.benchmark(benchmark).batch, params.section("machine", MachineParams).devices
        if batch % devices:
            raise params.invalid("machine.devices", devices, f"it must divide {benchmark}.batch, which is {batch}")
        for method in ("scpseg", *suite.baselines):
            module_of(method).check(params, benchmark)
            _check_devices(params, benchmark, method)


def _check_machine(params: Params) -> None:
    from scpseg.environment import choose_device  # imports torch; here, so that other errors are found without it

    device = choose_device(params.section("machine", MachineParams).device)
    precision = params.section("train", SharedTrainParams).precision
    if precision != "fp32" and device.type != "cuda":
        raise params.invalid("train.precision", precision, "it needs a CUDA device, and none is used; set it to fp32")


def _check_devices(params: Params, benchmark: str, name: str) -> None:
    """Check the batches of an authors' recipe, which its phases know; the shared recipe has the benchmark's batch."""
    devices = params.section("machine", MachineParams).devices
    if devices == 1 or params.values.get(name, {}).get("recipe", "suite") == "suite":
        return
    import torch

    from scpseg.training.phases import check_devices

    weights = {"segmenter": {**params.values["segmenter"], "weights": "random"}}
    with torch.device("meta"):
        phases = build_method(Params({**params.values, **weights}, params.path), benchmark, name).phases()
    for phase in phases:
        if phase.recipe:
            check_devices(phase, phase.recipe.batch, devices)


def _check_source(params: Params) -> None:
    data = params.section("data", DataParams)
    source, words = data.source, (MIRROR, UPSTREAM)
    if from_network(data):
        cache_folder("", data)
    if source in words or is_address(source) or (source and os.path.isdir(root() / os.path.expanduser(source))):
        return
    close = nearest(source.lower(), words)
    why = f"it is not a directory, not an address (http://..., https://...), and neither {MIRROR} nor {UPSTREAM}; "
    raise params.invalid("data.source", source, why + (close if close.startswith("did") else "name one of these"))


def _check_mirror(params: Params, benchmark: str) -> None:
    source = params.section("data", DataParams).source
    if BENCHMARKS[benchmark].miniature is None and source == MIRROR:
        why = f"{benchmark} has no synthetic miniature; set it to {UPSTREAM} or a folder, or remove {benchmark} from"
        raise params.invalid("data.source", source, f"{why} suite.benchmarks")
    if BENCHMARKS[benchmark].invented and source != MIRROR:
        why = f"{benchmark} exists only as synthetic scenes; set it to {MIRROR}, or remove {benchmark} from"
        raise params.invalid("data.source", source, f"{why} suite.benchmarks")


def _check_labels(params: Params, benchmark: str) -> None:
    labels, kinds = params.benchmark(benchmark).labels, BENCHMARKS[benchmark].layout.labels
    if labels not in kinds:
        raise params.invalid(f"{benchmark}.labels", labels, f"{benchmark} has no such labels; {nearest(labels, kinds)}")


def _check_split(params: Params, benchmark: str) -> None:
    name = params.benchmark(benchmark).split
    wanted = params.section("evaluation", EvaluationParams).split
    folds = read_folds(BENCHMARKS[benchmark], name)
    if name not in BENCHMARKS[benchmark].splits and _edited(benchmark, name, folds):
        why = "its lists have changed since the images were prepared, but DVC knows them by the name of their folder"
        raise params.invalid(f"{benchmark}.split", name, f"{why}; give the folder another name")
    for lists in folds:
        for split in ("train", wanted):
            if lists and not lists.get(split):
                raise params.invalid(
                    f"{benchmark}.split", name, f"it has no {split} images; use another split or evaluation.split"
                )


def _edited(benchmark: str, name: str, folds: Sequence[Ids]) -> bool:
    """Whether the store was made with other lists of the same name; of a part of a benchmark, it lacks images."""
    index = paths.store(benchmark) / "index.json"
    if not index.is_file():
        return False
    ids = {part: [str] for part in PARTS}
    made = read_json(index, {"split": str, "folds": [ids], "ids": ids, "expected": dict.fromkeys(PARTS, int)})
    before = made["folds"] or [made["ids"]]
    if made["split"] != name:
        return False
    if len(before) != len(folds):
        return True
    if len(folds) == 1 and any(made["expected"][part] != len(listed) for part, listed in folds[0].items()):
        return True
    pairs = [(had[part], lists.get(part, ())) for had, lists in zip(before, folds, strict=True) for part in PARTS]
    return any(set(map(comparable, had)) - set(map(comparable, listed)) for had, listed in pairs)


def warn_of_classes(suite: SuiteParams) -> None:
    """Print a warning if classes.csv is not the one that images were prepared with: DVC does not watch the file."""
    manifest, folder = paths.manifest(custom.NAME), custom.custom_folder()
    if custom.NAME not in suite.benchmarks or folder is None or not manifest.is_file():
        return
    recorded = {file.path: file.sha256 for file in Manifest.read(manifest, custom.NAME).files}
    if recorded.get(custom.FILE) not in (None, sha256(folder / custom.FILE)):
        todo = f"run `dvc repro -f download@{custom.NAME}`, then `dvc repro`"
        print(f"warning: {custom.NAME}/{custom.FILE} has changed since the images were prepared: {todo}", flush=True)


def work() -> None:
    """Check params.yaml and its environment, and write the constant output."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    params = Params.load()
    check_surroundings(params)
    check(params)
    warn_of_classes(params.suite)
    write_text(OUTPUT, "params.yaml is valid\n")
    print("params.yaml is valid")


if __name__ == "__main__":
    run_stage(work)
