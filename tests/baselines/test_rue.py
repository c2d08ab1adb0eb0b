import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from baselines.rue import RUE, RUEParams, entropy, multiple, select, tiled
from scpseg.contract import Labels, Needs, Views
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import normalise

ENCODER, CLASSES = "tu-test_resnet.r160_in1k", 5


def make(share: float = 1.0, clamp: bool = False, grid: int = 4, recipe: str = "suite") -> RUE:
    torch.manual_seed(0)
    segmenter = SegmenterParams("deeplabv3plus", ENCODER, 8, "random", True)
    method = RUE(RUEParams(ENCODER, 1.0, 2, grid, share, clamp, recipe), segmenter, CLASSES, 64, "deepglobe")
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method.eval()


def images(height: int = 128, width: int = 192) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("share", "clamp"), [(1.0, False), (0.5, False), (0.3, True)])
def test_selector_and_ensembler_equal_the_equations_patch_by_patch(share: float, clamp: bool) -> None:
    method, grid = make(share, clamp).double(), 4
    with torch.no_grad():
        pixels = normalise(images(), method.weights).double()
        found = method._run(pixels, grid)
        for index in range(len(pixels)):
            image = pixels[index : index + 1]
            encoded = method.encoder(image[..., ::4, ::4])
            deep = method.pyramid(encoded[-1])
            chances = method.coarse_classifier(deep).softmax(1)[0].numpy()
            unsure = -np.sum(chances * np.log(chances), axis=0) / 0.7
            # Both stages meet at the finer one's size; mean and maximum of their gap, weighed.
            finer = encoded[-4]
            bigger = F.interpolate(encoded[-3], size=finer.shape[-2:], mode="bilinear", align_corners=False)
            gap = (method.estimator.align(bigger) - finer)[0].abs().numpy()
            a, b = method.estimator.join.weight[0, :, 0, 0].tolist()
            lost = a * gap.mean(axis=0) + b * gap.max(axis=0) + float(method.estimator.join.bias)

            def sized(map_: np.ndarray, height: int, width: int) -> np.ndarray:
                tensor = torch.from_numpy(np.ascontiguousarray(map_))[None, None]
                return F.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=False)[0, 0].numpy()

            score = 1 / (1 + np.exp(-sized(lost, grid, grid))) + sized(unsure, grid, grid)
            ranked = sorted(itertools.product(range(grid), range(grid)), key=lambda place: -score[place])
            taken = ranked[: round(share * grid**2)]
            weight = (sized(1 / (1 + np.exp(-lost)), 16, 24) + sized(unsure, 16, 24)) / 2
            weight = weight.clip(0, 1) if clamp else weight
            # The entropy is computed in single precision, also under autocast.
            np.testing.assert_allclose(found.weight[index, 0].numpy(), weight, rtol=1e-6)
            smooth = method.reduce[2](deep)
            blended = F.interpolate(smooth, size=(16, 24), mode="bilinear", align_corners=False)
            blended = blended[0].numpy().copy()
            for row, column in taken:
                tile = image[..., 32 * row : 32 * (row + 1), 48 * column : 48 * (column + 1)]
                fine, coarse = method.stem(lambda tile=tile: tile)
                fine, coarse = method.reduce[0](fine), method.reduce[1](coarse)
                detail = fine + F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
                cells = (slice(4 * row, 4 * (row + 1)), slice(6 * column, 6 * (column + 1)))
                part = weight[cells]
                blended[:, *cells] = (1 - part) * blended[:, *cells] + part * detail[0].numpy()
            logits = method.head(torch.from_numpy(blended)[None])
            torch.testing.assert_close(found.logits[index : index + 1], logits, rtol=1e-6, atol=1e-6)


def test_entropy_in_nats() -> None:
    logits = torch.zeros(1, 7, 2, 2)
    logits[0, 3, 0, 0] = 50
    found = entropy(logits)
    assert found[0, 0, 1, 1].item() == pytest.approx(math.log(7)) and found[0, 0, 0, 0].item() == pytest.approx(0)


def test_the_share_of_the_patches_with_the_highest_scores() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    assert [set(row.tolist()) for row in select(scores, 0.5)] == [{1, 3}, {0, 1}]
    assert select(scores, 0.01).shape == (2, 1) and select(scores, 1.0).shape == (2, 4)


