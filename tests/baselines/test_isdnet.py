import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.isdnet import ISDNet, ISDNetParams, RelationAwareFusion, residuals, similarity
from baselines.parts.stdc import DetailBlock, STDCStem
from scpseg.contract import Labels, Views
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import normalise

ENCODER, CLASSES = "tu-test_resnet.r160_in1k", 3


def make(crop: int = 64) -> ISDNet:
    torch.manual_seed(0)
    segmenter = SegmenterParams("deeplabv3plus", ENCODER, 8, "random", True)
    return ISDNet(ISDNetParams(ENCODER, 1.0, "suite"), segmenter, CLASSES, crop, "deepglobe")


def shaken(module: nn.Module) -> nn.Module:
    """In double precision, with statistics and gains that are no neutral ones."""
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return module


def normed(norm: nn.BatchNorm2d, vector: np.ndarray) -> np.ndarray:
    mean, variance, weight, bias = (
        part.detach().numpy() for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (vector - mean) / np.sqrt(variance + norm.eps) * weight + bias


def convolved(layers: nn.Sequential, maps: torch.Tensor, stride: int = 1, groups: int = 1) -> np.ndarray:
    """A convolution without bias and its norm, (C, h, w); the kernel's width says the padding."""
    weight = layers[0].weight
    made = F.conv2d(maps, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)[0].detach().numpy()
    return normed(layers[1], made.transpose(1, 2, 0)).transpose(2, 0, 1)


def activated(layers: nn.Sequential, maps: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.maximum(convolved(layers, maps), 0))


def test_fusion_equals_the_equations() -> None:
    torch.manual_seed(0)
    module = shaken(RelationAwareFusion(5))
    sides = torch.randn(1, 5, 6, 8, dtype=torch.float64), torch.randn(1, 128, 3, 4, dtype=torch.float64)
    fused, enlarged = (part[0].detach() for part in module(*sides))
    maps, vectors = [], []
    for reduce, vector, side in zip(module.reduce, module.vectors, sides, strict=True):
        map_ = activated(reduce, side).numpy()
        mean = np.array([map_[channel].sum() / map_[channel].size for channel in range(128)])
        vectors.append(normed(vector[1], vector[0].weight.detach().numpy()[:, :, 0, 0] @ mean))
        maps.append(map_)
    relation = np.zeros(256)
    for row, column in itertools.product(range(16), range(16)):
        relation[16 * row + column] = sum(
            vectors[0][8 * row + part] * vectors[1][8 * column + part] for part in range(8)
        )
    weighed = []
    for index in range(2):
        mlp, hidden = module.relations[index], relation
        for layer in (mlp[0], mlp[2]):
            hidden = np.maximum(layer.weight.detach().numpy() @ hidden + layer.bias.detach().numpy(), 0)
        gate = 1 / (1 + np.exp(-(vectors[index] + float(module.gains[index].detach()) * hidden)))
        weighed.append(torch.from_numpy(maps[index] * gate[:, None, None]))
    big = F.interpolate(weighed[1][None], size=(6, 8), mode="bilinear")
    expected = activated(module.enlarge, big)
    torch.testing.assert_close(enlarged, expected, rtol=1e-9, atol=1e-10)
    joined = convolved(module.join, (weighed[0] + expected)[None])
    np.testing.assert_allclose(fused.numpy(), joined, rtol=1e-9, atol=1e-10)


def reflected(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def blurred(image: np.ndarray) -> np.ndarray:
    """The 5 x 5 binomial over 256, pixel by pixel."""
    height, width = image.shape
    result = np.zeros_like(image)
    for row, column in itertools.product(range(height), range(width)):
        for (down, y), (right, x) in itertools.product(enumerate((1, 4, 6, 4, 1)), repeat=2):
            result[row, column] += (
                y * x / 256 * image[reflected(row + down - 2, height), reflected(column + right - 2, width)]
            )
    return result


def test_residuals_are_the_laplacian_pyramid_pixel_by_pixel() -> None:
    image = torch.randn(1, 1, 16, 24, dtype=torch.float64)
    levels = [image[0, 0].numpy()]
    for _ in range(2):
        levels.append(blurred(levels[-1])[::2, ::2])
    expected = []
    for level, below in itertools.pairwise(levels):
        spread = np.zeros_like(level)
        spread[::2, ::2] = below
        expected.append(level - 4 * blurred(spread))
    first, second = residuals(image.expand(1, 3, -1, -1).float())
    np.testing.assert_allclose(first[0, 1].numpy(), expected[0], rtol=1e-4, atol=1e-5)
    big = F.interpolate(torch.from_numpy(expected[1])[None, None], size=(16, 24), mode="bilinear")[0, 0]
    np.testing.assert_allclose(second[0, 2].numpy(), big.numpy(), rtol=1e-4, atol=1e-5)


def test_similarity_is_normalised_along_space() -> None:
    maps = torch.randn(1, 3, 2, 2)
    flat = maps[0].flatten(1).double().numpy()
    flat = flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))
    expected = [[sum(flat[c, i] * flat[c, j] for c in range(3)) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(similarity(maps)[0].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_detail_block_concatenates_four_maps(stride: int) -> None:
    torch.manual_seed(0)
    block = shaken(DetailBlock(8, 16, stride))
    x = torch.randn(1, 8, 7, 6, dtype=torch.float64)
    first = activated(block.first, x)
    on, kept = first, first
    if stride == 2:
        on = torch.from_numpy(convolved(block.halve, first[None], 2, groups=8))
        padded = np.pad(first.numpy(), ((0, 0), (1, 1), (1, 1)))
        pooled = [[padded[:, y : y + 3, x : x + 3].mean(axis=(1, 2)) for x in range(0, 6, 2)] for y in range(0, 7, 2)]
        kept = torch.from_numpy(np.array(pooled).transpose(2, 0, 1))
    parts = [kept]
    for step in block.rest:
        on = activated(step, on[None])
        parts.append(on)
    assert [len(part) for part in parts] == [8, 4, 2, 2]
    torch.testing.assert_close(block(x)[0].detach(), torch.cat(parts), rtol=1e-9, atol=1e-10)


def test_the_stem_of_the_authors() -> None:
    counts = [sum(parameter.numel() for parameter in STDCStem(inputs).parameters()) for inputs in (6, 3)]
    assert counts == [1_278_976, 1_278_112]
    fine, coarse = STDCStem(6).eval()(lambda: torch.randn(1, 6, 72, 100))
    assert fine.shape == (1, 256, 9, 13) and coarse.shape == (1, 512, 5, 7)


def test_a_marker_moves_with_its_place() -> None:
    """Detail follows a square that moves by cells of the coarsest map; all else stays where it was."""
    method = make().eval()
    places = []
    for top, left in ((32, 64), (96, 32)):
        image = torch.full((1, 3, 160, 160), 90, dtype=torch.uint8)
        plain = image.clone()
        image[..., top : top + 16, left : left + 16] = 250
        with torch.no_grad():
            change = (method(Views(image, torch.zeros(1, 4))) - method(Views(plain, torch.zeros(1, 4)))).abs().sum(1)
        rows, columns = change[0].mean(1), change[0].mean(0)
        places.append((int(rows.argmax()), int(columns.argmax())))
    for (row, column), (top, left) in zip(places, ((32, 64), (96, 32)), strict=True):
        assert abs(row - top - 8) <= 24 and abs(column - left - 8) <= 24


def test_structure_teaches_the_deep_map_and_not_the_decoder() -> None:
    method = make()
    context = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    losses = method.losses(Views(context, torch.zeros(2, 4)), Labels(context[:, 0] % CLASSES), 0.0)

    def reached(key: str) -> set[str]:
        method.zero_grad()
        losses[key].backward(retain_graph=True)
        return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}

    assert reached("structure") == {"encoder", "pyramid"}
    assert reached("detail") == {"encoder", "pyramid", "decoder"}
    assert reached("ce_stage") == {"encoder", "stage_head"}
    assert "deep_classifier" in reached("ce_deep") and "shallow" not in reached("ce_deep")
    assert {"head", "shallow", "coarse_fusion", "fine_fusion"} <= reached("ce")


def test_the_deep_branch_takes_every_fourth_pixel() -> None:
    method = make().eval()
    seen: list[Tensor] = []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    context = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    other = context.clone()
    other[..., 1::4, :] = 0
    with torch.no_grad():
        for given in (context, other):
            method(Views(given, torch.zeros(1, 4)))
    assert seen[0].shape == (1, 3, 16, 16) and torch.equal(seen[0], seen[1])


def test_losses_have_the_authors_weights() -> None:
    """Each loss from its parts: weight 1 except 0.4 (FCN head of the encoder) and 0.1 (super-resolution)."""
    method = make().eval()
    context = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    labels = context[:, 0] % CLASSES

    def entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(F.interpolate(logits, size=(64, 64), mode="bilinear"), labels.long())

    with torch.no_grad():
        found = method.losses(Views(context, torch.zeros(2, 4)), Labels(labels), 0.0)
        pixels = normalise(context, method.weights)
        first, second = residuals(pixels)
        encoded = method.encoder(pixels[..., ::4, ::4])
        deep = method.pyramid(encoded[-1])
        fine, coarse = method.shallow(lambda: torch.cat([first, second], dim=1))
        fused, coarse_deep = method.coarse_fusion(coarse, deep)
        fused, fine_deep = method.fine_fusion(fine, fused)
        rebuilt, features = method.decoder(deep)
        target = first + second
        expected = {
            "ce": entropy(method.head(fused)),
            "ce_deep": entropy(method.deep_classifier(deep)),
            "ce_coarse": entropy(method.enlarged_heads[0](coarse_deep)),
            "ce_fine": entropy(method.enlarged_heads[1](fine_deep)),
            "ce_stage": 0.4 * entropy(method.stage_head(encoded[-2])),
            "detail": 0.1 * ((F.interpolate(rebuilt, size=(64, 64), mode="bilinear") - target) ** 2).mean(),
            "structure": (
                similarity(deep)
                - similarity(F.interpolate(features, size=(deep.shape[-2], deep.shape[-1]), mode="bilinear"))
            )
            .abs()
            .mean(),
        }
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_dilation_and_dropout_of_the_authors() -> None:
    method = make()
    convolutions = [module for module in method.pyramid.modules() if isinstance(module, nn.Conv2d)]
    dilated = [module for module in convolutions if module.kernel_size == (3, 3) and module.in_channels != 5 * 128]
    assert [module.dilation for module in dilated] == [(12, 12), (24, 24), (36, 36)]
    assert [module.padding for module in dilated] == [(12, 12), (24, 24), (36, 36)]
    assert [module.p for module in method.modules() if isinstance(module, nn.Dropout2d)] == [0.1, 0.1]


def test_features_of_three_classifiers_are_dropped() -> None:
    """Those of the final head, of the deep head and of the encoder's stage; the fusions' heads have no dropout."""
    method = make().train()
    for module in method.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 1.0
    seen: dict[str, Tensor] = {}
    heads = {"final": method.head[0], "deep": method.deep_classifier, "stage": method.stage_head[-1]}
    heads |= {"coarse": method.enlarged_heads[0][0], "fine": method.enlarged_heads[1][0]}
    for name, head in heads.items():
        head.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    context = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    method.losses(Views(context, torch.zeros(2, 4)), Labels(context[:, 0] % CLASSES), 0.0)
    assert {name for name, features in seen.items() if not features.any()} == {"final", "deep", "stage"}
