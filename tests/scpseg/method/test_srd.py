from types import SimpleNamespace

import pytest
import torch

from scpseg.method.csm import Sizes
from scpseg.method.srd import SuperResolutionDecoder


def decoder(deep_stride: int, low_stride: int) -> SuperResolutionDecoder:
    return SuperResolutionDecoder(
        SimpleNamespace(deep_channels=10, deep_stride=deep_stride, low_channels=6, low_stride=low_stride)
    )


STRIDES = [(8, 4), (16, 4), (32, 4), (32, 8), (8, 8), (4, 4), (64, 4)]
SIZES = [Sizes(128, 64, 48), Sizes(64, 64, 64), Sizes(192, 96, 64)]


@pytest.mark.parametrize(
    ("deep", "low", "sizes"),
    [(deep, low, sizes) for deep, low in STRIDES for sizes in SIZES if sizes.patch % deep == 0],
)
def test_every_stride_gives_the_patch_at_full_size(deep: int, low: int, sizes: Sizes) -> None:
    srd = decoder(deep, low)
    maps = [
        torch.randn(2, channels, sizes.patch // stride, sizes.patch // stride, requires_grad=True)
        for channels, stride in ((10, deep), (6, low))
    ]
    features = srd.features(*maps, sizes)
    assert features.shape == (2, 32, sizes.patch, sizes.patch)
    picture = srd(features)
    assert picture.shape == (2, 3, sizes.patch, sizes.patch)
    picture.square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in maps)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in srd.parameters())


def test_the_frame_far_from_the_patch_does_not_reach_the_picture() -> None:
    sizes = Sizes(512, 256, 128)  # frame of 64 pixels, 8 cells
    srd = decoder(8, 4).eval()
    deep, low = torch.randn(1, 10, 32, 32), torch.randn(1, 6, 64, 64)
    before = srd.features(deep, low, sizes)
    deep[:, :, :4], low[:, :, :8] = 9, 9
    assert torch.equal(srd.features(deep, low, sizes), before)


@pytest.mark.parametrize(("deep", "low"), [(8, 2), (4, 8), (12, 4)])
def test_strides_that_cannot_work_are_rejected(deep: int, low: int) -> None:
    with pytest.raises(ValueError, match="powers of 2"):
        decoder(deep, low)
