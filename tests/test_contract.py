"""What every method must keep, whichever it is: a new line in METHODS is tested here, and modes that change one."""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from baselines import wiconet
from pipelines.methods import METHODS, build_method, module_of
from scpseg.contract import Labels, Method, Phase, Views, drop_training_parts
from scpseg.errors import UserError
from scpseg.evaluation.streaming import segment
from scpseg.params import Params
from scpseg.training.phases import enter, learns, lengths

VALUES = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
BENCHMARK, CLASSES, PATCH = "inria", 2, 64
MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "magnet fast": ("magnet", {"fast": True, "crop": 20}),
    "fctl, eight views": ("fctl", {"views": 8}),
    "half of rue": ("rue", {"share": 0.5}),
    "glnet both": ("glnet", {"direction": "both"}),
    "authors' magnet": ("magnet", {"recipe": "author"}),
    "authors' glnet": ("glnet", {"recipe": "author"}),
    "authors' fctl": ("fctl", {"recipe": "author"}),
    "authors' rue": ("rue", {"recipe": "author", "clamp": True}),
    "wiconet, dilated": ("wiconet", {"recipe": "author", "dilated": True}),
}
"""Other values of a method's own section."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | MODES


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """A small WiCoNet: its widths are fixed by its authors and not parameters."""
    with pytest.MonkeyPatch.context() as patch:
        for name, width in {"WIDTH": 96, "HIDDEN": 96, "STAGES": (16, 32, 64, 96)}.items():
            patch.setattr(wiconet, name, width)
        yield


def params(case: str, batch: int = 2) -> Params:
    name, changes = CASES[case]
    values = copy.deepcopy(VALUES)
    values[BENCHMARK] |= {"patch": PATCH, "batch": batch}
    values["segmenter"] = {
        "name": "deeplabv3plus",
        "encoder": "tu-test_resnet.r160_in1k",
        "output_stride": 8,
        "weights": "random",
        "auxiliary": True,
    }
    values["isdnet"]["crop"] = values["rue"]["crop"] = 1.0
    values["magnet"] |= {"crop": PATCH // 2, "side": PATCH, "width": 16}
    values["glnet"]["width"] = values["fctl"]["head"] = 16
    if changes:
        values[name] |= changes
    return Params(values, Path("params.yaml"))


def build(case: str, seed: int) -> Method:
    torch.manual_seed(seed)
    return build_method(params(case), BENCHMARK, CASES[case][0])


@cache
def built(case: str, seed: int = 0) -> tuple[Method, torch.Tensor]:
    return build(case, seed), torch.get_rng_state()


def make(case: str, seed: int = 0) -> Method:
    """A copy of what is built once; random numbers go on as if it had been built now."""
    method, state = built(case, seed)
    torch.set_rng_state(state)
    return copy.deepcopy(method)


def batch_for(method: Method, batch: int = 2) -> tuple[Views, Labels]:
    generator = torch.Generator().manual_seed(7)
    needs = method.needs

    def random(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)

    sides = needs.context, needs.overview
    place = torch.tensor([[0.1, 0.2, 0.25, 0.25]]).repeat(batch, 1)
    images = [None if side is None else random(256, batch, 3, side, side) for side in sides]
    labels = [None if side is None else random(CLASSES, batch, side, side) for side in sides]
    assert images[0] is not None and labels[0] is not None
    return Views(images[0], place, images[1]), Labels(labels[0], labels[1])


class Image:
    """The windows of a batch as those of one image, whose overview is the first one's."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def overview(self, side: int) -> torch.Tensor:
        assert self.views.overview is not None and self.views.overview.shape[-1] == side
        return self.views.overview[:1]

    def windows(self) -> Iterator[Views]:
        yield Views(self.views.context, self.views.place)


def logits_of(method: Method, views: Views) -> torch.Tensor:
    """As at test time."""
    with torch.no_grad():
        image = Image(views)
        state = method.begin_image(image)
        return torch.cat([method(window, state) for window in image.windows()])


def stir(module: torch.nn.Module) -> None:
    """Move every parameter off its start: residual branches that start at weight 0 pass no gradient back."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def train_losses(method: Method, phase: Phase, views: Views, labels: Labels, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    if phase.unit == "image" and views.overview is not None and labels.overview is not None:
        # The overview of an image comes once.
        views = Views(views.context, views.place, views.overview[:1])
        labels = Labels(labels.context, labels.overview[:1])
    return method.losses(views, labels, 0.5)


ALL = [pytest.param(case, marks=[pytest.mark.soak] * (case == "authors' magnet")) for case in CASES]
"""The tests of the authors' MagNet take up to a second or more, and at test time it is `magnet`."""
TRAINED = [case for case in ALL if case.values[0] not in ("magnet fast", "fctl, eight views")]
"""Two modes differ at inference alone."""


