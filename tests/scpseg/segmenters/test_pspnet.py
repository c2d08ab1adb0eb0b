import pytest
import torch
from torch.nn import functional as F

from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.fcn import FCN
from scpseg.segmenters.pspnet import BINS, PSPNet, grid_means

TINY = SegmenterParams("pspnet", "tu-test_resnet.r160_in1k", 8, "random", True)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(12, 6), (13, 9), (4, 5), (1, 2)])
def test_means_of_a_grid_are_those_of_adaptive_pooling(bins: int, size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = grid_means(maps, bins), F.adaptive_avg_pool2d(maps, bins)
    torch.testing.assert_close(ours, theirs)
    slopes = torch.randn_like(ours)
    (one,), (other,) = (torch.autograd.grad((means * slopes).sum(), maps) for means in (ours, theirs))
    torch.testing.assert_close(one, other)


def test_the_pyramid_written_out() -> None:
    network = PSPNet(TINY, 3).eval()
    encoded = network.encode(torch.randn(2, 3, 72, 56))
    deep = encoded[-1]
    views = [deep]
    for bins, level in zip(BINS, network.levels, strict=True):
        coarse = level(F.adaptive_avg_pool2d(deep, bins))
        views.append(F.interpolate(coarse, size=(9, 7), mode="bilinear", align_corners=False))
    torch.testing.assert_close(network.decode(encoded), network.join(torch.cat(views, 1)))


@pytest.mark.parametrize(("encoder", "width"), [("resnet18", 128), ("resnet50", 512)])
def test_its_width_follows_the_encoder(encoder: str, width: int) -> None:
    with torch.device("meta"):
        network = PSPNet(SegmenterParams("pspnet", encoder, 8, "random", True), 3)
    assert network.feature_channels == network.classifier.in_channels == width


@pytest.mark.parametrize("cls", [PSPNet, FCN])
def test_the_auxiliary_head_judges_stage_three(cls: type[PSPNet] | type[FCN]) -> None:
    network = cls(TINY, 3).eval()
    encoded, truth = network.encode(torch.randn(2, 3, 64, 64)), torch.randint(3, (2, 64, 64), dtype=torch.uint8)
    losses = network.losses(encoded, network.decode(encoded), truth, 0.7)
    assert network.stage_head is not None and losses.keys() == {"ce", "auxiliary"}
    guess = F.interpolate(network.stage_head(encoded[4]), size=(64, 64), mode="bilinear")
    torch.testing.assert_close(losses["auxiliary"], 0.4 * cross_entropy(guess, truth))


def test_the_wide_head_written_out() -> None:
    network = FCN(TINY, 3).eval()
    encoded = network.encode(torch.randn(1, 3, 64, 64))
    twice = network.decoder[1](network.decoder[0](encoded[-1]))
    torch.testing.assert_close(network.decode(encoded), network.join(torch.cat([encoded[-1], twice], 1)))
