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
    SharedTrainParams,
    SuiteParams,
)
from scpseg.validation import build, nearest

ROOT = Path(__file__).parents[2]
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
TRAIN = COMMITTED["train"]


def load_error(folder: Path, text: str) -> str:
    path = folder / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Params.load(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("params.yaml")
    return message


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
        ({"weight_decay": "fast"}, ["train.weight_decay is 'fast'", "a number"]),
        ({"weight_decay": float("nan")}, ["train.weight_decay is nan", "a number"]),
        ({"precision": "fp32x"}, ["train.precision is 'fp32x'", "fp32, fp16, bf16", "did you mean fp32?"]),
        ({"flips": 1}, ["train.flips is 1", "true or false"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(change: dict, parts: list[str]) -> None:
    message = sentence(SharedTrainParams, TRAIN | change, "train")
    for part in parts:
        assert part in message


def test_missing_key_and_missing_section() -> None:
    assert "train.flips is missing" in sentence(
        SharedTrainParams, {k: v for k, v in TRAIN.items() if k != "flips"}, "train"
    )
    assert "section train is missing" in sentence(SharedTrainParams, None, "train")
    assert "section train is 7" in sentence(SharedTrainParams, 7, "train")


def test_a_whole_number_is_a_valid_float() -> None:
    made = build(SharedTrainParams, TRAIN | {"weight_decay": 1}, "train").weight_decay
    assert made == 1.0 and isinstance(made, float)


def test_lists_unions_and_literals() -> None:
    suite = build(SuiteParams, {"benchmarks": ["blu"], "baselines": ["patch"], "seeds": [0, 2]}, "suite")
    assert suite.seeds == (0, 2)
    base = {"benchmarks": ["blu"], "baselines": ["patch"], "seeds": [0]}
    assert "at least one entry" in sentence(SuiteParams, base | {"seeds": []}, "suite")
    assert "duplicated" in sentence(SuiteParams, base | {"seeds": [1, 1]}, "suite")
    assert "whole number" in sentence(SuiteParams, base | {"seeds": ["a"]}, "suite")
    assert build(ProfileParams, {"side": "real", "repeats": 1}, "profile").side == "real"
    assert build(ProfileParams, {"side": 512, "repeats": 1}, "profile").side == 512
    small = sentence(ProfileParams, {"side": 5, "repeats": 1}, "profile")
    assert "at least 64" in small and "or real" not in small
    segmenter = {"name": "x", "encoder": "y", "output_stride": 12, "weights": "random", "auxiliary": True}
    assert "the nearest is 8" in sentence(SegmenterParams, segmenter, "segmenter")


@pytest.mark.parametrize(
    ("cls", "section", "key", "highest"),
    [
        (SuiteParams, "suite", "seeds", 4294967295),
        (MirrorParams, "mirror", "seed", 4294967295),
        (MirrorParams, "mirror", "side", 65536),
        (SharedTrainParams, "train", "iterations", 1000000000),
        (SharedTrainParams, "train", "weight_decay", 65536),
        (MachineParams, "machine", "threads", 1024),
        (MachineParams, "machine", "workers", 256),
        (InferenceParams, "inference", "batch", 4096),
        (EvaluationParams, "evaluation", "pictures", 65536),
        (ProfileParams, "profile", "side", 65536),
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


def test_errors_are_complete_sentences() -> None:
    base = {"benchmarks": ["blu"], "baselines": ["patch"], "seeds": [0]}
    assert "baselines is ['patch', 'patch'], but it has duplicated entries" in sentence(
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
        ProfileParams, {"side": "rael", "repeats": 1}, "profile"
    )
    assert "unknown parameter patch.side (none are known)" in sentence(PatchParams, {"side": 1}, "patch")


def test_the_advice_fits_the_mistake() -> None:
    wrong = sentence(SharedTrainParams, TRAIN | {"iterations": 0}, "train")
    assert wrong.endswith(
        "; correct it there or with `-S train.iterations=...` (`git checkout params.yaml` restores the committed file)"
    )
    missing = sentence(SharedTrainParams, None, "train")
    assert "as in profiles/*.yaml" in missing and "-S" not in missing
    with pytest.raises(UserError, match=r"^mine\.yaml: .*; correct it there$"):
        build(SharedTrainParams, TRAIN | {"iterations": 0}, "train", "mine.yaml")


def test_very_many_known_names_are_not_listed() -> None:
    known = [f"network{number}" for number in range(100)]
    assert nearest("", known) == "100 are known, such as network0, network1, network2, network3, network4"
    assert nearest("work77", known).startswith("did you mean 'network77'") or "network77" in nearest("work77", known)
    assert nearest("x", known[:3]) == "known: network0, network1, network2"


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("csm:\n  ratio: 0.5\n  context: 2\n  ratio: 0.75\n", "ratio", 4),
        ("csm: {}\nsrd: {}\ncsm: {}\n", "csm", 3),
    ],
)
def test_a_duplicated_key_is_rejected_with_its_line(tmp_path: Path, text: str, key: str, line: int) -> None:
    message = load_error(tmp_path, text)
    assert f"key {key} is duplicated in line {line};" in message


@pytest.mark.parametrize(("text", "key"), [("1: {}\n", "1"), ("csm:\n  true: 1\n", "csm.True")])
def test_a_key_that_is_not_a_string_is_rejected(tmp_path: Path, text: str, key: str) -> None:
    assert f"key {key} is not a string" in load_error(tmp_path, text)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), ("0.75", 0.75), ("0", 0), ("-07.5", -7.5), ("0x1F", 31), ("'yes'", "yes"), ("yes", "yes")],
)
def test_values_are_those_that_dvc_reads(tmp_path: Path, written: str, value: object) -> None:
    from dvc.utils.serialize import parse_yaml as of_dvc

    path = tmp_path / "params.yaml"
    path.write_text(f"a: {written}\n")
    assert Params.load(path).values == of_dvc(path.read_text(), str(path)) == {"a": value}


