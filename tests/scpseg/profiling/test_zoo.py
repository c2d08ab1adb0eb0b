"""Computed training memory against what mmsegmentation's model zoo published for one GPU, networks built as theirs.

The zoo logs torch's largest allocated memory, so that a figure of the graph can be compared with it. What the graph
lacks: workspaces of cuDNN (chosen for speed there), and the buckets in which distributed training gathers gradients,
once more the bytes of the weights, which are added here. Figures and settings: configs/*/metafile.yaml and
configs/_base_ of mmsegmentation 1.x (read in the fork Matrix53/mmsegmentation@fd4a158), GB there x 1000.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.profiling.ledger import Ledger, cuda_rules

MIB = 2**20
CLASSES = {"cityscapes": 19, "potsdam": 6, "loveda": 7}


def conv(inner: int, outer: int, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU in place."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inner, outer, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


def separable(inner: int, outer: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inner, inner, dilation=dilation, groups=inner), conv(inner, outer, 1))


class Block(nn.Module):
    """A residual block of two or three convolutions."""

    def __init__(self, inner: int, middle: int, stride: int, dilation: int, deep: bool) -> None:
        super().__init__()
        outer = middle * (4 if deep else 1)
        if deep:
            layers = [conv(inner, middle, 1), conv(middle, middle, 3, stride, dilation), conv(middle, outer, 1)]
        else:
            layers = [conv(inner, outer, 3, stride, dilation), conv(outer, outer)]
        layers[-1] = layers[-1][:2]
        self.layers = nn.Sequential(*layers)
        same = stride == 1 and inner == outer
        self.skip = nn.Identity() if same else conv(inner, outer, 1, stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.skip(x), inplace=True)


class ResNet(nn.Module):
    """ResNet-v1c at output stride 8: a stem of three convolutions, the last two stages dilated."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        deep = depth > 34
        self.stem = nn.Sequential(conv(3, 32, stride=2), conv(32, 32), conv(32, 64), nn.MaxPool2d(3, 2, 1))
        stages, inner = [], 64
        counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
        for number, (count, stride, dilation) in enumerate(zip(counts, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            middle, blocks = 64 << number, []
            for place in range(count):
                # The first block of a dilated stage has half its dilation.
                own = dilation if place else max(1, dilation // 2)
                blocks.append(Block(inner, middle, 1 if place else stride, own, deep))
                inner = middle * (4 if deep else 1)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class FCN(nn.Module):
    def __init__(self, inner: int, width: int, convolutions: int, join: bool) -> None:
        super().__init__()
        layers = [conv(inner if place == 0 else width, width) for place in range(convolutions)]
        self.layers = nn.Sequential(*layers)
        self.join = conv(inner + width, width) if join else None

    def forward(self, maps: list[Tensor], x: Tensor) -> Tensor:
        out = self.layers(x)
        return out if self.join is None else self.join(torch.cat([x, out], dim=1))


class PSP(nn.Module):
    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), conv(inner, width, 1)) for n in (1, 2, 3, 6))
        self.last = conv(inner + 4 * width, width)

    def forward(self, maps: list[Tensor], x: Tensor) -> Tensor:
        return self.last(torch.cat([x, *(resize(pool(x), x) for pool in self.pools)], dim=1))


class DeepLabV3Plus(nn.Module):
    def __init__(self, inner: int, width: int, low: int, low_width: int) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(inner, width, 1))
        self.branches = nn.ModuleList([conv(inner, width, 1), *(separable(inner, width, d) for d in (12, 24, 36))])
        self.join, self.low = conv(5 * width, width), conv(low, low_width, 1)
        self.last = nn.Sequential(separable(width + low_width, width), separable(width, width))

    def forward(self, maps: list[Tensor], x: Tensor) -> Tensor:
        parts = [resize(self.pool(x), x), *(branch(x) for branch in self.branches)]
        x = self.join(torch.cat(parts, dim=1))
        low = self.low(maps[0])
        return self.last(torch.cat([resize(x, low), low], dim=1))


