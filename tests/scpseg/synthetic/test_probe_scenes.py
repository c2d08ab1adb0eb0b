from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.probe import CUE_SIDES, CUES, DIAMETERS, DISCS
from scpseg.synthetic import probe_scenes
from scpseg.synthetic.probe_scenes import CUE, DISC, GAP, ProbeScene, distances, probe_scene

SIDES = [64, 150, 192, 384]


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_scenes, "NOISE", 0.0)


def test_distances_cover_the_plane_with_rings_that_windows_do_not_cut() -> None:
    assert distances(192) == (24, 40, 56, 72, 88, 104)
    rings = [(distance - CUE // 2, distance + CUE // 2) for distance in distances(384)]
    assert all(one[1] == other[0] for one, other in pairwise(rings))
    # Half a patch, half a context of the profile.
    assert {32, 64} <= {edge for ring in rings for edge in ring}


def painted(drawn: ProbeScene, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label without noise, pixel by pixel, from the description of the objects."""
    image, label = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    for y in range(side):
        for x in range(side):
            colour, what = (112, 112, 112), 0
            for disc in drawn.discs:
                down, right = y - disc.row, x - disc.column
                if 4 * ((down + 0.5) ** 2 + (right + 0.5) ** 2) < {4: 20, 2: 18, 1: 16}[disc.detail] ** 2:
                    row, column = (int(np.floor(offset / disc.detail)) for offset in (down, right))
                    odd = (row + column if disc.texture else column if disc.upright else row) % 2
                    level = 40 * (-disc.sign if odd else disc.sign)
                    colour, what = (166 + level,) * 3, DISCS[drawn.kind][disc.texture]
            top, left = y - drawn.cue[0] + drawn.side // 2, x - drawn.cue[1] + drawn.side // 2
            if 0 <= top < drawn.side and 0 <= left < drawn.side:
                quarter, sign = drawn.side // 4, -1 if drawn.kind else 1
                centre = quarter <= top < 3 * quarter and quarter <= left < 3 * quarter
                chroma = sign * (72 if centre else -24)
                colour, what = (112 + chroma, 112, 112 - chroma), CUES[drawn.kind]
            image[y, x], label[y, x] = colour, what
    return image, label


@pytest.mark.parametrize("number", [0, 5, 10, 15])
def test_pixels_are_those_of_a_slow_painter(number: int, noiseless: None) -> None:
    drawn = probe_scene(128, 3, number)
    image, label = painted(drawn, 128)
    assert np.array_equal(drawn.image, image)
    assert np.array_equal(drawn.label, label)


@pytest.mark.parametrize("side", SIDES)
def test_objects_are_at_their_distances_and_clear_of_each_other_and_of_the_border(side: int) -> None:
    for number in range(0, 16, 4):
        drawn = probe_scene(side, 0, number)
        assert [(disc.distance, disc.detail) for disc in drawn.discs] == [
            (distance, detail) for distance in distances(side) for detail in DIAMETERS
        ]
        boxes = [(disc.row, disc.column, DISC / 2) for disc in drawn.discs] + [(*drawn.cue, CUE / 2)]
        for k, (row, column, half) in enumerate(boxes):
            assert min(row, column, side - row, side - column) >= half + GAP
            for other_row, other_column, other in boxes[:k]:
                assert max(abs(row - other_row), abs(column - other_column)) >= half + other + GAP
        for disc in drawn.discs:
            assert max(abs(disc.row - drawn.cue[0]), abs(disc.column - drawn.cue[1])) == disc.distance


def test_cues_have_every_side_in_turn() -> None:
    assert [probe_scene(64, 0, number).side for number in range(0, 24, 4)] == [*CUE_SIDES, *CUE_SIDES]


@pytest.mark.parametrize("first", [0, 4, 8])
def test_the_four_scenes_differ_in_the_kind_of_the_cue_and_in_all_textures_alone(first: int) -> None:
    four = [probe_scene(192, 0, first + member) for member in range(4)]
    assert [drawn.kind for drawn in four] == [0, 1, 0, 1]
    assert len({drawn.cue for drawn in four}) == 1
    for one, other in ((0, 1), (2, 3)):
        assert four[one].discs == four[other].discs
        differs = (four[one].image != four[other].image).any(axis=2)
        # Every pixel of the cue differs, and no other.
        assert np.array_equal(differs, four[one].label == CUES[0])
        swap = np.array([0, 2, 1, 5, 6, 3, 4])
        assert np.array_equal(swap[four[one].label], four[other].label)
    for one, other in ((0, 2), (1, 3)):
        assert all(a.texture != b.texture for a, b in zip(four[one].discs, four[other].discs, strict=True))
        differs = (four[one].image != four[other].image).any(axis=2)
        assert not differs[four[one].label < DISCS[0][0]].any() and differs.any()
        swap = np.array([0, 1, 2, 4, 3, 6, 5])
        assert np.array_equal(swap[four[one].label], four[other].label)


def test_the_same_arguments_give_the_same_bytes_and_others_do_not() -> None:
    drawn = probe_scene(128, 5, 2)
    assert np.array_equal(drawn.image, probe_scene(128, 5, 2).image)
    assert not np.array_equal(drawn.image, probe_scene(128, 6, 2).image)
    assert not np.array_equal(drawn.image, probe_scene(128, 5, 6).image)


def test_training_ids_are_those_of_the_spec() -> None:
    spec = BENCHMARKS["probe"]
    assert [("orange" in spec.classes[i].name, "cue" in spec.classes[i].name) for i in CUES] == [
        (True, True),
        (False, True),
    ]
    for kind, colour in enumerate(("orange", "blue")):
        for texture, word in enumerate(("striped", "chequered")):
            assert spec.classes[DISCS[kind][texture]].name == f"{word} disc of {colour}"
    assert spec.scored == spec.discs == (3, 4, 5, 6)


@pytest.mark.parametrize("number", range(0, 12, 4))
def test_a_cue_has_the_mean_colour_of_the_ground(number: int, noiseless: None) -> None:
    for kind in (0, 1):
        drawn = probe_scene(192, 0, number + kind)
        assert (drawn.image[drawn.label == CUES[kind]].mean(axis=0) == probe_scenes.GROUND_COLOUR).all()


@pytest.mark.parametrize("number", range(0, 24, 2))
def test_no_mean_colour_tells_the_kind(number: int) -> None:
    """Of the image, and so of any window that holds the whole cue."""
    one, other = probe_scene(192, 0, number), probe_scene(192, 0, number + 1)
    assert not np.array_equal(one.image, other.image)
    assert np.array_equal(one.image.sum((0, 1), dtype=np.int64), other.image.sum((0, 1), dtype=np.int64))


def test_no_mean_colour_tells_the_texture(noiseless: None) -> None:
    for number in (0, 2, 4, 6):
        drawn = probe_scene(192, 0, number)
        for disc in drawn.discs:
            half = DIAMETERS[disc.detail] // 2
            place = np.s_[disc.row - half : disc.row + half, disc.column - half : disc.column + half]
            assert (
                drawn.image[place][drawn.label[place] >= DISCS[0][0]].mean(axis=0) == probe_scenes.DISC_COLOUR
            ).all()


@pytest.mark.parametrize(("detail", "factor", "kept"), [(1, 2, 0.0), (2, 2, 0.5), (1, 4 / 3, 0.1), (4, 4.8, 0.1)])
def test_what_a_reduction_leaves_of_stripes(detail: int, factor: float, kept: float) -> None:
    """Bars of one pixel vanish exactly when the sides are halved; not at SCPSeg's 64 to 48 pixels."""
    disc = probe_scenes.Disc(0, 0, 24, detail, 0, True, 1)
    y, x = np.mgrid[:96, :96]
    stripes = torch.from_numpy(probe_scenes._texture(disc, y, x).astype(np.float32))[None, None]
    side = round(96 / factor)
    reduced = interpolate(stripes, (side, side), mode="bilinear", antialias=True)[0, 0, 4:-4, 4:-4]
    contrast = float(reduced.std())
    assert contrast == pytest.approx(0, abs=1e-6) if kept == 0 else contrast > kept
