from pathlib import Path

import pytest
import yaml

from scpseg.errors import UserError
from scpseg.params import MirrorParams, Params, ProfileParams, SegmenterParams, SuiteParams, TrainParams
from scpseg.values import build

ROOT = Path(__file__).parents[2]
TRAIN = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]


def sentence(cls: type, values: object, where: str) -> str:
    with pytest.raises(UserError) as caught:
        build(cls, values, where)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("params.yaml: ") and "git checkout params.yaml" in message
    return message


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"iteration": 3}, ["train.iteration ", "did you mean 'iterations'?"]),
        ({"iterations": 0}, ["train.iterations is 0", "nearest valid value is 1"]),
        ({"iterations": 2.5}, ["train.iterations is 2.5", "whole number"]),
        ({"iterations": True}, ["train.iterations is True", "whole number"]),
        ({"momentum": 1.2}, ["train.momentum is 1.2", "at least 0 and at most 1", "nearest valid value is 1"]),
        ({"learning_rate": 0}, ["train.learning_rate is 0", "above 0"]),
        ({"learning_rate": "fast"}, ["train.learning_rate is 'fast'", "a number"]),
        ({"learning_rate": float("nan")}, ["train.learning_rate is nan", "a number"]),
        ({"precision": "fp32x"}, ["train.precision is 'fp32x'", "fp32, fp16, bf16", "did you mean fp32?"]),
        ({"flips": 1}, ["train.flips is 1", "true or false"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(change: dict, parts: list[str]) -> None:
    message = sentence(TrainParams, TRAIN | change, "train")
    for part in parts:
        assert part in message


def test_missing_key_and_missing_section() -> None:
    assert "train.flips is missing" in sentence(TrainParams, {k: v for k, v in TRAIN.items() if k != "flips"}, "train")
    assert "section train is missing" in sentence(TrainParams, None, "train")
    assert "section train is 7" in sentence(TrainParams, 7, "train")


def test_numbers_as_yaml_gives_them() -> None:
    assert build(TrainParams, TRAIN | {"weight_decay": "5e-4"}, "train").weight_decay == 0.0005
    made = build(TrainParams, TRAIN | {"learning_rate": 1}, "train").learning_rate
    assert made == 1.0 and isinstance(made, float)


def test_lists_unions_and_literals() -> None:
    suite = build(SuiteParams, {"benchmarks": ["blu"], "baselines": ["patch"], "seeds": [0, 2]}, "suite")
    assert suite.seeds == (0, 2)
    base = {"benchmarks": ["blu"], "baselines": ["patch"], "seeds": [0]}
    assert "at least one entry" in sentence(SuiteParams, base | {"seeds": []}, "suite")
    assert "twice" in sentence(SuiteParams, base | {"seeds": [1, 1]}, "suite")
    assert "whole number" in sentence(SuiteParams, base | {"seeds": ["a"]}, "suite")
    assert build(ProfileParams, {"size": "real", "repeats": 1}, "profile").size == "real"
    assert build(ProfileParams, {"size": 512, "repeats": 1}, "profile").size == 512
    assert "at least 64" in sentence(ProfileParams, {"size": 5, "repeats": 1}, "profile")
    segmenter = {"name": "x", "encoder": "y", "output_stride": 12, "weights": "random", "auxiliary": True}
    assert "the nearest is 8" in sentence(SegmenterParams, segmenter, "segmenter")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "1: {}\n"])
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params.yaml .*git checkout params.yaml") as caught:
        Params.load(path)
    assert "\n" not in str(caught.value)


def test_missing_file_names_the_profiles(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="profiles"):
        Params.load(tmp_path / "params.yaml")


def test_committed_parameters_are_read() -> None:
    params = Params.load(ROOT / "params.yaml")
    assert params.section("mirror", MirrorParams).side >= 64
    assert params.benchmark("potsdam").patch == params.benchmark("blu").patch
    with pytest.raises(UserError, match="did you mean 'potsdam'"):
        params.benchmark("postdam")
