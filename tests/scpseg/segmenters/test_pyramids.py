import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scpseg.segmenters.pyramids import DAPPM, PAPPM, Pyramid


def average(x: Tensor, window: int, stride: int) -> Tensor:
    """By hand: windows centred on every `stride`-th cell, zeros beyond the border."""
    reach = window // 2
    rows, columns = range(0, x.shape[2], stride), range(0, x.shape[3], stride)
    result = torch.zeros(*x.shape[:2], len(rows), len(columns))
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            inside = x[:, :, max(0, top - reach) : top + reach + 1, max(0, left - reach) : left + reach + 1]
            result[:, :, i, j] = inside.sum(dim=(2, 3)) / window**2
    return result


def naive(pyramid: Pyramid, x: Tensor) -> Tensor:
    size = x.shape[-2:]
    maps = [average(x, 5, 2), average(x, 9, 4), average(x, 17, 8), x.sum((2, 3), keepdim=True) / size.numel()]
    one, *rest = pyramid.branches
    own = one(x)
    pooled = [
        F.interpolate(branch(map_), size=size, mode="bilinear", align_corners=False)
        for branch, map_ in zip(rest, maps, strict=True)
    ]
    if isinstance(pyramid, DAPPM):
        first = pyramid.steps[0](pooled[0] + own)
        second = pyramid.steps[1](pooled[1] + first)
        third = pyramid.steps[2](pooled[2] + second)
        met = [own, first, second, third, pyramid.steps[3](pooled[3] + third)]
    else:
        assert isinstance(pyramid, PAPPM)
        sums = torch.cat([map_ + own for map_ in pooled], dim=1)
        norm, relu, layer = pyramid.step
        ready = relu(norm(sums))
        width = own.shape[1]
        met = [own]
        for k in range(4):  # a grouped convolution is one per average
            part = slice(k * width, (k + 1) * width)
            met.append(F.conv2d(ready[:, part], layer.weight[part], padding=1))
    result: Tensor = pyramid.fuse(torch.cat(met, dim=1)) + pyramid.shortcut(x)
    return result


@pytest.mark.parametrize("kind", [DAPPM, PAPPM])
@pytest.mark.parametrize("size", [(8, 8), (5, 11), (1, 1), (17, 3)])
def test_pools_are_those_written_by_hand(kind: type[Pyramid], size: tuple[int, int]) -> None:
    pyramid = kind(6, 4, 3).eval()
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        assert pyramid(x).shape == (2, 3, *size)
        torch.testing.assert_close(pyramid(x), naive(pyramid, x))
