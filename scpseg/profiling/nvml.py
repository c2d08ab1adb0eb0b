"""What the sampling process reads of a GPU through NVML. Imports pynvml (package nvidia-ml-py) and nothing else."""

from __future__ import annotations

from typing import Any

from scpseg.profiling.sources import Sample, SourceError


class Device:
    """One GPU, or one MIG instance of it, found by its UUID: torch's and NVML's numbering differ.

    Attributes:
        facts: 'driver' version; 'mig' whether it is an instance; 'processes' and 'memory': None where the list of
            processes and the device's memory can be read, else why not.
    """

    def __init__(self, uuid: str, visible: str | None) -> None:
        """Open NVML and find the device.

        Args:
            uuid: torch's UUID of the device, with or without its prefix.
            visible: the measured process's CUDA_VISIBLE_DEVICES; names the instance of a GPU that is split.

        Raises:
            SourceError: no package, no library, no permission, no such device.
        """
        try:
            import pynvml
        except ImportError:
            raise SourceError("the package nvidia-ml-py is not installed") from None
        self.nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self.handle, mig = self._find(uuid, visible)
            driver = _text(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError as error:
            raise SourceError(f"NVML: {error}") from None
        self.facts: dict[str, Any] = {"driver": driver, "mig": mig, "processes": None, "memory": None}
        self.read()

    def read(self) -> Sample:
        """Bytes in use on the device ('device', without the driver's own 'reserved') and by each process (its id)."""
        sample: Sample = {"device": None, "reserved": None}
        try:
            # Version 2: in version 1 `used` has the driver's reserve of 300 to 900 MB in it.
            memory = self.nvml.nvmlDeviceGetMemoryInfo(self.handle, version=self.nvml.nvmlMemory_v2)
            sample["device"], sample["reserved"] = memory.used, memory.reserved
        except self.nvml.NVMLError as error:
            self.facts["memory"] = f"NVML: {error}"
        try:
            for process in self._processes():
                key, used = str(process.pid), process.usedGpuMemory
                # A process that computes and draws stands in both lists with the same figure.
                sample[key] = used if sample.get(key) is None else max(used or 0, sample[key] or 0)
        except self.nvml.NVMLError as error:
            self.facts["processes"] = f"NVML: {error}"
        return sample

    def _processes(self) -> list[Any]:
        computing = list(self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle))
        try:
            return computing + list(self.nvml.nvmlDeviceGetGraphicsRunningProcesses(self.handle))
        except self.nvml.NVMLError_NotSupported:
            # Accelerators without a display, and MIG instances, have no such list.
            return computing

    def _find(self, uuid: str, visible: str | None) -> tuple[Any, bool]:
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        for prefix in ("GPU-", "MIG-"):
            try:
                handle = self.nvml.nvmlDeviceGetHandleByUUID(prefix + bare)
            except (self.nvml.NVMLError_NotFound, self.nvml.NVMLError_InvalidArgument):
                continue
            if prefix == "MIG-":
                return handle, True
            instances = self._instances(handle)
            return (handle, False) if instances is None else (self._instance(instances, visible), True)
        raise SourceError(f"NVML knows no device with the UUID that torch names ({bare})")

    def _instances(self, handle: Any) -> list[Any] | None:
        """The MIG instances of a GPU; None where it is not split."""
        try:
            if self.nvml.nvmlDeviceGetMigMode(handle)[0] != self.nvml.NVML_DEVICE_MIG_ENABLE:
                return None
        except self.nvml.NVMLError_NotSupported:
            return None
        found = []
        for index in range(self.nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                found.append(self.nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
            except self.nvml.NVMLError_NotFound:
                continue
        return found

    def _instance(self, instances: list[Any], visible: str | None) -> Any:
        named = (visible or "").split(",")[0].strip()
        if named.startswith("MIG-"):
            return self.nvml.nvmlDeviceGetHandleByUUID(named)
        if len(instances) == 1:
            return instances[0]
        raise SourceError(
            f"the GPU is split into {len(instances)} MIG instances and which one is ours is not known: "
            "set CUDA_VISIBLE_DEVICES to the UUID of the instance"
        )


def _text(value: str | bytes) -> str:
    """Old releases of pynvml answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value