class Network(nn.Module):
    """A backbone with a head and an auxiliary one on its third stage."""

    def __init__(self, head: str, depth: int, classes: int) -> None:
        super().__init__()
        scale = 4 if depth > 34 else 1
        inner, width = 512 * scale, 128 * scale
        self.backbone = ResNet(depth)
        heads = {
            "fcn": lambda: FCN(inner, width, 2, True),
            "pspnet": lambda: PSP(inner, width),
            "deeplabv3plus": lambda: DeepLabV3Plus(inner, width, 64 * scale, 12 * scale),
        }
        self.head, self.auxiliary = heads[head](), FCN(256 * scale, 64 * scale, 1, False)
        self.classifiers = nn.ModuleList(
            nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(w, classes, 1)) for w in (width, 64 * scale)
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = self.backbone(images)
        losses = []
        for head, classify, x, weight in zip(
            (self.head, self.auxiliary), self.classifiers, (maps[3], maps[2]), (1.0, 0.4), strict=True
        ):
            logits = resize(classify(head(maps, x)), labels)
            losses.append(weight * F.cross_entropy(logits, labels, reduction="none", ignore_index=255).mean())
        return torch.stack(losses).sum()


def computed(head: str, depth: int, classes: int, batch: int, size: tuple[int, int]) -> tuple[float, float]:
    """MiB at the peak of the second training step, and of the weights."""
    with torch.device("meta"):
        network = Network(head, depth, classes)
    with cuda_rules(), Ledger() as ledger:
        network.load_state_dict(
            {key: torch.empty_like(value) for key, value in network.state_dict().items()}, assign=True
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=True)
        images = torch.empty(batch, 3, *size, device="meta")
        labels = torch.empty(batch, *size, dtype=torch.int64, device="meta")
        for _ in range(2):
            first = len(ledger.events)
            optimizer.zero_grad()
            network(images, labels).backward()
            optimizer.step()
        return ledger.peak(first).size / MIB, sum(one.nbytes for one in network.parameters()) / MIB


# head, depth, benchmark, images per GPU, crop -> MB in the zoo
ZOO = {
    ("fcn", 18, "cityscapes", 2, (512, 1024)): 1700,
    ("fcn", 50, "cityscapes", 2, (512, 1024)): 5700,
    ("fcn", 101, "cityscapes", 2, (512, 1024)): 9200,
    ("pspnet", 18, "cityscapes", 2, (512, 1024)): 1700,
    ("pspnet", 50, "cityscapes", 2, (512, 1024)): 6100,
    ("pspnet", 18, "potsdam", 4, (512, 512)): 1500,
    ("pspnet", 50, "potsdam", 4, (512, 512)): 6140,
    ("pspnet", 101, "potsdam", 4, (512, 512)): 9610,
    ("deeplabv3plus", 18, "cityscapes", 2, (512, 1024)): 2200,
    ("deeplabv3plus", 50, "cityscapes", 2, (512, 1024)): 7500,
    ("deeplabv3plus", 18, "potsdam", 4, (512, 512)): 1910,
    ("deeplabv3plus", 50, "potsdam", 4, (512, 512)): 7360,
}


@cache
def gathered(case: tuple[str, int, str, int, tuple[int, int]]) -> float:
    """MiB of a configuration, with the buckets of gradients."""
    head, depth, benchmark, batch, size = case
    return sum(computed(head, depth, CLASSES[benchmark], batch, size))


@pytest.mark.parametrize("case", list(ZOO), ids=lambda case: "-".join(map(str, case[:3])))
def test_training_memory_of_the_zoo(case: tuple[str, int, str, int, tuple[int, int]]) -> None:
    """86 to 98 %; never above. The rest hangs on the head alone, see below: workspaces of its widest convolution."""
    assert 0.85 <= gathered(case) / ZOO[case] <= 1.0


@pytest.mark.parametrize(
    ("head", "benchmark", "batch", "size"),
    [("fcn", "cityscapes", 2, (512, 1024)), ("pspnet", "potsdam", 4, (512, 512))],
)
def test_a_deeper_backbone_adds_what_the_zoo_measured(
    head: str, benchmark: str, batch: int, size: tuple[int, int]
) -> None:
    """From ResNet-50 to ResNet-101, where what is left out stays the same."""
    shallow, deep = ((head, depth, benchmark, batch, size) for depth in (50, 101))
    assert gathered(deep) - gathered(shallow) == pytest.approx(ZOO[deep] - ZOO[shallow], rel=0.02)
