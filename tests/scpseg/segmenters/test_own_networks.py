"""What TopFormer, DDRNet and PIDNet have in common: sizes, shapes, training and testing of every variant."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scpseg.contract import Weights
from scpseg.losses import cross_entropy
from scpseg.method.srd import SuperResolutionDecoder
from scpseg.params import SegmenterParams
from scpseg.segmenters import ddrnet, pidnet, topformer
from scpseg.segmenters.base import Segmenter

COUNTS = {
    "topformer-t": 1_387_463,
    "topformer-s": 3_007_063,
    "topformer-b": 5_025_895,
    "ddrnet-23-slim": 5_695_207,
    "ddrnet-23": 20_147_399,
    "pidnet-s": 7_624_167,
    "pidnet-m": 28_536_967,
    "pidnet-l": 36_936_487,
}
"""Parameters of the authors' networks with 7 classes, without auxiliary heads."""
SMALL = ("topformer-t", "ddrnet-23-slim", "pidnet-s")
FEATURES = {"ddrnet-23-slim": 64, "topformer-t": 128, "topformer-s": 192, "topformer-b": 256, "pidnet-l": 256}


def build(variant: str, classes: int = 3, auxiliary: bool = True) -> Segmenter:
    name = variant.partition("-")[0]
    builders: dict[str, Callable[[SegmenterParams, int], Segmenter]] = {
        "topformer": topformer.TopFormer,
        "ddrnet": ddrnet.DDRNet,
        "pidnet": pidnet.PIDNet,
    }
    return builders[name](SegmenterParams(name, variant, 8, "random", auxiliary), classes)


def losses(segmenter: Segmenter, images: Tensor, target: Tensor) -> dict[str, Tensor]:
    encoded = segmenter.encode(images)
    return segmenter.losses(encoded, segmenter.decode(encoded), target, 0.5)


def test_all_variants_are_there_smallest_first() -> None:
    assert [*topformer.VARIANTS, *ddrnet.VARIANTS, *pidnet.VARIANTS] == list(COUNTS)


