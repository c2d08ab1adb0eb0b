from pathlib import Path

import pytest
import yaml

from baselines.downscale import DownscaleParams
from baselines.glnet import GLNetParams
from baselines.patch import PatchParams
from scpseg.errors import UserError
from scpseg.method.srd import SRDParams
from scpseg.params import (
    BenchmarkParams,
    EvaluationParams,
    InferenceParams,
    MachineParams,
    MirrorParams,
    Params,
    ProfileParams,
    SegmenterParams,
    SuiteParams,
    TrainParams,
)
from scpseg.validation import build, nearest

ROOT = Path(__file__).parents[2]
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
TRAIN = COMMITTED["train"]


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
    small = sentence(ProfileParams, {"size": 5, "repeats": 1}, "profile")
    assert "at least 64" in small and "or real" not in small
    segmenter = {"name": "x", "encoder": "y", "output_stride": 12, "weights": "random", "auxiliary": True}
    assert "the nearest is 8" in sentence(SegmenterParams, segmenter, "segmenter")


@pytest.mark.parametrize(
    ("cls", "section", "key", "highest"),
    [
        (SuiteParams, "suite", "seeds", 4294967295),
        (MirrorParams, "mirror", "seed", 4294967295),
        (MirrorParams, "mirror", "side", 65536),
        (TrainParams, "train", "iterations", 1000000000),
        (TrainParams, "train", "learning_rate", 65536),
        (MachineParams, "machine", "threads", 1024),
        (MachineParams, "machine", "workers", 256),
        (InferenceParams, "inference", "batch", 4096),
        (EvaluationParams, "evaluation", "pictures", 65536),
        (ProfileParams, "profile", "size", 65536),
        (ProfileParams, "profile", "repeats", 65536),
        (BenchmarkParams, "deepglobe", "patch", 65536),
        (BenchmarkParams, "deepglobe", "batch", 4096),
        (DownscaleParams, "downscale", "side", 65536),
        (GLNetParams, "glnet", "windows", 65536),
        (SRDParams, "srd", "weight", 65536),
    ],
)
def test_no_number_is_without_an_upper_end(cls: type, section: str, key: str, highest: int) -> None:
    def with_value(value: int) -> dict:
        return COMMITTED[section] | {key: [value] if key == "seeds" else value}

    build(cls, with_value(highest), section)
    message = sentence(cls, with_value(highest + 1), section)
    assert f"{section}.{key} is " in message and f"at most {highest}; the nearest valid value is {highest}" in message


def test_refusals_are_whole_sentences() -> None:
    base = {"benchmarks": ["blu"], "baselines": ["patch"], "seeds": [0]}
    assert "baselines is ['patch', 'patch'], but it names an entry twice; every" in sentence(
        SuiteParams, base | {"baselines": ["patch", "patch"]}, "suite"
    )
    assert "is None, but it must be a list, which may be empty; correct" in sentence(
        SuiteParams, base | {"baselines": None}, "suite"
    )
    assert build(SuiteParams, base | {"baselines": []}, "suite").baselines == ()
    assert "but its entry 'a' is not valid: it must be a whole number" in sentence(
        SuiteParams, base | {"seeds": [0, "a"]}, "suite"
    )
    assert "but it must be a whole number, or real (did you mean real?)" in sentence(
        ProfileParams, {"size": "rael", "repeats": 1}, "profile"
    )
    assert "patch.side is no parameter (there is none to choose)" in sentence(PatchParams, {"side": 1}, "patch")


def test_the_advice_fits_the_mistake() -> None:
    wrong = sentence(TrainParams, TRAIN | {"iterations": 0}, "train")
    assert wrong.endswith(
        "; correct it there or with `-S train.iterations=...` "
        "(`git checkout params.yaml` puts the whole committed file back)"
    )
    missing = sentence(TrainParams, None, "train")
    assert "as in profiles/*.yaml" in missing and "-S" not in missing
    with pytest.raises(UserError, match=r"^mine\.yaml: .*; correct it there$"):
        build(TrainParams, TRAIN | {"iterations": 0}, "train", "mine.yaml")


def test_very_many_known_names_are_not_listed() -> None:
    known = [f"network{number}" for number in range(100)]
    assert nearest("", known) == "100 are known, such as network0, network1, network2, network3, network4"
    assert nearest("work77", known).startswith("did you mean 'network77'") or "network77" in nearest("work77", known)
    assert nearest("x", known[:3]) == "known: network0, network1, network2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("csm:\n  ratio: 0.5\n  context: 2\n  ratio: 0.75\n", "csm.ratio stands twice, in lines 2 and 4; keep one"),
        ("csm: {}\nsrd: {}\ncsm: {}\n", "csm stands twice, in lines 1 and 3"),
        ("mirror:\n  side: 0100\n", "mirror.side is 0100 in line 2, .* write a plain number"),
        ("mirror:\n  side: 1:30\n", "mirror.side is 1:30 in line 2"),
        ("train:\n  flips: yes\n", "train.flips is yes in line 2; write true or false"),
        ("suite:\n  seeds:\n  - 0\n  - 010\n", "suite.seeds is 010 in line 4"),
        ("1: {}\n", "line 1 has key 1, which is no name"),
        ("csm:\n  yes: 1\n", "line 2 has key yes, which is no name"),
        ("csm:\n  [a, b]: 1\n", "line 2 has a key, which is no name"),
    ],
)
def test_what_dvc_reads_otherwise_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^params.yaml: {words}") as caught:
        Params.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a: 1e-3", "a: 0.75", "a: 0", "a: -07.5", "a: 0x1F", "a: 1_000", "a: 'yes'", "a: TRUE"]
)
def test_what_dvc_reads_alike_is_accepted(tmp_path: Path, text: str) -> None:
    ruamel = pytest.importorskip("ruamel.yaml")  # what DVC reads with
    path = tmp_path / "params.yaml"
    path.write_text(text)
    ours, theirs = Params.load(path).values["a"], ruamel.YAML(typ="safe").load(text)["a"]
    assert (float(ours) if ours == "1e-3" else ours) == theirs


def test_an_alias_is_looked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: &a\n  b: *a\nc: *a\n")
    assert set(Params.load(path).values) == {"a", "c"}


def test_a_folder_or_an_impossible_date_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(UserError, match=r"mine\.yaml cannot be read \(Is a directory\)"):
        Params.load(tmp_path / "mine.yaml")
    (tmp_path / "date.yaml").write_text("a: 2020-13-45\n")
    with pytest.raises(UserError, match=r"date\.yaml is no valid YAML \(month must be in 1\.\.12"):
        Params.load(tmp_path / "date.yaml")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", ""])
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params.yaml .*git checkout params.yaml") as caught:
        Params.load(path)
    assert "\n" not in str(caught.value)


def test_missing_file_names_the_profiles(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"copy one of profiles/\*\.yaml to it"):
        Params.load(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"nope\.yaml is missing; name an existing file"):
        Params.load(tmp_path / "nope.yaml")


def test_committed_parameters_are_read() -> None:
    params = Params.load(ROOT / "params.yaml")
    assert params.section("mirror", MirrorParams).side >= 64
    assert params.benchmark("potsdam").patch == params.benchmark("blu").patch
    with pytest.raises(UserError, match="did you mean 'potsdam'"):
        params.benchmark("postdam")
