import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from baselines import glnet
from baselines.glnet import GLNet, GLNetParams, GlobalFeatures, check
from baselines.patch import Patch
from scpseg.contract import Labels, Setting, Views
from scpseg.data.overviews import overviews
from scpseg.data.sampling import WindowDataset
from scpseg.errors import UserError
from scpseg.evaluation.streaming import TestImage, segment
from scpseg.losses import focal
from scpseg.params import Params, SegmenterParams, TrainParams
from scpseg.segmenters.build import build_segmenter
from scpseg.training.loop import train
from scpseg.training.phases import enter, lengths

CPU = torch.device("cpu")
ENCODER = "tu-test_resnet.r160_in1k"
CLASSES, PATCH, SIDE = 3, 64, 64
BOTH = ("to_local", "both")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small products: threads that wait for a busy core cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(encoder: str = ENCODER) -> SegmenterParams:
    return SegmenterParams("deeplabv3plus", encoder, 8, "random", True)


def make(direction: str = "to_local", recipe: str = "suite", windows: int = 4, overview: int = SIDE) -> GLNet:
    torch.manual_seed(0)
    params = GLNetParams(overview, ENCODER, 16, direction, recipe, windows, None, 0)
    return GLNet(params, settings(), CLASSES, PATCH)


def stirred(method: GLNet) -> GLNet:
    """With every weight large enough for its effect to show."""
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return method.eval()


def noise(height: int = 128, width: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def seen_at(method: GLNet, image: np.ndarray) -> tuple[GlobalFeatures, list[Views]]:
    views = TestImage(image, method.needs.window, CPU)
    with torch.no_grad():
        return method.begin_image(views), list(views.windows())


class Cued:
    """Grey noise, all of it of one class, which a coloured square in a corner of the image tells."""

    def __init__(self, count: int = 8, side: int = 128) -> None:
        self.names = tuple(map(str, range(count)))
        self.side = side

    def ids(self, split: str) -> tuple[str, ...]:
        return self.names

    def image(self, split: str, name: str) -> np.ndarray:
        random = np.random.default_rng([int(name), len(split)])
        image = np.repeat(random.integers(90, 160, size=(self.side, self.side, 1)), 3, axis=2).astype(np.uint8)
        cue = self.side // 5
        rows, columns = (slice(0, cue) if random.integers(2) else slice(-cue, None) for _ in range(2))
        image[rows, columns] = ((255, 0, 0), (0, 0, 255))[int(name) % 2]
        return image

    def label(self, split: str, name: str) -> np.ndarray:
        return np.full((self.side, self.side), int(name) % 2, dtype=np.uint8)


def windows_of(store: Cued, method: GLNet, batch: int = 4) -> WindowDataset:
    whole = overviews(store, "train", SIDE)
    return WindowDataset(store, "train", method.needs, seed=1, batch=batch, flips=True, turns=True, overviews=whole)


@pytest.mark.parametrize(("direction", "count"), [("to_local", 65_435_285), ("both", 102_741_212)])
def test_parameters_of_the_paper(direction: str, count: int) -> None:
    with torch.device("meta"):
        method = GLNet(GLNetParams(512, "resnet50", 256, direction, "suite", 6, None, 0), settings("resnet50"), 7, 512)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in method.named_children()}
    assert sum(counts.values()) == count
    assert counts["overview_branch"] == 28_064_839 and counts["local_branch"] == 37_305_927
    if direction == "both":
        # With the encoder of both overview branches counted once.
        encoder = sum(parameter.numel() for parameter in method.overview_branch.encoder.parameters())
        assert sum(counts.values()) - encoder == 79_233_180


@pytest.mark.parametrize("direction", BOTH)
def test_what_a_patch_sees_of_the_overview_is_its_own_place(direction: str) -> None:
    method = stirred(make(direction, overview=128))
    plain, windows = seen_at(method, noise(256, 256))
    for number, (top, left) in enumerate(itertools.product((0, 64, 128, 192), repeat=2)):
        if number % 5 not in (0, 3):
            continue
        image = noise(256, 256)
        image[top + 16 : top + 48, left + 16 : left + 48] = (255, 0, 0)
        marked, _ = seen_at(method, image)
        for stage, level in ((0, 0), (1, 0), (2, 0)):
            changes = []
            for views in windows:
                found, before = (_cut(whole.stages[stage][level], views.place) for whole in (marked, plain))
                changes.append((found - before).abs().mean().item())
            assert int(np.argmax(changes)) == number
        joined = [(_cut(marked.joined, v.place) - _cut(plain.joined, v.place)).abs().mean().item() for v in windows]
        assert int(np.argmax(joined)) == number


