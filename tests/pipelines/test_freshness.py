"""Freshness against a real DVC repository whose stages take no time."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pipelines import freshness
from pipelines.freshness import Key, State, error_file, record_error, states
from scpseg.params import SuiteParams
from scpseg.reporting import MEMORY

SUITE = SuiteParams(benchmarks=("blu",), baselines=("patch",), seeds=(0, 1))
STAGE = """\
import pathlib, sys
for name in sys.argv[1:]:
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("valid" if name.endswith("check.txt") else pathlib.Path("params.yaml").read_text())
"""


def stage(name: str, deps: list[str], params: list[str], *outs: str) -> dict[str, dict[str, object]]:
    command = f"{sys.executable} stage.py {' '.join(outs)}; : pipelines.{name.replace('-', ' ').replace('@', ' ')}"
    return {name.replace("@", "-"): {"cmd": command, "deps": deps, "params": params, "outs": list(outs)}}


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project all of whose stages have run."""
    folder, before = tmp_path_factory.mktemp("made"), Path.cwd()
    os.chdir(folder)
    stages: dict[str, object] = {}
    stages |= stage("check", ["stage.py"], ["train"], "results/check.txt")
    stages |= stage("prepare-blu", ["data.py"], ["data"], "data/blu")
    for method in ("scpseg", "patch"):
        for seed in (0, 1):
            place = f"blu/{method}/{seed}"
            deps = ["data/blu", f"{method}.py", "results/check.txt"]
            stages |= stage(f"train-blu-{method}-{seed}", deps, ["train"], f"results/runs/{place}")
            deps = ["data/blu", f"results/runs/{place}"]
            stages |= stage(f"evaluate-blu-{method}-{seed}", deps, ["inference"], f"results/metrics/{place}")
        deps = [f"{method}.py"]
        stages |= stage(f"profile-blu-{method}", deps, ["inference"], f"results/profile/blu/{method}.json")
    stages |= stage("memory", ["data.py"], ["inference"], "results/memory.json")
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    Path("params.yaml").write_text(yaml.safe_dump({"train": {"rate": 0.1}, "inference": 1, "data": "x", "free": 1}))
    Path("stage.py").write_text(STAGE)
    for name in ("data.py", "scpseg.py", "patch.py"):
        Path(name).touch()
    run("dvc", "init", "--no-scm", "-q")
    run("dvc", "repro", "-q")
    os.chdir(before)
    yield folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def changed(section: str, value: object) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**values, section: value}))


def of(methods: tuple[str, ...], runs: bool, profiles: bool, state: State) -> dict[Key, State]:
    seeds: tuple[int | None, ...] = ((0, 1) if runs else ()) + ((None,) if profiles else ())
    return {("blu", method, seed): state for method in methods for seed in seeds}


BOTH = ("scpseg", "patch")


def test_what_was_just_made_is_current(project: Path) -> None:
    assert states(SUITE) == {}
    changed("free", 2)
    assert states(SUITE) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda: changed("train", {"rate": 60000}),
            of(BOTH, True, False, ("stale", "train.rate was 0.1, is 60000")),
        ),
        (
            lambda: changed("inference", 2),
            of(BOTH, True, True, ("stale", "inference was 1, is 2")) | {MEMORY: ("stale", "inference was 1, is 2")},
        ),
        (lambda: changed("data", "y"), of(BOTH, True, False, ("stale", 'data was "x", is "y"'))),
        (lambda: Path("patch.py").write_text("#"), of(("patch",), True, True, ("stale", "patch.py has changed"))),
        (
            lambda: Path("dvc.lock").unlink(),
            of(BOTH, True, True, ("stale", "dvc.lock does not record")) | {MEMORY: ("stale", "dvc.lock does not")},
        ),
    ],
)
def test_what_was_made_from_something_else_is_stale(
    project: Path, change: Callable[[], object], expected: dict[Key, State]
) -> None:
    change()
    found = states(SUITE)
    assert found.keys() == expected.keys()
    for key, (state, reason) in expected.items():
        assert found[key][0] == state and found[key][1].startswith(reason)


def test_data_and_weights_that_are_not_those_recorded(project: Path) -> None:
    for path in (project / "results/runs/blu/patch/0", project / "data/blu"):
        kept = path.read_bytes()
        path.unlink()
        assert states(SUITE) == {}, "data and weights may be removed when their scores are there"
        path.write_text("another")
        found = states(SUITE)
        assert found["blu", "patch", 0] == ("stale", f"{path.relative_to(project)} was changed since it was made")
        path.unlink()
        path.write_bytes(kept)
        assert states(SUITE) == {}


def test_retrained_but_not_evaluated(project: Path) -> None:
    changed("train", {"rate": 0.2})
    run("dvc", "repro", "-q", "train-blu-patch-0")
    assert states(SUITE)["blu", "patch", 0] == (
        "stale",
        "results/runs/blu/patch/0 has changed since it was made",
    )
    assert states(SUITE)["blu", "patch", 1] == ("stale", "train.rate was 0.1, is 0.2")


def test_missing(project: Path) -> None:
    found = states(SuiteParams(benchmarks=("blu",), baselines=("glnet",), seeds=(0,)))
    assert found["blu", "glnet", 0] == ("missing", "no stage of dvc.yaml writes results/metrics/blu/glnet/0")
    (project / "results/profile/blu/patch.json").unlink()
    assert states(SUITE) == {
        ("blu", "patch", None): ("missing", "results/profile/blu/patch.json was deleted"),
    }


def test_the_error_of_a_failed_run_is_the_reason(project: Path) -> None:
    words = ["train", "blu", "patch", "0"]
    record_error(words, "the loss is not finite")
    assert states(SUITE) == {}, "an error is nothing to a result that is current"
    changed("train", {"rate": 60000})
    found = states(SUITE)["blu", "patch", 0]
    assert found[0] == "stale" and found[1].startswith("train.rate was 0.1, is 60000; its last run, with other")
    assert found[1].endswith("the loss is not finite")
    record_error(words, "the loss is\nnot finite")
    assert states(SUITE)["blu", "patch", 0] == ("failed", "the loss is not finite")
    assert states(SUITE)["blu", "patch", 1] == ("stale", "train.rate was 0.1, is 60000")
    record_error(["prepare", "blu"], "a.png is damaged")
    changed("data", "y")
    record_error(["prepare", "blu"], "a.png is damaged")
    assert {state for key, state in states(SUITE).items() if key[2] is not None} == {("failed", "a.png is damaged")}


def test_without_a_pipeline_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert states(SUITE) == {}


def test_the_error_file_is_valid_json_in_results(project: Path) -> None:
    record_error(["train", "blu", "patch", "0"], 'a "quoted" sentence')
    path = error_file(["train", "blu", "patch", "0"])
    assert path == Path("results/errors/train-blu-patch-0.json")
    assert json.loads(path.read_text())["error"] == 'a "quoted" sentence'


def test_no_torch() -> None:
    code = "import sys, pipelines.freshness; assert not {'torch', 'dvc'} & set(sys.modules)"
    root = Path(freshness.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
