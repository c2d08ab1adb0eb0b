import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scpseg.files import without_room
from scpseg.training import checkpoint

ROOT = Path(__file__).parents[3]
STATE = {"method": {"weight": torch.arange(600.0)}, "step": 3, "history": [{"phase": "all", "total": 0.5}]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path, STATE)
    return tmp_path / "checkpoint.pt"


def test_comes_back_as_it_was(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = checkpoint.load(path.parent)
    assert found is not None and torch.equal(found["method"].pop("weight"), torch.arange(600.0))
    assert found == {**STATE, "method": {}}
    assert checkpoint.load(path.parent / "none") is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["emptied", "halved", "cut at the end", "changed", "other"])
def test_a_damaged_one_is_told_and_not_used(damage: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = path.read_bytes()
    place = whole.index(torch.arange(600.0).numpy().tobytes()) + 1000
    path.write_bytes(
        {
            "emptied": b"",
            "halved": whole[: len(whole) // 2],
            "cut at the end": whole[:-1],
            "changed": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
            "other": b"x" * 5000,
        }[damage]
    )
    assert checkpoint.load(path.parent) is None
    assert capsys.readouterr().out == f"{path} is damaged (wrong checksum) and not used\n"
    checkpoint.save(path.parent, STATE)
    assert checkpoint.load(path.parent) is not None


def test_the_state_before_is_kept_and_used_if_the_last_one_is_damaged(path: Path) -> None:
    checkpoint.save(path.parent, {**STATE, "step": 4})
    checkpoint.save(path.parent, {**STATE, "step": 5})
    assert len(list(path.parent.iterdir())) == 2

    def step() -> int:
        found = checkpoint.load(path.parent)
        assert found is not None
        return int(found["step"])

    assert step() == 5
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert step() == 4
    path.unlink()  # as after a kill between the two renames
    assert step() == 4


def test_no_wrong_byte_passes(path: Path) -> None:
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        assert checkpoint.load(path.parent) is None


def test_no_room_is_told_as_such_and_keeps_the_last_one(path: Path) -> None:
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises((OSError, RuntimeError)) as caught:
            checkpoint.save(path.parent, {"large": torch.zeros(100_000)})  # torch raises an error of its own over it
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    full = without_room(caught.value)
    assert full is not None and full.filename == str(path)
    assert path.read_bytes() == whole and list(path.parent.iterdir()) == [path]


def test_two_trainings_of_one_run_take_turns(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from scpseg.training.checkpoint import alone\n"
        "with alone(pathlib.Path(sys.argv[1]) / 'run'):\n    print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"mine\n"
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as second:
            assert second.stdout is not None and b"waiting" in second.stdout.readline()
            assert second.poll() is None
            first.kill()  # its lock ends with it
            assert second.stdout.readline() == b"mine\n"
