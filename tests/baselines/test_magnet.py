import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.magnet import MagNet, MagNetParams, box_in, hard_cross_entropy, median, reduced, spread
from scpseg.contract import Labels, Views, drop_training_parts
from scpseg.evaluation.streaming import TestImage, segment
from scpseg.params import SegmenterParams
from scpseg.training.phases import enter

CPU = torch.device("cpu")
ENCODER, CLASSES, CROP, SIDE = "tu-test_resnet.r160_in1k", 3, 40, 64


def make(fast: bool = False) -> MagNet:
    torch.manual_seed(0)
    segmenter = SegmenterParams("deeplabv3plus", ENCODER, 8, "random", True)
    method = MagNet(MagNetParams(ENCODER, 8, SIDE, CROP, fast, "suite"), segmenter, CLASSES)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method.eval()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


def first_two(likely: np.ndarray) -> np.ndarray:
    ranked = np.sort(likely, axis=0)
    return ranked[-1] - ranked[-2]


def medians(score: np.ndarray) -> np.ndarray:
    padded = np.pad(score, 5, mode="edge")
    result = np.empty_like(score)
    for row, column in itertools.product(*map(range, score.shape)):
        result[row, column] = np.median(padded[row : row + 11, column : column + 11])
    return result


def test_the_median_filter_cell_by_cell() -> None:
    score = torch.rand(37, 21)
    np.testing.assert_array_equal(median(score).numpy(), medians(score.numpy()))


