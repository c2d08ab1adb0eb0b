"""Device settings and the environment of a measurement: versions, device and flags; no host, user or path names."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from scpseg.errors import UserError
from scpseg.params import MachineParams

KEEPING = ((-4, 0), (-1, 2**31 - 1), (-2, 2**26))
"""Settings of mallopt: no block has a mapping of its own (M_MMAP_MAX), the heap does not shrink (M_TRIM_THRESHOLD), and
grows by 64 MiB at a time (M_TOP_PAD)."""
USUAL = ((-3, 2**25), (-1, 2**26))
"""M_MMAP_THRESHOLD and M_TRIM_THRESHOLD as glibc itself sets them in a program that frees large blocks."""


def choose_device(name: str) -> torch.device:
    """Return the device: 'auto' is the first CUDA device if there is one, otherwise the CPU.

    Raises:
        UserError: 'cuda' is requested but not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("machine.device is 'cuda', but torch finds no CUDA device; set machine.device to auto or cpu")
    return torch.device(name)


def resolved(machine: MachineParams) -> dict[str, Any]:
    """`machine.device` and `machine.threads` as `configure` would set them, without defaults of the library.

    Results depend on them: with `threads: 0`, those of another OMP_NUM_THREADS would look the same. On a GPU, threads
    do not matter.

    Raises:
        UserError: the device is not available.
    """
    device = choose_device(machine.device).type
    threads = machine.threads or (torch.get_num_threads() if device == "cpu" else 0)
    return {"machine.device": device, "machine.threads": threads}


def configure(machine: MachineParams) -> torch.device:
    """Set TF32, determinism and this process's share of the threads, and return its device."""
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if machine.threads:
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        torch.set_num_threads(max(1, machine.threads // processes))
    torch.use_deterministic_algorithms(machine.deterministic)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = machine.tf32
    torch.backends.cuda.matmul.allow_tf32 = machine.tf32
    return choose_device(machine.device)


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, for the next step of a training; returns whether this worked.

    By default large blocks go back to the system, and page faults of new ones take about a tenth of a step on a CPU.
    The peak stays the same. Not for processes that measure resident memory.
    """
    return _set_malloc(KEEPING)


def usual_allocator() -> bool:
    """Let glibc keep freed blocks, as it does by default, for timing; returns whether this worked."""
    return _set_malloc(USUAL)


def _set_malloc(settings: tuple[tuple[int, int], ...]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*setting) for setting in settings])


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and flags; included in every result row."""
    gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,  # type: ignore[no-untyped-call]
        "device": torch.cuda.get_device_name(device) if gpu else processor(),
        "threads": None if gpu else torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if gpu else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def processor() -> str:
    """Model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
