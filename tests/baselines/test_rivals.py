"""What the rivals share: size, what they look at, whose recipe trains them."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from pipelines.methods import METHODS, build_method, module_of
from scpseg.contract import Method, Setting, drop_training_parts
from scpseg.errors import UserError
from scpseg.evaluation.streaming import TestImage, segment
from scpseg.params import Params, SegmenterParams
from scpseg.reporting.published import read_table
from scpseg.training.phases import factor, lengths

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SAMPLE, PAPER = (
    yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("sample", "paper")
)


def given(values: dict[str, Any], **changes: Any) -> Params:
    values = copy.deepcopy(values)
    values["segmenter"]["weights"] = "random"
    for key, value in changes.items():
        section, _, field = key.partition("__")
        values[section][field] = value
    return Params(values, Path("params.yaml"))


def stirred(name: str, **changes: Any) -> Method:
    """A method of the sample profile with every weight large enough for its effect to show."""
    torch.manual_seed(0)
    method = drop_training_parts(build_method(given(SAMPLE, **changes), "inria", name))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return method


PARAMETERS = [
    # Fixed transposed convolutions, 14,112 numbers there, are bilinear enlargement here.
    ("fctl", 512, 170_037_240, 170_023_128, "test"),
    ("isdnet", 512, 17_224_107, 17_224_107, "test"),
    ("isdnet", 512, 17_780_554, 17_780_554, "training"),
    ("wiconet", 256, 39_072_526, 39_072_526, "training"),
    ("wiconet", 512, 41_530_126, 41_530_126, "training"),
    ("magnet", 512, 28_064_839 + 88_092, 28_152_931, "test"),
    ("rue", 512, 13_698_481, 13_698_481, "test"),
    ("rue", 512, 13_846_520, 13_846_520, "training"),
]
"""Method, patch, numbers in the authors' network for 7 classes (counted in their code), ours, and when."""


@pytest.mark.parametrize(("name", "patch", "authors", "ours", "when"), PARAMETERS)
def test_parameters_are_the_authors(name: str, patch: int, authors: int, ours: int, when: str) -> None:
    params = given(PAPER)
    with torch.device("meta"):
        method: Method = module_of(name).build(
            Setting(7, patch, params.section("segmenter", SegmenterParams), params, "deepglobe")
        )
    if when == "test":
        drop_training_parts(method)
    count = sum(parameter.numel() for parameter in method.parameters())
    assert count == ours and abs(count / authors - 1) < 0.01


def test_the_authors_parameters_in_the_report_and_the_docs_are_these() -> None:
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    counted = {(name, authors) for name, _, authors, _, _ in PARAMETERS}
    rows = read_table("published/parameters.csv")
    assert {row["method"] for row in rows} == {"glnet"} | {name for name, _ in counted}
    for row in rows:  # GLNet's are compared in test_glnet.py
        assert row["method"] == "glnet" or (row["method"], int(row["parameters"])) in counted
        assert f"{int(row['parameters']):,}" in page and row["source"]


@pytest.mark.parametrize(
    ("name", "benchmark", "changes", "side"),
    [
        ("isdnet", "deepglobe", {}, 1216),
        ("isdnet", "inria", {}, 2496),
        ("rue", "deepglobe", {"rue__train_grid": 4}, 1216),
        ("rue", "inria", {"rue__train_grid": 4}, 2496),
        # The profile's own grid, the authors': 10 patches a side, each a multiple of 16 pixels.
        ("rue", "deepglobe", {}, 1280),
        ("rue", "inria", {}, 2560),
    ],
)
def test_authors_crop_half_of_an_image(name: str, benchmark: str, changes: dict[str, int], side: int) -> None:
    """1224 of 2448 pixels on DeepGlobe, 2500 of 5000 (RUE's) on Inria, rounded; 192 of the miniature's 384."""

    def crop(values: dict[str, Any]) -> int:
        params = given(values, **{f"{name}__recipe": "author"}, **changes)
        with torch.device("meta"):
            return build_method(params, benchmark, name).needs.patch

    assert crop(PAPER) == side
    assert crop(SAMPLE) == 192


