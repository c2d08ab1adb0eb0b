import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import preflight
from pipelines.preflight import (
    check_experiments,
    check_folders,
    check_home,
    check_repository,
    check_shared_memory,
    check_surroundings,
)
from scpseg.errors import UserError
from scpseg.params import Params

ROOT = Path(__file__).parents[2]
VALUES = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def params(**machine: Any) -> Params:
    values = copy.deepcopy(VALUES)
    values["machine"] |= machine
    return Params(values, Path("params.yaml"))


def git(*arguments: str) -> None:
    who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *arguments], env={**os.environ, **who}, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which this process is."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    (folder / "dvc.yaml").touch()
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    return folder


def raises(*words: str) -> Any:
    return pytest.raises(UserError, match=".*".join(words))


def test_a_clone_passes(project: Path) -> None:
    check_surroundings(params())
    check_experiments()


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_surroundings(params())  # a stage run by hand, without a pipeline
    (tmp_path / "dvc.yaml").touch()
    with raises("not in a git repository", "git clone", "git init"):
        check_surroundings(params())


def test_a_foreign_repository_around_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "inner").mkdir()
    monkeypatch.chdir(project / "inner")
    with raises("inside another git repository", "git init"):
        check_repository()


def test_a_repository_of_another_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with raises("another user", "safe.directory"):
        check_repository()


def test_a_shallow_clone_can_be_run_but_saves_no_experiment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("commit", "-qm", "second", "--allow-empty")
    git("clone", "-q", "--depth", "1", project.as_uri(), "../shallow")
    monkeypatch.chdir("../shallow")
    check_surroundings(params())
    with raises("shallow", "git fetch --unshallow"):
        check_experiments()
    monkeypatch.setenv("DVC_EXP_NAME", "x")
    with raises("shallow"):
        check_surroundings(params())


def test_a_path_with_other_letters(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.parent / "Projekt ü").mkdir()
    monkeypatch.chdir(project.parent / "Projekt ü")
    git("init", "-q")
    check_repository()
    with raises("Projekt ü", "ASCII"):
        check_experiments()


@pytest.mark.parametrize("name", ["data", "results", "reports"])
def test_a_link_where_dvc_follows_none(project: Path, name: str) -> None:
    (project.parent / "big").mkdir()
    (project / name).symlink_to("../big")
    with raises(f"{name} is a link to ../big"):
        check_folders()


def test_a_link_below_data_is_followed(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/inria").symlink_to("../..")
    check_folders()


def test_a_site_cache_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    monkeypatch.setattr(preflight, "SITE_CACHE", tmp_path)
    preflight.warn_of_site_cache()
    assert not capsys.readouterr().err
    monkeypatch.setattr(preflight.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 12345, 12345)
    preflight.warn_of_site_cache()
    assert "DVC_SITE_CACHE_DIR" in capsys.readouterr().err
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "mine"))
    preflight.warn_of_site_cache()
    assert not capsys.readouterr().err


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCPSEG_CACHE", raising=False)
    with raises("data.cache is ~nobody-here/x", "SCPSEG_CACHE"):
        check_home({"cache": "~nobody-here/x"})
    monkeypatch.setenv("SCPSEG_CACHE", "/big/cache")
    check_home({"cache": "~nobody-here/x"})
    monkeypatch.setenv("SCPSEG_CACHE", "~nobody-here/y")
    with raises("SCPSEG_CACHE is ~nobody-here/y"):
        check_home({"cache": "/big"})


def test_shared_memory_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "SHARED_MEMORY", tmp_path)
    free = 2 * 2**20
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    check_shared_memory(params(workers=0))
    # One batch: 8 windows of (64 * 2)^2 pixels of 4 bytes = 0.5 MiB; two for each process.
    check_shared_memory(params(workers=2))
    with raises("machine.workers is 3", "3 MiB", "2 MiB are free", "--shm-size", "workers to 0"):
        check_shared_memory(params(workers=3))


def test_shared_memory_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: False)
    with raises("cannot be written", "--shm-size"):
        check_shared_memory(params(workers=1))


@pytest.mark.parametrize("values", [{}, {"machine": None}, {"machine": {"workers": "x"}}, {"machine": {"workers": 1}}])
def test_mistaken_parameters_are_left_to_their_own_check(values: dict[str, Any]) -> None:
    check_shared_memory(Params(values, Path("params.yaml")))


def test_no_torch() -> None:
    """What is around the project is checked before torch is imported, by `check` too."""
    code = "import sys, pipelines.check; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_started_in_a_subfolder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (project / "a/b").mkdir(parents=True)
    monkeypatch.chdir(project / "a/b")
    with raises("params.yaml is in", r"root of the repository \(\.\./\.\.\)"):
        Params.load()
