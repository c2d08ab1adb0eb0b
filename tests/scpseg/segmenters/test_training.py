"""Short runs of every segmenter, alone and under SCPSeg: what a network learns from, it learns."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from baselines import patch
from scpseg.benchmarks import get_benchmark
from scpseg.contract import Labels, Method, Setting, Views
from scpseg.data.prepare.decode import decode_label, read_pixels
from scpseg.method import scpseg
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.build import KINDS

VALUES = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))
BENCHMARK, PATCH, BATCH = "deepglobe", 64, 2


def small(name: str) -> SegmenterParams:
    """The smallest variant of a segmenter."""
    kind = KINDS[name]
    encoder = "tu-test_resnet.r160_in1k" if kind.encoders is None else kind.encoders[0]
    return SegmenterParams(name, encoder, kind.output_strides[0], "random", True)


def build(module: Any, name: str, side: int = PATCH) -> Method:
    values = copy.deepcopy(VALUES)
    values["segmenter"] = vars(small(name))
    values["csm"] |= {"ratio": 0.75, "context": 2.0}
    values["lfa"]["window"] = 5
    values[BENCHMARK] |= {"patch": side, "batch": BATCH}
    given = Params(values, Path("params.yaml"))
    module.check(given, BENCHMARK)
    torch.manual_seed(0)
    method: Method = module.build(Setting(len(get_benchmark(BENCHMARK).classes), side, small(name), given))
    return method


def windows(image: np.ndarray, label: np.ndarray, side: int) -> tuple[Views, Labels]:
    """The first windows along the diagonal."""
    places = [slice(k * side // 2, k * side // 2 + side) for k in range(BATCH)]
    views = torch.stack([torch.from_numpy(image[place, place].copy()).permute(2, 0, 1) for place in places])
    truth = torch.stack([torch.from_numpy(label[place, place].copy()) for place in places])
    return Views(views, torch.zeros(BATCH, 4)), Labels(truth)


def train(method: Method, views: Views, labels: Labels, steps: int) -> tuple[list[float], list[float]]:
    """The cross-entropy and the sum of all losses at each step, always on the same windows."""
    optimiser = torch.optim.SGD(method.train().parameters(), lr=0.01, momentum=0.9)
    entropies, sums = [], []
    for step in range(steps):
        losses = method.losses(views, labels, step / steps)
        optimiser.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        torch.autograd.backward(total)
        optimiser.step()
        entropies.append(losses["ce"].item())
        sums.append(total.item())
    return entropies, sums


@pytest.mark.parametrize("module", [pytest.param(patch, marks=pytest.mark.soak), scpseg])
@pytest.mark.parametrize("name", KINDS)
def test_a_few_steps_on_a_scene_lower_the_losses(name: str, module: Any) -> None:
    method = build(module, name)
    miniature = get_benchmark(BENCHMARK).miniature
    assert miniature
    image, label, _ = miniature.draw(192, 0, 0)
    entropies, sums = train(method, *windows(image, label, method.needs.context), steps=7)
    assert entropies[-1] < 0.85 * entropies[0] and sums[-1] < sums[0]


@pytest.mark.soak
@pytest.mark.parametrize("module", [patch, scpseg])
@pytest.mark.parametrize("name", KINDS)
def test_a_real_image_is_learned(name: str, module: Any, samples: Path) -> None:
    method = build(module, name, side=128)
    folder = samples / "deepglobe" / "train"
    image = read_pixels(folder / "3484_sat.jpg", "3484_sat.jpg")
    truth = read_pixels(folder / "3484_mask.png", "3484_mask.png")
    label = decode_label(truth, get_benchmark(BENCHMARK), "3484_mask.png").ids
    start = slice(1000, 1512)
    entropies, _ = train(method, *windows(image[start, start], label[start, start], method.needs.context), steps=40)
    assert np.mean(entropies[-5:]) < 0.5 * entropies[0]