LOOKS = {
    "scpseg": {"near"},
    "patch": set(),
    "resize": {"near"},
    "large": {"near", "far"},
    "downscale": {"image"},
    "glnet": {"image"},
    "fctl": {"near", "far"},
    "isdnet": {"near", "far", "image"},
    "wiconet": {"near", "far"},
    "magnet": {"near", "far", "image"},
    "rue": {"near", "far", "image"},
    "caswit_like": {"near"},
}
"""What beyond its own patch decides the logits of a patch: up to half a patch round it, up to one, the whole image."""


@pytest.mark.parametrize("name", LOOKS)
def test_logits_depend_on_what_a_method_looks_at_and_on_nothing_else(name: str) -> None:
    """The patch at (64, 64) of a 256 pixel image, with rings and corners of the image turned black in turn."""
    method = stirred(name, magnet__side=64, rue__grid=4)
    image = np.random.default_rng(0).integers(256, size=(256, 256, 3), dtype=np.uint8)
    inner = slice(64, 128)

    def patch_of(pixels: np.ndarray) -> Tensor:
        window = method.needs_at(256, 256)
        views_of = TestImage(pixels, window, CPU)
        with torch.no_grad():
            state = method.begin_image(views_of)
            rows, columns = window.patch
            for (top, left), views in zip(views_of.corners(), views_of.windows(), strict=True):
                if top <= 64 and left <= 64 and top + rows >= 128 and left + columns >= 128:
                    logits = method(views, state)[0]
                    return logits[:, 64 - top : 128 - top, 64 - left : 128 - left]
        raise AssertionError("no window covers the patch")

    def without(first: int, last: int) -> np.ndarray:
        """The pixels from `first` to `last` away from the patch are black."""
        changed = image.copy()
        changed[64 - last : 128 + last, 64 - last : 128 + last] = 0
        kept = slice(64 - first, 128 + first)
        changed[kept, kept] = image[kept, kept]
        return changed

    corner = image.copy()
    corner[208:, 208:] = 0
    before = patch_of(image)
    for what, changed in (("near", without(0, 32)), ("far", without(32, 64)), ("image", corner)):
        after = patch_of(changed)
        # What a method does not look at changes nothing at all, unless the whole image is reduced.
        looks = what in LOOKS[name] or ("image" in LOOKS[name] and name in ("downscale", "glnet"))
        assert torch.equal(before, after) is not looks, what
    own = image.copy()
    own[inner, inner] = 0
    assert not torch.equal(before, patch_of(own))


@pytest.mark.parametrize("name", METHODS)
def test_a_marker_moves_with_its_place(name: str) -> None:
    """The logits that change most lie at a white square (of MagNet, those of its base: its refiner selects points)."""
    method = stirred(name, magnet__side=64, rue__grid=4)
    predictor = method.branches().get("base", method) if name == "magnet" else method
    grey = np.random.default_rng(0).integers(100, 156, size=(192, 192, 3), dtype=np.uint8)
    window = method.needs_at(192, 192)
    rows, columns = window.patch

    def logits(pixels: np.ndarray) -> Tensor:
        views_of, total = TestImage(pixels, window, CPU), torch.zeros(2, 192 + rows, 192 + columns)
        with torch.no_grad():
            state = predictor.begin_image(views_of)
            for (top, left), views in zip(views_of.corners(), views_of.windows(), strict=True):
                total[:, top : top + rows, left : left + columns] += predictor(views, state)[0]
        return total[:, :192, :192]

    before = logits(grey)
    for row, column in ((36, 36), (100, 164)):
        marked = grey.copy()
        marked[row - 12 : row + 12, column - 12 : column + 12] = 255
        change = (logits(marked) - before).abs().sum(0)
        most = torch.nonzero(change > change.flatten().quantile(0.995)).double().mean(0)
        # RUE's coarse map has one cell for 32 x 4 pixels, so its change is less concentrated.
        assert (most - torch.tensor([row, column])).abs().max() < (32 if name == "rue" else 20), most


