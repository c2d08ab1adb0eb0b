import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scpseg.method.lfa import LFAParams, alignment, dense, shrink, side_by_side


def maps(channels: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features and their unit vectors; gradients are compared on the former, since the similarity of a cell with
    itself is 1 but for rounding, and the sign of that rounding has no meaning."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, height, width, dtype=torch.float64, generator=generator)
    x[0, :, height // 2, seed] = 0  # a dead cell, as after ReLU
    x.requires_grad_()
    return x, F.normalize(x, dim=1, eps=0.1)


def pair(height: int, width: int) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    raw_first, first = maps(5, height, width, seed=0)
    raw_second, second = maps(3, height, width, seed=1)
    return (raw_first, raw_second), first, second


def assert_same(found: Tensor, expected: Tensor, raw: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    got = torch.autograd.grad(3 * found, raw, retain_graph=True)
    want = torch.autograd.grad(3 * expected, raw, retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in want)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def explicit(first: Tensor, second: Tensor, k: int, tops: range, lefts: range) -> Tensor:
    """One window after the other, as equation 8 reads."""
    terms = []
    for b in range(first.shape[0]):
        for top in tops:
            for left in lefts:
                a, s = (x[b, :, top : top + k, left : left + k].flatten(1) for x in (first, second))
                terms.append((a.T @ a - s.T @ s).abs().mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("height", "width", "k"), [(9, 11, 3), (7, 7, 7), (13, 8, 7), (5, 6, 4), (4, 9, 2)])
def test_dense_equals_explicit_windows(height: int, width: int, k: int) -> None:
    raw, first, second = pair(height, width)
    expected = explicit(first, second, k, range(height - k + 1), range(width - k + 1))
    assert_same(dense(first, second, k), expected, raw)


def test_dense_computes_no_gradient_that_is_not_asked_for() -> None:
    raw, first, second = pair(6, 6)
    dense(first, second.detach(), 3).backward()
    assert raw[0].grad is not None and raw[1].grad is None
    with torch.no_grad():
        assert not dense(first, second, 3).requires_grad


@pytest.mark.parametrize(("height", "width", "k"), [(9, 12, 3), (14, 7, 7)])
def test_side_by_side_equals_explicit_windows(height: int, width: int, k: int) -> None:
    raw, first, second = pair(height, width)
    expected = explicit(first, second, k, range(0, height, k), range(0, width, k))
    assert_same(side_by_side(first, second, k), expected, raw)


def test_side_by_side_moves_its_grid_so_that_every_cell_takes_part() -> None:
    raw, first, second = pair(8, 7)
    places = {
        (top, left): explicit(first, second, 3, range(top, top + 6, 3), range(left, left + 6, 3)).item()
        for top in range(3)
        for left in range(2)
    }
    seen, touched = set(), torch.zeros(2, 8, 7, dtype=torch.bool)
    for seed in range(40):
        torch.manual_seed(seed)
        loss = side_by_side(first, second, 3)
        matches = [place for place, value in places.items() if abs(value - loss.item()) < 1e-12]
        assert len(matches) == 1
        seen.add(matches[0])
        touched |= torch.autograd.grad(loss, raw[0], retain_graph=True)[0].abs().sum(1) > 1e-9
    assert seen == set(places)
    assert touched[1].all()


def test_alignment_resizes_to_the_smaller_map_and_detaches() -> None:
    params = LFAParams(weight=0.5, window=3, stride=1, detach=True)
    features = torch.randn(2, 6, 12, 12, requires_grad=True)
    teacher = torch.randn(2, 4, 32, 32, requires_grad=True)
    loss = alignment(features, teacher, params)
    small = F.interpolate(teacher, size=(12, 12), mode="bilinear", align_corners=False, antialias=True)
    expected = explicit(F.normalize(features, dim=1), F.normalize(small, dim=1), 3, range(10), range(10))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert teacher.grad is None
    # Either side may be the smaller one.
    torch.testing.assert_close(alignment(teacher, features, params), expected)


@pytest.mark.parametrize("stride", ["k", 1])
def test_both_sides_learn_without_detach(stride: str | int) -> None:
    teacher = torch.randn(2, 4, 24, 24, requires_grad=True)
    features = torch.randn(2, 6, 12, 12, requires_grad=True)
    alignment(features, teacher, LFAParams(0.5, 5, stride, detach=False)).backward()
    assert teacher.grad is not None and teacher.grad.abs().sum() > 0
    assert features.grad is not None and features.grad.abs().sum() > 0


def test_equal_structure_costs_nothing() -> None:
    x = torch.randn(1, 5, 10, 10)
    assert alignment(x, 3 * x, LFAParams(1.0, 4, 1, True)) < 1e-6
    assert alignment(x, 3 * x, LFAParams(1.0, 5, "k", True)) < 1e-6


def test_half_precision_maps_are_compared_in_single() -> None:
    features, teacher = torch.randn(1, 8, 9, 9, dtype=torch.bfloat16), torch.randn(1, 8, 9, 9, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = alignment(features, teacher, LFAParams(1.0, 3, 1, True))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, alignment(features.float(), teacher.float(), LFAParams(1.0, 3, 1, True)))


def test_shrink_equals_interpolation() -> None:
    x = torch.randn(2, 3, 20, 17)
    expected = F.interpolate(x, size=(12, 5), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(shrink(x, (12, 5)), expected)
    assert shrink(x, (20, 17)) is x


def test_a_window_larger_than_the_map_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"7 cells.*6 x 6"):
        alignment(torch.zeros(1, 2, 6, 6), torch.zeros(1, 2, 9, 9), LFAParams(1.0, 7, "k", True))
