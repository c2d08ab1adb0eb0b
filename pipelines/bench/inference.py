"""Whole-image inference beyond the network's own forward passes: time, and host memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines import patch as plain
from pipelines.bench.method import setting
from pipelines.bench.rows import MIB, Peer, Row, Work, compared, interleaved, peak, same, version
from scpseg.contract import Needs, Predictor, Views, Weights
from scpseg.evaluation.streaming import segment

SIDE, WINDOW, CLASSES = 5000, 512, 7
CPU = torch.device("cpu")
PEERS = (
    Peer("MONAI SlidingWindowInferer(overlap=0), then argmax", "monai", "monai", 3.0),
    Peer("MONAI SlidingWindowInferer(overlap=0, buffer_steps=1), then argmax", "monai", "buffered", 3.0),
    Peer("mmsegmentation's slide_inference written out, then argmax", "", "slide", 3.0),
)
MEMORY = (4.0, 4.0, 4.0)
"""Least ratios of host memory, in the order of `PEERS`."""


class Instant(Predictor):
    """A network whose forward pass costs nothing: the same logits for every window."""

    def __init__(self, side: int = WINDOW) -> None:
        """Make the logits of a window of `side` pixels."""
        super().__init__()
        self.needs, self.weights = Needs(side, side), Weights("random")
        self.logits = torch.randn(1, CLASSES, side, side, generator=torch.Generator().manual_seed(0))

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        return self.logits.expand(len(views.context), -1, -1, -1)


class Pixelwise(Instant):
    """A network that looks at single pixels, so that every way to cut windows gives the same labels."""

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        return pixelwise(views.context)


def pixelwise(images: Tensor) -> Tensor:
    """Logits (B, K, H, W) of images (B, 3, H, W)."""
    weights = torch.linspace(-1, 1, 3 * CLASSES).sin().view(CLASSES, 3, 1, 1)
    return F.conv2d(images.float(), weights)


def monai_labels(image: Tensor, network: Any, side: int, buffer_steps: int | None = None) -> Tensor:
    """(H, W) labels of (1, 3, H, W) float32, as MONAI's tutorials have it."""
    from monai.inferers import SlidingWindowInferer

    infer = SlidingWindowInferer(side, sw_batch_size=1, overlap=0, buffer_steps=buffer_steps)
    labels: Tensor = infer(image, network)[0].argmax(0)
    return labels


def slide_labels(image: Tensor, network: Any, side: int) -> Tensor:
    """The sliding window of mmsegmentation 1.2: every window's logits are padded to the image and added."""
    height, width = image.shape[2:]
    sums, count = image.new_zeros((1, CLASSES, height, width)), image.new_zeros((1, 1, height, width))
    for row in range(-(-height // side)):
        for column in range(-(-width // side)):
            bottom, right = min((row + 1) * side, height), min((column + 1) * side, width)
            top, left = max(bottom - side, 0), max(right - side, 0)
            logits = network(image[:, :, top:bottom, left:right])
            sums += F.pad(logits, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    return (sums / count)[0].argmax(0)


def forms(side: int) -> dict[str, Any]:
    """The peers that are installed: functions of (image, network)."""
    found: dict[str, Any] = {"slide": lambda image, network: slide_labels(image, network, side)}
    if version("monai"):
        found["monai"] = lambda image, network: monai_labels(image, network, side)
        found["buffered"] = lambda image, network: monai_labels(image, network, side, 1)
    return found


def check() -> None:
    """All of them give the same labels.

    Raises:
        UserError: they do not.
    """
    image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
    expected = segment(Pixelwise(64), image, CLASSES, CPU)
    floats = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for name, form in forms(64).items():
        same(expected, form(floats, pixelwise).numpy(), f"labels by {name}")


def _make(side: int, name: str) -> Work:
    """The work `name` on an image of `side` pixels, with its input ready: bytes for ours, float32 for the peers."""
    method = Instant()
    if name == "ours":
        image = np.random.default_rng(0).integers(0, 256, (side, 3, side), dtype=np.uint8).transpose(0, 2, 1)
        return lambda: segment(method, image, CLASSES, CPU)
    floats = torch.rand(1, 3, side, side)
    form = forms(WINDOW)[name]
    return lambda: form(floats, lambda window: method.logits)


@torch.inference_mode()
def ready(name: str, side: int) -> Work:
    """For a fresh process: the same, warmed up on a small image."""
    _make(WINDOW, name)()
    work = _make(side, name)

    def without_gradient() -> None:
        with torch.inference_mode():
            work()

    return without_gradient


def rows(folder: Path, repeats: int) -> Iterator[Row]:
    """Time and memory against every peer."""
    check()
    names = ["ours", *forms(WINDOW)]
    with torch.inference_mode():
        took = interleaved({name: _make(SIDE, name) for name in names}, repeats)
        windows = [torch.randn(CLASSES, WINDOW, WINDOW)] * 100
        sums = torch.zeros(CLASSES, WINDOW, WINDOW)
        added = interleaved({"add": lambda: [sums.add_(one) for one in windows]}, repeats)["add"]
        network = plain.build(setting(WINDOW)).eval()
        views = Views(torch.zeros(1, 3, WINDOW, WINDOW, dtype=torch.uint8), torch.zeros(1, 4))
        forward = statistics.median(interleaved({"forward": lambda: network(views, None)}, 2)["forward"]) * 100
    spent = statistics.median(took["ours"])
    share = statistics.median(added) / spent
    limit = (
        f"adding up the logits of 100 windows takes {share:.0%} of it; forward passes of DeepLabv3+ on ResNet-18 take "
        f"{forward:.0f} s, to which all of this adds {spent / forward:.1%}"
    )
    what = f"whole-image inference beyond the forward passes, 5000 x 5000, {CLASSES} classes, windows of {WINDOW}"
    note = "a network that returns stored logits; labels equal on a network that looks at single pixels"
    yield from compared("inference", what, "s", 1.0, took, PEERS, limit, note)
    memory = {name: [peak(f"{__name__}:ready", name, SIDE)] for name in names}
    peers = [Peer(one.name, one.package, one.work, least) for one, least in zip(PEERS, MEMORY, strict=True)]
    band = CLASSES * WINDOW * SIDE * 4 / MIB
    limit = f"a band of logits is {band:.0f} MiB, the labels {SIDE * SIDE / MIB:.0f} MiB"
    note = "peak above the image, which is uint8 for ours and float32 for the peers, and above the network"
    yield from compared("inference", "its peak host memory", "MiB", 1.0, memory, peers, limit, note)
