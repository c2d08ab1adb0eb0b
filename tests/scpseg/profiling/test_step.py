import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from pipelines.methods import METHODS, build_method
from scpseg.contract import Labels, Method, Needs, Phase, Recipe, Views
from scpseg.params import Params, TrainParams
from scpseg.profiling.records import CHANNELS, FIGURES
from scpseg.profiling.workload import PHASE_FACTS, TrainingStep, Workload, measure

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
TRAIN = TrainParams(100, 0.9, 0.0, "fp32", True, True, 10, "sgd", 0.1)
SIZE = Workload(batch=4, classes=3, height=80, width=112, repeats=3, phase=0)
SIDE = 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Watching:
    """A meter that writes down how many steps had been taken when it was asked."""

    backend = "rss"

    def __init__(self) -> None:
        self.asked, self.steps = [], lambda: 0

    def prepare(self) -> None:
        self.asked.append(("prepare", self.steps()))

    def begin(self) -> None:
        self.asked.append(("begin", self.steps()))

    def finish(self) -> dict[str, Any]:
        self.asked.append(("finish", self.steps()))
        return {"backend": self.backend, "memory": {"rss": 1}}

    def limit(self) -> int:
        return 123 * 2**20

    def close(self) -> None:
        self.asked.append(("close", self.steps()))


class Small(Method):
    """A 1 x 1 convolution; a second phase may train on whole images with Adam."""

    def __init__(self, error: Exception | None = None, phases: tuple[Phase, ...] = (Phase("all"),)) -> None:
        super().__init__()
        self.needs = Needs(patch=SIDE, context=SIDE + 8, overview=16)
        self.head, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.error, self.all_phases = error, phases
        self.seen: list[tuple[Views, Labels]] = []

    def phases(self) -> tuple[Phase, ...]:
        return self.all_phases

    def forward(self, views: Views, state: Any = None) -> Tensor:
        raise AssertionError

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        if self.error:
            raise self.error
        self.seen.append((views, labels))
        pixels = views.context.float() / 255
        return {"a": self.head(pixels).square().mean(), "b": self.other(pixels).mean()}


IMAGES = Phase("second", ("head",), "image", 5, Recipe("adam", 1e-3, 0.0, batch=2, epochs=1))
TWO = (Phase("first"), IMAGES)


def test_order_and_figures() -> None:
    meter, made = Watching(), []

    def make() -> Small:
        made.append(Small())
        meter.steps = lambda: len(made[0].seen)
        return made[0]

    result = measure(make, SIZE, CPU, meter, TRAIN)
    # One step to warm up, three measured, three timed, one counted.
    assert meter.asked == [("prepare", 0), ("begin", 1), ("finish", 4), ("close", 8)]
    assert {*FIGURES, *PHASE_FACTS, "status", "memory", "seconds_per_step"} <= set(result)
    assert (result["status"], result["phase"], result["phases"], result["optimizer"]) == ("ok", "all", ["all"], "SGD")
    assert result["windows"] == 4 and result["seconds_per_image"] is None
    assert result["parameters"] == 2 * (3 * 3 + 3)
    labelled = 4 * SIDE * SIDE / 1e6
    assert result["megapixels_per_second"] == pytest.approx(labelled / result["seconds_per_step"], rel=0.05)
    # Forward and the gradient of the weights, of both convolutions; the pixels have no gradient.
    assert result["multiply_adds"] == 2 * 2 * 4 * 40 * 40 * 9
    assert result["image_bytes"] == 4 * (40 * 40 * 4 + 16 * 16 * 4 + 4 * 4)