def _cut(maps: Tensor, place: Tensor) -> Tensor:
    """Of a patch whose edges lie on cells."""
    size = maps.shape[-1]
    top, left, height, width = (round(share * size) for share in place[0].tolist())
    return maps[..., top : top + height, left : left + width]


def test_the_local_branch_gets_that_cut_at_every_stage_and_level(monkeypatch: pytest.MonkeyPatch) -> None:
    method = stirred(make(overview=128))
    whole, windows = seen_at(method, noise(256, 256))
    given: dict[tuple[int, int], Tensor] = {}
    stages = method.local_branch.fpn.stages

    def spied(encoded: list[Tensor], partner: Any) -> Iterator[list[Tensor]]:
        def asked(stage: int, level: int, size: tuple[int, int]) -> Tensor:
            given[stage, level] = partner(stage, level, size)
            return given[stage, level]

        return stages(encoded, asked)

    monkeypatch.setattr(method.local_branch.fpn, "stages", spied)
    with torch.no_grad():
        method(windows[6], whole)
    assert len(given) == 16
    for (stage, level), found in given.items():
        map_ = whole.stages[stage][level]
        cells = map_.shape[-1] // 4
        own = map_[..., cells : 2 * cells, 2 * cells : 3 * cells]
        size = (16 // 2**level,) * 2
        torch.testing.assert_close(found, F.interpolate(own, size=size, mode="bilinear"))


@pytest.mark.parametrize("direction", BOTH)
def test_the_overview_changes_its_logits_and_not_those_of_patch(direction: str) -> None:
    class Blind(TestImage):
        def overview(self, side: int) -> Tensor:
            return torch.zeros_like(super().overview(side))

    method = stirred(make(direction))
    patch = Patch(build_segmenter(settings(), CLASSES), PATCH).eval()
    logits: dict[type, list[Tensor]] = {}
    for kind in (TestImage, Blind):
        views = kind(noise(), method.needs.window, CPU)
        with torch.no_grad():
            window = next(views.windows())
            logits[kind] = [
                method(window, method.begin_image(views)),
                patch(window, patch.begin_image(views)),
            ]
    assert (logits[TestImage][0] - logits[Blind][0]).abs().mean() > 0.01 * logits[TestImage][0].std()
    assert torch.equal(logits[TestImage][1], logits[Blind][1])
    assert logits[TestImage][0].shape == (1, CLASSES, PATCH, PATCH)


def test_local_to_global_maps_equal_a_slow_paste_and_average() -> None:
    method = stirred(make("both"))
    image = noise(150, 130)
    views = TestImage(image, method.needs.window, CPU)
    with torch.no_grad():
        stages = list(itertools.islice(method.overview_branch.stages(views.overview(SIDE)), 4))
        stitched = method._stitched(stages, TestImage(image, method.needs.window, CPU, batch=4).windows())
        found: dict[tuple[int, int, int, int], list[Tensor]] = {}
        for window in views.windows():
            top, left, height, width = window.place[0].tolist()

            def whole(stage: int, level: int, size: tuple[int, int], box: Any = (top, left, height, width)) -> Tensor:
                map_ = stages[stage][level]
                rows, columns = edges(box[0], box[2], map_.shape[-2]), edges(box[1], box[3], map_.shape[-1])
                return F.interpolate(map_[..., slice(*rows), slice(*columns)], size=size, mode="bilinear")

            for stage, maps in enumerate(itertools.islice(method.local_branch.stages(window.context, whole), 4)):
                for level, map_ in enumerate(maps):
                    rows = edges(top, height, stages[stage][level].shape[-2])
                    columns = edges(left, width, stages[stage][level].shape[-1])
                    size = (rows[1] - rows[0], columns[1] - columns[0])
                    small = F.interpolate(map_, size=size, mode="bilinear")[0]
                    for row, column in itertools.product(range(*rows), range(*columns)):
                        value = small[:, row - rows[0], column - columns[0]]
                        found.setdefault((stage, level, row, column), []).append(value)
    assert max(map(len, found.values())) > 1
    assert len(found) == sum(map_.shape[-2] * map_.shape[-1] for stage in stages for map_ in stage)
    for (stage, level, row, column), values in found.items():
        mean = torch.stack(values).mean(0)
        torch.testing.assert_close(stitched[stage][level][0, :, row, column], mean, rtol=1e-3, atol=1e-4)


def edges(start: float, length: float, size: int) -> tuple[int, int]:
    first, last = round(start * size), round((start + length) * size)
    first = min(first, size - 1)
    return first, max(last, first + 1)


def test_both_directions_walk_the_windows_once_and_see_them_in_the_overview() -> None:
    method = stirred(make("both"))
    walks = []

    class Walked(TestImage):
        def windows(self) -> Iterator[Views]:
            walks.append(1)
            return super().windows()

    changed = noise()
    # Reduced to the overview, this pattern averages to what was there before; only the local branch sees it.
    changed[64::2, 64::2] = np.clip(changed[64::2, 64::2].astype(int) + 40, 0, 255)
    results = []
    with torch.no_grad():
        for image in (noise(), changed):
            views = Walked(image, method.needs.window, CPU)
            views_of_first = TestImage(noise(), method.needs.window, CPU)
            overview = views_of_first.overview(SIDE)
            whole = method._global(overview, views.windows)
            results.append(method(next(views_of_first.windows()), whole))
    assert len(walks) == 2
    assert not torch.allclose(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", ["suite", pytest.param("author", marks=pytest.mark.soak)])
def test_each_phase_moves_exactly_its_parts(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glnet, "EPOCHS", {"overview": 2, "local": 2, "mutual": 2})
    states: list[dict[str, Tensor]] = []

    class Recording(GLNet):
        def begin_phase(self, name: str, fresh: bool) -> None:
            super().begin_phase(name, fresh)
            states.append({key: value.clone() for key, value in self.state_dict().items()})

    torch.manual_seed(0)
    method = Recording(GLNetParams(SIDE, ENCODER, 16, "both", recipe, 3, None, 0), settings(), CLASSES, PATCH)
    store = Cued(2, 96)
    train(
        method,
        windows_of(store, method, 2),
        TrainParams(2, 0.9, 5e-4, "fp32", True, True, 2, "sgd", 0.1),
        CPU,
        tmp_path,
    )
    states.append(method.state_dict())
    expected = ({"overview_branch"}, {"local_branch", "aggregation"}, {"mutual_branch", "aggregation"})
    for before, after, parts in zip(states, states[1:], expected, strict=False):
        for key, value in before.items():
            changed = not torch.equal(value, after[key])
            # The second overview branch takes over its encoder and classifier when its phase begins.
            taken = ("mutual_branch.encoder", "mutual_branch.fpn.classifier")
            start = parts == {"local_branch", "aggregation"} and key.startswith(taken)
            assert start or changed == (key.split(".")[0] in parts), key
    encoder = {key.split("encoder.")[1]: value for key, value in states[2].items() if "overview_branch.encoder" in key}
    assert encoder and all(
        torch.equal(value, states[2][f"mutual_branch.encoder.{key}"]) for key, value in encoder.items()
    )


def test_a_resumed_mutual_phase_keeps_its_encoder() -> None:
    method = stirred(make("both"))
    before = {key: value.clone() for key, value in method.mutual_branch.encoder.state_dict().items()}
    enter(method, method.phases()[2], fresh=False)
    assert all(torch.equal(value, method.mutual_branch.encoder.state_dict()[key]) for key, value in before.items())


def test_losses_of_the_mutual_phase_do_not_depend_on_the_portions() -> None:
    generator = torch.Generator().manual_seed(0)

    def random(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)

    place = torch.tensor([[i / 3, j / 3, 1 / 3, 1 / 3] for i in range(3) for j in range(3)])
    views = Views(random(256, 9, 3, PATCH, PATCH), place, random(256, 1, 3, SIDE, SIDE))
    labels = Labels(random(CLASSES, 9, PATCH, PATCH), random(CLASSES, 1, SIDE, SIDE))
    results = []
    for windows in (9, 4):
        method = stirred(make("both", windows=windows))
        moving = enter(method, method.phases()[2])
        losses = method.losses(views, labels, 0.0)
        results.append([*losses.values(), *torch.autograd.grad(sum(losses.values()), moving)])
    # Everything kept instead of computed again.
    whole = method._global(views.overview, lambda: iter([views]))
    logits = method._aggregate(method._local(views, whole).detach(), views, whole)
    losses = {
        "overview": focal(method.mutual_branch.fpn.classifier(whole.joined), labels.overview, 3.0),
        "aggregate": focal(logits, labels.context, 3.0),
    }
    results.append([*losses.values(), *torch.autograd.grad(sum(losses.values()), moving)])
    for found in results[:2]:
        for one, other in zip(found, results[2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert all(gradient.abs().sum() > 0 for gradient in results[0])


def test_the_authors_add_the_losses_of_sub_batches_and_average_overviews() -> None:
    """A step of theirs: the mean over 6 overviews, and one loss for every sub-batch of windows: 36 : 1 on DeepGlobe."""
    generator = torch.Generator().manual_seed(0)

    def random(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)

    place = torch.tensor([[i / 3, j / 3, 1 / 3, 1 / 3] for i in range(3) for j in range(3)])
    views = Views(random(256, 9, 3, PATCH, PATCH), place, random(256, 1, 3, SIDE, SIDE))
    labels = Labels(random(CLASSES, 9, PATCH, PATCH), random(CLASSES, 1, SIDE, SIDE))
    suite, author = stirred(make("both")), stirred(make("both", "author"))
    author.load_state_dict(suite.state_dict())
    for method in (suite, author):
        enter(method, method.phases()[2], fresh=False)
        method.eval()
    averaged, added = suite.losses(views, labels, 0.0), author.losses(views, labels, 0.0)
    torch.testing.assert_close(added["overview"], averaged["overview"] / 6)
    whole = author._global(views.overview, lambda: iter([views]))
    logits = author._aggregate(author._local(views, whole), views, whole)
    parts = [focal(logits[part], labels.context[part], 3.0) for part in (slice(0, 4), slice(4, 8), slice(8, 9))]
    torch.testing.assert_close(added["aggregate"], torch.stack(parts).sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(averaged["aggregate"], focal(logits, labels.context, 3.0), rtol=1e-4, atol=1e-6)


def test_ignored_pixels_teach_nothing() -> None:
    method = stirred(make("both"))
    for phase, windows in zip(method.phases(), (2, 2, 3), strict=True):
        moving = enter(method, phase)
        images = 1 if phase.unit == "image" else windows
        place = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).repeat(windows, 1)
        context = torch.randint(256, (windows, 3, PATCH, PATCH), dtype=torch.uint8)
        views = Views(context, place, torch.randint(256, (images, 3, SIDE, SIDE), dtype=torch.uint8))
        nothing = (
            torch.full((count, side, side), 255, dtype=torch.uint8)
            for count, side in ((windows, PATCH), (images, SIDE))
        )
        losses = method.losses(views, Labels(*nothing), 0.0)
        assert all(loss == 0 for key, loss in losses.items() if key != "agreement")
        gradients = torch.autograd.grad(sum(losses.values()), moving, allow_unused=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_phases_and_recipes_of_the_authors() -> None:
    suite, author = make("both").phases(), make("both", "author").phases()
    assert [phase.name for phase in suite] == ["overview", "local", "mutual"]
    assert [phase.epochs for phase in suite] == [120, None, 120]
    assert [phase.unit for phase in suite] == ["window", "window", "image"]
    assert all(phase.recipe is None and not phase.summed for phase in suite)
    # Potsdam at the paper's sizes: 18 images of 24 x 24 windows, 16 a step.
    assert lengths(suite, 40000, 16, 18, 18 * 576) == [135, 40000, 2160]
    assert lengths(make().phases(), 200, 8, 8, 8 * 36) == [120, 200]
    assert [phase.unit for phase in author] == ["window", "image", "image"]
    assert [phase.windows for phase in author] == [None, 4, None]
    assert [phase.summed for phase in author] == [False, True, True]
    assert [phase.recipe.learning_rate for phase in author if phase.recipe] == [5e-5, 2e-5, 5e-5]
    assert lengths(author, 1, 8, 454, 454 * 25) == [9120, 3800, 9120]
    assert [phase.name for phase in make().phases()] == ["overview", "local"]


@pytest.mark.parametrize("direction", ["to_local", pytest.param("both", marks=pytest.mark.soak)])
def test_learns_what_only_the_overview_shows(direction: str, tmp_path: Path) -> None:
    method, store = make(direction), Cued()
    recipe = TrainParams(40, 0.9, 5e-4, "fp32", True, True, 40, "sgd", 0.1)
    train(method, windows_of(store, method), recipe, CPU, tmp_path)
    method.eval()
    right = []
    for name in store.ids("test")[:4]:
        labels = segment(method, store.image("test", name), CLASSES, CPU)
        right.append((labels == store.label("test", name)).mean())
    assert np.mean(right) > 0.95


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("glnet.overview", 500, r"multiple of 32; the nearest valid value is 512"),
        ("glnet.width", 33, r"multiple of 2; the nearest valid value is 34"),
        ("glnet.encoder", "resnet5", r"is not an encoder; did you mean 'resnet\d+'"),
        ("glnet.direction", "to_global", r"one of to_local, both"),
        ("inria.patch", 32, r"more than one cell at stride 32"),
        ("glnet.patch", 32, r"at least 33"),
        ("glnet.overlap", 64, r"less than the side of a window; the nearest valid value is 63"),
    ],
)
def test_impossible_values_are_sentences(key: str, value: Any, sentence: str) -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    values["glnet"] |= dict(overview=96, encoder=ENCODER, width=16, direction="both", recipe="suite", windows=6)
    check(Params(values, Path("params.yaml")), "inria")
    section, name = key.split(".")
    values[section] |= {name: value}
    with pytest.raises(UserError, match=f"params.yaml: {key} is .*{sentence}"):
        check(Params(values, Path("params.yaml")), "inria")


def test_its_own_windows_overlap_as_the_authors_do() -> None:
    """DeepGlobe in the paper: 6 x 6 windows of 508 in 2448 x 2448, 50 pixels shared at least."""
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    values["glnet"] |= {"patch": 508, "overlap": 50, "width": 16, "overview": 64}
    params = Params(values, Path("params.yaml"))
    check(params, "deepglobe")
    segmenter = params.section("segmenter", SegmenterParams)
    method = glnet.build(Setting(classes=7, patch=64, segmenter=segmenter, params=params))
    corners = TestImage(np.zeros((2448, 2448, 3), np.uint8), method.needs_at(2448, 2448), CPU).corners()
    assert len(corners) == 36 and method.needs.patch == 508 and method.describe()["overlap"] == 50
    tops = sorted({top for top, _ in corners})
    assert tops[0] == 0 and tops[-1] == 2448 - 508
    assert all(above + 508 - below >= 50 for above, below in itertools.pairwise(tops))


def test_losses_of_the_local_phase_written_out() -> None:
    method = stirred(make(overview=128))
    enter(method, method.phases()[1])
    method.eval()
    views = Views(
        torch.randint(256, (2, 3, PATCH, PATCH), dtype=torch.uint8),
        torch.tensor([[0.25, 0.5, 0.25, 0.25], [0.5, 0.0, 0.25, 0.25]]),
        torch.randint(256, (2, 3, 128, 128), dtype=torch.uint8),
    )
    labels = Labels(torch.randint(CLASSES, (2, PATCH, PATCH), dtype=torch.uint8), torch.zeros(2, 128, 128).byte())
    *stages, (joined,) = method.overview_branch.stages(views.overview)

    def own(maps: Tensor, size: tuple[int, int]) -> Tensor:
        cells = maps.shape[-1] // 4
        first, second = (
            maps[:1, :, cells : 2 * cells, 2 * cells : 3 * cells],
            maps[1:, :, 2 * cells : 3 * cells, :cells],
        )
        return F.interpolate(torch.cat([first, second]), size=size, mode="bilinear")

    local = method.local_branch.joined(views.context, lambda stage, level, size: own(stages[stage][level], size))
    seen = own(joined, (16, 16))
    losses = method.losses(views, labels, 0.0)
    expected = {
        "local": focal(method.local_branch.fpn.classifier(local), labels.context, 3.0),
        "aggregate": focal(method.aggregation(torch.cat([local, seen], 1)), labels.context, 3.0),
        "agreement": 0.15 * ((local - seen) ** 2).mean(),
    }
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
