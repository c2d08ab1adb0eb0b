"""FCtL (Li, Yang, Zhao, Liu, Wang, Tan, Chen; ICCV 2021): FCN-8s whose deepest map attends to two larger contexts.

The patch, and windows of two and three times its side, both reduced to the patch's size, each pass through a trunk.
Three attentions (to both contexts and to the patch itself) are weighted and added before the head. Training has four
phases, as in the authors' code: an FCN alone; the FCN with the wide context; the FCN with the medium context, each
with one trunk for both views; then everything with frozen context trunks. The contextual refinement in the paper's
abstract is not in their code and not here. [ours]: ImageNet statistics, mirrored borders, padding of the 7 x 7
convolution instead of the image, bilinear upsampling instead of fixed transposed convolutions, gradients clipped with
recipe 'suite'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.contract import Labels, Method, Needs, Phase, Recipe, Setting, Views
from scpseg.errors import UserError
from scpseg.geometry import resize
from scpseg.losses import focal
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.encoders import build_encoder, check_encoder
from scpseg.validation import Range

STRIDE = 32
GAMMA = 3.0
DROPOUT = 0.5
KERNEL = 7
VGG_HEAD = 4096
"""Width of the head that is initialised from VGG-16's classifier."""
SKIP_SCALES = (1e-4, 1e-2)
"""Factors of VGG's maps at strides 8 and 16 before their 1x1 convolutions. [ours] 1 for encoders with normalisation:
their maps have unit scale, and these factors would disable the skips."""
CLIP = 5.0
"""[ours] Maximum gradient norm with recipe 'suite': VGG has no normalisation."""
EPOCHS, IMAGES = 50, 6
RATE = 5e-5 * 0.5**0.9
"""The authors run the second half of a schedule of 100 epochs that starts at 5e-5."""
LEARNS = {
    "patch": ("trunk", "head"),
    "wide": ("wide_trunk", "wide_head", "wide_attention"),
    "medium": ("medium_trunk", "head", "correlation.attentions.medium"),
    "all": ("trunk", "head", "correlation"),
}


@dataclass(frozen=True)
class FCtLParams:
    """Section `fctl`.

    Attributes:
        encoder: encoder of all three trunks; vgg16 in the paper. Its initial weights are `segmenter.weights`.
        head: width of the 7 x 7 and 1 x 1 convolutions; 4096 in the paper (119.6 of 170 million parameters).
        views: 1 processes a window once; 8 averages the logits over its flips and quarter turns, as the authors' test
            script does for unlabelled images.
        recipe: 'suite' trains like every method; 'author' uses their optimiser, learning rate, batch size and epochs.
    """

    encoder: str
    head: Annotated[int, Range(1)]
    views: Literal[1, 8]
    recipe: Literal["suite", "author"]


SECTIONS: dict[str, type] = {"fctl": FCtLParams}


