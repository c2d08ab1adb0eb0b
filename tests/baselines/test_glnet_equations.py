"""GLNet against a second construction from the published description, level by level, with the same weights.

Chen et al., CVPR 2019, section 3: a pyramid on C2..C5 (1 x 1, top-down sums, 3 x 3, 3 x 3 to half the channels, all at
the size of C2), its counterpart of the other branch joined before every layer, and an aggregation layer. The windows
lie on whole cells of every level, where no rounding of boxes matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.glnet import GLNet, GLNetParams
from scpseg.evaluation.streaming import TestImage
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import normalise

CPU = torch.device("cpu")
ENCODER = "tu-test_resnet.r160_in1k"
CLASSES, PATCH, OVERVIEW, IMAGE = 3, 64, 128, 256
LEVELS = ("2", "3", "4", "5")
Maps = dict[str, Tensor]
Join = Callable[[str, str, Tensor], Tensor]
"""(what, level, own map) -> own map joined with the other branch's."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(direction: str) -> GLNet:
    torch.manual_seed(3)
    params = GLNetParams(OVERVIEW, ENCODER, 16, direction, "suite", 6, None, 0)
    method = GLNet(params, SegmenterParams("deeplabv3plus", ENCODER, 8, "random", True), CLASSES, PATCH)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return method.eval()


def image() -> np.ndarray:
    return np.random.default_rng(1).integers(256, size=(IMAGE, IMAGE, 3), dtype=np.uint8)


def up(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear")


class Equations:
    """Every stage of one branch from its tensors."""

    def __init__(self, method: GLNet, branch: str) -> None:
        self.encoder, self.known = getattr(method, branch).encoder, method.weights
        self.weights = {
            key.removeprefix(f"{branch}.fpn."): value
            for key, value in method.state_dict().items()
            if key.startswith(f"{branch}.fpn.")
        }

    def layer(self, name: str, maps: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(maps, weight, self.weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def run(self, pixels: Tensor, join: Join) -> tuple[dict[str, Maps], Tensor]:
        """Maps C, P0 (sums), P1, P2 by level, and P3."""
        number = {level: str(index) for index, level in enumerate(LEVELS)}
        c = dict(zip(LEVELS, self.encoder(normalise(pixels, self.known))[-4:], strict=True))
        p0: Maps = {"5": self.layer("lateral.3", join("c", "5", c["5"]))}
        for level, above in (("4", "5"), ("3", "4"), ("2", "3")):
            own = self.layer(f"lateral.{number[level]}", join("c", level, c[level]))
            p0[level] = up(p0[above], own) + own
        p1 = {level: self.layer(f"smooth.{number[level]}", join("p0", level, p0[level])) for level in LEVELS}
        p2 = {level: self.layer(f"narrow.{number[level]}", join("p1", level, p1[level])) for level in LEVELS}
        p3 = torch.cat([up(join("p2", level, p2[level]), p2["2"]) for level in LEVELS], dim=1)
        if "join.weight" in self.weights:
            p3 = self.layer("join", p3)
        return {"c": c, "p0": p0, "p1": p1, "p2": p2}, p3


def alone(what: str, level: str, own: Tensor) -> Tensor:
    return own


def box(maps: Tensor, corner: tuple[int, int]) -> Tensor:
    """What a window at `corner` covers of a map of the whole image."""
    side = maps.shape[-1] * PATCH // IMAGE
    top, left = (pixel * maps.shape[-1] // IMAGE for pixel in corner)
    return maps[..., top : top + side, left : left + side]


def seeing(whole: dict[str, Maps], corner: tuple[int, int]) -> Join:
    """A window's maps joined with what the whole image has at its place."""
    return lambda what, level, own: torch.cat([own, up(box(whole[what][level], corner), own)], dim=1)


def aggregated(method: GLNet, local: Tensor, whole: Tensor, corner: tuple[int, int]) -> Tensor:
    weights = method.state_dict()
    joined = torch.cat([local, up(box(whole, corner), local)], dim=1)
    logits = F.conv2d(joined, weights["aggregation.weight"], weights["aggregation.bias"], padding=1)
    return F.interpolate(logits, size=(PATCH, PATCH), mode="bilinear")


def pieces(method: GLNet) -> tuple[TestImage, Tensor, list[Tensor]]:
    views = TestImage(image(), method.needs_at(IMAGE, IMAGE), CPU)
    return views, views.overview(OVERVIEW), [window.context for window in views.windows()]


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_mode_1_the_overview_branch_alone() -> None:
    method = built("to_local")
    with torch.no_grad():
        _, overview, _ = pieces(method)
        branch = Equations(method, "overview_branch")
        _, p3 = branch.run(overview, alone)
        close(method.overview_branch.classify(method.overview_branch.joined(overview)), branch.layer("classifier", p3))


def test_mode_2_from_the_overview_to_every_window() -> None:
    method = built("to_local")
    with torch.no_grad():
        views, overview, contexts = pieces(method)
        whole, seen = Equations(method, "overview_branch").run(overview, alone)
        local = Equations(method, "local_branch")
        state = method.begin_image(views)
        part = method.branches()["local"]
        for window, context, corner in zip(views.windows(), contexts, views.corners(), strict=True):
            _, p3 = local.run(context, seeing(whole, corner))
            close(method(window, state), aggregated(method, p3, seen, corner))
            by_itself = F.interpolate(local.layer("classifier", p3), size=(PATCH, PATCH), mode="bilinear")
            close(part(window, state), by_itself)


def test_mode_3_from_all_windows_back_to_the_overview() -> None:
    method = built("both")
    with torch.no_grad():
        views, overview, contexts = pieces(method)
        whole, _ = Equations(method, "overview_branch").run(overview, alone)
        local, mutual = Equations(method, "local_branch"), Equations(method, "mutual_branch")
        found = [
            local.run(context, seeing(whole, corner)) for context, corner in zip(contexts, views.corners(), strict=True)
        ]
        stitched = {what: {level: torch.zeros_like(maps) for level, maps in of.items()} for what, of in whole.items()}
        for (stages, _), corner in zip(found, views.corners(), strict=True):
            for what, of in stages.items():
                for level, maps in of.items():
                    place = box(stitched[what][level], corner)  # the windows do not overlap: each cell is one's
                    place.copy_(up(maps, place))
        _, seen = mutual.run(overview, lambda what, level, own: torch.cat([own, stitched[what][level]], dim=1))
        state = method.begin_image(views)
        for window, (_, p3), corner in zip(views.windows(), found, views.corners(), strict=True):
            close(method(window, state), aggregated(method, p3, seen, corner))
