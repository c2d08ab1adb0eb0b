"""Train one method on one benchmark with one seed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from pipelines import paths
from pipelines.methods import build_method, module_of, source_files
from pipelines.runs import revision, write_provenance
from scpseg import parallel
from scpseg.benchmarks import get_benchmark
from scpseg.contract import Predictor, drop_training_parts
from scpseg.data.overviews import overviews
from scpseg.data.sampling import WindowDataset
from scpseg.data.store import Store
from scpseg.environment import configure
from scpseg.errors import UserError
from scpseg.evaluation.confusion import confusion, metrics
from scpseg.evaluation.streaming import segment
from scpseg.files import csv_rows, read_json, replacing, write_json, write_text
from scpseg.params import MachineParams, Params
from scpseg.training import checkpoint
from scpseg.training.launch import launch
from scpseg.training.loop import train

FILES = ("weights.safetensors", "history.csv", "training.json")
SECONDS = "seconds.json"
SOURCES = (
    "pipelines/stages/train.py",
    "scpseg/contract.py",
    "scpseg/data/overviews.py",
    "scpseg/data/sampling.py",
    "scpseg/data/windows.py",
    "scpseg/evaluation/confusion.py",
    "scpseg/evaluation/streaming.py",
    "scpseg/losses.py",
    "scpseg/parallel.py",
    "scpseg/geometry.py",
    "scpseg/segmenters",
    "scpseg/training",
)


def work(benchmark: str, name: str, seed: int, fold: int | None = None) -> None:
    """Train and write results/runs/BENCHMARK/METHOD/SEED and its provenance.

    Of a rotation, one network per fold is trained, each with its own folder. With `fold`, only this one is trained,
    and kept in the scratch folder, where the stage finds it.

    Raises:
        UserError: the store is missing, has no training image or no such fold, or the training fails.
    """
    params = Params.load()
    device = configure(params.section("machine", MachineParams))
    store = Store(paths.store(benchmark))
    store.expect_classes([cls.name for cls in get_benchmark(benchmark).classes])
    if fold is not None and not 0 <= fold < store.folds:
        raise UserError(f"--fold {fold}: {benchmark} has folds 0 to {store.folds - 1} (split {store.index['split']})")
    if fold is not None:
        train_fold(params, store.in_fold(fold), benchmark, name, seed, device)
        return
    # Another process that makes the same run, as in a sweep, must not delete what this one copies.
    with checkpoint.alone(scratch_of(params, store, [benchmark, name, seed, "all folds"], device)):
        kept = [train_fold(params, each, benchmark, name, seed, device) for each in store.all_folds()]
        keep(params, store, benchmark, name, seed, device, kept)


def keep(
    params: Params, store: Store, benchmark: str, name: str, seed: int, device: torch.device, kept: Sequence[Path]
) -> None:
    """Write the outputs of the stage from the folders of the folds, and delete these."""
    machine = params.section("machine", MachineParams)
    folder = paths.run(benchmark, name, seed)
    for number, each in enumerate(kept):
        for file in FILES:
            with replacing(paths.fold(folder, number, store.folds) / file) as temporary:
                shutil.copyfile(each / file, temporary)
    seconds = [read_json(each / SECONDS, {str: float}) for each in kept]
    total = {phase: round(sum(one[phase] for one in seconds), 2) for phase in seconds[0]}
    if store.folds > 1:
        write_json(folder / "training.json", combined([read_json(each / "training.json") for each in kept]))
        write_text(
            folder / "history.csv", joined([(each / "history.csv").read_text(encoding="utf-8") for each in kept])
        )
    took: dict[str, Any] = {"seconds": round(sum(total.values()), 2), "branch_seconds": total}
    if machine.devices > 1:
        took |= {"devices": machine.devices, "batch_norm": "statistics of the whole batch, of all devices"}
    write_provenance(benchmark, name, seed, "training", device, revision=revision(), **took)
    # Deleted only after everything is stored, so that a full disk does not lose a training.
    for each in kept:
        checkpoint.discard(each.parent)


def train_fold(params: Params, store: Store, benchmark: str, name: str, seed: int, device: torch.device) -> Path:
    """Train on the store's fold, unless that was done; the folder of the result, below the scratch folder."""
    machine = params.section("machine", MachineParams)
    if not store.ids("train"):
        raise UserError(f"{benchmark} has no training image in its store: check {benchmark}.split and data.source")
    store.check("train")
    rotates = [store.fold] if store.folds > 1 else []
    scratch = scratch_of(params, store, [benchmark, name, seed, *rotates], device)
    done = scratch / "done"
    with checkpoint.alone(scratch):
        if (done / SECONDS).is_file():  # written last
            return done
        launch(machine.devices, device, run_fold, params, benchmark, name, seed, store.fold, done)
    return done


