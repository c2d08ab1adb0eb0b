from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.stages.train import validation
from scpseg.contract import Labels, Method, Needs, Views, Weights
from scpseg.errors import UserError

CPU = torch.device("cpu")


class Says(Method):
    """Building wherever a pixel is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.needs, self.weights = Needs(16, 16), Weights("random")

    def forward(self, views: Views, state: Any = None) -> Tensor:
        bright = views.context[:, :1].float() - 100
        return torch.cat([-bright, bright], dim=1)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        raise NotImplementedError


class Halves:
    """Two images whose bright part is all, or half, of their building."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def ids(self, split: str) -> tuple[str, ...]:
        return self.names if split == "val" else ()

    def label(self, split: str, name: str) -> np.ndarray:
        return np.repeat([[0] * 16 + [1] * 16], 32, axis=0).astype(np.uint8)

    def image(self, split: str, name: str) -> np.ndarray:
        first = 16 if name == "whole" else 24
        bright = np.repeat([[0] * first + [200] * (32 - first)], 32, axis=0)
        return np.repeat(bright[..., None], 3, axis=2).astype(np.uint8)


def test_a_state_is_scored_by_one_matrix_over_the_validation_split() -> None:
    score = validation(Halves(("whole", "half")), "inria", CPU)  # type: ignore[arg-type]
    assert score(Says()) == pytest.approx((16 + 8) / (16 + 16))  # building IoU


def test_no_validation_image_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"inria has no val image.*inria\.split"):
        validation(Halves(()), "inria", CPU)  # type: ignore[arg-type]
