"""Computed memory: against torch's own CPU allocator, against all windows of an image, and what it shows of methods."""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from pipelines.memory import with_section, with_segmenter
from pipelines.methods import METHODS, build_method
from scpseg.contract import ImageViews, Labels, Method, Needs, Views, drop_training_parts
from scpseg.evaluation.streaming import segment
from scpseg.params import Params
from scpseg.profiling import computed
from scpseg.profiling.ledger import Ledger
from scpseg.profiling.workload import TrainingStep, Workload
from scpseg.segmenters.build import KINDS

MIB = 2**20
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
SMALL = Params.load(ROOT / "params.yaml")  # the sample: patches of 64 pixels, an encoder of 160 thousand weights
PAPER = with_section(Params.load(ROOT / "profiles/paper.yaml"), "segmenter", weights="random")
TRAIN = PAPER.training("scpseg")
FOUR = ("scpseg", "patch", "downscale", "glnet")
Make = Callable[[], Method]


def making(params: Params, benchmark: str, name: str) -> Make:
    return lambda: build_method(params, benchmark, name)


def peak_of(events: Any, name: str) -> int:
    """Bytes that torch's allocator held at most from when the function `name` was entered until it was left."""
    events = sorted(events.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    (span,) = [event for event in events if event.name() == name]
    live = peak = 0
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            if span.start_ns() <= event.start_ns() <= span.end_ns():
                peak = max(peak, live)
    return peak


def two_steps(make: Make, workload: Workload, between: Callable[[str], Any]) -> None:
    """A method on the CPU and two steps of each of its phases; the second within `between(phase)`."""
    method = make()
    for phase in method.phases():
        step = TrainingStep(method, phase, workload, TRAIN, CPU)
        assert step.stepper.optimizer is not None
        for group in step.stepper.optimizer.param_groups:
            group["foreach"] = True
        step()
        with between(phase.name):
            step()


LARGER = with_section(with_section(PAPER, "inria", patch=128), "glnet", overview=128)
LARGER = with_section(LARGER, "downscale", side=128)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("params", "name", "batch"),
    [
        (SMALL, "patch", 4),
        (SMALL, "downscale", 4),
        *(pytest.param(LARGER, name, 2, marks=pytest.mark.soak) for name in FOUR),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_training_step_against_the_allocators_own_count(params: Params, name: str, batch: int) -> None:
    """The ledger on real CPU tensors meets the allocator to the byte but for scalars inside of operations; `meta`
    leaves out what training keeps in host memory, windows and labels of the loader, and rounds up to 512 bytes.
    """
    torch.manual_seed(0)
    make, workload = (
        making(params, "inria", name),
        Workload(height=256, width=256, classes=2, batch=batch, repeats=1, phase=0),
    )
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as events:
        two_steps(make, workload, record_function)
    found = computed.training_step(make, workload, TRAIN)["peak_by_phase"]
    for phase, size in found.items():
        real = peak_of(events, phase)
        assert abs(size - real) <= 0.01 * real, (phase, size, real)
    ledger, marks = Ledger("cpu", granule=1), {}

    class Marked:
        def __init__(self, phase: str) -> None:
            self.phase = phase

        def __enter__(self) -> None:
            self.first = len(ledger.events)

        def __exit__(self, *_: object) -> None:
            marks[self.phase] = ledger.peak(self.first).size

    with ledger:
        two_steps(make, workload, Marked)
    for phase, size in marks.items():
        assert abs(size - peak_of(events, phase)) <= 4096, phase


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["scpseg", *(pytest.param(name, marks=pytest.mark.soak) for name in FOUR[1:])])
def test_inference_against_the_allocators_own_count(name: str) -> None:
    """What the ledger on real CPU tensors does not see is one unfolded input, which a convolution makes and drops
    (without oneDNN; that copies weights too); what `meta` leaves out besides is the band of scores in host memory.
    """
    make, image = making(SMALL, "inria", name), np.zeros((64, 100, 3), dtype=np.uint8)
    unfolded = 0

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal unfolded
        if isinstance(module, nn.Conv2d):
            values = module.weight[0].numel() * output[0, 0].numel()
            unfolded = max(unfolded, 4 * len(output) * values)

    def run(before: Callable[[], object], around: Any) -> None:
        torch.manual_seed(0)
        with torch.backends.mkldnn.flags(enabled=False):
            method = drop_training_parts(make())
            for module in method.modules():
                module.register_forward_hook(note)
            segment(method, image, 2, CPU)
            before()
            with around:
                segment(method, image, 2, CPU)

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as events:
        run(lambda: None, record_function("measured"))
    ledger, first = Ledger("cpu", granule=1), []
    with ledger:
        run(lambda: first.append(len(ledger.events)), nullcontext())
    real, seen = peak_of(events, "measured"), ledger.peak(first[0]).size
    assert 0 <= real - seen <= unfolded
    found = computed.inference(make, Workload(height=64, width=100, classes=2, batch=1, repeats=1))["memory"][
        "computed"
    ]
    band = 4 * 2 * 64 * 100
    blocks = len(list(make().parameters())) * 3  # each rounded up by less than 512 bytes; buffers among them
    assert -2 * band <= found - seen <= 512 * blocks


class Growing(Method):
    """Keeps a map of every window until the image is done, so that no window is like the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.needs = Needs(patch=64, context=64)
        self.conv = nn.Conv2d(3, 2, 1)

    def begin_image(self, image: ImageViews) -> list[Tensor]:
        return []

    def forward(self, views: Views, state: Any = None) -> Tensor:
        logits: Tensor = self.conv(views.context.float())
        state.append(logits)
        return logits

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        return {"mean": self.conv(views.context.float()).mean()}


def test_windows_are_run_until_they_repeat() -> None:
    kept = 64 * 64 * 2 * 4
    one, four = (
        computed.inference(Growing, Workload(height=64 * n, width=64 * n, classes=2, batch=1, repeats=1))
        for n in (1, 4)
    )
    assert four["windows"] == 16
    assert four["memory"]["computed"] - one["memory"]["computed"] == 15 * kept
    assert four["multiply_adds"] == 16 * one["multiply_adds"] == 16 * 64 * 64 * 6


class Small(Growing):
    """Two convolutions: 3 x 3 from 3 to 5 channels on the patch, 1 x 1 to 2 on an overview, once per image."""

    training_parts = ("teacher",)

    def __init__(self, overview: int | None = None) -> None:
        super().__init__()
        self.needs = Needs(patch=32, context=32, overview=overview)
        self.near, self.far = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.teacher = nn.Linear(100, 100)  # for training only: not counted at inference

    def begin_image(self, image: ImageViews) -> list[Tensor]:
        return [self.far(image.overview(self.needs.overview).float())] if self.needs.overview else []

    def forward(self, views: Views, state: Any = None) -> Tensor:
        logits: Tensor = self.near(views.context.float())
        return logits


def test_costs_by_hand() -> None:
    """An image of 70 x 100 pixels has 3 rows of 4 windows; what is done once per image counts once."""
    for batch in (1, 5):
        found = computed.inference(Small, Workload(height=70, width=100, classes=5, batch=batch, repeats=1))
        assert found["windows"] == 12 and found["multiply_adds"] == 12 * 32 * 32 * 3 * 5 * 9
    found = computed.inference(lambda: Small(16), Workload(height=70, width=100, classes=5, batch=1, repeats=1))
    assert found["multiply_adds"] == 12 * 32 * 32 * 3 * 5 * 9 + 16 * 16 * 3 * 2
    assert found["parameters"] == (3 * 2 + 2) + (3 * 5 * 9 + 5) + (3 * 2 + 2)
    assert found["state_bytes"] == 16 * 16 * 2 * 4


@pytest.mark.parametrize("name", ["scpseg", "downscale", "glnet"])
def test_the_windows_that_are_left_out_would_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, workload = making(SMALL, "inria", name), Workload(height=300, width=200, classes=2, batch=2, repeats=1)
    short = computed.inference(make, workload)
    monkeypatch.setattr(computed, "FEWEST", 10**9)
    assert computed.inference(make, workload) == short


def test_parts_are_named_at_the_peak() -> None:
    found = computed.training_step(
        making(SMALL, "inria", "scpseg"), Workload(height=128, width=128, classes=2, batch=2, repeats=1, phase=0), TRAIN
    )
    assert sum(found["parts"].values()) == found["memory"]["computed"] == found["peak_by_phase"]["all"]
    weights = sum(parameter.nbytes for parameter in build_method(SMALL, "inria", "scpseg").parameters())
    assert weights <= found["parts"]["weights"] and found["parts"]["optimizer"] <= found["parts"]["weights"]
    assert [one["bytes"] for one in found["alive"]] == sorted((one["bytes"] for one in found["alive"]), reverse=True)
    assert any(one["module"].startswith("srd.") for one in found["alive"])
    assert found["phases"] == ["all"] and found["optimizer"] == "SGD"


def test_half_precision_takes_less() -> None:
    make = making(SMALL, "inria", "scpseg")
    workload = Workload(height=128, width=128, classes=2, batch=8, repeats=1, phase=0)
    full = computed.training_step(make, workload, TRAIN)["memory"]["computed"]
    for precision in ("fp16", "bf16"):
        half = computed.training_step(make, workload, replace(TRAIN, precision=precision))
        assert 0.5 * full < half["memory"]["computed"] < 0.8 * full
        assert {one["dtype"] for one in half["alive"]} & {"float16", "bfloat16"}


# What only computing makes possible: statements on the paper's sizes, without a GPU.


@pytest.mark.parametrize(
    ("segmenter", "benchmark"),
    [
        *((kind, "inria") for kind in KINDS),
        ("deeplabv3plus", "deepglobe"),
        *(pytest.param(kind, "deepglobe", marks=pytest.mark.soak) for kind in KINDS if kind != "deeplabv3plus"),
    ],
)
def test_scpseg_needs_no_more_than_the_plain_patch(segmenter: str, benchmark: str) -> None:
    """At inference, the larger window is free before the network runs, so not one byte is left of it at the peak."""
    params = with_section(with_segmenter(PAPER, segmenter), "segmenter", weights="random")
    side = 2448 if benchmark == "deepglobe" else 5000
    workload = Workload(height=side, width=side, classes=7 if benchmark == "deepglobe" else 2, batch=1, repeats=1)
    squeezed, plain = (
        computed.inference(making(params, benchmark, name), workload)["memory"]["computed"]
        for name in ("scpseg", "patch")
    )
    assert squeezed == plain


def test_state_of_glnet_does_not_grow_with_the_image() -> None:
    sizes = [1024, 3000]
    found = [
        computed.inference(
            making(PAPER, "inria", "glnet"), Workload(height=side, width=side, classes=2, batch=1, repeats=1)
        )
        for side in sizes
    ]
    assert found[0]["state_bytes"] == found[1]["state_bytes"] > 100 * MIB
    assert found[0]["memory"] == found[1]["memory"]


@pytest.mark.parametrize("name", list(METHODS))
def test_nothing_of_the_images_size_is_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a method says that it looks at the whole image at once; then it is one window."""
    ledgers: list[Ledger] = []

    class Kept(Ledger):
        def __init__(self) -> None:
            super().__init__()
            ledgers.append(self)

    monkeypatch.setattr(computed, "Ledger", Kept)
    side = 640
    found = computed.inference(
        making(SMALL, "inria", name), Workload(height=side, width=side, classes=2, batch=1, repeats=1)
    )
    largest = max(shape[-2] * shape[-1] for block, _ in ledgers[0].events if len(shape := block.shape) > 2)
    if found["windows"] > 1:
        assert largest < side * side / 4
    else:
        assert largest >= side * side
