"""Facts of the machine for a reference table: hardware, versions, settings; no host name, no UUID."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from scpseg.environment import environment
from scpseg.profiling.fresh import allocator
from scpseg.profiling.nvml import Device
from scpseg.profiling.sampling import SourceError

SWITCHES = ("CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE")
PACKAGES = ("numpy", "nvidia-ml-py", "segmentation-models-pytorch", "timm", "torchvision")


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Facts of an NVIDIA GPU and its software, after `scpseg.environment.configure`.

    `driver` is None if NVML cannot be read; `nvml` then has the reason.
    """
    properties = torch.cuda.get_device_properties(device)
    driver, mig, why = None, None, None
    try:
        facts = Device(str(properties.uuid), os.environ.get("CUDA_VISIBLE_DEVICES")).facts
        driver, mig = facts["driver"], facts["mig"]
    except SourceError as error:
        why = str(error)
    return {
        **environment(device),
        "gpu": properties.name,
        "total_bytes": int(properties.total_memory),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": int(properties.multi_processor_count),
        "driver": driver,
        "mig": mig,
        "nvml": why,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "allocator": {**allocator(), "backend": torch.cuda.get_allocator_backend()},
        "switches": {name: os.environ.get(name) for name in SWITCHES},
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
