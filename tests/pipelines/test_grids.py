"""Which runs a sweep consists of."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import grids
from pipelines.grids import NAMED, changed, effective, fitted, methods_for, parse, points_of, product
from scpseg.errors import UserError
from scpseg.params import Params
from scpseg.reporting.sweeps import published
from scpseg.segmenters.build import KINDS
from scpseg.tuning import GRID

ROOT = Path(__file__).parents[2]


def load(profile: str, **changes: dict[str, Any]) -> Params:
    values = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))
    for section, entries in changes.items():
        values[section] |= entries
    return Params(values, Path("params.yaml"))


def test_components_adds_one_part_after_another() -> None:
    _, points = grids.components(load("paper"))
    keys = ("csm.ratio", "srd.weight", "lfa.weight")
    steps = [tuple(point.settings[key] for key in keys) for point in points]
    assert steps[:4] == [(1.0, 0.0, 0.0), (0.75, 0.0, 0.0), (0.75, 0.5, 0.0), (0.75, 0.5, 0.5)] == steps[4:]
    names = [(point.settings["segmenter.name"], point.settings["segmenter.encoder"]) for point in points]
    assert names == [("fcn8s", "resnet50")] * 4 + [("deeplabv3plus", "resnet18")] * 4
    assert {(point.series, point.x) for point in points} == set(published("components"))
    assert all(point.reference == ("", "plain") for point in points)


def test_a_part_that_the_parameters_leave_out_is_tried_as_the_paper_has_it() -> None:
    _, points = grids.components(load("paper", srd={"weight": 0}, lfa={"weight": 0.25}))
    assert (points[2].settings["srd.weight"], points[3].settings["lfa.weight"]) == (0.5, 0.25)


def test_segmenters_are_those_of_the_paper_and_small_ones_at_sample_scale() -> None:
    for profile in ("paper", "sample"):
        params = load(profile)
        asked = params.values["segmenter"]
        _, points = grids.segmenters(params)
        assert [point.settings["segmenter.name"] for point in points] == list(KINDS)
        for kind, point in zip(KINDS.values(), points, strict=True):
            encoder, stride = kind.published
            if profile == "sample":
                encoder = kind.encoders[0] if kind.encoders else asked["encoder"]
                stride = point.settings["segmenter.output_stride"]
            assert (point.settings["segmenter.encoder"], point.settings["segmenter.output_stride"]) == (encoder, stride)
            assert stride in kind.output_strides and point.methods == ("patch", "scpseg")
            if point.settings["segmenter.weights"] != asked["weights"]:
                assert any("random weights" in note for note in point.notes)
    assert {x for _, x in published("segmenters")} <= {kind.title for kind in KINDS.values()}


def test_sizes_has_the_papers_points_and_one_run_where_there_is_no_frame() -> None:
    params = load("paper")
    sweep, points = grids.sizes_(params)
    assert {(point.series, point.x) for point in points} == set(published("sizes"))
    assert {point.settings["segmenter.name"] for point in points} == {"fcn8s"} and sweep.about == ""
    sides = [effective(changed(params, point.settings), "potsdam") for point in points]
    csm = [(found.squeezed, found.context) for found in sides]
    assert csm[:3] == [(128, 342), (128, 512), (128, 768)] and csm[-3:] == [(256, 256)] * 3
    assert len(set(csm)) == 13
    sweep, points = grids.sizes_(load("sample"))
    small = [effective(changed(load("sample"), point.settings), "potsdam") for point in points]
    assert len({(found.squeezed, found.context) for found in small}) == 13 and "FCN-8s" in sweep.about


def test_choices_change_one_parameter_each_to_another_value() -> None:
    params = load("sample", lfa={"stride": 1, "detach": False})
    _, points = grids.choices(params)
    assert points[0].settings == {} and len(points) == 1 + len(grids.CHOICES)
    for point in points[1:]:
        ((name, value),) = point.settings.items()
        section, _, key = name.partition(".")
        assert value != params.values[section][key]
    assert {"lfa.stride": "k"} in [point.settings for point in points]


def test_tuning_tries_the_same_for_every_method() -> None:
    params = load("sample", suite={"baselines": ["patch", "glnet"]})
    sweep, points = grids.tuning(params)
    assert [point.x for point in points] == list(GRID) and sweep.figure == "dots"
    for point in points:
        assert point.methods == ("scpseg", "patch", "glnet")
        assert point.settings == {f"tuned.{method}": point.x for method in point.methods}
        changed(params, point.settings)


def test_lfa_window_is_adapted_only_where_the_maps_are_too_small_and_says_so() -> None:
    for name, sweep in NAMED.items():
        params = load("paper")
        for point in sweep(params)[1]:
            assert fitted(params, point, "potsdam") is point, name
    params = load("sample")
    changed = [fitted(params, point, "potsdam") for point in grids.components(params)[1]]
    windows = [point.settings.get("lfa.window") for point in changed]
    assert windows == [None, None, None, 6, None, None, None, None]  # 64 / 128 / 48 at stride 8: 6 cells
    assert changed[3].notes == ("lfa.window 6 instead of 7: the features of the squeezed patch have 6 × 6 cells",)


def test_own_grids_are_products_with_a_figure_to_suit() -> None:
    grid = parse(["csm.ratio=0.5,0.75", "lfa.window=3,7"])
    sweep, points = product("mine", grid, ("scpseg",))
    assert sweep.figure == "grid" and [dict(point.settings) for point in points] == [
        {"csm.ratio": 0.5, "lfa.window": 3},
        {"csm.ratio": 0.5, "lfa.window": 7},
        {"csm.ratio": 0.75, "lfa.window": 3},
        {"csm.ratio": 0.75, "lfa.window": 7},
    ]
    assert points[3].reference == ("0.5", "3")
    assert product("mine", {"csm.ratio": [0.5, 1]}, ("scpseg", "patch"))[0].figure == "steps"
    assert product("mine", {"csm.kernel": ["bilinear", "antialias"]}, ("scpseg",))[0].figure == "dots"
    three, points = product("mine", {**grid, "train.flips": [True, False]}, ("scpseg",))
    assert three.figure == "dots" and points[0].x == "csm.ratio = 0.5, lfa.window = 3, train.flips = true"


def test_values_are_read_as_yaml() -> None:
    grid = parse(["lfa.stride=k,1", "train.flips=true", "segmenter.encoder=resnet18"])
    assert grid == {"lfa.stride": ["k", 1], "train.flips": [True], "segmenter.encoder": ["resnet18"]}


@pytest.mark.parametrize(
    "text",
    [
        "csm.ratio",
        "=1",
        "csm.ratio=",
        "suite.seeds=0,1",
        "evaluation.split=test",
        "csm.ratio=[0.5,0.75]",
        "csm.ratio={0.5,0.75}",
        "csm.ratio=@x",
        "csm.ratio=*",
    ],
)
def test_invalid_settings_are_rejected(text: str) -> None:
    with pytest.raises(UserError, match="-S"):
        parse([text])
    with pytest.raises(UserError, match="twice"):
        parse(["csm.ratio=1", "csm.ratio=0.5"])


@pytest.mark.parametrize("setting", ["srd.weight=half", "segmenter.name=typo", "lfa.window=x"])
@pytest.mark.parametrize("name", ["components", "segmenters", "sizes"])
def test_values_that_are_not_valid_are_named_before_a_sweep_uses_them(name: str, setting: str) -> None:
    given = argparse.Namespace(name=name, set=[setting], methods=None, benchmark="potsdam")
    with pytest.raises(UserError, match=setting.partition("=")[0].replace(".", r"\.")):
        points_of(load("sample"), given)


def test_unknown_keys_and_methods_name_the_nearest() -> None:
    params = load("sample")
    before = copy.deepcopy(params.values)
    with pytest.raises(UserError, match=r"did you mean 'csm\.ratio'"):
        changed(params, {"csm.ratoi": 0.5})
    assert changed(params, {"csm.ratio": 0.5}).values["csm"]["ratio"] == 0.5 and params.values == before
    assert methods_for({"glnet.overview": [1, 2]}, None) == ("glnet",)
    assert methods_for({"csm.ratio": [1, 2]}, None) == ("scpseg",)
    assert methods_for({"csm.ratio": [1, 2]}, "scpseg,patch") == ("scpseg", "patch")
    with pytest.raises(UserError, match="glnet"):
        methods_for({}, "glnett")
