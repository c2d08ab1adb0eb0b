"""The few things that the meter asks of torch.cuda."""

from __future__ import annotations

from typing import Any

import torch


class Gpu:
    """torch.cuda for one device, whose allocator keeps count; tests stand in for it."""

    def __init__(self, device: torch.device) -> None:
        """Speak for `device`."""
        self.device = device

    def uuid(self) -> str:
        """UUID of the device."""
        return str(torch.cuda.get_device_properties(self.device).uuid)

    def allocate(self, size: int) -> Any:
        """A tensor of `size` bytes, written to."""
        return torch.zeros(size, dtype=torch.uint8, device=self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """Give cached blocks back to the driver."""
        torch.cuda.empty_cache()

    def reset(self) -> None:
        """Forget the allocator's peaks."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def reserved(self) -> int:
        """Bytes that the allocator holds now."""
        return torch.cuda.memory_reserved(self.device)

    def peaks(self) -> tuple[int, int]:
        """Largest allocated and reserved bytes since the last reset."""
        return torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)

    def total(self) -> int:
        """Bytes of the device."""
        return int(torch.cuda.get_device_properties(self.device).total_memory)
