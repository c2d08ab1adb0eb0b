import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.params import SegmenterParams
from scpseg.segmenters.topformer import Attention, Injection, InvertedResidual, TopFormer, area


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 1)])
def test_attention_is_that_of_a_loop_over_heads_and_tokens(size: tuple[int, int]) -> None:
    attention = Attention(10, heads=3).eval()
    tokens = torch.randn(2, 10, *size)
    with torch.no_grad():
        query, key, value = (part(tokens).flatten(2) for part in (attention.query, attention.key, attention.value))
        seen = torch.zeros(2, 3 * 32, size[0] * size[1])
        for window in range(2):
            for head in range(3):
                keys, values = slice(16 * head, 16 * head + 16), slice(32 * head, 32 * head + 32)
                for token in range(size[0] * size[1]):
                    weights = torch.exp(query[window, keys, token] @ key[window, keys])
                    seen[window, values, token] = value[window, values] @ (weights / weights.sum())
        expected = attention.project(seen.reshape(2, 96, *size))
        torch.testing.assert_close(attention(tokens), expected, rtol=1e-4, atol=1e-5)


def test_averages_cover_equal_shares() -> None:
    maps = torch.randn(2, 3, 12, 8)
    torch.testing.assert_close(area(maps, (3, 2)), F.adaptive_avg_pool2d(maps, (3, 2)))
    # 3 rows in 2 parts: one and a half rows each.
    three = torch.tensor([[1.0], [10.0], [100.0]])[None, None]
    torch.testing.assert_close(area(three, (2, 1)).flatten(), torch.tensor([(1 + 5) / 1.5, (5 + 100) / 1.5]))
    # Any size: each cell repeated until the sizes divide, then plain averages.
    uneven = torch.randn(1, 2, 7, 5)
    fine = uneven.repeat_interleave(4, dim=2).repeat_interleave(3, dim=3)
    torch.testing.assert_close(area(uneven, (4, 3)), F.avg_pool2d(fine, (7, 5)))


def test_tokens_are_averages_of_all_levels_one_per_64_pixels() -> None:
    segmenter = TopFormer(SegmenterParams("topformer", "topformer-t", 32, "random", True), 3).eval()
    seen: list[Tensor] = []
    segmenter.decoder.blocks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for sides, cells in (((128, 192), (2, 3)), ((96, 160), (2, 3)), ((32, 64), (1, 1))):
        with torch.no_grad():
            levels = segmenter.encode(torch.randn(1, 3, *sides))
            segmenter.decode(levels)
        tokens = seen.pop()
        assert tokens.shape == (1, 16 + 32 + 64 + 96, *cells)
        torch.testing.assert_close(tokens.mean((2, 3)), torch.cat([x.mean((2, 3)) for x in levels], 1))


def test_injection_gates_the_level_and_adds_the_tokens() -> None:
    injection = Injection(5, 7).eval()
    level, tokens = torch.randn(2, 5, 6, 8), 4 * torch.randn(2, 5, 3, 4)
    with torch.no_grad():
        gate = (injection.gate(tokens) / 6 + 0.5).clamp(0, 1)
        gate, added = (
            F.interpolate(map_, size=(6, 8), mode="bilinear", align_corners=False)
            for map_ in (gate, injection.add(tokens))
        )
        torch.testing.assert_close(injection(level, tokens), injection.local(level) * gate + added)


def test_features_are_the_fused_sum_of_the_injected_levels() -> None:
    segmenter = TopFormer(SegmenterParams("topformer", "topformer-t", 32, "random", True), 3).eval()
    decoder = segmenter.decoder
    with torch.no_grad():
        levels = segmenter.encode(torch.randn(1, 3, 96, 160))
        tokens = decoder.blocks(torch.cat([area(level, (2, 3)) for level in levels], dim=1))
        eighth = decoder.injections[0](levels[1], tokens[:, 16:48])
        sixteenth = decoder.injections[1](levels[2], tokens[:, 48:112])
        deepest = decoder.injections[2](levels[3], tokens[:, 112:])
        deeper = [F.interpolate(map_, size=(12, 20), mode="bilinear") for map_ in (sixteenth, deepest)]
        torch.testing.assert_close(segmenter.decode(levels), decoder.fuse(eighth + deeper[0] + deeper[1]))


def test_inverted_residuals_add_their_input_only_where_the_shape_stays() -> None:
    x = torch.randn(1, 4, 6, 6)
    for outputs, stride, adds in ((4, 1, True), (5, 1, False), (4, 2, False)):
        block = InvertedResidual(4, outputs, kernel=5, widen=3, stride=stride).eval()
        assert isinstance(block.body, nn.Sequential)
        with torch.no_grad():
            torch.testing.assert_close(block(x), block.body(x) + (x if adds else 0))