class FCtL(Method):
    """Three trunks; `medium` is the context of twice the patch's side, `wide` the one of three times."""

    training_parts = ("wide_head", "wide_attention")

    def __init__(self, params: FCtLParams, segmenter: SegmenterParams, classes: int, patch: int) -> None:
        """Build trunks, correlation and head; `patch` is in pixels."""
        super().__init__()
        self.params = params
        self.needs = Needs(patch=patch, context=3 * patch)
        self.trunk, self.medium_trunk, self.wide_trunk = (Trunk(segmenter, params.encoder) for _ in range(3))
        self.weights = self.trunk.weights
        channels = self.trunk.channels
        self.correlation = Correlation(channels[-1])
        scales = SKIP_SCALES if self.trunk.pooled else (1.0, 1.0)
        self.head, self.wide_head = (Head(channels, params.head, classes, scales) for _ in range(2))
        self.wide_attention = Attention(channels[-1])
        if segmenter.weights == "imagenet" and params.encoder == "vgg16" and params.head == VGG_HEAD:
            self.head.load_classifier(vgg_classifier())
        self.phase = "patch"

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        if self.params.views == 1:
            return self._logits(normalise(views.take(), self.weights))
        window = normalise(views.take(), self.weights)
        logits = []
        for flip in (False, True):
            flipped = window.flip(-1) if flip else window
            for turns in range(4):
                turned = self._logits(flipped.rot90(turns, (-2, -1))).rot90(-turns, (-2, -1))
                logits.append(turned.flip(-1) if flip else turned)
        return torch.stack(logits).mean(dim=0)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Focal loss of the phase's output at full resolution."""
        window = normalise(views.context, self.weights)
        side = self.needs.patch
        if self.phase == "all":
            logits = self._logits(window)
        elif self.phase == "patch":
            logits = self.head(self.trunk(crop(window, side)), side)
        else:
            medium = self.phase == "medium"
            trunk, attention = (
                (self.medium_trunk, self.correlation.attentions["medium"])
                if medium
                else (self.wide_trunk, self.wide_attention)
            )
            *skips, deep = trunk(crop(window, side))
            context = trunk(reduced(window, side, 2 if medium else 3))[-1]
            head = self.head if medium else self.wide_head
            logits = head([*skips, deep + attention(deep, context)], side)
        return {"focal": focal(logits, crop(labels.context, side), GAMMA)}

    def _logits(self, window: Tensor) -> Tensor:
        """Logits of normalised windows (B, 3, 3 L, 3 L); the context trunks are not trained here."""
        side = self.needs.patch
        with torch.no_grad():
            medium = self.medium_trunk(reduced(window, side, 2))[-1]
            wide = self.wide_trunk(reduced(window, side, 3))[-1]
        *skips, deep = self.trunk(crop(window, side))
        logits: Tensor = self.head([*skips, self.correlation(deep, medium, wide)], side)
        return logits

    def phases(self) -> tuple[Phase, ...]:
        """The FCN, each context with it, then everything; earlier phases take at most their authors' epochs."""
        return tuple(self._phase(name) for name in LEARNS)

    def _phase(self, name: str) -> Phase:
        author = self.params.recipe == "author"
        recipe = Recipe("adam", RATE, 5e-4, IMAGES, EPOCHS, power=0.9) if author else None
        windows = (6 if name == "patch" else 4) if author else None
        return Phase(
            name,
            LEARNS[name],
            "image" if author else "window",
            windows,
            recipe,
            clip=None if author else CLIP,
            epochs=None if name == "all" else EPOCHS,
            side={"patch": self.needs.patch, "medium": 2 * self.needs.patch}.get(name),
            summed=author,
        )

    def begin_phase(self, name: str, fresh: bool) -> None:
        """Initialise each context from the FCN, and the last phase from the medium context, with its attention."""
        self.phase = name
        if not fresh:
            return
        if name == "wide":
            self.wide_trunk.load_state_dict(self.trunk.state_dict())
            self.wide_head.load_state_dict(self.head.state_dict())
        elif name == "medium":
            self.medium_trunk.load_state_dict(self.trunk.state_dict())
        elif name == "all":
            self.trunk.load_state_dict(self.medium_trunk.state_dict())

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, encoder, head, views and recipe."""
        return super().describe() | {
            "encoder": self.params.encoder,
            "head": self.params.head,
            "views": self.params.views,
            "recipe": self.params.recipe,
            "clip": None if self.params.recipe == "author" else CLIP,
        }


class Trunk(nn.Module):
    """The maps of an encoder at strides 8, 16 and 32."""

    def __init__(self, segmenter: SegmenterParams, name: str) -> None:
        """Build the encoder; a VGG stage ends before its pooling, so these maps are the previous stage's, pooled."""
        super().__init__()
        self.encoder, self.weights = build_encoder(segmenter, name)
        self.pooled = name.startswith("vgg")
        counts = list(self.encoder.out_channels)
        self.channels: list[int] = [*counts[2:4], counts[5]] if self.pooled else counts[-3:]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps of pixels (B, 3, L, L)."""
        maps: list[Tensor] = self.encoder(pixels)
        if self.pooled:
            return [F.max_pool2d(maps[2], 2), F.max_pool2d(maps[3], 2), maps[5]]
        return maps[-3:]


class Head(nn.Module):
    """Head of FCN-8s (Long et al., CVPR 2015): a 7x7 and two 1x1 convolutions, with skips from strides 16 and 8."""

    def __init__(self, channels: list[int], width: int, classes: int, scales: tuple[float, float]) -> None:
        """Build for maps with `channels` channels at strides 8, 16 and 32; `scales` are factors of the first two."""
        super().__init__()
        self.scales = scales
        self.wide = nn.Conv2d(channels[2], width, KERNEL, padding=KERNEL // 2)
        self.deep, self.score = nn.Conv2d(width, width, 1), nn.Conv2d(width, classes, 1)
        self.skips = nn.ModuleList(nn.Conv2d(count, classes, 1) for count in channels[:2])
        self.dropout = nn.Dropout2d(DROPOUT)

    def load_classifier(self, state: dict[str, Tensor]) -> None:
        """Initialise the first two convolutions from the linear layers `0` and `3` of VGG's classifier."""
        with torch.no_grad():
            for layer, name in ((self.wide, "0"), (self.deep, "3")):
                layer.weight.copy_(state[f"{name}.weight"].view_as(layer.weight))
                assert layer.bias is not None
                layer.bias.copy_(state[f"{name}.bias"])

    def forward(self, maps: list[Tensor], side: int) -> Tensor:
        """Logits (B, K, side, side)."""
        hidden = self.dropout(F.relu(self.wide(maps[2])))
        scores = self.score(self.dropout(F.relu(self.deep(hidden))))
        for level in (1, 0):
            skip = self.skips[level](self.scales[level] * maps[level])
            scores = resize(scores, (skip.shape[-2], skip.shape[-1])) + skip
        return resize(scores, (side, side))