@pytest.mark.parametrize("name", ALL)
class TestInference:
    def test_its_sections_stand_in_the_parameters(self, name: str) -> None:
        for section, cls in module_of(CASES[name][0]).SECTIONS.items():
            params(name).section(section, cls)

    def test_needs_are_possible(self, name: str) -> None:
        method, _ = built(name)
        needs = method.needs
        assert needs.patch % PATCH == 0 or "crop" in CASES[name][1]
        assert needs.context >= needs.patch and (needs.context - needs.patch) % 2 == 0
        for height, width in ((64, 64), (70, 133), (20, 50)):
            window = method.needs_at(height, width)
            for side, patch, context in zip((height, width), window.patch, window.context, strict=True):
                assert context >= patch and (context - patch) % 2 == 0
                assert window == needs.window or patch >= side

    @pytest.mark.parametrize("batch", [1, 3])
    def test_forward_gives_logits_of_the_patch(self, name: str, batch: int) -> None:
        method = drop_training_parts(make(name))
        views, _ = batch_for(method, batch)
        logits = logits_of(method, views)
        assert logits.shape == (batch, CLASSES, method.needs.patch, method.needs.patch)
        assert logits.dtype == torch.float32 and logits.isfinite().all()

    @pytest.mark.parametrize("shape", [(64, 128), (70, 101), (20, 50)])
    def test_images_of_any_size_are_labelled(self, name: str, shape: tuple[int, int]) -> None:
        """Of odd sides, with patches across the border, and smaller than a patch or its context."""
        method = drop_training_parts(make(name))
        image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
        labels = segment(method, image, CLASSES, torch.device("cpu"), batch=2)
        assert labels.shape == shape and labels.max() < CLASSES
        if shape == (64, 128):
            assert np.array_equal(labels, segment(method, image, CLASSES, torch.device("cpu"), batch=2))

    def test_windows_of_a_batch_do_not_touch_each_other(self, name: str) -> None:
        method = drop_training_parts(make(name))
        views, _ = batch_for(method, 2)
        with torch.no_grad():
            state = method.begin_image(Image(views))
            both, first = method(views, state), method(Views(views.context[:1], views.place[:1]), state)
        torch.testing.assert_close(both[:1], first, rtol=1e-4, atol=1e-5)

    def test_testing_needs_no_training_part(self, name: str) -> None:
        method = make(name)
        views, _ = batch_for(method)
        before = logits_of(method.eval(), views)
        for module in method.modules():
            assert all(hasattr(module, part) for part in getattr(module, "training_parts", ()))
        for module in drop_training_parts(method).modules():
            assert all(getattr(module, part) is None for part in getattr(module, "training_parts", ()))
        assert not method.training
        assert torch.equal(logits_of(method, views), before)

    def test_branches_label_alone(self, name: str) -> None:
        method = drop_training_parts(make(name))
        views, _ = batch_for(method)
        whole = logits_of(method, views)
        for branch in method.branches().values():
            alone = logits_of(branch, views)
            assert alone.shape == whole.shape and alone.isfinite().all() and not torch.equal(alone, whole)
            assert not branch.training and branch.needs == method.needs

    def test_describe_is_flat(self, name: str) -> None:
        method, _ = built(name)
        described = method.describe()
        assert described["patch"] == method.needs.patch
        assert all(value is None or isinstance(value, (str, int, float, bool)) for value in described.values())


