"""The GPU's meter against a stand-in for pynvml in the real sampling process, and one for torch.cuda in this one."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "stand_ins" / "torch_side"))

from fake_gpu import CONTEXT, MIB, OURS, FakeGpu, assert_all_channels, assert_torch_channels, run

from scpseg.profiling import meters
from scpseg.profiling.meters import CudaMeter

HERE = Path(__file__).parent


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(HERE / "stand_ins"))
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "nvml.json"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "nvml.json"


def test_every_channel_reads_what_was_allocated(path: Path) -> None:
    reading = run(FakeGpu(path))
    assert_all_channels(reading)
    assert reading.details["driver"] == "570.00"
    assert reading.details["timeline_of"] == "nvml_process"
    assert max(used for _, used in reading.timeline) == reading.memory["nvml_process"]
    described = reading.described()
    assert described["samples"] >= 2 and described["longest_gap_ms"] >= described["period_ms"] > 0


def test_library_missing(path: Path) -> None:
    gpu = FakeGpu(path)
    gpu.state["library"] = "missing"
    gpu.publish()
    reading = run(gpu)
    assert set(reading.unavailable) == {"nvml_process", "nvml_above_context", "nvml_device"}
    assert "NVML Shared Library Not Found" in reading.unavailable["nvml_process"]
    assert_torch_channels(reading)


def test_package_missing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "without" / "pynvml").mkdir(parents=True)
    (tmp_path / "without" / "pynvml" / "__init__.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    reading = run(FakeGpu(path))
    assert "nvidia-ml-py is not installed" in reading.unavailable["nvml_device"]
    assert_torch_channels(reading)


def test_no_permission_for_the_processes(path: Path) -> None:
    gpu = FakeGpu(path)
    gpu.state["devices"][OURS]["processes_error"] = "Insufficient Permissions"
    gpu.publish()
    reading = run(gpu)
    for channel in ("nvml_process", "nvml_above_context"):
        assert "Insufficient Permissions" in reading.unavailable[channel]
    assert reading.memory["nvml_device"] == CONTEXT + 450 * MIB
    assert_torch_channels(reading)


def test_processes_hidden_midway(path: Path) -> None:
    """What was seen until then is no peak."""
    gpu = FakeGpu(path)

    def hide(meter: CudaMeter) -> None:
        gpu.state["devices"][OURS]["processes_error"] = "Insufficient Permissions"
        gpu.publish()

    reading = run(gpu, hide)
    for channel in ("nvml_process", "nvml_above_context"):
        assert "Insufficient Permissions" in reading.unavailable[channel]
        assert channel not in reading.memory
    assert reading.memory["nvml_device"] == CONTEXT + 450 * MIB
    assert reading.details["timeline_of"] == "nvml_device"


def test_processes_hidden_before_the_stretch(path: Path) -> None:
    """Nobody can say that the device is ours alone."""
    gpu = FakeGpu(path)
    plain = gpu.reset

    def reset() -> None:  # the meter's own, in `begin`
        gpu.state["devices"][OURS]["processes_error"] = "Insufficient Permissions"
        gpu.publish()
        plain()

    gpu.reset = reset
    reading = run(gpu)
    assert reading.details["exclusive"] is None
    assert "Insufficient Permissions" in reading.unavailable["nvml_process"]


class Clock:
    """Time for the meter: it passes when the meter looks or sleeps, and `due` are what happens then, by time."""

    def __init__(self) -> None:
        self.now, self.due = time.monotonic() - 1000, deque[tuple[float, Callable[[], None]]]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.due and self.due[0][0] <= self.now:
            self.due.popleft()[1]()

    def monotonic(self) -> float:
        self.sleep(0.01)
        return self.now


@pytest.mark.parametrize("late", [("used",), ("processes",), ("used", "processes")])
def test_figures_that_lag(path: Path, late: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that counts late: every sample that decides waits for it."""
    gpu, clock = FakeGpu(path), Clock()
    monkeypatch.setattr(meters, "time", clock)
    plain, device = gpu.write, gpu.state["devices"][OURS]
    seen = {**device}
    gpu.written = lambda state: json.dumps({**state, "devices": {OURS: seen}})

    def show(figures: dict[str, Any]) -> None:
        seen.update(figures)
        plain()

    def write() -> None:
        show({key: value for key, value in device.items() if key not in late})
        clock.due.append((clock.now + 0.15, partial(show, {key: device[key] for key in late})))

    gpu.write = write
    reading = run(gpu)
    assert_all_channels(reading)
    assert 100 <= reading.details["lag_ms"] <= 200


