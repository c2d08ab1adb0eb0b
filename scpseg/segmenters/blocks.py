"""Building blocks of DDRNet, PIDNet and TopFormer, with their initial weights.

Convolutions are initialised from N(0, 2 / fan-out), with the fan-out per group, and batch norms with scale 1 and
shift 0, as in the authors' code. Classifiers keep torch's default, as in the other segmenters [ours]: their fan-out is
the small number of classes, so the authors' rule would start training from large logits.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution whose output has ceil(side / stride) cells per side."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
    nn.init.normal_(layer.weight, std=math.sqrt(2 * groups / (kernel**2 * outputs)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def normed(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution followed by batch norm."""
    return nn.Sequential(conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs))


def activated(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Batch norm and ReLU followed by a convolution."""
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), conv(inputs, outputs, kernel, groups=groups))


def hidden(inputs: int, width: int) -> nn.Sequential:
    """A head without its classifier: batch norm, ReLU, 3x3 convolution to `width` channels, batch norm, ReLU."""
    return nn.Sequential(*activated(inputs, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def head(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """A head with its classifier."""
    return nn.Sequential(hidden(inputs, width), nn.Conv2d(width, outputs, 1))


def stem(width: int) -> nn.Sequential:
    """Two 3x3 convolutions with stride 2.

    Biases before batch norm have no effect; they are kept because the authors' parameter counts include them.
    """
    layers: list[nn.Module] = []
    for inputs in (3, width):
        layers += [conv(inputs, width, 3, 2, bias=True), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Body plus shortcut, without a final activation, so that the next layer receives both signs."""

    def __init__(self, body: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        """The shortcut is a 1x1 convolution if the body changes the shape, otherwise the identity."""
        super().__init__()
        self.body = body
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else normed(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        total: Tensor = self.body(x) + self.shortcut(x)
        return total


def basic(inputs: int, outputs: int, stride: int = 1) -> Residual:
    """A residual block of two 3x3 convolutions."""
    body = nn.Sequential(*normed(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *normed(outputs, outputs, 3))
    return Residual(body, inputs, outputs, stride)


def bottleneck(inputs: int, width: int, stride: int = 1) -> Residual:
    """A residual block: 1x1 and 3x3 convolutions with `width` channels, then 1x1 to twice as many."""
    body = nn.Sequential(
        *normed(inputs, width, 1),
        nn.ReLU(inplace=True),
        *normed(width, width, 3, stride),
        nn.ReLU(inplace=True),
        *normed(width, 2 * width, 1),
    )
    return Residual(body, inputs, 2 * width, stride)


def stage(inputs: int, outputs: int, count: int, stride: int = 1) -> nn.Sequential:
    """`count` basic blocks with ReLU between them, but not after the last."""
    blocks: list[nn.Module] = [basic(inputs, outputs, stride)]
    for _ in range(count - 1):
        blocks += [nn.ReLU(inplace=True), basic(outputs, outputs)]
    return nn.Sequential(*blocks)
