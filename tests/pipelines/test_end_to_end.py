"""The whole pipeline through DVC, at the smallest scale that passes through every stage."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.repo import Repo

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
METHODS = ["glnet"]


def copy_of_project(folder: Path) -> Path:
    """The files git knows or would add, committed in a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SCPSEG_CACHE": str(folder / ".scratch/cache"),
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    environment.pop("DVC_ROOT", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_of_project(tmp_path_factory.mktemp("project"))
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["suite"] = {"benchmarks": ["deepglobe"], "baselines": METHODS, "seeds": [0]}
    values["mirror"] |= {"side": 128, "train": 2, "val": 1, "test": 1}
    values["train"] |= {"iterations": 4, "log_every": 2}
    values["profile"] = {"side": 128, "repeats": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "project")
    print(run(folder, "dvc", "repro"))
    return folder


def would_run(project: Path) -> set[str]:
    """Stages that `dvc repro` would run now; those that follow only from another's new output are not listed."""
    with contextlib.chdir(project), Repo(".") as repo:
        return {stage.addressing for stage in repo.reproduce(dry=True)}


def test_the_report_is_written_and_names_what_it_is(project: Path) -> None:
    table = pd.read_csv(project / "results/summary.csv")
    assert sorted(table["method"]) == sorted(["scpseg", *METHODS])
    assert (table["status"] == "ok").all()
    assert table["mean_iou"].between(0, 1).all()
    page = (project / "reports/README.md").read_text()
    assert "ynthetic" in page.splitlines()[0]
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert target.startswith("http") or (project / "reports" / target).exists(), target
    for path in (project / "reports").rglob("*"):
        if path.suffix in (".md", ".csv", ".svg"):
            assert str(project) not in path.read_text()


def test_nothing_reruns_without_a_change(project: Path) -> None:
    assert would_run(project) == set()


def test_a_run_changes_no_file_of_git_but_the_lock(project: Path) -> None:
    assert run(project, "git", "status", "--porcelain") == " M dvc.lock\n"


def test_going_back_costs_nothing(project: Path) -> None:
    """After an experiment, with parameters and lock as committed: everything comes from DVC's cache."""
    stage = "train-scpseg@deepglobe-0"
    assert f"Running stage '{stage}'" in run(project, "dvc", "exp", "run", "-S", "csm.ratio=0.5", stage)
    run(project, "git", "checkout", "-q", "params.yaml", "dvc.lock")
    output = run(project, "dvc", "repro")
    assert "Running stage" not in output
    assert "'train-scpseg@deepglobe-0' is cached" in output
    assert would_run(project) == set()


def test_training_again_changes_nothing_that_others_depend_on(project: Path) -> None:
    changing = [project / "dvc.lock", project / "results/provenance/deepglobe/scpseg/0/training.json"]
    before = [path.read_bytes() for path in changing]
    run(project, "dvc", "repro", "--force", "--single-item", "train-scpseg@deepglobe-0")
    assert would_run(project) == {"report"}
    for path, content in zip(changing, before, strict=True):
        path.unlink()  # a link into the cache
        path.write_bytes(content)
    assert would_run(project) == set()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("scpseg/reporting/tables.py", r"report"),
        ("scpseg/method/lfa.py", r"check|memory|train-scpseg@.*|evaluate-scpseg@.*|report"),
        ("baselines/parts/fpn.py", r"check|memory|(train|evaluate|profile)-baseline@.*|report"),
        ("baselines/glnet.py", r"check|memory|(train|evaluate|profile)-baseline@deepglobe-glnet.*|report"),
        ("scpseg/data/sampling.py", r"(train|evaluate)-.*|report"),
        ("pipelines/methods.py", r"check"),
        ("scpseg/benchmarks/inria.py", r"check|memory|report"),
    ],
)
def test_an_edit_reruns_only_what_uses_it(project: Path, file: str, expected: str) -> None:
    path = project / file
    before = path.read_text()
    path.write_text(before + "# edited\n")
    try:
        stages = would_run(project)
        assert stages and all(re.fullmatch(expected, stage) for stage in stages), stages
        assert any(stage.startswith("train") for stage in stages) == ("train" in expected)
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("csm", "ratio", 0.5, r"check|memory|(train|evaluate|profile)-scpseg@.*|report"),
        ("glnet", "overview", 96, r"check|memory|(train|evaluate|profile)-baseline@deepglobe-glnet.*|report"),
        ("lfa", "weight", 0.1, r"check|memory|(train|evaluate)-scpseg@.*|report"),
        ("deepglobe", "batch", 4, r"check|memory|(train|evaluate)-.*|report"),
        ("data", "cache", "elsewhere", r"check|memory"),
        ("machine", "workers", 1, r"check|memory"),
    ],
)
def test_a_parameter_reruns_only_what_uses_it(
    project: Path, section: str, key: str, value: object, expected: str
) -> None:
    path = project / "params.yaml"
    before = path.read_text()
    values = yaml.safe_load(before)
    values[section][key] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    try:
        stages = would_run(project)
        assert "check" in stages and all(re.fullmatch(expected, stage) for stage in stages), stages
        assert any(stage.startswith("train") for stage in stages) == ("train" in expected)
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("setting", "word"), [("csm.ratio=1.7", "nearest valid value is 1"), ("csm.ratoi=0.5", "ratoi")]
)
def test_a_mistake_is_rejected_before_any_training(project: Path, setting: str, word: str) -> None:
    output = run_failing(project, "dvc", "exp", "run", "-S", setting)
    run(project, "git", "checkout", "-q", "params.yaml")
    assert word in output and "Traceback" not in output
    assert "train-" not in output


def run_failing(folder: Path, *command: str) -> str:
    with pytest.raises(AssertionError) as caught:
        run(folder, *command)
    return str(caught.value)
