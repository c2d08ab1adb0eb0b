import pytest
import torch
from torch.nn import functional as F

from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.lanet import LANet, PatchAttention, undilate

TINY = SegmenterParams("lanet", "tu-test_resnet.r160_in1k", 16, "random", True)


@pytest.mark.parametrize("size", [(8, 12), (9, 6), (3, 2), (10, 11)])
def test_patch_attention_window_by_window(size: tuple[int, int]) -> None:
    height, width = size
    attention, maps = PatchAttention(8, 2, 4), torch.randn(2, 8, height, width)
    rows, columns = -(-height // 4), -(-width // 4)
    weights = torch.empty(2, 8, rows, columns)
    for row in range(rows):
        for column in range(columns):
            cells = [
                maps[:, :, y, x]
                for y in range(4 * row, min(4 * row + 4, height))
                for x in range(4 * column, min(4 * column + 4, width))
            ]
            mean = torch.stack(cells).mean(0)[..., None, None]
            weights[:, :, row, column] = attention.attention(mean)[..., 0, 0]
    # Bilinear: cell y lies at (y + 0.5) / 4 - 0.5 between the centres of the windows, not beyond the last one.
    expected = torch.empty_like(maps)
    for y in range(height):
        for x in range(width):
            v, u = max((y + 0.5) / 4 - 0.5, 0), max((x + 0.5) / 4 - 0.5, 0)
            top, left = int(v), int(u)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = (1 - (u - left)) * weights[:, :, top, left] + (u - left) * weights[:, :, top, right]
            under = (1 - (u - left)) * weights[:, :, below, left] + (u - left) * weights[:, :, below, right]
            expected[:, :, y, x] = maps[:, :, y, x] * (1 + (1 - (v - top)) * above + (v - top) * under)
    torch.testing.assert_close(attention(maps), expected)


def test_the_network_written_out() -> None:
    network = LANet(TINY, 3).eval()
    encoded = network.encode(torch.randn(2, 3, 80, 112))
    high = network.high_attention(network.high_block(encoded[-1]))
    low = network.low_attention(network.low_block(encoded[2]))
    means = torch.empty_like(high)
    for y in range(5):
        for x in range(7):
            means[:, :, y, x] = high[:, :, max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].mean((2, 3))
    low = low * F.interpolate(network.embedding(means), size=(20, 28), mode="bilinear")
    features = network.decode(encoded)
    torch.testing.assert_close(features[:, :64], low)
    torch.testing.assert_close(features[:, 64:], F.interpolate(high, size=(20, 28), mode="bilinear"))
    # Scores enlarged before or after the classifier, together or apart: the same.
    apart = F.interpolate(network.classifier.low(low), size=(80, 112), mode="bilinear")
    enlarged = F.interpolate(network.classifier.high(high), size=(20, 28), mode="bilinear")
    apart = apart + F.interpolate(enlarged, size=(80, 112), mode="bilinear")
    torch.testing.assert_close(network.classify(features, (80, 112)), apart, rtol=1e-4, atol=1e-5)


def test_the_embedding_teaches_the_high_map_nothing() -> None:
    network = LANet(TINY, 3).eval()
    encoded = network.encode(torch.randn(1, 3, 64, 64))
    network.decode(encoded)[:, :64].sum().backward()
    high = [p for module in (network.high_block, network.high_attention) for p in module.parameters()]
    assert not any(p.grad is not None and p.grad.any() for p in high)
    assert all(p.grad is not None for p in network.embedding.parameters())


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 1.0), (0.5, 0.25), (1.0, 0.0)])
def test_the_high_map_alone_is_judged_less_and_less(progress: float, weight: float) -> None:
    network = LANet(TINY, 3).eval()
    encoded, truth = network.encode(torch.randn(1, 3, 64, 64)), torch.randint(3, (1, 64, 64), dtype=torch.uint8)
    features = network.decode(encoded)
    guess = F.interpolate(network.classifier.high(features[:, 64:]), size=(64, 64), mode="bilinear")
    losses = network.losses(encoded, features, truth, progress)
    torch.testing.assert_close(losses["high"], weight * cross_entropy(guess, truth))


def test_its_encoder_is_the_plain_one_without_the_last_stride() -> None:
    import segmentation_models_pytorch as smp

    plain = smp.encoders.get_encoder("resnet18", weights=None, output_stride=32).eval()
    ours = smp.encoders.get_encoder("resnet18", weights=None, output_stride=16).eval()
    ours.load_state_dict(plain.state_dict())
    dilated = ours(torch.ones(1, 3, 64, 64))[-1]
    undilate(ours)
    plain.layer4[0].conv1.stride = plain.layer4[0].downsample[0].stride = (1, 1)
    images = torch.randn(1, 3, 64, 96)
    for one, other in zip(ours(images), plain(images), strict=True):
        assert torch.equal(one, other)
    assert not torch.allclose(dilated, ours(torch.ones(1, 3, 64, 64))[-1])


@pytest.mark.parametrize("encoder", ["efficientnet-b0", "tu-efficientnet_b0", "tu-convnext_atto"])
def test_other_encoders_keep_their_maps_without_dilation(encoder: str) -> None:
    network = LANet(SegmenterParams("lanet", encoder, 16, "random", True), 2).eval()
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    assert network.encode(torch.randn(1, 3, 64, 96))[-1].shape[2:] == (4, 6)
