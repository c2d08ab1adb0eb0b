"""WiCoNet (Ding, Lin, Lin, Zhang, Bruzzone; TGRS 2022): local features attend to a light encoding of the context.

The patch passes through a ResNet; the window of three times its side, reduced by four, through a small encoder that
starts from random weights. In four layers of a context transformer, local tokens attend to context tokens, which do
not change. [ours]: all of the stem starts from ImageNet weights, ImageNet statistics, mirrored borders with ignored
labels, three bands. With recipe 'suite', the batch norm of the reduced local map has the usual momentum: with the
authors' 0.95 its statistics are little more than those of the last step, which is too noisy for small batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.contract import Labels, Method, Needs, Phase, Recipe, Setting, Views
from scpseg.geometry import resize
from scpseg.losses import cross_entropy, nearest
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.encoders import build_encoder, check_encoder
from scpseg.segmenters.on_encoder import block

TIMES, REDUCTION = 3, 4
"""Side of the context window relative to the patch, and the factor by which it is reduced."""
STRIDE = 8
"""Strides of the local and the context map, each in pixels of its own input."""
MULTIPLE = STRIDE * REDUCTION
WIDTH, HIDDEN, HEADS, LAYERS = 512, 1024, 4, 4
STAGES = (64, 128, 256, 512)
EPS = 1e-6
MOMENTUM = 0.95
"""The authors' momentum of the batch norm of the reduced local map."""
STEPS = {"potsdam": 28_150, "blu": 30_000}
"""The authors' 50 epochs of 1000 (Potsdam) or 100 (BLU) crops per tile; other benchmarks use Potsdam's [ours]."""
CHECKS = 50
"""After each of these epochs, recipe 'author' scores the validation split by mean IoU [ours], and keeps the best."""


@dataclass(frozen=True)
class WiCoNetParams:
    """Section `wiconet`.

    Attributes:
        encoder: encoder of the patch, at stride 8; resnet50 in the paper. Its initial weights are `segmenter.weights`.
        dilated: whether the encoder's last two stages are dilated, as is usual at stride 8; the authors' code only
            removes their strides.
        recipe: 'suite' trains like every method; 'author' uses their optimiser, learning rate, batch size and steps.
    """

    encoder: str
    dilated: bool
    recipe: Literal["suite", "author"]


SECTIONS: dict[str, type] = {"wiconet": WiCoNetParams}


class WiCoNet(Method):
    """Local branch, context branch and context transformer."""

    training_parts = ("context_head",)

    def __init__(
        self, params: WiCoNetParams, segmenter: SegmenterParams, classes: int, patch: int, benchmark: str
    ) -> None:
        """Build for patches of `patch` pixels, which determines the position embeddings."""
        super().__init__()
        self.params, self.benchmark = params, benchmark
        self.needs = Needs(patch=patch, context=TIMES * patch)
        self.encoder, self.weights = build_encoder(segmenter, params.encoder, output_stride=STRIDE)
        if not params.dilated:
            undilate(self.encoder)
        self.reduce = block(self.encoder.out_channels[-1], WIDTH)
        self.context_encoder = context_encoder()
        self.transformer = ContextTransformer(patch // STRIDE, TIMES * patch // MULTIPLE)
        self.head, self.context_head = (_head(classes) for _ in range(2))
        for layer in (*self.reduce, *self.head, *self.context_head):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d) and layer.num_features == WIDTH and params.recipe == "author":
                layer.momentum = MOMENTUM

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        fused, _ = self._maps(normalise(views.take(), self.weights))
        return self._classify(fused)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Cross-entropy of the patch, and of the reduced context with a weight that falls from 1 to 0."""
        fused, context = self._maps(normalise(views.context, self.weights))
        side = self.needs.context // REDUCTION
        guess = resize(self.context_head(context), (side, side))
        truth = nearest(labels.context, (side, side))
        return {
            "ce": cross_entropy(self._classify(fused), _centre(labels.context, self.needs.patch)),
            "ce_context": (1 - progress) ** 2 * cross_entropy(guess, truth),
        }

    def _maps(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """The fused local map (B, 512, L/8, L/8) and the context map, 3/4 as large, from normalised windows."""
        local = self.reduce(self.encoder(_centre(window, self.needs.patch))[-1])
        context = self.context_encoder(F.avg_pool2d(window, REDUCTION))
        return self.transformer(local, context), context

    def _classify(self, fused: Tensor) -> Tensor:
        return resize(self.head(fused), self.needs.window.patch)

    def phases(self) -> tuple[Phase, ...]:
        """One phase, with the suite's or the authors' recipe."""
        recipe = None
        if self.params.recipe == "author":
            steps = STEPS.get(self.benchmark, STEPS["potsdam"])
            recipe = Recipe("sgd", 0.1, 5e-4, 32, steps=steps, nesterov=True, power=1.5)
        return (Phase("all", recipe=recipe, checks=CHECKS if recipe else 0),)

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, encoder and recipe."""
        return super().describe() | {
            "encoder": self.params.encoder,
            "dilated": self.params.dilated,
            "recipe": self.params.recipe,
        }


