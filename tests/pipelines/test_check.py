import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.check import check, sections
from scpseg.errors import UserError
from scpseg.params import Params

ROOT = Path(__file__).parents[2]
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
PROFILES = sorted(path.name for path in (ROOT / "profiles").glob("*.yaml"))


def changed(key: str, value: Any) -> Params:
    values = copy.deepcopy(COMMITTED)
    *path, last = key.split(".")
    section = values
    for part in path:
        section = section[part]
    section[last] = value
    return Params(values, Path("params.yaml"))


def refused(key: str, value: Any) -> str:
    with pytest.raises(UserError) as caught:
        check(changed(key, value))
    message = str(caught.value)
    assert "\n" not in message and "git checkout params.yaml" in message
    return message


def test_params_is_the_sample_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "profiles/sample.yaml").read_text()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid_and_has_the_same_keys(name: str) -> None:
    params = Params.load(ROOT / "profiles" / name)
    check(params)
    assert set(params.values) == set(sections())
    for section, values in COMMITTED.items():
        assert list(params.values[section]) == list(values), section


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("csm.ratoi", 0.5, ["csm.ratoi", "did you mean 'ratio'"]),
        ("cms", {}, ["cms is no section", "did you mean 'csm'"]),
        ("csm.ratio", 1.7, ["csm.ratio is 1.7", "nearest valid value is 1"]),
        ("csm.ratio", 0, ["csm.ratio is 0", "above 0"]),
        ("csm.ratio", "half", ["csm.ratio is 'half'", "a number"]),
        ("csm.context", 0.5, ["csm.context is 0.5", "1"]),
        ("csm.context", 1.0, ["csm.context is 1.0", "nearest valid value is 1.03125"]),
        ("potsdam.patch", 60, ["potsdam.patch is 60", "nearest valid value is 64"]),
        ("segmenter.name", "deeplabv3", ["segmenter.name is 'deeplabv3'", "deeplabv3plus"]),
        ("segmenter.encoder", "resnet81", ["segmenter.encoder is 'resnet81'", "resnet18"]),
        ("suite.benchmarks", ["postdam"], ["suite.benchmarks is 'postdam'", "potsdam"]),
        ("suite.baselines", ["pacth"], ["suite.baselines is 'pacth'", "patch"]),
        ("suite.baselines", ["scpseg"], ["suite.baselines is 'scpseg'"]),
        ("potsdam.labels", "noboundary", ["potsdam.labels is 'noboundary'", "did you mean 'noBoundary'?"]),
        ("evaluation.split", "train", ["evaluation.split is 'train'", "test, val"]),
        ("lfa.stride", 3, ["lfa.stride is 3"]),
    ],
)
def test_mistakes_are_refused(key: str, value: Any, parts: list[str]) -> None:
    message = refused(key, value)
    for part in parts:
        assert part in message


def test_an_unknown_split_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"potsdam.split is 'volpi'.*candidate_volpi_18_6_14"):
        check(changed("potsdam.split", "volpi"))


def test_a_split_without_val_cannot_be_evaluated_on_val() -> None:
    params = changed("potsdam.split", "official")
    params.values["evaluation"]["split"] = "val"
    with pytest.raises(UserError, match="no val images"):
        check(params)


def test_the_probe_comes_from_the_mirror_alone() -> None:
    params = changed("suite.benchmarks", ["inria", "probe"])
    check(params)
    params.values["data"]["source"] = "datasets"
    with pytest.raises(UserError, match=r"data\.source is 'datasets'.* probe come from the mirror alone") as caught:
        check(params)
    assert "\n" not in str(caught.value) and "suite.benchmarks" in str(caught.value)
