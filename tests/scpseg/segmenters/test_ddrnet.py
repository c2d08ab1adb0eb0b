import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.ddrnet import DDRNet, DualResolution


def enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)


def written_out(network: DualResolution, images: Tensor) -> list[Tensor]:
    """The figure of the paper, arrow by arrow."""
    low = network.stem(images)
    shared = network.shared(low)
    context_1, detail_1 = network.context[0](shared), network.detail[0](shared)
    context_1b = context_1 + network.down[0](detail_1.relu())
    detail_1b = detail_1 + enlarged(network.up[0](context_1.relu()), detail_1)
    context_2, detail_2 = network.context[1](context_1b.relu()), network.detail[1](detail_1b.relu())
    context_2b = context_2 + network.down[1](detail_2.relu())
    detail_2b = detail_2 + enlarged(network.up[1](context_2.relu()), detail_2)
    context_3, detail_3 = network.context[2](context_2b.relu()), network.detail[2](detail_2b.relu())
    assert [map_.shape[-1] for map_ in (context_1, context_2, context_3)] == [9, 5, 3]  # 17 cells at stride 8
    return [low, detail_1b, detail_3 + enlarged(network.pyramid(context_3), detail_3)]


def test_branches_exchange_as_in_the_figure() -> None:
    network = DualResolution(8).eval()
    images = torch.randn(1, 3, 72, 136)
    with torch.no_grad():
        for map_, expected in zip(network(images), written_out(network, images), strict=True):
            torch.testing.assert_close(map_, expected)


@pytest.fixture
def segmenter() -> DDRNet:
    return DDRNet(SegmenterParams("ddrnet", "ddrnet-23-slim", 8, "random", True), 3).eval()


def test_the_auxiliary_head_reads_the_first_exchanged_detail(segmenter: DDRNet) -> None:
    images, target = torch.randn(1, 3, 64, 64), torch.randint(0, 3, (1, 64, 64), dtype=torch.uint8)
    target[:, :9] = 255
    encoded = segmenter.encode(images)
    found = segmenter.losses(encoded, segmenter.decode(encoded), target, 0.0)
    assert list(found) == ["ce", "auxiliary"] and segmenter.auxiliary_head is not None
    scores = enlarged(segmenter.auxiliary_head(encoded[1]), images)
    torch.testing.assert_close(found["auxiliary"], 0.4 * cross_entropy(scores, target))