@pytest.mark.parametrize("name", TRAINED)
class TestTraining:
    def test_an_absent_class_is_no_trouble(self, name: str) -> None:
        method = make(name)
        views, labels = batch_for(method)
        overview = None if labels.overview is None else torch.ones_like(labels.overview)
        for phase in method.phases():
            enter(method, phase)
            losses = train_losses(method, phase, views, Labels(torch.ones_like(labels.context), overview))
            assert all(loss.isfinite() for loss in losses.values())

    def test_the_input_is_untouched(self, name: str) -> None:
        method = make(name)
        views, labels = batch_for(method)
        given = [views.context, views.place, views.overview, labels.context, labels.overview]
        before = [None if x is None else x.clone() for x in given]
        for phase in method.phases():
            enter(method, phase)
            train_losses(method, phase, views, labels)
        logits_of(method.eval(), views)
        for x, kept in zip(given, before, strict=True):
            assert x is kept or (x is not None and kept is not None and torch.equal(x, kept))

    def test_losses_are_finite_and_reach_every_parameter_that_moves(self, name: str) -> None:
        method = make(name)
        stir(method)
        moved = set()
        for phase in method.phases():
            method.zero_grad()
            enter(method, phase)
            losses = train_losses(method, phase, *batch_for(method))
            assert losses and all(loss.shape == () and loss.isfinite() for loss in losses.values())
            torch.autograd.backward(list(losses.values()))
            moving = {key: p.grad for key, p in method.named_parameters() if p.requires_grad}
            assert [key for key, gradient in moving.items() if gradient is None or not gradient.abs().sum()] == []
            assert all(gradient is not None and gradient.isfinite().all() for gradient in moving.values())
            assert all(p.grad is None for p in method.parameters() if not p.requires_grad)
            moved |= moving.keys()
        assert moved == {key for key, _ in method.named_parameters()}

    def test_each_phase_moves_its_parameters_and_nothing_else(self, name: str) -> None:
        method = make(name)
        stir(method)
        for phase in method.phases():
            moving = enter(method, phase)
            before = {key: value.clone() for key, value in method.state_dict().items()}
            torch.autograd.backward(list(train_losses(method, phase, *batch_for(method)).values()))
            torch.optim.SGD(moving, lr=0.1).step()
            method.zero_grad()
            after = method.state_dict()
            moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
            assert moved and all(learns(phase, key) for key in moved)
            # Statistics of batch norm move with what learns.
            for part in phase.learns or ("",):
                assert any(key.startswith(part) for key in moved)

    def test_nothing_but_ignore_teaches_no_class(self, name: str) -> None:
        method = make(name)
        views, labels = batch_for(method)
        overview = None if labels.overview is None else torch.full_like(labels.overview, 255)
        nothing = Labels(torch.full_like(labels.context, 255), overview)
        for phase in method.phases():
            enter(method, phase)
            losses = train_losses(method, phase, views, nothing)
            assert all(loss.isfinite() for loss in losses.values())
            assert all(loss == 0 for key, loss in losses.items() if key.startswith("ce"))
            torch.autograd.backward(list(losses.values()))
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())

    def test_a_step_lowers_the_loss(self, name: str) -> None:
        method = make(name)
        views, labels = batch_for(method)
        overview = None if labels.overview is None else torch.zeros_like(labels.overview)
        labels = Labels(torch.zeros_like(labels.context), overview)
        for phase in method.phases():
            optimiser = torch.optim.SGD(enter(method, phase), lr=0.01)
            values = []
            for _ in range(3):
                losses = train_losses(method, phase, views, labels)
                optimiser.zero_grad()
                torch.autograd.backward(list(losses.values()))
                optimiser.step()
                values.append(sum(loss.item() for loss in losses.values()))
            assert values[-1] < values[0]

    def test_equal_seeds_give_equal_results(self, name: str) -> None:
        results = []
        for start in (make, lambda case: build(case, 0)):
            method = start(name)
            found: list[torch.Tensor] = []
            for phase in method.phases():
                moving = enter(method, phase)
                losses = list(train_losses(method, phase, *batch_for(method)).values())
                found += [*losses, *torch.autograd.grad(sum(losses), moving)]
            results.append(found)
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

    def test_different_seeds_start_differently(self, name: str) -> None:
        one, other = make(name), make(name, 1)
        assert any(not torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))

    def test_saved_weights_give_the_same_logits(self, name: str, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        method = make(name)
        views, labels = batch_for(method)
        for phase in method.phases():  # moves the statistics of batch norm
            enter(method, phase)
            train_losses(method, phase, views, labels)
        save_file(method.state_dict(), tmp_path / "weights.safetensors")
        again = make(name, 1)
        again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        one, other = (logits_of(drop_training_parts(given), views) for given in (method, again))
        assert torch.equal(one, other)

    def test_phases_obey_the_budget_rule(self, name: str) -> None:
        method = make(name)
        phases = method.phases()
        assert len({phase.name for phase in phases}) == len(phases)
        for images in (1, 18, 1000):
            found = lengths(phases, 40000, 8, images, 25 * images)
            # Authors' recipes have lengths of their own.
            ours = [length for phase, length in zip(phases, found, strict=True) if not phase.recipe]
            assert min(found) >= 1 and (not ours or max(ours) == 40000)
        assert all(phase.recipe or phase.epochs for phase, length in zip(phases, found, strict=True) if length < 40000)
        for phase in phases:
            assert phase.sees and (method.needs.overview or "window" in phase.sees)
        names = [key for key, _ in method.named_parameters()]
        for phase in phases:
            for prefix in phase.learns or ():
                assert any(key.startswith(prefix) for key in names)

    def test_single_windows_train_or_are_rejected(self, name: str) -> None:
        try:
            module_of(CASES[name][0]).check(params(name, batch=1), BENCHMARK)
        except UserError as error:
            assert f"{BENCHMARK}.batch is 1" in str(error) and "or more" in str(error)
        else:
            method = make(name)
            for phase in method.phases():
                enter(method, phase)
                count = (phase.recipe and phase.recipe.batch) or 1  # a recipe of its own says how many
                assert all(loss.isfinite() for loss in train_losses(method, phase, *batch_for(method, count)).values())


def test_views_move_and_pin_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data loader pins what has `pin_memory`; a part that is left behind would be copied slowly."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda part: part + 1)
    part = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    place = torch.zeros(1, 4)
    pinned = Views(part, place, part).pin_memory()
    assert all(int(moved.max()) == 1 for moved in (pinned.context, pinned.overview))
    moved = Views(part, place, part).to(torch.device("meta"))
    assert moved.context.device.type == moved.overview.device.type == "meta"
    # Read as numbers several times per window: on a GPU each time would wait for it.
    assert pinned.place is place and moved.place is place
    truth = Labels(part, part).pin_memory()
    assert int(truth.context.max()) == int(truth.overview.max()) == 1
    assert Views(part, part).pin_memory().overview is None
    assert Labels(part, part).to(torch.device("meta")).overview.device.type == "meta"