def test_an_alias_is_visited_once(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    path.write_text("a: &a\n  b: *a\nc: *a\n" + bomb)
    assert {"a", "c", "a39"} <= set(Params.load(path).values)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "a: " + "{b: " * 5_000,
        "a: !!python/object/apply:os.system [ls]",
        "a: 2020-13-45",
        "? [a, b]\n: 1\n",
    ],
    ids=["deep list", "deep mapping", "code", "date", "key"],
)
def test_hostile_yaml_is_one_sentence(tmp_path: Path, text: str) -> None:
    assert len(load_error(tmp_path, text)) < 600


def test_a_long_value_is_shortened_in_the_message() -> None:
    message = sentence(SharedTrainParams, TRAIN | {"iterations": 10**400}, "train")
    assert "train.iterations is 1000" in message and len(message) < 400
    message = sentence(SharedTrainParams, TRAIN | {"weight_decay": 10**400}, "train")
    assert "train.weight_decay" in message and len(message) < 400


def test_a_directory_and_binary_data_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(UserError, match=r"mine\.yaml cannot be read \(Is a directory\)"):
        Params.load(tmp_path / "mine.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfea\x00")
    with pytest.raises(UserError, match=r"binary\.yaml is not UTF-8"):
        Params.load(tmp_path / "binary.yaml")


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


@pytest.mark.parametrize(
    ("text", "expected"), [("sgd 0.05", ("sgd", 0.05)), ("adam 1e-3", ("adam", 0.001)), ("sgd 1", ("sgd", 1.0))]
)
def test_a_method_trains_as_it_was_tuned(text: str, expected: tuple[str, float]) -> None:
    params = Params(COMMITTED | {"tuned": COMMITTED["tuned"] | {"glnet": text}}, Path("params.yaml"))
    training = params.training("glnet")
    assert (training.optimizer, training.learning_rate) == expected and training.iterations == TRAIN["iterations"]


@pytest.mark.parametrize(
    "text", ["sdg 0.05", "sgd", "sgd 0", "sgd -1", "sgd fast", "sgd nan", "sgd inf", 0.05, None, "adam 0.1 0.2"]
)
def test_an_impossible_choice_is_named_with_a_possible_one(text: object) -> None:
    params = Params(COMMITTED | {"tuned": {"glnet": text}}, Path("params.yaml"))
    with pytest.raises(UserError, match=r"params.yaml: tuned.glnet is .*such as 'sgd 0.01'"):
        params.training("glnet")
    with pytest.raises(UserError, match=r"tuned.patch is missing"):
        params.training("patch")
