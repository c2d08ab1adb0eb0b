"""What the rivals share: size, what they look at, whose recipe trains them."""

import copy
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
from scpseg.evaluation.streaming import TestImage
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
    ("name", "benchmark", "side"),
    [("isdnet", "deepglobe", 1216), ("isdnet", "inria", 2496), ("rue", "deepglobe", 1216), ("rue", "inria", 2496)],
)
def test_authors_crop_half_of_an_image(name: str, benchmark: str, side: int) -> None:
    """1224 of 2448 pixels on DeepGlobe, 2500 of 5000 (RUE's) on Inria, rounded; 192 of the miniature's 384."""

    def crop(params: Params) -> int:
        with torch.device("meta"):
            return build_method(params, benchmark, name).needs.patch

    changes = {f"{name}__recipe": "author", "rue__train_grid": 4}
    assert crop(given(PAPER, **changes)) == side
    assert crop(given(SAMPLE, **changes)) == 192


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


def test_every_method_says_what_it_looks_at() -> None:
    assert set(LOOKS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
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


@pytest.mark.parametrize(
    ("name", "key", "value", "parts"),
    [
        ("fctl", "inria__patch", 80, ["inria.patch is 80", "multiple of 32", "96"]),
        ("fctl", "inria__patch", 32, ["inria.patch is 32", "64"]),
        ("wiconet", "inria__patch", 72, ["inria.patch is 72", "multiple of 32", "64"]),
        ("caswit_like", "inria__patch", 32, ["inria.patch is 32", "64"]),
        ("magnet", "magnet__side", 100, ["magnet.side is 100", "multiple of 32", "96"]),
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
    ("fctl", "inria", 126, [1050] * 4, ["adam"] * 4, 5e-5 * 0.5**0.9),
    ("isdnet", "deepglobe", 454, [80_000], ["sgd"], 0.01),
    ("isdnet", "inria", 126, [40_000], ["sgd"], 0.01),
    ("wiconet", "potsdam", 18, [28_150], ["sgd"], 0.1),
    ("wiconet", "blu", 196, [30_000], ["sgd"], 0.1),
    ("magnet", "deepglobe", 454, [18_312, 2_838], ["sgd"] * 2, 1e-3),
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
