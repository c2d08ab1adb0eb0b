"""Local feature alignment (paper, equations 7-8): match local similarities to those of the super-resolution decoder.

In every k x k window, the cosine similarities of all pairs of cells form a k^2 x k^2 matrix, one per feature map; the
loss is the mean absolute difference of the two matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scpseg.validation import NonNegative, Range

DEAD = 1e-4
"""Norm below which a feature vector is not normalised to 1, so that its gradient stays bounded [ours]."""


@dataclass(frozen=True)
class LFAParams:
    """Section `lfa`.

    Attributes:
        weight: weight of the loss (0.5 in the paper); 0 disables it.
        window: k, side in cells of the smaller of the two maps (7 in the paper).
        stride: 'k' = adjacent windows, 1 = every window [ours].
        detach: whether the super-resolution features are a fixed target without gradient [ours].
    """

    weight: NonNegative
    window: Annotated[int, Range(2)]
    stride: Literal["k", 1]
    detach: bool


def alignment(features: Tensor, teacher: Tensor, params: LFAParams) -> Tensor:
    """Unweighted loss between maps (B, C1, h1, w1) and (B, C2, h2, w2) of the same patch, a scalar.

    Both maps are resized to the smaller resolution and converted to float32.

    Raises:
        ValueError: the window is larger than the smaller map.
    """
    if params.detach:
        teacher = teacher.detach()
    with torch.autocast(features.device.type, enabled=False):
        size = (min(features.shape[-2], teacher.shape[-2]), min(features.shape[-1], teacher.shape[-1]))
        if params.window > min(size):
            raise ValueError(f"a window of {params.window} cells does not fit a map of {size[0]} x {size[1]}")
        unit = [F.normalize(shrink(x.float(), size), dim=1, eps=DEAD) for x in (features, teacher)]
        return (dense if params.stride == 1 else side_by_side)(unit[0], unit[1], params.window)


def shrink(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Anti-aliased bilinear resize of (B, C, h, w) to `size`.

    Computed as two matrix products, which have a deterministic gradient on a GPU, unlike interpolation.
    """
    for axis, side in ((-1, size[1]), (-2, size[0])):
        if maps.shape[axis] != side:
            identity = torch.eye(maps.shape[axis], device=maps.device)[None, None]
            matrix = F.interpolate(
                identity, (side, maps.shape[axis]), mode="bilinear", align_corners=False, antialias=True
            )[0, 0]
            maps = maps @ matrix.T if axis == -1 else matrix @ maps
    return maps


def side_by_side(first: Tensor, second: Tensor, window: int) -> Tensor:
    """The loss over adjacent windows, for unit vectors (B, C, h, w).

    If the window does not divide the map, the offset of the grid is drawn from torch's random state, so that every cell
    is used over the course of training.
    """
    height, width = first.shape[-2:]
    top = int(torch.randint(height % window + 1, ())) if height % window else 0
    left = int(torch.randint(width % window + 1, ())) if width % window else 0
    grams: list[Tensor] = []
    for maps in (first, second):
        inside = maps[..., top : top + height // window * window, left : left + width // window * window]
        # (B, C, rows, k, columns, k) -> (B, rows, columns, k, k, C)
        tiles = inside.reshape(*maps.shape[:2], height // window, window, width // window, window)
        vectors = tiles.permute(0, 2, 4, 3, 5, 1).reshape(-1, window * window, maps.shape[1])
        grams.append(vectors @ vectors.mT)
    return (grams[0] - grams[1]).abs().mean()


def dense(first: Tensor, second: Tensor, window: int) -> Tensor:
    """The exact loss over every window position, for unit vectors (B, C, h, w); windows are not built."""
    loss: Tensor = _Dense.apply(first, second, window)
    return loss


class _Dense(torch.autograd.Function):
    """The loss as a weighted sum over pairs of rows; the weight of a pair is the number of windows with both cells.

    For each row shift 0 <= dy < k, one batched product gives the similarities of all pairs of cells in rows y and
    y + dy; pairs too far apart in x have weight 0. The gradient needs the same products, so it is computed in the
    forward pass; for the backward pass, one map per input is stored and no similarities.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, window: int) -> Tensor:
        batch, _, height, width = first.shape
        # (h, B, w, C): a range of rows is a contiguous block without a copy.
        maps = [x.detach().permute(2, 0, 3, 1).contiguous() for x in (first, second)]
        grads = [
            torch.zeros_like(x) if needed else None for x, needed in zip(maps, ctx.needs_input_grad[:2], strict=True)
        ]
        total = first.new_zeros(())
        rows, columns = _shared(height, window, first), _shared(width, window, first)
        entries = batch * (height - window + 1) * (width - window + 1) * window**4
        for shift in range(window):
            pairs = height - shift
            upper = [x[:pairs].flatten(0, 1) for x in maps]
            lower = [x[shift:].flatten(0, 1) for x in maps]
            difference = torch.baddbmm(upper[0] @ lower[0].mT, upper[1], lower[1].mT, alpha=-1)
            # A shift down also counts for the shift up; within a row, both orders of a pair are present.
            count = rows.diagonal(shift) * ((1 if shift == 0 else 2) / entries)
            weight = (count[:, None, None] * columns)[:, None]
            slope = difference.sign().view(pairs, batch, width, width).mul_(weight).flatten(0, 1)
            total += (difference * slope).sum()
            for sign, grad, above, below in zip((1, -1), grads, upper, lower, strict=True):
                if grad is not None:
                    grad[:pairs].flatten(0, 1).baddbmm_(slope, below, alpha=sign)
                    grad[shift:].flatten(0, 1).baddbmm_(slope.mT, above, alpha=sign)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        first, second = [None if x is None else (x * outputs[0]).permute(1, 3, 0, 2) for x in ctx.saved_tensors]
        return first, second, None


def _shared(length: int, window: int, like: Tensor) -> Tensor:
    """Number of windows along an axis that contain both of two cells, (length, length), in the type of `like`."""
    cell = torch.arange(length, device=like.device)
    low, high = torch.minimum(cell, cell[:, None]), torch.maximum(cell, cell[:, None])
    first, last = (high - window + 1).clamp(min=0), low.clamp(max=length - window)
    return (last - first + 1).clamp(min=0).to(like.dtype)
