import pytest
import torch
from torch.nn import functional as F

from baselines.parts.fpn import FPN, RESNET50, WIDTH

CHANNELS = [3, 5, 7, 9]
SIDES = [16, 8, 4, 2]


def maps(channels: list[int], seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(2, count, side, side) for count, side in zip(channels, SIDES, strict=True)]


@pytest.mark.parametrize(("shared", "count"), [(False, 4_556_807), (True, 13_797_895)])
def test_parameters_of_the_paper(shared: bool, count: int) -> None:
    fpn = FPN(list(RESNET50), 7, WIDTH, shared)
    assert sum(parameter.numel() for parameter in fpn.parameters()) == count
    weights = [parameter for name, parameter in fpn.named_parameters() if name.endswith("weight")]
    assert all(abs(weight.std().item() - 0.01) < 3e-4 for weight in weights)
    assert not any(p.any() for name, p in fpn.named_parameters() if name.endswith("bias"))


def test_narrow_pyramids_pass_signals_on_like_wide_ones() -> None:
    torch.manual_seed(0)
    deviations = []
    for width in (32, 256):
        encoded = [torch.randn(1, count, side, side) for count, side in zip(CHANNELS, SIDES, strict=True)]
        *_, (joined,) = FPN(CHANNELS, 7, width, shared=False).stages(encoded)
        deviations.append(joined.std().item())
    assert 0.5 < deviations[0] / deviations[1] < 2


def test_plain_pyramid_written_out() -> None:
    fpn, encoded = FPN(CHANNELS, 7, 8, shared=False), maps(CHANNELS, 0)
    first, second, third, fourth, (joined,) = fpn.stages(list(encoded))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, encoded, strict=True))
    sums = [fpn.lateral[3](encoded[3])]
    for level in (2, 1, 0):
        above = F.interpolate(sums[0], size=(SIDES[level],) * 2, mode="bilinear")
        sums.insert(0, fpn.lateral[level](encoded[level]) + above)
    smooth = [conv(map_) for conv, map_ in zip(fpn.smooth, sums, strict=True)]
    narrow = [conv(map_) for conv, map_ in zip(fpn.narrow, smooth, strict=True)]
    for ours, theirs in zip((second, third, fourth), (sums, smooth, narrow), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)
    expected = torch.cat([F.interpolate(map_, size=(16, 16), mode="bilinear") for map_ in narrow], dim=1)
    torch.testing.assert_close(joined, expected)
    assert joined.shape[1] == fpn.joined == 16


def test_shared_pyramid_meets_its_partner_at_every_stage_and_level() -> None:
    fpn, encoded = FPN(CHANNELS, 7, 8, shared=True), maps(CHANNELS, 0)
    others = [maps(channels, number) for number, channels in enumerate((CHANNELS, [8] * 4, [8] * 4, [4] * 4), 1)]
    asked = []

    def last(partner: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        def serve(stage: int, level: int, size: tuple[int, int]) -> torch.Tensor:
            assert size == (SIDES[level],) * 2
            asked.append((stage, level))
            return partner[stage][level]

        return list(fpn.stages(list(encoded), serve))

    plain = last(others)
    assert sorted(asked) == [(stage, level) for stage in range(4) for level in range(4)]
    for stage in range(4):
        for level in range(4):
            changed = [list(other) for other in others]
            changed[stage][level] = changed[stage][level] + 1
            found = last(changed)
            for number in range(5):
                same = all(torch.equal(one, other) for one, other in zip(found[number], plain[number], strict=True))
                assert same == (number <= stage)
    expected = [fpn.narrow[level](torch.cat([plain[2][level], others[2][level]], 1)) for level in range(4)]
    expected = [torch.cat([map_, other], 1) for map_, other in zip(expected, others[3], strict=True)]
    torch.testing.assert_close(
        plain[4][0], fpn.join(torch.cat([F.interpolate(map_, size=(16, 16), mode="bilinear") for map_ in expected], 1))
    )