def test_windows_as_the_sampler_gives_them() -> None:
    method = Small()
    TrainingStep(method, method.phases()[0], SIZE, TRAIN, CPU)()
    views, labels = method.seen[0]
    assert views.context.shape == (4, 3, 40, 40) and labels.context.shape == (4, 40, 40)
    assert views.overview.shape == (4, 3, 16, 16) and labels.overview.shape == (4, 16, 16)
    assert {tensor.dtype for tensor in (views.context, views.overview, labels.context)} == {torch.uint8}
    assert labels.context.max() == 2
    top, left, height, width = views.place.unbind(1)
    assert (top >= 0).all() and (top + height <= 1).all() and (left >= 0).all() and (left + width <= 1).all()
    assert torch.allclose(height, torch.tensor(SIDE / 80)) and torch.allclose(width, torch.tensor(SIDE / 112))


def test_a_step_is_a_step_of_the_shared_recipe() -> None:
    """Two steps against momentum SGD written out."""
    torch.manual_seed(0)
    method = Small()
    mine = copy.deepcopy(method)
    step = TrainingStep(method, method.phases()[0], SIZE, TRAIN, CPU)
    losses = [float(step()) for _ in range(2)]
    velocity = {name: torch.zeros_like(parameter) for name, parameter in mine.named_parameters()}
    for number in range(2):
        total = sum(mine.losses(*step.portions[0][:2], 0.0).values())
        assert losses[number] == pytest.approx(float(total.detach()))
        for (name, parameter), gradient in zip(
            mine.named_parameters(), torch.autograd.grad(total, list(mine.parameters())), strict=True
        ):
            velocity[name] = 0.9 * velocity[name] + gradient
            parameter.data -= 0.1 * velocity[name]
    for one, other in zip(method.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_phase_on_images_takes_all_windows_in_portions() -> None:
    """80 x 112 pixels are 3 x 4 windows; five at once, two images, whose gradients are averaged."""
    method = Small(phases=TWO)
    before = copy.deepcopy(method.other.weight)
    step = TrainingStep(method, IMAGES, SIZE, TRAIN, CPU)
    step()
    assert [len(views.place) for views, _ in method.seen] == [5, 5, 2, 5, 5, 2]
    assert sum(weight for _, _, weight in step.portions) == pytest.approx(1)
    assert all(views.overview.shape[0] == labels.overview.shape[0] == 1 for views, labels in method.seen)
    assert step.nbytes() == 24 * (40 * 40 * 4 + 16) + 2 * 16 * 16 * 4
    assert torch.equal(before, method.other.weight)  # frozen in this phase
    last = method.seen[2][0].place[-1]
    assert torch.allclose(last, torch.tensor([48 / 80, 80 / 112, 32 / 80, 32 / 112]))


def test_a_later_phase_runs_after_those_before_it() -> None:
    made = []

    def make() -> Small:
        made.append(Small(phases=TWO))
        return made[0]

    result = measure(make, replace(SIZE, phase=1), CPU, Watching(), TRAIN)
    assert (result["phase"], result["phases"]) == ("second", ["first", "second"])
    assert (result["unit"], result["optimizer"], result["windows"]) == ("image", "Adam", 24)
    assert len(made[0].seen[0][0].place) == 4  # one step of the first phase
    assert made[0].other.weight.grad is None  # and its gradients are given back, as in training


def test_out_of_memory_names_the_phase() -> None:
    meter = Watching()
    result = measure(lambda: Small(torch.OutOfMemoryError("CUDA out of memory"), TWO), SIZE, CPU, meter, TRAIN)
    assert (result["status"], result["limit"], result["phase"]) == ("oom", 123 * 2**20, "first")
    assert result["memory"] == dict.fromkeys(CHANNELS) and result["seconds_per_step"] is None
    assert meter.asked[-1][0] == "close"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_steps(name: str) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["inria"] |= {"patch": 64, "batch": 2}
    values["segmenter"] |= {"encoder": "tu-test_resnet.r160_in1k", "weights": "random"}
    torch.manual_seed(0)
    method = build_method(Params(values, Path("params.yaml")), "inria", name)
    for number, phase in enumerate(method.phases()):
        workload = Workload(height=128, width=128, classes=2, batch=2, repeats=1, phase=number)
        assert torch.isfinite(TrainingStep(method, phase, workload, TRAIN, CPU)())
