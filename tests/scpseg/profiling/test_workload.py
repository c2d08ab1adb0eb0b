from typing import Any, Never

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scpseg.contract import Labels, Method, Needs, Views
from scpseg.profiling.records import CHANNELS, COSTS, FIGURES
from scpseg.profiling.workload import Workload, is_oom, measure, random_image, timed

SIZE = Workload(height=64, width=64, classes=2, overlap=0.0, batch=1, repeats=3)
CPU = torch.device("cpu")


class Watching:
    """A meter that writes down what it is asked, and how many windows had been computed by then."""

    backend = "rss"

    def __init__(self) -> None:
        self.asked = []
        self.windows = lambda: 0

    def prepare(self) -> None:
        self.asked.append(("prepare", self.windows()))

    def begin(self) -> None:
        self.asked.append(("begin", self.windows()))

    def finish(self) -> dict[str, Any]:
        self.asked.append(("finish", self.windows()))
        return {"backend": self.backend, "memory": {"rss": 1}}

    def limit(self) -> int:
        return 123 * 2**20

    def close(self) -> None:
        self.asked.append(("close", self.windows()))


class Small(Method):
    training_parts = ("teacher",)

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.needs = Needs(patch=32, context=32)
        self.head, self.teacher = nn.Conv2d(3, 2, 1), nn.Linear(100, 100)
        self.error = error
        self.done = 0

    def forward(self, views: Views, state: Any = None) -> Tensor:
        assert not self.training
        if self.error:
            raise self.error
        self.done += len(views.context)
        return self.head(views.context.float())

    def losses(self, views: Views, labels: Labels, progress: float) -> Never:
        raise AssertionError


def test_order_and_figures() -> None:
    meter, made = Watching(), []

    def make() -> Small:
        made.append(Small())
        meter.windows = lambda: made[0].done
        return made[0]

    result = measure(make, SIZE, CPU, meter)
    # 4 windows an image: one image to warm up, three measured, three timed.
    assert meter.asked == [("prepare", 0), ("begin", 4), ("finish", 16), ("close", 28)]
    assert result["repeats"] == 3
    assert result["status"] == "ok"
    assert result["megapixels_per_second"] == pytest.approx(64 * 64 / 1e6 / result["seconds_per_image"], rel=0.05)
    assert set(FIGURES) - set(COSTS) <= set(result)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("cuDNN error: STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_out_of_memory_is_a_result(error: Exception) -> None:
    meter = Watching()
    result = measure(lambda: Small(error), SIZE, CPU, meter)
    assert (result["status"], result["limit"]) == ("oom", 123 * 2**20)
    assert "123 MiB" in result["reason"]
    assert result["memory"] == dict.fromkeys(CHANNELS)
    assert result["seconds_per_image"] is None
    assert meter.asked[-1][0] == "close"
    assert set(FIGURES) <= set(result)


def test_other_errors_are_not_hidden() -> None:
    meter = Watching()
    with pytest.raises(RuntimeError, match="shapes"):
        measure(lambda: Small(RuntimeError("shapes differ")), SIZE, CPU, meter)
    assert meter.asked[-1][0] == "close"


def test_what_a_full_cpu_says() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_oom(caught.value)


def test_the_image_is_always_the_same_and_in_anonymous_memory() -> None:
    image = random_image(40, 30)
    assert image.shape == (40, 30, 3) and image.dtype == np.uint8
    assert np.array_equal(image, random_image(40, 30))
    assert image.strides == (90, 1, 30) and type(image.base) is np.ndarray and image.base.base is None


def test_median_of_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 11.0, 11.0, 13.0] * 2)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    result = measure(Small, SIZE, CPU, Watching())
    assert result["seconds_per_image"] == 2.0


def test_repeats_end_with_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = [0.0], []

    def once() -> None:
        done.append(clock[0])
        clock[0] += 2.0

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert len(timed(once, 5, 3.0)) == len(done) == 2
    assert len(timed(once, 5, 0.0)) == 1
    assert len(timed(once, 5, None)) == 5


def test_time_is_taken_of_as_many_images_as_memory() -> None:
    meter, made = Watching(), []

    def make() -> Small:
        made.append(Small())
        meter.windows = lambda: made[0].done
        return made[0]

    result = measure(make, Workload(height=64, width=64, classes=2, batch=1, repeats=3, seconds=0.0), CPU, meter)
    assert meter.asked[-2:] == [("finish", 8), ("close", 12)]
    assert result["repeats"] == 1
