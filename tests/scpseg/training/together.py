"""Trains methods at sample scale in one or several processes, for the tests of data-parallel training.

python together.py FOLDER PROCESSES METHOD:STEPS...: FOLDER/METHOD.json is the history, FOLDER/METHOD.pt the weights.
In double precision, because training amplifies rounding: in single precision, a difference of 1e-7 in the first loss
grows to 1e-3 within a few steps of a small batch.
"""

import copy
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from torch.nn.modules.module import register_module_forward_pre_hook

from pipelines.methods import build_method
from scpseg import parallel
from scpseg.contract import Method
from scpseg.data.overviews import Overview, reduce_image, reduce_label
from scpseg.data.sampling import WindowDataset
from scpseg.params import Params, TrainParams
from scpseg.training.launch import launch
from scpseg.training.loop import train

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


class Scenes:
    """Three images; how many of their pixels are valid differs much, so that slices of a batch differ too."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.labels = {}
        for number, name in enumerate("abc"):
            label = np.kron(random.integers(2, size=(10, 10)), np.ones((20, 20), int)).astype(np.uint8)
            label[: 60 * number] = 255
            self.labels[name] = label
        self.images = {
            name: np.stack([np.where(label == 1, 180, 60)] * 3, axis=-1).astype(np.uint8)
            + random.integers(40, size=(200, 200, 3), dtype=np.uint8)
            for name, label in self.labels.items()
        }

    def ids(self, split: str) -> tuple[str, ...]:
        return tuple(self.labels)

    def image(self, split: str, name: str) -> np.ndarray:
        return self.images[name]

    def label(self, split: str, name: str) -> np.ndarray:
        return self.labels[name]


def params() -> Params:
    values = copy.deepcopy(yaml.safe_load((ROOT / "profiles/sample.yaml").read_text(encoding="utf-8")))
    values["inria"] |= {"patch": 64, "batch": 4}
    values["glnet"] |= {"overview": 96, "direction": "both"}
    return Params(values, Path("params.yaml"))


def stop_at(method: Method, step: int) -> None:
    """In the second process of a training: end the first one as a system would."""
    losses, calls = method.losses, iter(range(step))

    def counted(*given: object) -> dict[str, torch.Tensor]:
        if parallel.rank() == 1 and next(calls, None) is None:
            os.kill(os.getppid(), signal.SIGTERM)
        return losses(*given)  # type: ignore[arg-type]

    method.losses = counted  # type: ignore[method-assign]


def doubled(value: object) -> object:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def run(folder: Path, trainings: list[str]) -> None:
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    register_module_forward_pre_hook(lambda module, given: tuple(map(doubled, given)))
    store = Scenes()
    for name, steps in (training.split(":") for training in trainings):
        torch.manual_seed(0)
        method = build_method(params(), "inria", name)
        if side := method.needs.overview:
            whole = {
                key: Overview(reduce_image(store.images[key], side), reduce_label(store.labels[key], side))
                for key in store.ids("train")
            }
        data = WindowDataset(
            store,  # type: ignore[arg-type]
            "train",
            method.needs,
            seed=1,
            batch=4,
            flips=True,
            turns=True,
            overviews=whole if side else None,
        )
        recipe = TrainParams(int(steps), 0.9, 5e-4, "fp32", True, True, 1, "sgd", 0.01)
        if stop := os.environ.get("STOP_AT"):
            stop_at(method, int(stop))
        trained = train(method, data, recipe, CPU, folder / f"scratch-{name}", score=lambda method: 0.0)
        if parallel.rank() == 0:
            (folder / f"{name}.json").write_text(json.dumps([trained.history, trained.branches]))
            torch.save(method.state_dict(), folder / f"{name}.pt")


if __name__ == "__main__":
    out, count, *asked = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    launch(int(count), CPU, run, Path(out), asked)
