from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scpseg.benchmarks.probe import CUES, DISCS
from scpseg.contract import ImageViews, Labels, Method, Needs, Views, Weights, Window
from scpseg.data.windows import cut_label, starts
from scpseg.evaluation.probe_answers import Answer, _votes, answers, read_scene, table, visible
from scpseg.evaluation.streaming import segment
from scpseg.synthetic.probe_scenes import distances, probe_scene

CPU = torch.device("cpu")
CLASSES = 7
STRIPED = (DISCS[0][0], DISCS[1][0])


class Oracle(Method):
    """Labels every pixel by the kind of the cue of which it sees a part, by the first kind where it sees none."""

    def __init__(self, needs: Needs, says: tuple[int, ...] = STRIPED) -> None:
        super().__init__()
        self.needs, self.says = needs, says
        self.weights = Weights("random")

    def begin_image(self, image: ImageViews) -> Tensor | None:
        return None if self.needs.overview is None else image.overview(self.needs.overview)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        seen = views.context if state is None else state.expand(len(views.context), -1, -1, -1)
        logits = torch.zeros(len(seen), CLASSES, self.needs.patch, self.needs.patch)
        for logit, window in zip(logits, seen, strict=True):
            logit[self.says[kind_of(window, whole=state is not None)]] = 1
        return logits

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        return {}


def kind_of(window: Tensor, whole: bool) -> int:
    """Of the cue in (3, H, W): its centre has a strong tint, its ring a weak one of the other sign.

    The noise is grey, so that red minus blue is free of it. Pieces are cut by the window, or mirrored at the border.
    """
    redder = (window[0].int() - window[2].int()).numpy()
    if whole:  # reduced, so blurred
        return int(redder.flat[abs(redder).argmax()] < 0)
    centre, ring = (redder[(abs(redder) > low) & (abs(redder) < high)] for low, high in ((96, 300), (24, 96)))
    return int(centre[0] < 0) if len(centre) else int(ring[0] > 0) if len(ring) else 0


def asked(method: Method, number: int, overlap: float = 0.0, side: int = 192) -> list[Answer]:
    drawn = probe_scene(side, 0, number)
    prediction = segment(method, drawn.image, CLASSES, CPU, overlap)
    return answers(method, drawn.image, drawn.label, prediction, CPU, overlap)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 6, 9])
def test_the_label_alone_tells_what_the_generator_drew(number: int) -> None:
    drawn = probe_scene(192, 0, number)
    scene = read_scene(drawn.label)
    assert scene.cue.centre == drawn.cue
    found = asked(Oracle(Needs(64, 64)), number)
    assert sorted((a.row, a.column, a.texture, a.detail, a.distance) for a in found) == sorted(
        (disc.row, disc.column, disc.texture, disc.detail, disc.distance) for disc in drawn.discs
    )
    assert {(answer.kind, answer.cue_side) for answer in found} == {(drawn.kind, drawn.side)}


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
    for number in range(1, 33, 4):
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


class Looker(Oracle):
    """Labels a window by the texture in its centre, which it reads from the means of rows and columns."""

    def forward(self, views: Views, state: Any = None) -> Tensor:
        logits = torch.zeros(len(views.context), CLASSES, 64, 64)
        for logit, window in zip(logits, views.context, strict=True):
            centre = window[1, 28:36, 28:36].float()  # one period of the coarsest texture, inside every disc
            striped = max(float(centre.mean(dim=axis).std()) for axis in (0, 1)) > 20
            logit[DISCS[0][0 if striped else 1]] = 1
        return logits


@pytest.mark.parametrize("number", [0, 2, 4, 6, 8])
def test_the_texture_of_a_disc_is_told_by_the_disc_itself(number: int) -> None:
    found = asked(Looker(Needs(64, 64)), number)
    assert [answer.centred_texture for answer in found] == [answer.texture for answer in found]
    assert {answer.centred for answer in found} == {0}


def test_kind_and_texture_are_answered_apart() -> None:
    drawn = probe_scene(192, 0, 5)
    method = Oracle(Needs(64, 64))
    for swap, kinds, textures in (
        ([0, 1, 2, 3, 4, 5, 6], True, True),
        ([0, 1, 2, 5, 6, 3, 4], False, True),
        ([0, 1, 2, 4, 3, 6, 5], True, False),
    ):
        prediction = np.array(swap, np.uint8)[drawn.label]
        for answer in answers(method, drawn.image, drawn.label, prediction, CPU, 0.0):
            assert (answer.grid == answer.kind, answer.grid_texture == answer.texture) == (kinds, textures)


def test_votes_equal_counting_with_a_dictionary() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        labels = random.integers(0, CLASSES, random.integers(0, 12)).astype(np.uint8)
        ids = {DISCS[kind][texture]: (kind, texture) for kind in (0, 1) for texture in (0, 1)}
        voters = [ids[label] for label in labels.tolist() if label in ids]
        kinds, textures = (Counter(voter[axis] for voter in voters) for axis in (0, 1))
        expected = (int(kinds[1] > kinds[0]), int(textures[1] > textures[0])) if voters else (None, None)
        assert _votes(labels) == expected


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
    answered = {(a.centred, a.grid, a.centred_texture, a.grid_texture) for a in found}
    assert answered == {(None, None, None, None)}
    text = table({"a": found, "b": found[:1]})
    lines = text.splitlines()
    assert lines[0] == (
        "image,row,column,kind,texture,detail,distance,cue_side,centred,grid,centred_texture,grid_texture,visible"
    )
    assert len(lines) == 2 + len(found) and lines[1].split(",")[8:12] == [""] * 4


def test_of_equal_votes_the_first_kind_wins() -> None:
    class Halves(Oracle):
        def forward(self, views: Views, state: Any = None) -> Tensor:
            logits = torch.zeros(len(views.context), CLASSES, 64, 64)
            logits[:, DISCS[1][1], :, :32] = 1
            logits[:, DISCS[0][0], :, 32:] = 1
            return logits

    found = asked(Halves(Needs(64, 64)), 1)
    assert {(answer.centred, answer.centred_texture) for answer in found} == {(0, 0)}


def test_every_distance_is_answered_for() -> None:
    found = asked(Oracle(Needs(64, 64)), 0, side=256)
    assert {answer.distance for answer in found} == set(distances(256))
