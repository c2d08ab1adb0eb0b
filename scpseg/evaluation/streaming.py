"""Whole-image inference in bands of rows, without ever storing the logits of the whole image.

Windows step by the side of their patch; the last row and column are shifted inwards. A method may request one window
for the whole image. Where windows overlap, the label is that of the mean logits; all classes of a pixel have the same
count, so the sums give the same label and no counts are stored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scpseg.contract import Predictor, Views, Window
from scpseg.data.overviews import reduce_image
from scpseg.data.windows import Bytes, cut_image, starts

ROWS = 64
"""Number of rows that are labelled at once, to bound the temporary memory."""


class Passed(Views):
    """Views that hand their context over to whoever takes it."""

    def take(self) -> Tensor:
        """The context, which these views no longer hold."""
        context = self.context
        object.__setattr__(self, "context", context.new_empty(0))
        return context


@dataclass(frozen=True)
class TestImage:
    """One image at test time: `scpseg.contract.ImageViews` over an (H, W, 3) uint8 array."""

    __test__ = False

    pixels: Bytes
    window: Window
    device: torch.device
    overlap: float = 0.0
    batch: int = 1

    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of every patch, row by row."""
        height, width = self.pixels.shape[:2]
        rows, columns = self.window.patch
        least = self.window.overlap
        tops, lefts = starts(height, rows, self.overlap, least), starts(width, columns, self.overlap, least)
        return [(top, left) for top in tops for left in lefts]

    def overview(self, side: int) -> Tensor:
        """The whole image reduced by area to (1, 3, side, side) uint8."""
        return torch.from_numpy(reduce_image(self.pixels, side)).unsqueeze(0).to(self.device)

    def windows(self) -> Iterator[Views]:
        """Views of `batch` windows at a time, in the order of `corners`; their `overview` is None."""
        corners = self.corners()
        height, width = self.pixels.shape[:2]
        patch, size = self.window.patch, self.window.context
        above, beside = ((whole - inner) // 2 for whole, inner in zip(size, patch, strict=True))
        for first in range(0, len(corners), self.batch):
            part = corners[first : first + self.batch]
            cuts = [cut_image(self.pixels, top - above, left - beside, *size) for top, left in part]
            context = torch.from_numpy(cuts[0]).unsqueeze(0) if len(cuts) == 1 else torch.from_numpy(np.stack(cuts))
            boxes = [(top / height, left / width, patch[0] / height, patch[1] / width) for top, left in part]
            place = torch.tensor(boxes, dtype=torch.float32)
            context = context.to(self.device)
            views = Passed(context, place)
            del context, cuts  # or this frame would hold the window while the network runs
            yield views


@torch.inference_mode()
def segment(
    method: Predictor,
    image: Bytes,
    classes: int,
    device: torch.device,
    overlap: float = 0.0,
    batch: int = 1,
    tick: Callable[[int], None] | None = None,
    out: Bytes | None = None,
) -> Bytes:
    """Label every pixel of an image.

    Args:
        method: in evaluation mode, on `device`.
        image: (H, W, 3) uint8, of any size; memory-mapped is fine.
        classes: K, at most 255.
        device: where windows are computed; the band of logits is in host memory.
        overlap: minimum overlap of neighbouring patches, relative to their side, 0..0.9.
        batch: windows per forward pass.
        tick: called with the number of windows that were just processed.
        out: (H, W) uint8 array for the result; if it is memory-mapped, memory grows with the image's width only.

    Returns:
        (H, W) uint8 training ids.
    """
    height, width = image.shape[:2]
    window = method.needs_at(height, width)
    views_of = TestImage(image, window, device, overlap, batch)
    state = method.begin_image(views_of)
    labels = np.empty((height, width), dtype=np.uint8) if out is None else out
    band = _Band(labels, classes, window.patch[0])
    corners = iter(views_of.corners())
    for views in views_of.windows():
        logits = method(views, state).float().cpu()
        for scores, (top, left) in zip(logits, corners, strict=False):
            band.add(scores, top, left)
        if tick:
            tick(len(logits))
    return band.finish()


def mapped_labels(folder: Path, height: int, width: int) -> Bytes:
    """An (H, W) uint8 array for `segment` in a file without a name in `folder`: memory then grows with the width only.

    Raises:
        OSError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(height):
            file.write(bytes(width))  # not a hole: writing to a mapped one on a full disk would kill the process
        file.flush()
        return np.memmap(file, np.uint8, "r+", shape=(height, width)).view(np.ndarray)


class _Band:
    """Sums of the logits of rows that later windows may still change; finished rows are converted to labels."""

    def __init__(self, labels: Bytes, classes: int, rows: int) -> None:
        self.height, self.width = labels.shape
        self.top = 0
        self.sums = torch.zeros(classes, min(rows, self.height), self.width)
        self.labels = labels

    def add(self, scores: Tensor, top: int, left: int) -> None:
        """Add the logits (K, h, w) of one window; windows come in rows from top to bottom."""
        if top > self.top:
            self._move(top)
        rows, columns = self.sums.shape[1], min(scores.shape[2], self.width - left)
        self.sums[:, :, left : left + columns] += scores[:, :rows, :columns]

    def _move(self, top: int) -> None:
        done = top - self.top
        self._decide(done)
        kept = self.sums.shape[1] - done
        if kept > 0:
            self.sums[:, :kept] = self.sums[:, done:].clone()
        self.sums[:, max(kept, 0) :] = 0
        self.top = top

    def _decide(self, rows: int) -> None:
        for first in range(0, rows, ROWS):
            sums = self.sums[:, first : min(first + ROWS, rows)]
            best, part = sums[0].clone(), torch.zeros_like(sums[0], dtype=torch.uint8)
            higher = torch.empty_like(part, dtype=torch.bool)
            # One class at a time, the last that is higher wins: on a CPU, torch's argmax over the first axis takes many
            # times as long, and `masked_fill_` five times.
            for index in range(1, len(sums)):
                torch.gt(sums[index], best, out=higher)
                torch.maximum(part, higher.view(torch.uint8).mul_(index), out=part)
                torch.maximum(best, sums[index], out=best)
            self.labels[self.top + first : self.top + first + len(part)] = part.numpy()

    def finish(self) -> Bytes:
        self._decide(self.height - self.top)
        return self.labels
