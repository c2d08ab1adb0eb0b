import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.wiconet import ContextLayer, ContextTransformer, WiCoNet, WiCoNetParams, undilate
from scpseg.contract import Labels, Views
from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.encoders import build_encoder

ENCODER, CLASSES, PATCH = "tu-test_resnet.r160_in1k", 3, 64
SETTINGS = SegmenterParams("deeplabv3plus", ENCODER, 8, "random", True)


def make(recipe: str = "suite") -> WiCoNet:
    torch.manual_seed(0)
    return WiCoNet(WiCoNetParams(ENCODER, False, recipe), SETTINGS, CLASSES, PATCH, "potsdam")


def batch() -> tuple[Views, Labels]:
    generator = torch.Generator().manual_seed(1)
    side = 3 * PATCH
    context = torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (2, side, side), dtype=torch.uint8, generator=generator)
    return Views(context, torch.zeros(2, 4)), Labels(labels)


def plain(layer: nn.Linear | nn.LayerNorm) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def linear(layer: nn.Linear, vector: np.ndarray) -> np.ndarray:
    weight, bias = plain(layer)
    return weight @ vector + bias


def normed(layer: nn.LayerNorm, vector: np.ndarray) -> np.ndarray:
    weight, bias = plain(layer)
    return (vector - vector.mean()) / np.sqrt(vector.var() + 1e-6) * weight + bias


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def attended(layer: ContextLayer, tokens: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Equations of a layer, token by token."""
    others, result = [normed(layer.norms[1], token) for token in context], []
    for token in tokens:
        query = linear(layer.query, normed(layer.norms[0], token))
        read = []
        for head in range(4):
            part = slice(128 * head, 128 * (head + 1))
            scores = [query[part] @ linear(layer.key, other)[part] / math.sqrt(128) for other in others]
            shares = np.exp(scores) / np.exp(scores).sum()
            read.append(sum(s * linear(layer.value, other)[part] for s, other in zip(shares, others, strict=True)))
        moved = token + linear(layer.output, np.concatenate(read))
        hidden = linear(layer.mlp[0], normed(layer.norms[2], moved))
        hidden = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
        result.append(moved + linear(layer.mlp[2], hidden))
    return np.array(result)


def test_a_layer_equals_the_equations_token_by_token() -> None:
    layer = shaken(ContextLayer())
    tokens, context = (torch.randn(1, count, 512, dtype=torch.float64) for count in (3, 5))
    found = layer(tokens, context)[0].detach().numpy()
    np.testing.assert_allclose(found, attended(layer, tokens[0].numpy(), context[0].numpy()), rtol=1e-9, atol=1e-10)


def test_the_transformer_equals_the_equations_with_places_that_were_learned() -> None:
    transformer = shaken(ContextTransformer(2, 3))
    local, context = (torch.randn(1, 512, side, side, dtype=torch.float64) for side in (2, 3))
    with torch.no_grad():
        found = transformer(local, context)[0].numpy()
    tokens, read = (
        np.array(
            [
                embed.weight.detach().numpy()[:, :, 0, 0] @ maps[0, :, row, column].numpy()
                + embed.bias.detach().numpy()
                + place[0, row * maps.shape[-1] + column].detach().numpy()
                for row, column in itertools.product(range(maps.shape[-1]), repeat=2)
            ]
        )
        for maps, embed, place in zip((local, context), transformer.embed, transformer.places, strict=True)
    )
    for layer in transformer.layers:
        tokens = attended(layer, tokens, read)
    for number, (row, column) in enumerate(itertools.product(range(2), repeat=2)):
        expected = normed(transformer.norm, tokens[number])
        np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-8, atol=1e-9)


def test_context_tokens_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = ContextTransformer(4, 3).eval()
    read: list[Tensor] = []
    for layer in transformer.layers:
        layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[1]))
    with torch.no_grad():
        local, context = torch.randn(2, 512, 4, 4), torch.randn(2, 512, 3, 3)
        found = transformer(local, context)
    assert len(read) == 4 and all(torch.equal(part, read[0]) for part in read)
    expected = F.conv2d(context, transformer.embed[1].weight, transformer.embed[1].bias).flatten(2).transpose(1, 2)
    torch.testing.assert_close(read[0], expected)
    assert found.shape == local.shape
    # Position tables start from 0; a table of another length would not fit.
    assert all(not table.any() for table in transformer.places)
    assert [table.shape[1] for table in transformer.places] == [16, 9]


def test_the_context_is_the_whole_window_at_a_quarter() -> None:
    method = make().eval()
    seen: dict[str, Tensor] = {}
    method.context_encoder.register_forward_pre_hook(lambda _, inputs: seen.update(context=inputs[0]))
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.update(local=inputs[0]))
    views, _ = batch()
    # A marker of 4 x 4 pixels becomes a pixel of its colour.
    views.context[0, :, 40:44, 168:172] = 255
    with torch.no_grad():
        method(views)
    window = normalise(views.context, method.weights)
    assert torch.equal(seen["local"], window[..., PATCH : 2 * PATCH, PATCH : 2 * PATCH])
    assert seen["context"].shape == (2, 3, 48, 48)
    torch.testing.assert_close(seen["context"][0, :, 10, 42], window[0, :, 41, 169])
    mean = window[1, :, 0:4, 4:8].mean(dim=(1, 2))
    torch.testing.assert_close(seen["context"][1, :, 0, 1], mean)


def test_losses_are_those_of_the_paper() -> None:
    method = make().eval()
    views, labels = batch()
    with torch.no_grad():
        logits = method(views)
        losses = {progress: method.losses(views, labels, progress) for progress in (0.0, 0.5, 1.0)}
    patch = labels.context[:, PATCH : 2 * PATCH, PATCH : 2 * PATCH]
    torch.testing.assert_close(losses[0.0]["ce"], cross_entropy(logits, patch))
    first = losses[0.0]["ce_context"]
    assert first > 0 and losses[1.0]["ce_context"] == 0
    torch.testing.assert_close(losses[0.5]["ce_context"], first / 4)
    other = Labels(labels.context.clone())
    # Nearest labels of a quarter's cells: the third pixel of each four.
    other.context[:, 2::4, 2::4] = 255
    with torch.no_grad():
        assert method.losses(views, other, 0.0)["ce_context"] == 0


@pytest.mark.parametrize("name", ["resnet18", "tu-test_convnext"])
def test_stages_without_dilation_keep_sizes_and_parameters(name: str) -> None:
    """Also those whose stages begin with a convolution of 2 x 2."""
    encoder, _ = build_encoder(SETTINGS, name, output_stride=8)
    x = torch.randn(1, 3, 64, 64)
    sizes = [map_.shape for map_ in encoder(x)]
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert any(max(m.dilation) > 1 for m in encoder.modules() if isinstance(m, nn.Conv2d))
    undilate(encoder)
    assert [map_.shape for map_ in encoder(x)] == sizes
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count
    assert all(module.dilation == (1, 1) for module in encoder.modules() if isinstance(module, nn.Conv2d))


def test_the_norm_of_the_authors_forgets_fast() -> None:
    for recipe, momentum in (("suite", 0.1), ("author", 0.95)):
        norms = [module.momentum for module in make(recipe).reduce if isinstance(module, nn.BatchNorm2d)]
        assert norms == [momentum]
    assert all(module.momentum == 0.1 for module in make("author").head if isinstance(module, nn.BatchNorm2d))
    recipe = make("author").phases()[0].recipe
    assert recipe and recipe.nesterov and (recipe.power, recipe.batch) == (1.5, 32)


def test_initial_weights_of_the_authors() -> None:
    """Kaiming normal for the reduction and both classifiers, Xavier uniform for the MLP, the rest torch's own."""
    method = make()
    for layer, tolerance in ((method.reduce[0], 0.03), *((h[0], 0.03) for h in (method.head, method.context_head))):
        deviation = math.sqrt(2 / layer.in_channels)
        assert layer.weight.std().item() == pytest.approx(deviation, rel=tolerance)
        # A uniform distribution of this deviation ends at 1.73 times it.
        assert layer.weight.abs().max() > 3 * deviation
    for head in (method.head, method.context_head):
        assert head[-1].weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.2)
        assert all(not layer.bias.any() for layer in (head[0], head[-1]))
    for layer in method.transformer.layers:
        for linear in (layer.mlp[0], layer.mlp[2]):
            limit = math.sqrt(6 / (512 + 1024))
            assert 0.99 * limit < linear.weight.abs().max() <= limit
            assert linear.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)
            assert 0 < linear.bias.std() < 3e-6
        for linear in (layer.query, layer.key, layer.value, layer.output):
            limit = 1 / math.sqrt(512)
            assert 0.99 * limit < linear.weight.abs().max() <= limit
