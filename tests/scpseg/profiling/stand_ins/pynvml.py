"""Stands in for pynvml at the library's border: the state of the GPUs is read from the JSON file $FAKE_NVML.

{"library": "ok" | "missing",
 "devices": {uuid: {"used", "reserved", "processes": [[pid, bytes | null]], "processes_error", "mig": [uuid, ...]}}}
Devices are numbered in the order of the file. A MIG instance is a device of its own.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Never

NVML_DEVICE_MIG_ENABLE = 1
nvmlMemory_v2 = 0x2000028


class NVMLError(Exception):
    pass


class NVMLError_NotFound(NVMLError):
    pass


class NVMLError_InvalidArgument(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_FunctionNotFound(NVMLError):
    pass


def state() -> Any:
    return json.loads(Path(os.environ["FAKE_NVML"]).read_text())


def nvmlInit() -> None:
    if state()["library"] == "missing":
        raise NVMLError("NVML Shared Library Not Found")


def nvmlSystemGetDriverVersion() -> str:
    return "570.00"


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    if uuid not in state()["devices"]:
        raise NVMLError_NotFound("Not Found")
    return uuid


def nvmlDeviceGetMigMode(handle: str) -> list[int]:
    instances = state()["devices"][handle].get("mig")
    if instances is None:
        raise NVMLError_NotSupported("Not Supported")
    return [1 if instances else 0, 0]


def nvmlDeviceGetMaxMigDeviceCount(handle: str) -> int:
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle: str, index: int) -> Any:
    instances = state()["devices"][handle]["mig"]
    if index >= len(instances):
        raise NVMLError_NotFound("Not Found")
    return instances[index]


def nvmlDeviceGetMemoryInfo(handle: str, version: int | None = None) -> SimpleNamespace:
    assert version == nvmlMemory_v2, "version 1 counts the driver's reserve as used"
    device = state()["devices"][handle]
    return SimpleNamespace(used=device["used"], reserved=device["reserved"])


def nvmlDeviceGetComputeRunningProcesses_v3(handle: str) -> list[SimpleNamespace]:
    device = state()["devices"][handle]
    if device.get("processes_error"):
        raise NVMLError(device["processes_error"])
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device["processes"]]


def nvmlDeviceGetGraphicsRunningProcesses_v3(handle: str) -> Never:
    raise NVMLError_NotSupported("Not Supported")