@pytest.mark.parametrize("variant", COUNTS)
def test_size_shapes_and_attributes(variant: str) -> None:
    with torch.device("meta"):  # shapes without arithmetic
        segmenter = build(variant, classes=7, auxiliary=False).eval()
        images = torch.empty(2, 3, 96, 224)
    assert sum(p.numel() for p in segmenter.parameters()) == COUNTS[variant]
    assert segmenter.weights == Weights("random")
    encoded = segmenter.encode(images)
    features = segmenter.decode(encoded)
    assert segmenter.feature_channels == FEATURES.get(variant, 128) and segmenter.feature_stride == 8
    for map_, channels, cell in (
        (features, segmenter.feature_channels, 8),
        (segmenter.deep(encoded), segmenter.deep_channels, segmenter.deep_stride),
        (segmenter.low(encoded), segmenter.low_channels, 4),
    ):
        assert map_.shape == (2, channels, 96 // cell, 224 // cell)
    assert segmenter.low_stride == 4 and segmenter.deep_stride == (32 if "top" in variant else 8)
    assert segmenter(images).shape == (2, 7, 96, 224)
    assert segmenter.classify(features, (50, 60)).shape == (2, 7, 50, 60)
    with torch.device("meta"):
        SuperResolutionDecoder(segmenter)


@pytest.mark.parametrize(
    ("variant", "sides"),
    [
        ("topformer-t", [(32, 32), (64, 64), (96, 160)]),
        ("ddrnet-23-slim", [(8, 8), (64, 64), (72, 136), (104, 88)]),
        ("pidnet-s", [(8, 8), (64, 64), (72, 136), (104, 88)]),
        ("pidnet-l", [(72, 136)]),
    ],
)
def test_any_multiple_is_segmented_alone_as_in_company(variant: str, sides: list[tuple[int, int]]) -> None:
    segmenter = build(variant).train()
    for layer in segmenter.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # else values grow from layer to layer, and rounding with them
    segmenter(torch.randn(4, 3, 128, 128))
    segmenter.eval()
    for height, width in sides:
        images = torch.randn(2, 3, height, width)
        with torch.no_grad():
            logits = segmenter(images)
            assert logits.shape == (2, 3, height, width) and logits.isfinite().all()
            assert torch.equal(logits, segmenter(images))
            torch.testing.assert_close(segmenter(images[1:]), logits[1:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", [*SMALL, "pidnet-l"])
def test_every_parameter_learns(variant: str) -> None:
    segmenter = build(variant).train()
    target = torch.zeros(3, 128, 128, dtype=torch.uint8)
    target[:, 40:, 30:] = 1
    target[:, 90:] = 2
    sum(losses(segmenter, torch.randn(3, 3, 128, 128), target).values(), torch.zeros(())).backward()
    dead = [key for key, p in segmenter.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # Of the biases in front of norms, and of the keys' common shift, only rounding is left; that is no zero either.
    assert dead == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in segmenter.parameters())


@pytest.mark.parametrize("variant", SMALL)
def test_testing_needs_no_training_parts(variant: str) -> None:
    segmenter = build(variant).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = segmenter(images)
        heads = sum(p.numel() for p in segmenter.parameters())
        for part in segmenter.training_parts:
            setattr(segmenter, part, None)
        assert torch.equal(segmenter(images), before)
    with torch.device("meta"):
        bare = build(variant, auxiliary=False)
    assert set(segmenter.state_dict()) == set(bare.state_dict())
    assert (heads > sum(p.numel() for p in bare.parameters())) == bool(segmenter.training_parts)


@pytest.mark.parametrize("variant", SMALL)
def test_without_auxiliary_losses_cross_entropy_is_left(variant: str) -> None:
    segmenter = build(variant, auxiliary=False).eval()
    images, target = torch.randn(1, 3, 64, 64), torch.randint(0, 3, (1, 64, 64), dtype=torch.uint8)
    found = losses(segmenter, images, target)
    assert list(found) == ["ce"]
    torch.testing.assert_close(found["ce"], cross_entropy(segmenter(images), target))


@pytest.mark.parametrize(("variant", "alone"), [("topformer-t", 96), ("ddrnet-23-slim", None), ("pidnet-s", None)])
def test_how_few_windows_train(variant: str, alone: int | None) -> None:
    segmenter = build(variant).train()
    target = torch.randint(0, 3, (2, 64, 64), dtype=torch.uint8)
    assert all(loss.isfinite() for loss in losses(segmenter, torch.randn(2, 3, 64, 64), target).values())
    # One value per channel has no variance: torch refuses.
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        segmenter(torch.randn(1, 3, 64, 64))
    if alone:
        assert segmenter(torch.randn(1, 3, alone, alone)).isfinite().all()
    else:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            segmenter(torch.randn(1, 3, 192, 192))


@pytest.mark.parametrize("variant", SMALL)
def test_a_short_training_remembers_its_windows(variant: str) -> None:
    torch.manual_seed(0)
    segmenter = build(variant).train()
    images = torch.randn(4, 3, 64, 64)
    target = torch.zeros(4, 64, 64, dtype=torch.uint8)
    target[:2, 20:] = 1
    target[2:, :, 30:] = 2
    colours = torch.randn(3, 3)[target.long()].permute(0, 3, 1, 2)
    optimizer = torch.optim.SGD(segmenter.parameters(), 0.02, momentum=0.9)
    values = []
    for _ in range(16):
        loss = losses(segmenter, images * 0.3 + colours, target)["ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("variant", [*SMALL, "pidnet-l"])
def test_half_precision_takes_the_same_path(variant: str) -> None:
    segmenter = build(variant).train()
    target = torch.randint(0, 3, (2, 64, 64), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(segmenter, torch.randn(2, 3, 64, 64), target)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found.values())


def test_weights_start_as_described() -> None:
    segmenter = build("topformer-b")
    for layer in segmenter.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
        if isinstance(layer, nn.Conv2d) and layer is not segmenter.classifier and layer.weight.numel() > 3000:
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2 / layer.groups
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert layer.bias is None or (layer.bias == 0).all()
