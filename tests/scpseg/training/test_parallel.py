"""Two processes on a CPU train like one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.methods import METHODS
from scpseg import parallel
from scpseg.losses import cross_entropy
from scpseg.training.step import ending

ROOT = Path(__file__).parents[3]
SCRIPT = (sys.executable, str(Path(__file__).with_name("together.py")))


def together(folder: Path, processes: int, *trainings: str) -> None:
    command = [*SCRIPT, str(folder), str(processes), *trainings]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def differences(first: Path, second: Path, name: str) -> tuple[float, float]:
    """Largest differences of the losses and of the weights."""
    (one, seen), (two, also_seen) = (json.loads((folder / f"{name}.json").read_text()) for folder in (first, second))
    losses = [abs(a[key] - b[key]) for a, b in zip(one, two, strict=True) for key in a if key != "phase"]
    for key in ("steps", "samples", "megapixels"):
        assert {phase: row[key] for phase, row in seen.items()} == {phase: row[key] for phase, row in also_seen.items()}
    weights = [torch.load(folder / f"{name}.pt") for folder in (first, second)]
    return max(losses), max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    together(folder, 1, "scpseg:2", "magnet:2", "patch:12")
    return folder


@pytest.mark.soak
def test_two_processes_train_like_one(alone: Path, tmp_path: Path) -> None:
    """Methods with dropout and several losses, and with draws of their own and a loss of the hardest pixels."""
    together(tmp_path, 2, "scpseg:2", "magnet:2")
    for name in ("scpseg", "magnet"):
        losses, weights = differences(alone, tmp_path, name)
        assert losses < 1e-7 and weights < 1e-6, (name, losses, weights)


@pytest.mark.soak
def test_every_method_trains_in_two_processes_like_in_one(tmp_path: Path) -> None:
    # ISDNet's training triples any difference with each step: one weight changed by 4e-16 does the same in one process.
    steps = dict.fromkeys(METHODS, 50) | {"isdnet": 12}
    for processes in (1, 2):
        together(tmp_path / str(processes), processes, *(f"{name}:{count}" for name, count in steps.items()))
    found = {name: differences(tmp_path / "1", tmp_path / "2", name) for name in METHODS}
    print(found)
    assert all(losses < 1e-5 for losses, _ in found.values()), found


@pytest.mark.soak
def test_an_interrupt_saves_the_state_and_another_number_of_processes_resumes(alone: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "STOP_AT": "3"}
    command = [*SCRIPT, str(tmp_path / "broken"), "2", "patch:12"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGINT
    assert (tmp_path / "broken/scratch-patch/checkpoint.pt").exists()
    together(tmp_path / "broken", 1, "patch:12")
    losses, _ = differences(alone, tmp_path / "broken", "patch")
    assert losses < 1e-6


def launched(folder: Path, body: str) -> str:
    """What a script prints that calls `launch` with two processes of the function `work` with this body."""
    script = folder / "script.py"
    script.write_text(
        "import os, signal, time, torch\nfrom scpseg import parallel\nfrom scpseg.errors import UserError\n"
        f"from scpseg.training.launch import launch\ndef work():\n    {body}\n"
        "if __name__ == '__main__':\n"
        "    try:\n        launch(2, torch.device('cpu'), work)\n"
        "    except UserError as error:\n        print('raised', str(error).splitlines()[-1])\n"
        "    except KeyboardInterrupt:\n        print('interrupted')\n"
    )
    command, environment = [sys.executable, str(script)], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    return done.stdout.strip()


def test_what_a_process_raises_ends_all_and_is_raised_by_the_first(tmp_path: Path) -> None:
    body = "if parallel.rank() == 1:\n        raise UserError('image 7 is damaged')\n    parallel.wait()"
    assert launched(tmp_path, body) == "raised image 7 is damaged"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("target", "number", "said"),
    [
        ("os.getpid()", "SIGKILL", "raised process 1 of 2 was killed by SIGKILL, probably because memory ran out;"),
        ("os.getppid()", "SIGTERM", "interrupted"),  # before the work has a handler of its own
    ],
)
def test_a_killed_process_and_an_early_interrupt_end_all(target: str, number: str, said: str, tmp_path: Path) -> None:
    body = f"if parallel.rank() == 1:\n        os.kill({target}, signal.{number})\n    time.sleep(30)"
    assert launched(tmp_path, body).startswith(said)


def test_one_process_is_left_as_it_is() -> None:
    count = torch.tensor(0)
    assert parallel.world() == parallel.parts() == 1 and parallel.rank() == 0
    assert parallel.summed(count) is count and parallel.whole_of(count) is count
    assert parallel.denominator(count).dtype == torch.int64 and int(parallel.denominator(count)) == 1
    assert parallel.any_of([True, False]) == [True, False] and parallel.slice_of(8) == range(8)
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4), dtype=torch.uint8)
    expected = nn.functional.cross_entropy(logits, labels.long())
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def test_a_slice_of_a_batch_is_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "rank", lambda: 2)
    with parallel.split(4):
        assert parallel.slice_of(8) == range(4, 6)
    assert parallel.slice_of(8) == range(8)  # every process computes the whole batch


def test_the_last_portion_is_known() -> None:
    assert list(ending([])) == []  # type: ignore[list-item]
    assert [last for _, last in ending("abc")] == [False, False, True]  # type: ignore[arg-type]
