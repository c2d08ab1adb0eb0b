import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runs import add_arguments, revision

ROOT = Path(__file__).parents[2]


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[str, str, int]:
    monkeypatch.setattr(sys, "argv", ["train", *words])
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = parser.parse_args()
    return found.benchmark, found.method, found.seed


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, "probe", "glnet", "4294967295") == ("probe", "glnet", 2**32 - 1)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("deepglob", "scpseg", "0"), "invalid choice: 'deepglob'"),
        (("deepglobe", "scpsg", "0"), "invalid choice: 'scpsg'"),
        (("deepglobe", "patch", "x"), "'x' is not a whole number from 0 to 4294967295"),
        (("deepglobe", "patch", "4294967296"), "'4294967296' is not a whole number from 0 to"),
    ],
)
def test_mistaken_arguments(
    words: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        given(monkeypatch, *words)
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_a_negative_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        given(monkeypatch, "deepglobe", "patch", "-1")
    assert ended.value.code == 2
    assert "'-1' is not a whole number from 0 to 4294967295" in capsys.readouterr().err


def test_help_is_of_the_stage_that_was_asked() -> None:
    command = [sys.executable, "-m", "pipelines.evaluate", "--help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "Stage `evaluate`" in printed and "Stage `train`" not in printed


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, env={**os.environ, **who}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "outer"
    (folder / "scpseg").mkdir(parents=True)
    (folder / "scpseg/a.py").touch()
    git(tmp_path, "init", "-q", "outer")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    return folder


def test_revision_is_the_commit_and_whether_code_differs_from_it(repository: Path) -> None:
    head = git(repository, "rev-parse", "--short=12", "HEAD")
    (repository / "notes.txt").write_text("no code")
    assert revision(repository) == head
    (repository / "scpseg/a.py").write_text("x = 1\n")
    assert revision(repository) == head + "+"


def test_revision_of_a_project_inside_another_repository_is_not_that_repositorys(repository: Path) -> None:
    (repository / "project/scpseg").mkdir(parents=True)
    assert revision(repository / "project") is None


def test_no_revision_outside_git_or_without_a_commit(tmp_path: Path) -> None:
    assert revision(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert revision(tmp_path) is None


def test_a_repository_of_another_user_is_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert revision(repository) is None
    assert "safe.directory" in capsys.readouterr().err