@pytest.mark.parametrize("name", ["isdnet", "rue"])
def test_an_image_smaller_than_a_crop_is_mirrored(name: str) -> None:
    """mit_b0 needs 32 pixels, which are 128 of the image; its attention reduces maps by convolutions of 8 x 8."""
    changes = {f"{name}__encoder": "mit_b0", f"{name}__crop": 2.0, "rue__train_grid": 2, "rue__grid": 2}
    method = drop_training_parts(build_method(given(SAMPLE, **changes), "inria", name))
    assert method.needs.patch == 128
    assert [method.needs_at(*shape).patch for shape in ((70, 133), (160, 50))] == [(128, 160), (160, 128)]
    image = np.random.default_rng(0).integers(256, size=(70, 133, 3), dtype=np.uint8)
    assert segment(method, image, 2, CPU).shape == (70, 133)


@pytest.mark.parametrize(
    ("name", "key", "value", "parts"),
    [
        ("fctl", "inria__patch", 80, ["inria.patch is 80", "multiple of 32", "96"]),
        ("fctl", "inria__patch", 32, ["inria.patch is 32", "64"]),
        ("wiconet", "inria__patch", 72, ["inria.patch is 72", "multiple of 32", "64"]),
        ("caswit_like", "inria__patch", 32, ["inria.patch is 32", "64"]),
        ("magnet", "magnet__side", 100, ["magnet.side is 100", "multiple of 32", "96"]),
        ("magnet", "magnet__crop", 385, ["magnet.crop is 385", "384 pixels", "the nearest valid value is 384"]),
        ("magnet", "magnet__width", 33, ["magnet.width is 33", "multiple of 2", "34"]),
        ("isdnet", "inria__batch", 1, ["inria.batch is 1", "2 or more"]),
        ("rue", "inria__batch", 1, ["inria.batch is 1", "2 or more"]),
        ("rue", "rue__share", 0.0, ["rue.share is 0.0", "above 0"]),
        ("fctl", "fctl__views", 4, ["fctl.views is 4", "1, 8"]),
        *(
            (name, f"{name}__encoder", "resnet81", [f"{name}.encoder is 'resnet81'", "resnet18"])
            for name in ("fctl", "isdnet", "wiconet", "magnet", "rue", "caswit_like")
        ),
    ],
)
def test_impossible_values_end_in_a_sentence(name: str, key: str, value: Any, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        module_of(name).check(given(SAMPLE, **{key: value}), "inria")
    for part in parts:
        assert part in str(caught.value)


AUTHORS = [
    ("glnet", "deepglobe", 454, [9120, 3800], ["adam"] * 2, 5e-5),
    ("fctl", "inria", 126, [1050] * 4, ["adam"] * 4, 5e-5 * 0.5**0.9),
    ("isdnet", "deepglobe", 454, [80_000], ["sgd"], 0.01),
    ("isdnet", "inria", 126, [40_000], ["sgd"], 0.01),
    ("wiconet", "potsdam", 18, [28_150], ["sgd"], 0.1),
    ("wiconet", "blu", 196, [30_000], ["sgd"], 0.1),
    ("magnet", "deepglobe", 454, [37 * 484, 57 * 50], ["sgd"] * 2, 1e-3),
    ("rue", "deepglobe", 454, [80_000], ["adam"], 5e-5),
    ("rue", "inria", 126, [40_000], ["sgd"], 0.01),
]


@pytest.mark.parametrize(("name", "benchmark", "images", "steps", "optimizers", "rate"), AUTHORS)
def test_the_authors_recipe(
    name: str, benchmark: str, images: int, steps: list[int], optimizers: list[str], rate: float
) -> None:
    method = build_method(given(SAMPLE, **{f"{name}__recipe": "author"}), benchmark, name)
    phases = method.phases()
    # A cap holds for the suite's recipe alone; where the authors' has a length, no phase needs to be without.
    assert lengths(phases, 7, 8, images, 25 * images) == steps
    recipes = [phase.recipe for phase in phases]
    assert [recipe.optimizer for recipe in recipes if recipe] == optimizers
    first = recipes[0]
    assert first and first.learning_rate == pytest.approx(rate) and factor(first, 0, 10) == 1
    assert all(phase.clip is None for phase in phases)
    plain = build_method(given(SAMPLE), benchmark, name).phases()
    assert [phase.recipe for phase in plain] == [None] * len(phases)
    assert [phase.name for phase in plain] == [phase.name for phase in phases]


SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
ADAM = {"optimizer": "adam", "momentum": 0.9, "weight_decay": 5e-4}
NONE = {"epochs": None, "steps": None, "nesterov": False, "power": None, "end": 0.0, "drops": (), "drop_last": False}
GLNET = ADAM | {"batch": 6, "power": 0.9}
FCTL = ADAM | {"batch": 6, "power": 0.9, "epochs": 50, "learning_rate": 5e-5 * (1 - 50 / 100) ** 0.9}
ISDNET = SGD | {"learning_rate": 0.01, "power": 0.9, "end": 1e-4}
WICONET = SGD | {"learning_rate": 0.1, "nesterov": True, "batch": 32, "power": 1.5}
RECIPES: list[tuple[str, str, dict[str, dict[str, Any]]]] = [
    (
        "glnet",
        "deepglobe",
        {
            "overview": GLNET | {"epochs": 120, "learning_rate": 5e-5},
            "local": GLNET | {"epochs": 50, "learning_rate": 2e-5},
            "mutual": GLNET | {"epochs": 120, "learning_rate": 5e-5},
        },
    ),
    ("fctl", "inria", dict.fromkeys(("patch", "wide", "medium", "all"), FCTL)),
    ("isdnet", "deepglobe", {"all": ISDNET | {"steps": 80_000, "batch": 8}}),
    ("isdnet", "inria", {"all": ISDNET | {"steps": 40_000, "batch": 4}}),
    ("wiconet", "potsdam", {"all": WICONET | {"steps": 28_150}}),
    ("wiconet", "blu", {"all": WICONET | {"steps": 30_000}}),
    (
        "magnet",
        "deepglobe",
        {
            "base": SGD | {"learning_rate": 1e-3, "batch": 12, "epochs": 484, "power": 0.9, "drop_last": True},
            "refiner": SGD
            | {"learning_rate": 1e-3, "batch": 8, "epochs": 50, "drops": (10 / 50, 20 / 50, 30 / 50, 40 / 50, 45 / 50)},
        },
    ),
    (
        "rue",
        "deepglobe",
        {"all": ADAM | {"learning_rate": 5e-5, "batch": 4, "steps": 80_000, "power": 0.9, "end": 1e-5}},
    ),
    (
        "rue",
        "inria",
        {"all": SGD | {"learning_rate": 0.01, "batch": 2, "steps": 40_000, "power": 0.9, "end": 1e-4}},
    ),
]
"""Method, benchmark, and every number of the authors' configuration or code for each phase."""
ROUNDS = {
    "glnet": [("window", None, False, 0), ("image", 6, True, 0), ("image", None, True, 0)],
    "fctl": [("image", 6, True, 0), *[("image", 4, True, 0)] * 3],
    "isdnet": [("window", None, False, 0)],
    "wiconet": [("window", None, False, 50)],
    "magnet": [("window", None, False, 44), ("window", None, False, 0)],
    "rue": [("window", None, False, 0)],
}
"""Unit of each phase, windows at once, whether gradients are summed, and how often the best state is looked for."""


@pytest.mark.parametrize(("name", "benchmark", "phases"), RECIPES)
def test_every_number_of_the_authors_recipes(name: str, benchmark: str, phases: dict[str, dict[str, Any]]) -> None:
    with torch.device("meta"):
        method = build_method(given(SAMPLE, glnet__direction="both", **{f"{name}__recipe": "author"}), benchmark, name)
    found = method.phases()
    assert [phase.name for phase in found] == list(phases)
    for phase in found:
        assert phase.recipe and asdict(phase.recipe) == NONE | phases[phase.name], phase.name
    assert [(phase.unit, phase.windows, phase.summed, phase.checks) for phase in found] == ROUNDS[name]
