"""Stage `train`: one method on one benchmark with one seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from pipelines import paths
from pipelines.methods import METHODS, build_method, module_of
from pipelines.runs import arguments, revision, write_provenance
from pipelines.stage import run_stage
from scpseg.benchmarks import get_benchmark
from scpseg.contract import Predictor, drop_training_parts
from scpseg.data.overviews import overviews
from scpseg.data.sampling import WindowDataset
from scpseg.data.store import Store
from scpseg.environment import configure
from scpseg.errors import UserError
from scpseg.evaluation.confusion import confusion, metrics
from scpseg.evaluation.streaming import segment
from scpseg.files import replacing, write_json, write_text
from scpseg.params import MachineParams, Params
from scpseg.training import checkpoint
from scpseg.training.loop import train

SOURCES = (
    "scpseg/contract.py",
    "scpseg/data/overviews.py",
    "scpseg/data/sampling.py",
    "scpseg/data/windows.py",
    "scpseg/evaluation/confusion.py",
    "scpseg/evaluation/streaming.py",
    "scpseg/losses.py",
    "scpseg/geometry.py",
    "scpseg/segmenters",
    "scpseg/training",
)


def work(benchmark: str, name: str, seed: int) -> None:
    """Train and write results/runs/BENCHMARK/METHOD/SEED and its provenance."""
    params = Params.load()
    machine = params.section("machine", MachineParams)
    device = configure(machine)
    recipe = params.training(name)
    store = Store(paths.store(benchmark))
    if not store.ids("train"):
        raise UserError(f"{benchmark} has no training image in its store: check {benchmark}.split and data.source")
    store.expect_classes([cls.name for cls in get_benchmark(benchmark).classes])
    store.check("train")
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
    identity = {
        "run": [benchmark, name, seed],
        "params": {key: params.values[key] for key in ("segmenter", benchmark, *module_of(name).SECTIONS)},
        "train": asdict(recipe),
        "store": store.index,
        "device": [device.type, machine.tf32, machine.deterministic],
    }
    scratch = checkpoint.scratch(checkpoint.fingerprint(identity, _sources(name)))
    with checkpoint.alone(scratch):
        score = validation(store, benchmark, device) if any(phase.checks for phase in method.phases()) else None
        trained = train(method, dataset, recipe, device, scratch, machine.workers, score)
        weights = {key: value.contiguous() for key, value in drop_training_parts(method.cpu()).state_dict().items()}
        folder = paths.run(benchmark, name, seed)
        with replacing(folder / "weights.safetensors") as temporary:
            temporary.write_bytes(save(weights))  # save_file drops the reason if the disk is full
        write_text(folder / "history.csv", history_text(trained.history))
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
            "initial_weights": {"source": method.weights.source, "sha256": method.weights.sha256},
            "segmenter": params.values["segmenter"],
        }
        write_json(folder / "training.json", record)
        seconds = {name: round(each, 2) for name, each in trained.seconds.items()}
        took = {"seconds": round(sum(trained.seconds.values()), 2), "branch_seconds": seconds}
        write_provenance(benchmark, name, seed, "training", device, revision=revision(), **took)
        # Deleted only after the weights are stored, so that a full disk does not lose a training.
        checkpoint.discard(scratch)
        last = trained.history[-1]
        print(f"{benchmark} {name} seed {seed}: loss {last['total']:.4f} after {trained.steps} steps")


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
            for name in ids
        ]
        return metrics(np.sum(matrices, axis=0), spec.scored).mean_iou or 0.0

    return score


def history_text(rows: list[dict[str, Any]]) -> str:
    """The history as CSV; a loss that a phase does not have is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return stream.getvalue()


def _sources(name: str) -> list[Path]:
    """Source files that affect a training; if one changes, checkpoints are not used."""
    module = Path(METHODS[name].replace(".", "/") + ".py")
    # SCPSeg is a folder; a rival is a file, and parts that rivals share.
    own = [module.parent] if module.parts[0] == "scpseg" else [module, Path("baselines/parts")]
    roots = [*map(Path, SOURCES), *own]
    return [path for root in roots for path in ([root] if root.is_file() else root.rglob("*.py"))]


if __name__ == "__main__":
    given = arguments(__doc__)
    run_stage(
        lambda: work(given.benchmark, given.method, given.seed),
        f"lower {given.benchmark}.batch or {given.benchmark}.patch, or the method's own sizes (csm.context, "
        "downscale.side, glnet.overview, glnet.windows, isdnet.crop, magnet.side, rue.crop)",
    )