def slowly(method: MagNet, pixels: Tensor, likely: Tensor, level: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule of refinement as the paper words it: crops by hand, all points ranked one after another.

    Also where it leaves a choice: points with the score of the last one that is refined.
    """
    height, width = likely.shape[-2:]
    unsure = 1 - first_two(likely.numpy())

    def starts(length: int) -> list[int]:
        count = -(-length // CROP)
        return [round(i * (length - CROP) / (count - 1)) if count > 1 else 0 for i in range(count)]

    boxes = list(itertools.product(starts(height), starts(width)))
    share, total = 0.75, len(boxes)
    if method.params.fast and len(boxes) > 3:
        boxes.sort(key=lambda box: -unsure[box[0] : box[0] + CROP, box[1] : box[1] + CROP].mean())
        boxes, share = boxes[:3], 0.9
    values: dict[tuple[int, int], list[tuple[np.ndarray, float]]] = {}
    for top, left in boxes:
        seen = pixels[:, level * top : level * (top + CROP), level * left : level * (left + CROP)]
        coarse = likely[None, :, top : top + CROP, left : left + CROP]
        fine = method.base(reduced(seen[None], method.weights, (SIDE, SIDE)).double()).softmax(1)
        big = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        refined = method.refiner(big, fine).softmax(1)
        grid = [int(i * CROP / SIDE) for i in range(SIDE)]
        score = unsure[top : top + CROP, left : left + CROP][np.ix_(grid, grid)] * first_two(refined[0].numpy())
        back = [int(i * SIDE / CROP) for i in range(CROP)]
        smooth = medians(score)[np.ix_(back, back)]
        small = F.interpolate(refined, size=(CROP, CROP), mode="bilinear", align_corners=False)[0].numpy()
        for row, column in itertools.product(range(CROP), range(CROP)):
            values.setdefault((top + row, left + column), []).append((small[:, row, column], smooth[row, column]))
    points = round(share * height * width * len(boxes) / total)
    means = {place: np.mean([score for _, score in found]) for place, found in values.items()}
    ranked = sorted(values, key=lambda place: -means[place])
    result = likely.numpy().copy()
    for row, column in ranked[:points]:
        result[:, row, column] = np.mean([value for value, _ in values[row, column]], axis=0)
    tied = np.zeros((height, width), bool)
    for place, mean in means.items():
        tied[place] = abs(mean - means[ranked[points - 1]]) < 1e-12
    return result, tied


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("level", [1, 2])
def test_refinement_equals_the_rule_point_by_point(fast: bool, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(fast).double()
    monkeypatch.setattr("baselines.magnet.reduced", lambda *given: reduced(*given).double())
    # 2 x 3 crops, which overlap.
    height, width = 70, 100
    generator = torch.Generator().manual_seed(2)
    likely = (3 * torch.randn(CLASSES, height, width, generator=generator)).double().softmax(0)
    pixels = torch.randint(256, (3, level * height, level * width), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        found = method._refine_level(pixels, likely, level).numpy()
        expected, tied = slowly(method, pixels, likely, level)
    assert tied.sum() < 30
    np.testing.assert_allclose(found[:, ~tied], expected[:, ~tied], rtol=1e-10, atol=1e-12)
    # A tied point is refined or left as it is, and as many of them as the rule says.
    kept = np.abs(found - likely.numpy()).max(axis=0) < 1e-9
    np.testing.assert_allclose(found[:, tied & kept], likely.numpy()[:, tied & kept], rtol=1e-9)
    assert (tied & kept).sum() == (tied & (np.abs(expected - likely.numpy()).max(axis=0) < 1e-9)).sum()
    moved = np.abs(found - likely.numpy()).max(axis=0) > 1e-6
    share = 0.9 * 3 * CROP**2 / (height * width) if fast else 0.75
    assert moved.mean() == pytest.approx(share, abs=0.25 if fast else 0.01)


def test_fast_looks_at_the_three_least_sure_crops() -> None:
    method = make(fast=True)
    likely = torch.tensor([1.0, 0, 0])[:, None, None].expand(-1, 120, 160).clone()
    worst = [(0, 80), (40, 0), (80, 120)]
    for number, (top, left) in enumerate(worst):
        likely[0, top : top + CROP, left : left + CROP] = 0.4 + 0.05 * number
        likely[1, top : top + CROP, left : left + CROP] = 0.3
    with torch.no_grad():
        moved = (method._refine_level(torch.zeros(3, 120, 160, dtype=torch.uint8), likely, 1) != likely).any(0)
    inside = torch.zeros_like(moved)
    for top, left in worst:
        inside[top : top + CROP, left : left + CROP] = True
    assert moved.any() and not (moved & ~inside).any()
    assert moved.sum() == round(0.9 * 3 * CROP**2)


def test_the_coarse_map_is_refined_at_half_then_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make()
    sizes = []

    def kept(pixels: Tensor, likely: Tensor, level: int) -> Tensor:
        sizes.append((level, tuple(likely.shape[-2:]), tuple(pixels.shape[-2:])))
        return likely

    monkeypatch.setattr(method, "_refine_level", kept)
    labels = segment(method, noise(130, 171), CLASSES, CPU)
    assert sizes == [(2, (65, 86), (130, 172)), (1, (130, 172), (130, 172))]
    alone = segment(method.branches()["base"], noise(130, 171), CLASSES, CPU)
    assert (labels != alone).mean() < 0.05


def test_a_marker_of_the_coarse_map_keeps_its_place() -> None:
    method = make()
    window = method.needs_at(160, 160)
    views = next(TestImage(noise(160, 160), window, CPU).windows())
    state = torch.zeros(1, CLASSES, SIDE, SIDE)
    state[0, 0] = 1
    # Rows 16..24 of 64 are rows 40..60 of 160.
    state[0, :, 16:24, 40:48] = torch.tensor([0.0, 1, 0])[:, None, None]
    with torch.no_grad():
        found = method.branches()["base"](views, state)[0].argmax(0)
    rows, columns = torch.nonzero(found == 1, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 59, 100, 119)


def test_an_image_smaller_than_a_crop_is_mirrored() -> None:
    method = make()
    assert method.needs_at(30, 200).patch == (80, 200)
    assert segment(method, noise(30, 200), CLASSES, CPU).shape == (30, 200)


def test_crops_cover_evenly_without_leaving() -> None:
    assert spread(2448, 612) == [0, 612, 1224, 1836] and spread(1224, 612) == [0, 612] and spread(612, 612) == [0]
    assert spread(5000, 612)[-1] == 5000 - 612 and len(spread(5000, 612)) == 9


def test_the_box_of_a_crop_is_inside_that_of_its_window() -> None:
    place = torch.tensor([0.2, 0.4, 0.1, 0.2])
    found = box_in(place, (20, 40, 40, 40), 80)
    torch.testing.assert_close(found, torch.tensor([0.2 + 0.1 / 4, 0.4 + 0.2 / 2, 0.05, 0.1]))


def test_hard_pixels_alone_teach() -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(2, CLASSES, 10, 12)
    labels = torch.randint(CLASSES, (2, 10, 12), dtype=torch.uint8)
    labels[0, :3] = 255
    losses, likely = [], []
    for image, row, column in itertools.product(range(2), range(10), range(12)):
        target = int(labels[image, row, column])
        if target != 255:
            likely.append(float(logits[image, :, row, column].softmax(0)[target]))
            losses.append(-np.log(likely[-1]))
    hard = [loss for loss, chance in zip(losses, likely, strict=True) if chance <= 0.7]
    assert 0 < len(hard) < len(losses)
    assert float(hard_cross_entropy(logits, labels)) == pytest.approx(np.mean(hard), rel=1e-5)
    # Where all is easy, the hardest 4.8 % of all pixels are kept.
    sure = 20 * F.one_hot(labels.long().clamp(max=CLASSES - 1), CLASSES).permute(0, 3, 1, 2).float()
    sure = sure + torch.rand_like(sure)
    fewest = int(np.ceil(100_000 / (8 * 508**2) * labels.numel()))
    chances = sure.log_softmax(1).gather(1, labels.long().clamp(max=2)[:, None])[:, 0][labels != 255]
    expected = -chances.sort().values[:fewest].mean()
    torch.testing.assert_close(hard_cross_entropy(sure, labels), expected, rtol=1e-3, atol=1e-9)


def test_the_refiner_learns_from_a_frozen_segmenter_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make()
    enter(method, method.phases()[1])
    given: list[tuple[Tensor, Tensor]] = []
    method.refiner.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    generator = torch.Generator().manual_seed(0)
    context = torch.randint(256, (2, 3, 80, 80), dtype=torch.uint8, generator=generator)
    overview = torch.randint(256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    place = torch.tensor([[0.25, 0.5, 0.25, 0.25]] * 2)
    monkeypatch.setattr(torch, "randint", lambda high, *_: torch.tensor(0))  # the whole window, no offset
    views = Views(context, place, overview)
    losses = method.losses(views, Labels(context[:, 0] % CLASSES, overview[:, 0] % CLASSES), 0.0)
    losses["ce"].backward()
    assert {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None} == {"refiner"}
    assert not method.base.training
    with torch.no_grad():
        coarse = method.base(_normal(method, overview)).softmax(1)
        fine = method.base(reduced(context, method.weights, (SIDE, SIDE))).softmax(1)
    # Rows 16..32 and columns 32..48 of the coarse map, enlarged four times.
    cut = F.interpolate(coarse, scale_factor=4, mode="bilinear")[..., 64:128, 128:192]
    torch.testing.assert_close(given[0][0], cut, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given[0][1], fine)
    drop_training_parts(method)
    with torch.no_grad():
        method._refine_crop(context[0], cut[0, :, :CROP, :CROP], torch.rand(CROP, CROP))
    torch.testing.assert_close(given[1][1], fine[:1], rtol=1e-4, atol=1e-5)


def _normal(method: MagNet, pixels: Tensor) -> Tensor:
    return reduced(pixels, method.weights, (SIDE, SIDE))


@pytest.mark.parametrize(("level", "side"), [(0, 80), (1, 40), (2, None)])
def test_the_segmenter_sees_every_scale(level: int, side: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make()
    method.begin_phase("base", True)
    seen: list[Tensor] = []
    method.base.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    context = torch.randint(256, (1, 3, 80, 80), dtype=torch.uint8)
    overview = torch.randint(256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    draws = iter([level, 17, 23])
    monkeypatch.setattr(torch, "randint", lambda high, *_: torch.tensor(min(next(draws), high - 1)))
    labels = Labels(context[:, 0] % CLASSES, overview[:, 0] % CLASSES)
    method.losses(Views(context, torch.zeros(1, 4), overview), labels, 0.0)
    if side is None:
        expected = _normal(method, overview)
    else:
        top, left = min(17, 80 - side), min(23, 80 - side)
        expected = _normal(method, context[..., top : top + side, left : left + side])
    torch.testing.assert_close(seen[0], expected)


def test_norms_of_the_refiner_forget_slowly() -> None:
    method = make()
    for part, momentum, count in ((method.refiner, 0.01, 10), (method.base, 0.1, None)):
        norms = [module.momentum for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
        assert set(norms) == {momentum} and count in (None, len(norms))
