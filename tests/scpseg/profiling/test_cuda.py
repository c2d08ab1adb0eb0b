"""The GPU's meter against a stand-in for NVML in the real sampling process, and one for torch.cuda in this one."""

import gc
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpseg.files import replacing
from scpseg.profiling.cuda import CudaMeter
from scpseg.profiling.meter import Reading

MIB = 2**20
CONTEXT, DRIVER = 400 * MIB, 600 * MIB
HERE = Path(__file__).parent
Shown = Callable[[int], int | None]
OURS, OTHER = "GPU-11111111-aaaa", "GPU-22222222-bbbb"


class Block:
    """A tensor: its bytes come back to the allocator's cache when the last name of it goes."""


class FakeGpu:
    """torch.cuda and the driver: keeps the JSON file up to date that the stand-in for pynvml reads."""

    def __init__(self, path: Path, uuid: str = OURS, pid: int | None = None, shown: Shown = lambda used: used) -> None:
        self.path, self.own_uuid, self.shown = path, uuid, shown
        self.pid = os.getpid() if pid is None else pid
        self.context = CONTEXT
        self.allocated = self.held = self.most_allocated = self.most_held = 0
        self.foreign: list[list[int | None]] = []
        self.state: dict[str, Any] = {"library": "ok", "devices": {uuid: {"reserved": DRIVER}}}
        self.publish()

    def publish(self) -> None:
        mine = self.context + self.held
        device = self.state["devices"][self.own_uuid]
        device["used"] = mine + sum(used or 0 for _, used in self.foreign)
        device["processes"] = [[self.pid, self.shown(mine)], *self.foreign]
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(self.state))

    def uuid(self) -> str:
        return self.own_uuid.removeprefix("GPU-")

    def allocate(self, size: int) -> Block:
        self.allocated += size
        self.held = max(self.held, self.allocated)
        self.most_allocated, self.most_held = max(self.most_allocated, self.allocated), max(self.most_held, self.held)
        self.publish()
        block = Block()
        weakref.finalize(block, self.free, size)
        return block

    def free(self, size: int) -> None:
        self.allocated -= size

    def synchronize(self) -> None:
        pass

    def release(self) -> None:
        gc.collect()
        self.held = self.allocated
        self.publish()

    def reset(self) -> None:
        self.most_allocated, self.most_held = self.allocated, self.held

    def reserved(self) -> int:
        return self.held

    def peaks(self) -> tuple[int, int]:
        return self.most_allocated, self.most_held

    def total(self) -> int:
        return 80 * 2**30


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(HERE / "stand_ins"))
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "nvml.json"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "nvml.json"


def run(gpu: FakeGpu, meanwhile: Callable[[CudaMeter], None] = lambda meter: None) -> Reading:
    """A model of 100 MiB whose image takes 300 more; kernels loaded by the first image add 50 MiB of context."""
    meter = CudaMeter(gpu, period=0.005)
    try:
        meter.prepare()
        gpu.context += 50 * MIB
        gpu.publish()
        meter.rest()
        model = gpu.allocate(100 * MIB)
        meter.begin()
        activations = gpu.allocate(300 * MIB)
        meanwhile(meter)
        reading = meter.finish()
        del model, activations
    finally:
        meter.close()
    return reading


def assert_torch_channels(reading: Reading) -> None:
    assert reading.memory["torch_allocated"] == reading.memory["torch_reserved"] == 400 * MIB


def assert_all_channels(reading: Reading) -> None:
    assert reading.unavailable == {}
    assert reading.memory["nvml_process"] == CONTEXT + 450 * MIB
    assert reading.memory["nvml_above_context"] == 400 * MIB
    assert reading.memory["nvml_device"] == CONTEXT + 450 * MIB
    assert reading.details["context_bytes"] == CONTEXT + 50 * MIB
    assert reading.details["driver_reserved_bytes"] == DRIVER
    assert reading.details["exclusive"] is True
    assert_torch_channels(reading)


def test_every_channel_reads_what_was_allocated(path: Path) -> None:
    reading = run(FakeGpu(path))
    assert_all_channels(reading)
    assert reading.details["driver"] == "570.00"
    assert reading.details["timeline_of"] == "nvml_process"
    assert max(used for _, used in reading.timeline) == reading.memory["nvml_process"]
    assert reading.samples >= 2 and reading.longest_gap_ms >= reading.period_ms > 0


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


@pytest.mark.parametrize("where", ["library", "processes"])
def test_no_permission(path: Path, where: str) -> None:
    gpu = FakeGpu(path)
    if where == "library":
        gpu.state["library"] = "denied"
    else:
        gpu.state["devices"][OURS]["processes_error"] = "Insufficient Permissions"
    gpu.publish()
    reading = run(gpu)
    for channel in ("nvml_process", "nvml_above_context"):
        assert "Insufficient Permissions" in reading.unavailable[channel]
    assert ("nvml_device" in reading.memory) == (where == "processes")
    assert_torch_channels(reading)


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
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(gpu.state))

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


@pytest.mark.parametrize("named", ["by torch", "by CUDA_VISIBLE_DEVICES", "as the only one"])
def test_mig_instance(path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """NVML must be asked about the instance, not about the GPU that it is a part of."""
    instance, card = "MIG-33333333-cccc", "GPU-44444444-dddd"
    gpu = FakeGpu(path, uuid=instance)
    gpu.state["devices"][card] = {"used": 9, "reserved": 9, "processes": [], "mig": [instance]}
    if named == "by CUDA_VISIBLE_DEVICES":
        gpu.state["devices"]["MIG-other"] = {"used": 9, "reserved": 9, "processes": []}
        gpu.state["devices"][card]["mig"] = ["MIG-other", instance]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", instance)
    gpu.publish()
    gpu.uuid = lambda: (instance if named == "by torch" else card)[4:]
    reading = run(gpu)
    assert_all_channels(reading)
    assert reading.details["mig"] is True


def test_mig_instance_that_cannot_be_told(path: Path) -> None:
    gpu = FakeGpu(path)
    gpu.state["devices"][OURS]["mig"] = ["MIG-a", "MIG-b"]
    gpu.publish()
    reading = run(gpu)
    assert "2 MIG instances" in reading.unavailable["nvml_process"]
    assert "CUDA_VISIBLE_DEVICES" in reading.unavailable["nvml_process"]
    assert_torch_channels(reading)


def test_two_gpus_in_another_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's device 0 is NVML's device 1."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    gpu = FakeGpu(path)
    other = {"used": 5000 * MIB, "reserved": DRIVER, "processes": [[7, 5000 * MIB]]}
    gpu.state["devices"] = {OTHER: other, **gpu.state["devices"]}
    gpu.publish()
    assert_all_channels(run(gpu))


def test_unknown_device(path: Path) -> None:
    gpu = FakeGpu(path)
    gpu.uuid = lambda: "55555555-eeee"
    assert "knows no device" in run(gpu).unavailable["nvml_process"]


def test_sampler_killed(path: Path) -> None:
    def kill(meter: CudaMeter) -> None:
        meter.sampler.process.kill()
        meter.sampler.process.wait()

    reading = run(FakeGpu(path), kill)
    for channel in ("nvml_process", "nvml_above_context", "nvml_device"):
        assert reading.unavailable[channel] == "the sampling process ended too early (killed by signal 9)"
        assert channel not in reading.memory
    assert reading.timeline == [] and reading.samples == 0
    assert_torch_channels(reading)
