import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.pidnet import Gate, Join, LightJoin, PIDNet, ThreeBranches, Variant, balanced, edges


def enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)


def written_out(network: ThreeBranches, images: Tensor) -> list[Tensor]:
    """The figure of the paper, arrow by arrow."""
    low = network.stem(images)
    shared = network.shared(low)
    context = network.context[0](shared).relu()
    gated = network.gates[0](network.detail[0](shared), network.compress[0](context))
    border = network.border[0](shared) + enlarged(network.differences[0](context), shared)
    context = network.context[1](context).relu()
    detail = network.gates[1](network.detail[1](gated.relu()), network.compress[1](context))
    border = network.border[1](border.relu()) + enlarged(network.differences[1](context), shared)
    context = enlarged(network.pyramid(network.context[2](context)), shared)
    fused = network.join(network.detail[2](detail.relu()), context, network.border[2](border.relu()).sigmoid())
    return [low, gated, border, fused]


@pytest.mark.parametrize("light", [True, False])
def test_branches_meet_as_in_the_figure(light: bool) -> None:
    network = ThreeBranches(Variant(8, (2, 3), 6, 16, light)).eval()
    images = torch.randn(1, 3, 72, 136)
    with torch.no_grad():
        for map_, expected in zip(network(images), written_out(network, images), strict=True):
            torch.testing.assert_close(map_, expected)
        torch.testing.assert_close(network(images, taps=False), written_out(network, images)[-1:])


def test_the_gate_weighs_pixel_by_pixel() -> None:
    gate = Gate(6, 4).eval()
    detail, context = torch.randn(1, 6, 3, 5), torch.randn(1, 6, 3, 5)
    with torch.no_grad():
        ours, theirs, found = gate.detail(detail), gate.context(context), gate(detail, context)
    for row in range(3):
        for column in range(5):
            alike = sum(float(a * b) for a, b in zip(ours[0, :, row, column], theirs[0, :, row, column], strict=True))
            share = 1 / (1 + math.exp(-alike))
            expected = (1 - share) * detail[0, :, row, column] + share * context[0, :, row, column]
            torch.testing.assert_close(found[0, :, row, column], expected)
    # A smaller context map is compared after its own 1x1, then enlarged.
    assert gate(torch.randn(1, 6, 9, 17), torch.randn(1, 6, 5, 9)).shape == (1, 6, 9, 17)


def test_borders_take_detail_and_leave_context_elsewhere() -> None:
    detail, context = torch.randn(2, 1, 4, 6, 5)
    share = torch.rand(1, 4, 6, 5)
    with torch.no_grad():
        light = LightJoin(4).eval()
        expected = light.detail(detail + (1 - share) * context) + light.context(context + share * detail)
        torch.testing.assert_close(light(detail, context, share), expected)
        wide = Join(4).eval()
        expected = wide.mix(share * detail + (1 - share) * context)
        torch.testing.assert_close(wide(detail, context, share), expected)


def slow_edges(target: Tensor) -> Tensor:
    found = torch.zeros_like(target, dtype=torch.bool)
    windows, height, width = target.shape
    for window in range(windows):
        for row in range(height):
            for column in range(width):
                own = target[window, row, column]
                near = target[window, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].flatten()
                found[window, row, column] = own != 255 and any(id_ not in (own, 255) for id_ in near.tolist())
    return found


@pytest.mark.parametrize("ids", [(0, 1, 255), (0, 254), (3, 255), (0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 255)])
def test_edges_are_those_of_a_slow_loop(ids: tuple[int, ...]) -> None:
    draws = torch.randint(0, len(ids), (2, 11, 14))
    target = torch.tensor(ids, dtype=torch.uint8)[draws]
    assert torch.equal(edges(target), slow_edges(target))


def test_a_border_is_four_pixels_wide_and_ignored_pixels_make_none() -> None:
    target = torch.zeros(1, 3, 12, dtype=torch.uint8)
    target[:, :, 6:] = 2
    assert edges(target)[0, 1].nonzero().flatten().tolist() == [4, 5, 6, 7]
    target[:, :, 6:] = 255
    assert not edges(target).any()


def test_balanced_is_the_weighted_mean_of_a_slow_loop() -> None:
    scores, truth = torch.randn(2, 5, 6), torch.rand(2, 5, 6) < 0.3
    valid = truth | (torch.rand(2, 5, 6) < 0.7)
    count, positive, total = int(valid.sum()), int(truth.sum()), 0.0
    for score, edge, counts in zip(scores.flatten(), truth.flatten(), valid.flatten(), strict=True):
        probability = 1 / (1 + math.exp(-score))
        if counts and edge:
            total -= (count - positive) / count * math.log(probability)
        elif counts:
            total -= positive / count * math.log(1 - probability)
    assert balanced(scores, truth, valid).item() == pytest.approx(total / count, rel=1e-5)
    nothing = torch.zeros_like(truth)
    assert balanced(scores, nothing, valid) == 0 and balanced(scores, nothing, nothing) == 0


class Fixed(nn.Module):
    """A head that always says the same."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, maps: Any) -> Tensor:
        self.seen = maps
        return self.scores


def test_losses_are_the_weighted_ones_of_p_d_and_the_output() -> None:
    segmenter = PIDNet(SegmenterParams("pidnet", "pidnet-s", 8, "random", True), 3).eval()
    target = torch.zeros(1, 64, 64, dtype=torch.uint8)
    target[:, :, 40:], target[:, :7] = 2, 255
    detail, border = torch.randn(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    border[..., 20:, :], border[..., :20, :] = 1.39, 1.38  # sigmoid 0.8006 and 0.7990
    segmenter.detail_head, segmenter.border_head = Fixed(detail), Fixed(border)
    encoded = segmenter.encode(torch.randn(1, 3, 64, 64))
    features = segmenter.decode(encoded)
    logits = segmenter.classify(features, (64, 64))
    found = segmenter.losses(encoded, features, target, 0.0)
    assert list(found) == ["ce", "detail", "border", "at_border"]
    assert segmenter.detail_head.seen is encoded[1] and segmenter.border_head.seen is encoded[2]
    torch.testing.assert_close(found["detail"], 0.4 * cross_entropy(detail, target))
    torch.testing.assert_close(found["border"], 20 * balanced(border[:, 0], edges(target), target != 255))
    torch.testing.assert_close(found["at_border"], cross_entropy(logits[:, :, 20:], target[:, 20:]))
    segmenter.border_head.scores = border - 5
    assert segmenter.losses(encoded, features, target, 0.0)["at_border"] == 0
