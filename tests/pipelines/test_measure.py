from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from pipelines import measure
from scpseg.errors import UserError
from scpseg.profiling.records import MIB
from scpseg.reporting.contributed import MEASURED, read_contributed

HOLD = "import sys,time; b=bytearray(int(sys.argv[1])*2**20); b[::4096]=b'x'*len(b[::4096]); time.sleep(0.4)"
LINUX = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="resident memory is read from Linux's /proc")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "gpus", list)


def command(mib: int) -> list[str]:
    return [sys.executable, "-c", HOLD, str(mib)]


@LINUX
def test_memory_of_a_command_grows_by_what_it_holds() -> None:
    small, large = measure.measure(command(1)), measure.measure(command(101))
    assert large["memory_mib"] - small["memory_mib"] == pytest.approx(100, abs=5)
    assert (large["memory_kind"], large["exit"]) == ("rss", 0) and large["samples"] > 10
    assert large["seconds"] > 0.4 and large["hardware"]


@LINUX
def test_children_count_too() -> None:
    script = f"import subprocess,sys; subprocess.run([sys.executable,'-c',{HOLD!r},'80'])"
    assert measure.measure([sys.executable, "-c", script])["memory_mib"] > 80


def ask(*words: str, benchmark: str | None = "inria", name: str | None = "Mine") -> argparse.Namespace:
    return argparse.Namespace(command=["--", *words], benchmark=benchmark, name=name, note="512 x 512, fp32")


@LINUX
def test_a_row_says_how_it_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measure.work(ask(*command(20)))
    (row,) = read_contributed(Path("results/contributed"))
    assert (row["benchmark"], row["method"], row["kind"], row["memory_kind"]) == ("inria", "Mine", MEASURED, "rss")
    assert float(row["memory_mib"]) > 20 and row["mean_iou"] == "" and "512 x 512, fp32" in row["note"]
    assert "memory_mib" in capsys.readouterr().out


@LINUX
def test_a_failed_command_is_no_row_and_passes_its_arguments_unchanged(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["a b", "$HOME", "*", "--", '"', ""]
    measure.work(ask(sys.executable, "-c", "import sys; print(sys.argv[1:])", *words, benchmark=None, name=None))
    assert str(words) in capfd.readouterr().out
    with pytest.raises(UserError, match="exit status 3"):
        measure.work(ask(sys.executable, "-c", "raise SystemExit(3)"))
    assert not Path("results").exists()


def test_mistakes_are_sentences() -> None:
    with pytest.raises(UserError, match="after --"):
        measure.work(ask())
    with pytest.raises(UserError, match="no-such-program is not a command"):
        measure.work(ask("no-such-program"))
    with pytest.raises(UserError, match="belong together"):
        measure.work(ask("true", name=None))


def test_gpu_memory_is_that_of_new_processes_else_the_gain_of_the_device() -> None:
    before = {"device": 500 * MIB, "reserved": MIB, "7": 400 * MIB}
    during = [
        {"device": 1500 * MIB, "reserved": MIB, "7": 900 * MIB, "8": 300 * MIB, "9": 200 * MIB},
        {"device": 1900 * MIB, "reserved": MIB, "7": 900 * MIB, "8": 700 * MIB},
    ]
    samples = [(float(at), sample) for at, sample in enumerate([before, *during])]
    assert measure.gpu_peak(samples) == (700 * MIB, "nvml")
    # In a container NVML may list no process, or hide what they use.
    blind = [(at, {**sample, "8": None, "9": None} if at else sample) for at, sample in samples]
    assert measure.gpu_peak(blind) == (1400 * MIB, "nvml, gain of the whole device")
    assert measure.gpu_peak([(0.0, {"device": None, "reserved": None})])[0] is None


def test_the_gain_of_another_gpu_is_not_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU a shows the command's process, GPU b grows by somebody else's."""
    found = {"a": [{"device": 0}, {"device": 0, "8": 3 * MIB}], "b": [{"device": 0}, {"device": 20 * MIB}]}

    class Pretended:
        lost = None

        def __init__(self, period: float) -> None: ...

        def start(self, kind: str, uuid: str) -> None:
            self.uuid = uuid

        def stop(self) -> list[tuple[float, dict[str, int]]]:
            return [(float(at), {"reserved": 0, **sample}) for at, sample in enumerate(found[self.uuid])]

        def close(self) -> None: ...

    monkeypatch.setattr(measure, "Sampler", Pretended)
    for order in ("ab", "ba"):
        monkeypatch.setattr(measure, "gpus", lambda order=order: [(uuid, "GPU") for uuid in order])
        result = measure.measure(["true"])
        assert (result["memory_mib"], result["memory_kind"]) == (3.0, "nvml")


def test_nothing_is_left_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    measure.measure(command(1))
    assert len(os.listdir("/proc/self/fd")) == before
