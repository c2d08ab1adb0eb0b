import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.train import arguments

ROOT = Path(__file__).parents[2]


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[str, str, int]:
    monkeypatch.setattr(sys, "argv", ["train", *words])
    found = arguments("what it does")
    return found.benchmark, found.method, found.seed


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, "probe", "glnet", "4294967295") == ("probe", "glnet", 2**32 - 1)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("deepglob", "scpseg", "0"), "invalid choice: 'deepglob'"),
        (("deepglobe", "scpsg", "0"), "invalid choice: 'scpsg'"),
        (("deepglobe", "patch", "x"), "'x' is no whole number from 0 to 4294967295"),
        (("deepglobe", "patch", "4294967296"), "'4294967296' is no whole number from 0 to"),
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
    assert "'-1' is no whole number from 0 to 4294967295" in capsys.readouterr().err


def test_help_is_of_the_stage_that_was_asked() -> None:
    command = [sys.executable, "-m", "pipelines.evaluate", "--help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "Stage `evaluate`" in printed and "Stage `train`" not in printed