class Attention(nn.Module):
    """Attention of every cell of a map to all cells of another, without scaling; its gain is initialised to 0."""

    def __init__(self, channels: int) -> None:
        """Build for maps with `channels` channels."""
        super().__init__()
        self.query, self.key = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(1))
        for layer in (self.query, self.key, self.value):
            _initialise(layer)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """`own` (B, C, h, w) with attention to `other` (B, C, h', w')."""
        query, key = self.query(own).flatten(2).transpose(1, 2), self.key(other).flatten(2)
        weights = torch.softmax(query @ key, dim=-1)
        mixed = self.value(other).flatten(2) @ weights.transpose(1, 2)
        read: Tensor = self.gain * mixed.view_as(own)
        return read


class Correlation(nn.Module):
    """Attention to both contexts and to the patch itself, fused with weights per cell."""

    def __init__(self, channels: int) -> None:
        """Build for maps with `channels` channels."""
        super().__init__()
        names = ("medium", "wide", "own")
        self.attentions = nn.ModuleDict({name: Attention(channels) for name in names})
        self.embed, self.weigh = (nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in names) for _ in range(2))
        self.mix = nn.Conv2d(len(names) * channels, len(names) * channels, 1)
        for layer in (*self.embed, *self.weigh, self.mix):
            _initialise(layer)

    def forward(self, own: Tensor, medium: Tensor, wide: Tensor) -> Tensor:
        """`own` (B, C, h, w) plus the weighted sum of the three."""
        others = (medium, wide, own)
        found = [attention(own, other) for attention, other in zip(self.attentions.values(), others, strict=True)]
        mixed = self.mix(torch.cat([embed(map_) for embed, map_ in zip(self.embed, found, strict=True)], dim=1))
        parts = mixed.chunk(len(found), dim=1)
        gates = [torch.sigmoid(weigh(part)) for weigh, part in zip(self.weigh, parts, strict=True)]
        weights = torch.softmax(torch.stack(gates), dim=0)
        total: Tensor = own + (weights * torch.stack(found)).sum(dim=0)
        return total


def crop(maps: Tensor, side: int) -> Tensor:
    """The central side x side crop of (..., H, W)."""
    top, left = ((size - side) // 2 for size in maps.shape[-2:])
    return maps[..., top : top + side, left : left + side]


def reduced(window: Tensor, side: int, times: int) -> Tensor:
    """The central window of `times` the patch's side, reduced to side x side with an antialiased bilinear kernel."""
    context = crop(window, times * side)
    return F.interpolate(context, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def vgg_classifier() -> dict[str, Tensor]:
    """State dict of VGG-16's classifier, trained on ImageNet.

    Raises:
        UserError: the weights could not be downloaded.
    """
    import torchvision

    try:
        network = torchvision.models.vgg16(weights=torchvision.models.VGG16_Weights.IMAGENET1K_V1)
    except Exception as error:  # of any library that downloads
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"segmenter.weights is 'imagenet', but torchvision's vgg16 could not be downloaded ({reason}); connect "
            "this machine once, after which it is cached, or set `-S segmenter.weights=random` or a smaller fctl.head"
        ) from error
    state: dict[str, Tensor] = network.classifier.state_dict()
    return state


def _initialise(layer: nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: the trunks do not support the patch side, or the encoder does not fit.
    """
    fctl, patch = params.section("fctl", FCtLParams), params.benchmark(benchmark).patch
    if patch % STRIDE or patch == STRIDE:
        near = max(2, (patch + STRIDE // 2) // STRIDE) * STRIDE
        why = f"it must be a multiple of {STRIDE} above {STRIDE} for fctl; the nearest valid value is {near}"
        raise params.invalid(f"{benchmark}.patch", patch, why)
    check_encoder(params, "fctl.encoder", fctl.encoder, STRIDE, patch)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    params = setting.params.section("fctl", FCtLParams)
    return FCtL(params, setting.segmenter, setting.classes, setting.patch)