@pytest.mark.parametrize("shown", [None, 0])
def test_processes_without_a_figure(path: Path, shown: int | None) -> None:
    reading = run(FakeGpu(path, shown=lambda used: shown))
    assert "no memory figure" in reading.unavailable["nvml_process"]
    assert reading.memory["nvml_device"] == CONTEXT + 450 * MIB
    assert reading.details["exclusive"] is None  # nobody can say
    assert reading.details["timeline_of"] == "nvml_device"
    assert_torch_channels(reading)


def test_empty_process_list(path: Path) -> None:
    gpu = FakeGpu(path)
    plain = gpu.publish

    def publish() -> None:
        plain()
        gpu.state["devices"][OURS]["processes"] = []
        gpu.write()

    gpu.publish = publish
    gpu.publish()
    assert "lists no process" in run(gpu).unavailable["nvml_process"]


def test_host_process_ids_in_a_container(path: Path) -> None:
    gpu = FakeGpu(path, pid=4_000_001)
    gpu.foreign = [[os.getpid(), 77 * MIB]]  # the host's process of our number is somebody else
    gpu.publish()
    reading = run(gpu)
    assert reading.memory["nvml_process"] == CONTEXT + 450 * MIB
    assert reading.memory["nvml_above_context"] == 400 * MIB
    assert reading.details["exclusive"] is False
    assert (reading.details["foreign_processes"], reading.details["foreign_bytes"]) == (1, 77 * MIB)
    assert "other processes" in reading.unavailable["nvml_device"]


def test_foreign_process_midway(path: Path) -> None:
    gpu = FakeGpu(path)

    def intrude(meter: CudaMeter) -> None:
        gpu.foreign = [[99, 1000 * MIB], [100, None]]
        gpu.publish()

    reading = run(gpu, intrude)
    assert reading.memory["nvml_process"] == CONTEXT + 450 * MIB
    assert reading.details["exclusive"] is False
    assert reading.details["foreign_changed"] is True
    assert (reading.details["foreign_processes"], reading.details["foreign_bytes"]) == (2, 1000 * MIB)
    assert "changed meanwhile" in reading.unavailable["nvml_device"]


def test_foreign_use_midway_where_no_process_is_shown(path: Path) -> None:
    gpu = FakeGpu(path, shown=lambda used: None)

    def intrude(meter: CudaMeter) -> None:
        gpu.foreign = [[99, None]]
        gpu.context += 500 * MIB
        gpu.publish()

    reading = run(gpu, intrude)
    assert reading.details["foreign_changed"] is True
    assert "changed meanwhile" in reading.unavailable["nvml_device"]
    assert_torch_channels(reading)


def test_a_device_that_does_not_move(path: Path) -> None:
    gpu = FakeGpu(path)
    plain = gpu.publish

    def publish() -> None:
        gpu.context -= gpu.held  # NVML goes on showing the same
        plain()
        gpu.context += gpu.held

    gpu.publish = publish
    gpu.publish()
    reading = run(gpu)
    assert "moved by 0 MiB at a known allocation of 256 MiB" in reading.unavailable["nvml_device"]
    assert "no process moved" in reading.unavailable["nvml_process"]
    assert_torch_channels(reading)


def test_mig_instance(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML must be asked about the instance that the environment names, not about the GPU that it is a part of."""
    instance, card = "MIG-33333333-cccc", "GPU-44444444-dddd"
    gpu = FakeGpu(path, uuid=instance)
    nothing = {"used": 9, "reserved": 9, "processes": []}
    gpu.state["devices"] |= {"MIG-other": nothing, card: {**nothing, "mig": ["MIG-other", instance]}}
    gpu.publish()
    gpu.uuid = lambda: card[4:]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", instance)
    reading = run(gpu)
    assert_all_channels(reading)
    assert reading.details["mig"] is True


def test_sampler_killed(path: Path) -> None:
    def kill(meter: CudaMeter) -> None:
        meter.sampler.process.kill()
        meter.sampler.process.wait()

    reading = run(FakeGpu(path), kill)
    for channel in ("nvml_process", "nvml_above_context", "nvml_device"):
        assert reading.unavailable[channel] == "the sampling process ended too early (killed by signal 9)"
        assert channel not in reading.memory
    assert reading.timeline == [] and reading.stretch == []
    assert_torch_channels(reading)
