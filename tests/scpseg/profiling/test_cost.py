from typing import Any, Never

import numpy as np
import torch
from torch import Tensor, nn

from scpseg.contract import ImageViews, Labels, Method, Needs, Views
from scpseg.profiling.cost import count, parameters


class Small(Method):
    """One 3 x 3 convolution from 3 to 5 channels on the patch; a 1 x 1 one on an overview, once per image."""

    def __init__(self, overview: int | None = None) -> None:
        super().__init__()
        self.needs = Needs(patch=32, context=32, overview=overview)
        self.near = nn.Conv2d(3, 5, 3, padding=1)
        self.far = nn.Conv2d(3, 2, 1)
        self.computed = 0

    def begin_image(self, image: ImageViews) -> None:
        if self.needs.overview:
            self.far(image.overview(self.needs.overview).float())

    def forward(self, views: Views, state: Any = None) -> Tensor:
        self.computed += len(views.context)
        return self.near(views.context.float())

    def losses(self, views: Views, labels: Labels, progress: float) -> Never:
        raise AssertionError


def test_multiply_adds_by_hand() -> None:
    image = np.zeros((70, 100, 3), dtype=np.uint8)  # 3 rows x 4 columns of windows
    method = Small().eval()
    windows, multiply_adds = count(method, image, 5, torch.device("cpu"), overlap=0.0, batch=1)
    assert windows == 12
    assert multiply_adds == 12 * 32 * 32 * 3 * 5 * 9
    assert method.computed == 1  # one window stands for all


def test_batches_change_nothing() -> None:
    image = np.zeros((70, 100, 3), dtype=np.uint8)
    one = count(Small().eval(), image, 5, torch.device("cpu"), overlap=0.0, batch=1)
    assert count(Small().eval(), image, 5, torch.device("cpu"), overlap=0.0, batch=5) == one


def test_what_is_done_once_per_image_counts_once() -> None:
    image = np.zeros((70, 100, 3), dtype=np.uint8)
    _, multiply_adds = count(Small(overview=16).eval(), image, 5, torch.device("cpu"), overlap=0.0, batch=1)
    assert multiply_adds == 12 * 32 * 32 * 3 * 5 * 9 + 16 * 16 * 3 * 2


def test_parameters() -> None:
    assert parameters(Small()) == (3 * 5 * 9 + 5) + (3 * 2 + 2)
