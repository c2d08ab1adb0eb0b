"""Stands in for torch.cuda on a device whose NVML is a stand-in too, and the run that both are measured by."""

import gc
import json
import os
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from scpseg.files import replacing
from scpseg.profiling import meters
from scpseg.profiling.meters import CudaMeter

MIB = 2**20
CONTEXT, DRIVER = 400 * MIB, 600 * MIB
OURS = "GPU-11111111-aaaa"


class Block:
    """A tensor: its bytes come back to the allocator's cache when the last name of it goes."""


class FakeGpu:
    """torch.cuda and the driver: keeps the file up to date that a stand-in for NVML reads."""

    def __init__(
        self,
        path: Path,
        uuid: str = OURS,
        pid: int | None = None,
        shown: Callable[[int], int | None] = lambda used: used,
        written: Callable[[Any], str] = json.dumps,
    ) -> None:
        self.path, self.own_uuid, self.shown, self.written = path, uuid, shown, written
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
        self.write()

    def write(self) -> None:
        with replacing(self.path) as temporary:
            temporary.write_text(self.written(self.state))

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

    def release(self) -> None:
        gc.collect()
        self.held = self.allocated
        self.publish()

    def reset(self) -> None:
        self.most_allocated, self.most_held = self.allocated, self.held

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Replacements of functions of torch.cuda."""
        return {
            "get_device_properties": lambda device: SimpleNamespace(uuid=self.uuid()),
            "synchronize": lambda device: None,
            "empty_cache": lambda: self.release(),
            "reset_peak_memory_stats": lambda device: self.reset(),
            "memory_reserved": lambda device: self.held,
            "max_memory_allocated": lambda device: self.most_allocated,
            "max_memory_reserved": lambda device: self.most_held,
        }


class DriversGpu(FakeGpu):
    """Keeps the file for nvml.c; `errors` is function -> code."""

    def __init__(self, path: Path, **others: Any) -> None:
        self.errors: dict[str, int] = {}
        super().__init__(path, written=self.lines, **others)

    def lines(self, state: Any) -> str:
        found = [f"error {function} {code}" for function, code in self.errors.items()]
        for uuid, device in state["devices"].items():
            found.append(f"device {uuid} {device['used']} {device['reserved']}")
            for pid, used in device["processes"]:
                found.append(f"process {uuid} compute {pid} {'na' if used is None else used}")
        return "\n".join(found) + "\n"

    def fail(self, code: int, *functions: str) -> None:
        self.errors = dict.fromkeys(functions, code)
        self.publish()


def run(gpu: FakeGpu, meanwhile: Callable[[CudaMeter], None] = lambda meter: None) -> CudaMeter:
    """A model of 100 MiB whose image takes 300 more; kernels loaded by the first image add 50 MiB of context."""
    meter = CudaMeter(torch.device("cuda"))
    with (
        closing(meter),
        mock.patch.multiple(torch.cuda, **gpu.functions()),
        mock.patch.object(meters, "allocate", lambda size, device: gpu.allocate(size)),
    ):
        meter.prepare()
        gpu.context += 50 * MIB
        gpu.publish()
        meter.begin()
        model = gpu.allocate(100 * MIB)
        activations = gpu.allocate(300 * MIB)
        meanwhile(meter)
        meter.finish()
        del model, activations
    return meter


def assert_torch_channels(reading: CudaMeter) -> None:
    assert reading.memory["torch_allocated"] == reading.memory["torch_reserved"] == 400 * MIB


def assert_all_channels(reading: CudaMeter) -> None:
    assert reading.unavailable == {}
    assert reading.memory["nvml_process"] == CONTEXT + 450 * MIB
    assert reading.memory["nvml_above_context"] == 400 * MIB
    assert reading.memory["nvml_device"] == CONTEXT + 450 * MIB
    assert reading.details["context_bytes"] == CONTEXT + 50 * MIB
    assert reading.details["driver_reserved_bytes"] == DRIVER
    assert reading.details["exclusive"] is True
    assert_torch_channels(reading)