def test_detail_of_a_patch_knows_nothing_of_its_neighbours_and_keeps_its_place() -> None:
    method = make()
    plain = normalise(images(), method.weights)
    marked = plain.clone()
    marked[0, :, 64:96, 96:144] = 3.0  # row 2, column 2 of four by four
    with torch.no_grad():
        before, after = (method._detail(lambda x=x: tiled(x, 4), torch.arange(32), 2, 4)[0] for x in (plain, marked))
    changed = (before != after).any(1)
    expected = torch.zeros_like(changed)
    expected[0, 8:12, 12:18] = True
    assert torch.equal(changed & expected, changed) and changed[0, 8:12, 12:18].float().mean() > 0.9


def test_where_nothing_is_chosen_there_is_no_detail() -> None:
    method = make()
    index = torch.tensor([5, 16 + 10])
    with torch.no_grad():
        patches = tiled(normalise(images(), method.weights), 4)[index]
        detail, taken = method._detail(lambda: patches, index, 2, 4)
    for index, (row, column) in enumerate(((1, 1), (2, 2))):
        cells = torch.zeros(16, 24, dtype=torch.bool)
        cells[4 * row : 4 * row + 4, 6 * column : 6 * column + 6] = True
        assert torch.equal(taken[index, 0], cells)
        assert not detail[index][:, ~cells].any() and detail[index][:, cells].any()


def test_unsure_pixels_weigh_more_and_their_weight_learns_nothing() -> None:
    method = make()
    context = images(64, 64)
    labels = (context[:, 0] % CLASSES).contiguous()
    labels[0, :8] = 255
    with torch.no_grad():
        found = method._run(normalise(context, method.weights), 2)
        losses = method.losses(Views(context, torch.zeros(2, 4)), Labels(labels), 0.0)
        logits = F.interpolate(found.logits, size=(64, 64), mode="bilinear", align_corners=False)
        weight = F.interpolate(found.weight, size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
        pixel = F.cross_entropy(logits, labels.long(), reduction="none", ignore_index=255)
        heavy, pixel = ((1 + weight) ** 6)[labels != 255], pixel[labels != 255]
        author = make(recipe="author").losses(Views(context, torch.zeros(2, 4)), Labels(labels), 0.0)
    torch.testing.assert_close(losses["ce"], (heavy * pixel).sum() / heavy.sum(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(author["ce"], (heavy * pixel).mean(), rtol=1e-4, atol=1e-5)
    # The coarse logits have weight 1, the FCN head of the encoder's third stage 0.4.
    for key, weight, small in (("ce_coarse", 1.0, found.coarse), ("ce_stage", 0.4, method.stage_head(found.stage))):
        logits = F.interpolate(small, size=(64, 64), mode="bilinear", align_corners=False)
        expected = weight * F.cross_entropy(logits, labels.long(), ignore_index=255)
        torch.testing.assert_close(losses[key], expected, rtol=1e-4, atol=1e-5)


def test_dropout_before_the_coarse_and_the_stage_classifier() -> None:
    method = make().train()
    dropouts = [module for module in method.modules() if isinstance(module, nn.Dropout2d)]
    assert [module.p for module in dropouts] == [0.1, 0.1]
    for module in dropouts:
        module.p = 1.0
    seen: dict[str, torch.Tensor] = {}
    heads = {"coarse": method.coarse_classifier, "stage": method.stage_head[-1], "final": method.head[0]}
    for name, head in heads.items():
        head.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    context = images(64, 64)
    method.losses(Views(context, torch.zeros(2, 4)), Labels(context[:, 0] % CLASSES), 0.0)
    assert {name for name, features in seen.items() if not features.any()} == {"coarse", "stage"}


def test_training_and_testing_have_a_grid_each() -> None:
    method = make(grid=6)
    assert [multiple(grid) for grid in (2, 6, 10, 20)] == [32, 96, 160, 320]
    assert method.needs_at(384, 130).patch == (384, 192) and method.needs.patch == 64
    assert make(grid=20).needs_at(2448, 5000).patch == (2560, 5120)
    seen: list[int] = []
    run = method._run
    method._run = lambda pixels, grid: (seen.append(grid), run(pixels, grid))[1]  # type: ignore[method-assign]
    with torch.no_grad():
        for side in (96, 64):
            method(Views(images(side, side), torch.zeros(2, 4)))
        # A crop that the grid of testing divides too, as the sample's and the paper's.
        method.needs = Needs(patch=96, context=96)
        method(Views(images(96, 96), torch.zeros(2, 4)))
    assert seen == [6, 2, 2]