def scratch_of(params: Params, store: Store, run: list[Any], device: torch.device) -> Path:
    """The scratch folder of a run: benchmark, method, seed and, in a rotation, fold.

    machine.devices is not part of its name: a run may resume with another number of processes.
    """
    benchmark, name = run[:2]
    machine = params.section("machine", MachineParams)
    identity = {
        "run": run,
        "params": {key: params.values[key] for key in ("segmenter", benchmark, *module_of(name).SECTIONS)},
        "train": asdict(params.training(name)),
        "store": store.index,
        "device": [device.type, machine.tf32, machine.deterministic],
    }
    return checkpoint.scratch(checkpoint.fingerprint(identity, source_files(name, SOURCES)))


def run_fold(params: Params, benchmark: str, name: str, seed: int, fold: int, done: Path) -> None:
    """Train in this process, which may be one of several; the first writes the result to `done`."""
    machine, recipe = params.section("machine", MachineParams), params.training(name)
    device = configure(machine)
    store = Store(paths.store(benchmark)).in_fold(fold)
    torch.manual_seed(seed)
    method = build_method(params, benchmark, name)
    sizes = params.benchmark(benchmark)
    needs = method.needs
    dataset = WindowDataset(
        store,
        "train",
        needs,
        seed=seed,
        batch=sizes.batch,
        flips=recipe.flips,
        turns=recipe.turns,
        overviews=None if needs.overview is None else overviews(store, "train", needs.overview),
    )
    parameters = sum(parameter.numel() for parameter in method.parameters())
    score = validation(store, benchmark, device) if any(phase.checks for phase in method.phases()) else None
    trained = train(method, dataset, recipe, device, done.parent, machine.workers, score)
    if parallel.rank():
        return
    weights = {key: value.contiguous() for key, value in drop_training_parts(method.cpu()).state_dict().items()}
    with replacing(done / "weights.safetensors") as temporary:
        temporary.write_bytes(save(weights))  # save_file drops the reason if the disk is full
    write_text(done / "history.csv", history_text(trained.history))
    record = {
        **asdict(recipe),
        **trained.recipe,
        # No effect if the authors' epochs apply.
        "iterations": None
        if all(phase.recipe and phase.recipe.own_length for phase in method.phases())
        else recipe.iterations,
        "steps": trained.steps,
        "samples": sum(branch["samples"] for branch in trained.branches.values()),
        "megapixels": round(sum(branch["megapixels"] for branch in trained.branches.values()), 3),
        "branches": trained.branches,
        "parameters_training": parameters,
        "weights_hash": checkpoint.digest(weights),
        "model": method.describe(),
        "initial_weights": asdict(method.weights),
        "segmenter": params.values["segmenter"],
    }
    write_json(done / "training.json", record)
    write_json(done / SECONDS, {name: round(each, 2) for name, each in trained.seconds.items()})
    where = f"{benchmark} {name} seed {seed}" + (f" fold {fold}" if store.folds > 1 else "")
    print(f"{where}: loss {trained.history[-1]['total']:.4f} after {trained.steps} steps")


def combined(records: Sequence[Any]) -> Any:
    """One value for the folds of a rotation: of numbers the mean, of digests the digest of all."""
    first = records[0]
    if all(record == first for record in records):
        return first
    if isinstance(first, dict):
        return {key: combined([record[key] for record in records]) for key in first}
    if isinstance(first, str):
        return hashlib.sha256("".join(records).encode()).hexdigest()
    mean = sum(records) / len(records)
    return round(mean) if isinstance(first, int) else mean


def joined(histories: Sequence[str]) -> str:
    """The histories of all folds, with the number of the fold in the first column."""
    tables = [text.splitlines() for text in histories]
    rows = [f"{fold},{row}" for fold, table in enumerate(tables) for row in table[1:]]
    return "\n".join([f"fold,{tables[0][0]}", *rows, ""])


def validation(store: Store, benchmark: str, device: torch.device) -> Callable[[Predictor], float]:
    """The mean IoU of a method over the images of the validation split.

    Raises:
        UserError: there are none.
    """
    spec, ids = get_benchmark(benchmark), store.ids("val")
    classes = len(spec.classes)
    if not ids:
        what = f"{benchmark} has no val image in its store, and a phase keeps the state that scores best on them"
        raise UserError(f"{what}: check {benchmark}.split and data.source")

    def score(method: Predictor) -> float:
        matrices = [
            confusion(store.label("val", name), segment(method, store.image("val", name), classes, device), classes)
            for name in ids[parallel.rank() :: parallel.world()]
        ]
        whole = parallel.total(torch.from_numpy(np.sum([np.zeros((classes, classes), np.int64), *matrices], axis=0)))
        return metrics(whole.numpy(), spec.scored).mean_iou or 0.0

    return score


def history_text(rows: list[dict[str, Any]]) -> str:
    """The history as CSV; a loss that a phase does not have is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    short = [{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    return csv_rows(columns, short)
