"""What every segmenter must keep, whichever it is: a new line in KINDS is tested here."""

import copy
from math import lcm
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from baselines.patch import Patch
from scpseg.contract import Weights, drop_training_parts
from scpseg.errors import UserError
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import Segmenter, normalise
from scpseg.segmenters.build import KINDS, build_segmenter, check_segmenter, feature_stride

TINY = "tu-test_resnet.r160_in1k"
CLASSES = 3
VALUES = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))


def small(name: str, auxiliary: bool = True) -> SegmenterParams:
    """The smallest variant of a segmenter."""
    kind = KINDS[name]
    encoder = TINY if kind.encoders is None else kind.encoders[0]
    return SegmenterParams(name, encoder, kind.output_strides[0], "random", auxiliary)


def build(name: str, auxiliary: bool = True, seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    return build_segmenter(small(name, auxiliary), CLASSES)


def side_of(name: str, least: int) -> int:
    """A side of at least so many pixels that is an odd multiple of what the segmenter asks for, and of nothing more."""
    step = lcm(KINDS[name].multiple, small(name).output_stride)
    return next(side for side in range(step, 10 * least + 2 * step, 2 * step) if side >= least)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def labels(batch: int, height: int, width: int) -> torch.Tensor:
    """Squares of 16 pixels, the first one ignored."""
    size = (batch, -(-height // 16), -(-width // 16))
    squares = torch.randint(CLASSES, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    squares[0, 0, 0] = 255
    return squares.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]


def losses_of(segmenter: Segmenter, windows: torch.Tensor, truth: torch.Tensor, progress: float = 0.0) -> Any:
    encoded = segmenter.encode(windows)
    return segmenter.losses(encoded, segmenter.decode(encoded), truth, progress)


@pytest.mark.parametrize(
    ("name", "encoder", "stride", "count"),
    [
        ("deeplabv3plus", "resnet18", 8, 12_330_839),
        ("fcn8s", "resnet50", 8, 23_788_103),
        ("fcn", "resnet50", 8, 47.1e6),
        ("pspnet", "resnet50", 8, 46.6e6),
        ("pspnet", "resnet18", 8, 12.6e6),
        ("segformer", "mit_b0", 32, 3_715_943),
        ("segformer", "mit_b1", 32, 13_679_047),
        ("segformer", "mit_b2", 32, 24_723_911),
        ("lanet", "resnet50", 16, 23_810_973),
        ("topformer", "topformer-b", 32, 5_025_895),
        ("ddrnet", "ddrnet-23-slim", 8, 5_695_207),
        ("pidnet", "pidnet-s", 8, 7_624_167),
    ],
)
def test_they_have_their_published_size(name: str, encoder: str, stride: Any, count: float) -> None:
    segmenter = build_segmenter(SegmenterParams(name, encoder, stride, "random", auxiliary=False), classes=7)
    assert sum(p.numel() for p in segmenter.parameters()) == pytest.approx(count, rel=0.01, abs=0)


def test_their_usual_variants_can_be_chosen() -> None:
    for kind in KINDS.values():
        encoder, stride = kind.published
        assert stride in kind.output_strides
        assert kind.encoders is None or encoder in kind.encoders


@pytest.mark.parametrize("name", KINDS)
class TestEverySegmenter:
    def test_attributes_tell_the_truth_at_odd_sizes(self, name: str) -> None:
        segmenter = build(name).eval()
        height, width = side_of(name, 64), side_of(name, 96)
        with torch.no_grad():
            encoded = segmenter.encode(images(2, 3, height, width))
            features = segmenter.decode(encoded)
            for map_, channels, cell in (
                (features, segmenter.feature_channels, segmenter.feature_stride),
                (segmenter.deep(encoded), segmenter.deep_channels, segmenter.deep_stride),
                (segmenter.low(encoded), segmenter.low_channels, segmenter.low_stride),
            ):
                assert map_.shape == (2, channels, height // cell, width // cell)
            assert segmenter.classify(features, (50, 60)).shape == (2, CLASSES, 50, 60)
            logits = segmenter(images(2, 3, height, width))
        assert segmenter.feature_stride == feature_stride(name)
        assert logits.shape == (2, CLASSES, height, width) and logits.isfinite().all()
        assert segmenter.weights == Weights("random")

    @pytest.mark.parametrize("auxiliary", [True, False])
    def test_losses_reach_every_parameter(self, name: str, auxiliary: bool) -> None:
        segmenter = build(name, auxiliary)
        with torch.no_grad():  # residual branches that start at weight 0 pass no gradient back
            for parameter in segmenter.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        side = side_of(name, 128)
        losses = losses_of(segmenter, images(2, 3, side, side), labels(2, side, side))
        assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
        torch.autograd.backward(list(losses.values()))
        # What a stage leaves unread would show here as a missing gradient.
        assert [key for key, p in segmenter.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
        assert "ce" in losses and (auxiliary or len(losses) == 1)

    def test_nothing_but_ignore_teaches_nothing(self, name: str) -> None:
        segmenter, side = build(name), side_of(name, 64)
        truth = torch.full((2, side, side), 255, dtype=torch.uint8)
        losses = losses_of(segmenter, images(2, 3, side, side), truth)
        assert {key: loss.item() for key, loss in losses.items()} == dict.fromkeys(losses, 0)
        torch.autograd.backward(list(losses.values()))
        assert all(p.grad is None or p.grad.isfinite().all() for p in segmenter.parameters())

    def test_single_windows_train_or_are_rejected(self, name: str) -> None:
        for side in {side_of(name, 32), side_of(name, 128)}:
            values = copy.deepcopy(VALUES)
            values["segmenter"] = vars(small(name))
            values["inria"] |= {"patch": side, "batch": 1}
            try:
                check_segmenter(Params(values, Path("params.yaml")), "inria")
            except UserError as error:
                assert "inria.batch is 1" in str(error) and "set it to 2 or more" in str(error)
                with pytest.raises(ValueError, match="more than 1 value per channel"):
                    losses_of(build(name), images(1, 3, side, side), labels(1, side, side))
            else:
                losses = losses_of(build(name), images(1, 3, side, side), labels(1, side, side))
                assert all(loss.isfinite() for loss in losses.values())
            losses = losses_of(build(name), images(2, 3, side, side), labels(2, side, side))
            assert all(loss.isfinite() for loss in losses.values())

    def test_equal_seeds_give_equal_results_and_windows_do_not_meet(self, name: str) -> None:
        side = side_of(name, 64)
        windows = images(2, 3, side, side)
        first, again, other = (build(name, seed=seed).eval() for seed in (4, 4, 5))
        with torch.no_grad():
            logits = first(windows)
            assert torch.equal(logits, first(windows)) and torch.equal(logits, again(windows))
            assert not torch.equal(logits, other(windows))
            torch.testing.assert_close(logits[1:], first(windows[1:]), rtol=1e-4, atol=1e-5)

    def test_nothing_of_the_training_is_left_for_testing(self, name: str) -> None:
        segmenter, plain, side = build(name).eval(), build(name, auxiliary=False).eval(), side_of(name, 64)
        with torch.no_grad():
            before = segmenter(images(1, 3, side, side))
            drop_training_parts(Patch(segmenter, side))
            assert torch.equal(segmenter(images(1, 3, side, side)), before)
            # Not an auxiliary head more than where none was asked for, and the rest of it fits.
            plain.load_state_dict(segmenter.state_dict())
            assert torch.equal(plain(images(1, 3, side, side)), before)


@pytest.mark.parametrize("weights", [Weights("random"), Weights("x", "", (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))])
def test_normalise_uses_the_statistics_of_the_weights_for_bytes_and_floats(weights: Weights) -> None:
    windows = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    before = windows.clone()
    mean, std = torch.tensor(weights.mean), torch.tensor(weights.std)
    expected = (windows.float() / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(normalise(windows, weights), expected)
    assert torch.equal(normalise(windows, weights), normalise(windows.float(), weights))
    assert torch.equal(windows, before)
