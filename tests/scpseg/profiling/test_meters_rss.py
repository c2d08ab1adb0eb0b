import mmap
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scpseg.errors import UserError
from scpseg.profiling import meters
from scpseg.profiling.fresh import run_fresh
from scpseg.profiling.meters import RssMeter, read_status

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
MIB, GIB = 2**20, 2**30
HERE = Path(__file__).parent
Peak = Callable[..., float]


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> Peak:
    """Peak in MiB of the small workload with `extra` MiB more, in a fresh process."""
    monkeypatch.setenv("PYTHONPATH", str(HERE / "stand_ins"))

    def measured(extra: int, threads: int = 2) -> float:
        result = run_fresh(["small_workload"], {"extra": extra, "threads": threads})
        assert result["rss_source"].startswith("VmHWM")
        return result["memory"]["rss"] / MIB

    return measured


def test_a_known_allocation_is_read_and_a_repeat_agrees(peak: Peak) -> None:
    plain = [peak(0, threads=1), peak(0, threads=1)]
    # At least the activations of one window: 128 x 128 x 128 floats, before and after the rectifier.
    assert min(plain) > 16
    assert max(plain) - min(plain) <= 0.03 * plain[0], plain
    assert peak(256, threads=1) - statistics.mean(plain) == pytest.approx(256, rel=0.02)


@pytest.mark.soak
def test_five_repeats_and_three_known_allocations(peak: Peak) -> None:
    """Five fresh processes alike within 3 %, and X MiB more read as X within 2 %."""
    plain = [peak(0) for _ in range(5)]
    assert max(plain) - min(plain) <= 0.03 * statistics.median(plain), plain
    for extra in (64, 256, 1024):
        assert peak(extra) - statistics.median(plain) == pytest.approx(extra, rel=0.02)


class Proc:
    """A folder that stands for /proc/self with values of our own."""

    def __init__(self, folder: Path, **values: int) -> None:
        self.folder = folder
        self.write(**values)

    def write(self, **values: int) -> None:
        (self.folder / "status").write_text("".join(f"{name}:\t{used // 1024} kB\n" for name, used in values.items()))


def stretch(meter: RssMeter, work: Callable[[], None]) -> RssMeter:
    try:
        meter.prepare()
        meter.begin()
        work()
        meter.finish()
        return meter
    finally:
        meter.close()


def test_pages_of_files_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Far above what the sampler sees of this process, so that the made-up figures decide.
    (tmp_path / "clear_refs").touch()
    monkeypatch.setattr(meters, "PROC", tmp_path)
    proc = Proc(tmp_path, VmHWM=100 * GIB, VmRSS=100 * GIB, RssFile=30 * GIB, RssShmem=0)
    reading = stretch(
        RssMeter(),
        lambda: proc.write(VmHWM=180 * GIB, VmRSS=120 * GIB, RssFile=40 * GIB, RssShmem=2 * GIB),
    )
    assert reading.memory["rss"] == (180 - 42 - 70) * GIB
    assert reading.details["idle_bytes"] == 70 * GIB
    assert (tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.parametrize("broken", ["unwritable", "no effect", "no mark"])
def test_without_a_high_water_mark_samples_are_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The sampler reads this very process, so a block of 64 MiB must show."""
    real = read_status()
    values = {"VmHWM": real["VmRSS"], "VmRSS": real["VmRSS"], "RssFile": real["RssFile"], "RssShmem": 0}
    if broken == "unwritable":
        (tmp_path / "clear_refs").mkdir()
    values["VmHWM"] += 100 * MIB
    if broken == "no mark":
        del values["VmHWM"]
    Proc(tmp_path, **values)
    monkeypatch.setattr(meters, "PROC", tmp_path)

    def work() -> None:
        # Not from the heap, which may have free blocks of earlier tests.
        with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            block.write(b"x" * (64 * MIB))
            time.sleep(0.1)

    reading = stretch(RssMeter(), work)
    assert reading.details["rss_source"].startswith("samples every 8 ms, because ")
    assert reading.memory["rss"] >= 60 * MIB


def test_a_killed_sampler_costs_the_timeline_only() -> None:
    meter = RssMeter()

    def kill() -> None:
        meter.sampler.process.kill()
        meter.sampler.process.wait()

    reading = stretch(meter, kill)
    assert "rss" in reading.memory
    assert reading.timeline == []
    assert "killed by signal 9" in reading.details["timeline_missing"]


def test_other_systems_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="Linux"):
        RssMeter().prepare()
