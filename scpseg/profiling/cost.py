"""What a method costs on paper: parameters, windows, multiply-adds of one image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scpseg.contract import ImageViews, Labels, Method, Views, Window
from scpseg.data.windows import Bytes
from scpseg.evaluation.streaming import segment


class _Reduced:
    """An image whose overview is there already: reducing an image is no work of a network."""

    def __init__(self, image: ImageViews, overview: Tensor) -> None:
        self.windows, self.known = image.windows, overview

    def overview(self, side: int) -> Tensor:
        assert side == self.known.shape[-1]
        return self.known


class _Counted(Method):
    """Stands in for a method: computes and counts the first window of each batch size, then answers with zeros."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.inner = [method]  # in a list: not a child module
        self.needs = method.needs
        self.windows = 0
        self.flops = 0
        self.known: dict[int, tuple[int, Tensor]] = {}

    def needs_at(self, height: int, width: int) -> Window:
        """The method's own."""
        return self.inner[0].needs_at(height, width)

    def begin_image(self, image: ImageViews) -> Any:
        """The method's own, counted: it is done once per image."""
        side = self.needs.overview
        seen = image if side is None else _Reduced(image, image.overview(side))
        with FlopCounterMode(display=False) as counter:
            state = self.inner[0].begin_image(seen)
        self.flops += counter.get_total_flops()
        return state

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Count; zeros of the right shape where a batch of that size was computed before."""
        size = len(views.context)
        if size not in self.known:
            with FlopCounterMode(display=False) as counter:
                logits = self.inner[0](views, state)
            self.known[size] = (counter.get_total_flops(), torch.zeros_like(logits))
        flops, zeros = self.known[size]
        self.windows += size
        self.flops += flops
        return zeros

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Never asked for: only test time is counted."""
        raise NotImplementedError


def count(
    method: Method, image: Bytes, classes: int, device: torch.device, overlap: float, batch: int
) -> tuple[int, int]:
    """(windows, multiply-adds) of one image (H, W, 3).

    One window is computed under torch's counter (convolutions and matrix products; two operations are one
    multiply-add) and stands for all of its kind; what a method does once per image is counted in full.
    """
    counted = _Counted(method).eval()
    segment(counted, image, classes, device, overlap, batch)
    return counted.windows, counted.flops // 2


def parameters(method: Method) -> int:
    """Numbers that a method learns, of the modules that it still has."""
    return sum(parameter.numel() for parameter in method.parameters())
