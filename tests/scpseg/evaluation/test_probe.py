from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scpseg.benchmarks.probe import CUES, DISCS
from scpseg.contract import ImageViews, Labels, Method, Needs, Views, Weights, Window
from scpseg.data.windows import cut_label, starts
from scpseg.evaluation.probe import Answer, answers, read_scene, table, visible
from scpseg.evaluation.streaming import segment
from scpseg.synthetic.probe import distances, probe_scene

CPU = torch.device("cpu")


class Oracle(Method):
    """Labels every pixel by the kind of the cue of which it sees a part, by the first kind where it sees none."""

    def __init__(self, needs: Needs, says: tuple[int, ...] = DISCS) -> None:
        super().__init__()
        self.needs, self.says = needs, says
        self.weights = Weights("random")

    def begin_image(self, image: ImageViews) -> Tensor | None:
        return None if self.needs.overview is None else image.overview(self.needs.overview)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        seen = views.context if state is None else state.expand(len(views.context), -1, -1, -1)
        logits = torch.zeros(len(seen), 5, self.needs.patch, self.needs.patch)
        for logit, window in zip(logits, seen, strict=True):
            logit[self.says[kind_of(window, whole=state is not None)]] = 1
        return logits

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        return {}


def kind_of(window: Tensor, whole: bool) -> int:
    """Of the cue in (3, H, W): by its centre where all of it is there, else by its outer ring, of the same colour.

    The noise is grey, so that red minus blue is free of it.
    """
    redder = window[0].int() - window[2].int()
    rows, columns = torch.nonzero(redder.abs() > 60, as_tuple=True)
    if not len(rows):
        return 0
    (top, bottom), (left, right) = ((int(at.min()), int(at.max())) for at in (rows, columns))
    if whole:
        return int(redder[(top + bottom) // 2, (left + right) // 2] < 0)
    corners = [redder[row, column] for row in (top, bottom) for column in (left, right)]
    return int(sum(int(torch.sign(corner)) for corner in corners) < 0)


def asked(method: Method, number: int, overlap: float = 0.0, side: int = 192) -> list[Answer]:
    drawn = probe_scene(side, 0, number)
    prediction = segment(method, drawn.image, 5, CPU, overlap)
    return answers(method, drawn.image, drawn.label, prediction, CPU, overlap)


@pytest.mark.parametrize("number", range(6))
def test_the_label_alone_tells_what_the_generator_drew(number: int) -> None:
    drawn = probe_scene(192, 1, number)
    scene = read_scene(drawn.label)
    assert scene.cue.centre == drawn.cue
    assert sorted(box.centre for box in scene.discs) == sorted((disc.row, disc.column) for disc in drawn.discs)
    assert set(scene.kinds) == {drawn.kind}
    found = asked(Oracle(Needs(64, 64)), number)
    assert sorted(answer.distance for answer in found) == sorted(
        disc.distance for disc in probe_scene(192, 0, number).discs
    )


@pytest.mark.parametrize(
    ("needs", "reach"), [(Needs(64, 64), 32), (Needs(64, 128), 64), (Needs(64, 64, 96), 1000), (Needs(32, 64), 32)]
)
def test_centred_windows_see_just_as_far_as_they_reach(needs: Needs, reach: int) -> None:
    for number in range(4):
        for answer in asked(Oracle(needs), number):
            assert answer.kind == number % 2
            assert answer.centred == (answer.kind if answer.distance < reach else 0)


@pytest.mark.parametrize("needs", [Needs(64, 64), Needs(64, 128), Needs(48, 80)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_visibility_equals_counting_pixels_of_the_windows(needs: Needs, overlap: float) -> None:
    margin = (needs.context - needs.patch) // 2
    shares = []
    for number in (1, 3, 5, 7):
        drawn = probe_scene(250, 0, number)
        scene = read_scene(drawn.label)
        cue = (drawn.label == CUES[1]).astype(np.uint8)
        for disc in scene.discs:
            row, column = disc.centre
            counts = [
                (cut_label(cue, top - margin, left - margin, needs.context) == 1).sum()
                for top in starts(250, needs.patch, overlap)
                for left in starts(250, needs.patch, overlap)
                if top <= row < top + needs.patch and left <= column < left + needs.patch
            ]
            shares.append(visible(needs.window, drawn.label.shape, overlap, disc, scene.cue))
            assert shares[-1] == pytest.approx(max(counts) / cue.sum())
    assert {0.0, 1.0} < set(shares)


def test_a_method_of_whole_images_sees_the_cue_of_every_disc() -> None:
    class AtOnce(Oracle):
        """Windows of 64 pixels in training, the image at test time."""

        def needs_at(self, height: int, width: int) -> Window:
            return Window.whole(height, width, 32)

        def forward(self, views: Views, state: Any = None) -> Tensor:
            height, width = views.context.shape[-2:]
            return super().forward(views, state)[..., :1, :1].expand(-1, -1, height, width)

    assert {answer.visible for answer in asked(AtOnce(Needs(64, 64)), 1)} == {1.0}


def test_under_the_grid_what_is_wholly_visible_is_told_and_what_is_not_is_guessed() -> None:
    told = [answer for number in range(8) for answer in asked(Oracle(Needs(64, 128)), number)]
    # Windows beside the one with the centre may label a part of the disc, but never most of it.
    whole = [answer.grid == answer.kind for answer in told if answer.visible == 1]
    none = [answer for answer in told if answer.visible == 0]
    assert np.mean(whole) > 0.95 and len(whole) > 40 and len(none) > 10
    assert np.mean([answer.grid == 0 for answer in none]) > 0.8
    assert {answer.visible for answer in asked(Oracle(Needs(64, 64, 96)), 0)} == {1.0}


def test_a_disc_that_is_given_no_kind_has_no_answer() -> None:
    found = asked(Oracle(Needs(64, 64), says=(0, CUES[0])), 0)
    assert {(answer.centred, answer.grid) for answer in found} == {(None, None)}
    text = table({"a": found, "b": found[:1]})
    lines = text.splitlines()
    assert lines[0] == "image,row,column,kind,distance,centred,grid,visible"
    assert len(lines) == 2 + len(found) and lines[1].split(",")[5:7] == ["", ""]


def test_of_equal_votes_the_first_kind_wins() -> None:
    class Halves(Oracle):
        def forward(self, views: Views, state: Any = None) -> Tensor:
            logits = torch.zeros(len(views.context), 5, 64, 64)
            logits[:, DISCS[1], :, :32] = 1
            logits[:, DISCS[0], :, 32:] = 1
            return logits

    assert {answer.centred for answer in asked(Halves(Needs(64, 64)), 1)} == {0}


def test_every_distance_is_answered_for() -> None:
    found = asked(Oracle(Needs(64, 64)), 0, side=256)
    assert {answer.distance for answer in found} == set(distances(256))
