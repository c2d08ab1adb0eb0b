"""Facts of a GPU and its software, kept beside its reference table."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import torch

from scpseg.environment import environment
from scpseg.profiling.fresh import allocator
from scpseg.profiling.sampling import Device, SourceError

SWITCHES = ("CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE")
PACKAGES = ("numpy", "nvidia-ml-py", "segmentation-models-pytorch", "timm", "torchvision")


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Facts of an NVIDIA GPU and its software for a reference table, after `scpseg.environment.configure`.

    No host name, no UUID. `driver` is None if NVML cannot be read; `nvml` then has the reason.
    """
    properties = torch.cuda.get_device_properties(device)
    facts: dict[str, Any] = {"driver": None, "mig": None}
    why = None
    try:
        facts = Device(str(properties.uuid), os.environ.get("CUDA_VISIBLE_DEVICES")).facts
    except SourceError as error:
        why = str(error)
    return {
        **environment(device),
        "gpu": properties.name,
        "total_bytes": int(properties.total_memory),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": int(properties.multi_processor_count),
        "driver": facts["driver"],
        "mig": facts["mig"],
        "nvml": why,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "allocator": {**allocator(), "backend": torch.cuda.get_allocator_backend()},
        "switches": {name: os.environ.get(name) for name in SWITCHES},
        "packages": {name: version(name) for name in PACKAGES},
    }