class ContextTransformer(nn.Module):
    """Tokens of the local map attend to those of the context map, layer by layer."""

    def __init__(self, local: int, context: int) -> None:
        """Build for maps with `local` and `context` cells per side."""
        super().__init__()
        sides = (local, context)
        self.embed = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in sides)
        self.places = nn.ParameterList(nn.Parameter(torch.zeros(1, side**2, WIDTH)) for side in sides)
        self.layers = nn.ModuleList(ContextLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, EPS)

    def forward(self, local: Tensor, context: Tensor) -> Tensor:
        """The local map (B, 512, h, w) after attention to the context."""
        tokens, read = (
            embed(maps).flatten(2).transpose(1, 2) + place
            for maps, embed, place in zip((local, context), self.embed, self.places, strict=True)
        )
        for layer in self.layers:
            tokens = layer(tokens, read)
        fused: Tensor = self.norm(tokens).transpose(1, 2).reshape(local.shape)
        return fused


class ContextLayer(nn.Module):
    """Cross-attention with four heads, then an MLP, both pre-norm with residual connections."""

    def __init__(self) -> None:
        """The MLP is initialised as in vision transformers, the attention as in torch."""
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, EPS) for _ in range(3))
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        into, out = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.mlp = nn.Sequential(into, nn.GELU(), out)
        for layer in (into, out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Tokens (B, N, 512) that attend to `context` (B, M, 512)."""
        own, other = self.norms[0](tokens), self.norms[1](context)
        query, key, value = (
            layer(part).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for layer, part in ((self.query, own), (self.key, other), (self.value, other))
        )
        weights = torch.softmax((query * (WIDTH // HEADS) ** -0.5) @ key.transpose(2, 3), dim=-1)
        tokens = tokens + self.output((weights @ value).transpose(1, 2).flatten(2))
        moved: Tensor = tokens + self.mlp(self.norms[2](tokens))
        return moved


def context_encoder() -> nn.Sequential:
    """Four stages of two 3x3, each but the first after halving the sides."""
    layers: list[nn.Module] = []
    for before, width in zip((3, *STAGES), STAGES, strict=False):
        if layers:
            layers.append(nn.MaxPool2d(3, 2, 1))
        layers += [*block(before, width, 3), *block(width, width, 3)]
    return nn.Sequential(*layers)


def undilate(encoder: nn.Module) -> None:
    """Remove the dilation of an encoder in place; map sizes and parameter counts do not change."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and max(module.dilation) > 1:
            module.dilation = (1, 1)
            rows, columns = module.kernel_size
            module.padding = ((rows - 1) // 2, (columns - 1) // 2)
            if rows % 2 == 0 or columns % 2 == 0:
                module.register_forward_pre_hook(_pad_far)


def _pad_far(module: nn.Conv2d, inputs: tuple[Tensor]) -> Tensor:
    """Pad the input of an even kernel at the far borders, so that the size stays; torch's padding 'same' warns."""
    rows, columns = module.kernel_size
    return F.pad(inputs[0], (0, 1 - columns % 2, 0, 1 - rows % 2))


def _head(classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(WIDTH, 64, 1), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.Conv2d(64, classes, 1))


def _centre(maps: Tensor, side: int) -> Tensor:
    margin = (maps.shape[-1] - side) // 2
    return maps[..., margin : margin + side, margin : margin + side]


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: the patch is not a multiple of 32, or the encoder does not fit.
    """
    wiconet, patch = params.section("wiconet", WiCoNetParams), params.benchmark(benchmark).patch
    if patch % MULTIPLE:
        near = max(1, (patch + MULTIPLE // 2) // MULTIPLE) * MULTIPLE
        why = f"it must be a multiple of {MULTIPLE} for wiconet; the nearest valid value is {near}"
        raise params.invalid(f"{benchmark}.patch", patch, why)
    check_encoder(params, "wiconet.encoder", wiconet.encoder, STRIDE, patch)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    params = setting.params.section("wiconet", WiCoNetParams)
    return WiCoNet(params, setting.segmenter, setting.classes, setting.patch, setting.benchmark)
