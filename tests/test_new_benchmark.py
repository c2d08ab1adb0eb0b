"""What docs/extending.md says about a new benchmark, done as it is written there, in a copy of the project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tests/examples"
CODE = ("scpseg", "pipelines", "baselines", "profiles", "params.yaml", "dvc.yaml", "pyproject.toml")
STAGES = """
import runpy, sys
for stage in {stages!r}:
    sys.argv = stage
    try:
        runpy.run_module("pipelines." + stage[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"{{stage}} ended with {{end.code}}")
"""


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "PYTHONPATH")}
    environment["SCPSEG_CACHE"] = str(folder / "cache")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, with the benchmark added in the three steps of the documentation."""
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, tmp_path / name)
    shutil.copyfile(EXAMPLES / "islands.py", tmp_path / "scpseg/benchmarks/islands.py")
    names = tmp_path / "scpseg/benchmarks/__init__.py"
    before = names.read_text()
    names.write_text(before.replace('    "probe",\n', '    "probe",\n    "islands",\n'))
    assert names.read_text() != before
    section = (EXAMPLES / "islands.yaml").read_text()
    for profile in (tmp_path / "params.yaml", *(tmp_path / "profiles").glob("*.yaml")):
        profile.write_text(profile.read_text() + section)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def choose(project: Path, **changes: object) -> None:
    """Run the new benchmark alone, with sections of params.yaml changed."""
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["suite"] = {"benchmarks": ["islands"], "baselines": [], "seeds": [0]}
    for section, change in changes.items():
        values[section] |= change
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def test_it_goes_from_its_one_file_to_a_row_of_the_report(project: Path) -> None:
    choose(
        project,
        mirror={"side": 128, "train": 2, "val": 1, "test": 1},
        train={"iterations": 2, "log_every": 1},
    )
    data = [["check"], *([stage, "islands"] for stage in ("mirror", "download", "prepare"))]
    method = [["train", "islands", "scpseg", "0"], ["evaluate", "islands", "scpseg", "0"]]
    code, output = run(project, "-c", STAGES.format(stages=[*data, *method, ["report", "--available"]]))
    assert code == 0, output[-3000:]
    rows = pd.read_csv(project / "results/summary.csv")
    assert rows[["benchmark", "method", "status"]].values.tolist() == [["islands", "scpseg", "ok"]]
    assert rows["mean_iou"].between(0, 1).all()
    assert "Islands" in (project / "reports/README.md").read_text()


@pytest.mark.soak
def test_the_style_the_types_and_the_tests_pass_with_it(project: Path) -> None:
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    every = ["tests/scpseg/benchmarks", "tests/scpseg/synthetic", "tests/pipelines/test_check.py"]
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["pytest", "-q", *every]):
        code, output = run(project, "-m", *command)
        assert code == 0, output[-3000:]


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("(0, 255, 0)", "(255, 255, 0)", ["islands.py", "class 'sand' and class 'wood'", "(255, 255, 0)"]),
        ('    terms="None: an example.",\n', "", ["islands.py", "'terms'", "base.py"]),
        ("BENCHMARK = ", "ISLANDS = ", ["islands.py does not define BENCHMARK"]),
    ],
)
def test_a_mistake_in_its_file_is_one_sentence(project: Path, old: str, new: str, parts: list[str]) -> None:
    choose(project)
    file = project / "scpseg/benchmarks/islands.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert_one_sentence(*run(project, "-m", "pipelines.check"), parts)


def test_a_forgotten_file_or_section_is_one_sentence(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().removesuffix((EXAMPLES / "islands.yaml").read_text()))
    assert_one_sentence(*run(project, "-m", "pipelines.check"), ["params.yaml", "section islands"])
    (project / "scpseg/benchmarks/islands.py").unlink()
    assert_one_sentence(*run(project, "-m", "pipelines.check"), ["'islands'", "scpseg/benchmarks/islands.py"])


def assert_one_sentence(code: int, output: str, parts: list[str]) -> None:
    assert code == 1 and len(output.splitlines()) == 1, output
    for part in parts:
        assert part in output
