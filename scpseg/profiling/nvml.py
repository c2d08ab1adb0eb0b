"""Read the memory of a GPU through NVML, in the sampler process. Imports only pynvml (package nvidia-ml-py)."""

from __future__ import annotations

from typing import Any

from scpseg.profiling.sampling import Sample, SourceError


class Device:
    """A GPU or a MIG instance, found by its UUID: torch and NVML number devices differently.

    Attributes:
        facts: 'driver': version; 'mig': whether it is an instance; 'processes' and 'memory': None if the last reading
            contains the list of processes and the device's memory, otherwise the reason.
    """

    def __init__(self, uuid: str, visible: str | None) -> None:
        """Open NVML and find the device.

        Args:
            uuid: torch's UUID of the device, with or without prefix.
            visible: CUDA_VISIBLE_DEVICES of the measured process; selects the instance of a GPU that is split.

        Raises:
            SourceError: package, library, permission or device is missing.
        """
        try:
            import pynvml
        except ImportError:
            raise SourceError("the package nvidia-ml-py is not installed") from None
        self.nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self.handle, mig = self._find(uuid, visible)
            driver = pynvml.nvmlSystemGetDriverVersion()
        except pynvml.NVMLError as error:
            raise SourceError(f"NVML: {error}") from None
        self.facts: dict[str, Any] = {"driver": driver, "mig": mig, "processes": None, "memory": None}
        self.read()

    def read(self) -> Sample:
        """Bytes in use on the device ('device', without the driver's 'reserved') and by each process (its id)."""
        sample: Sample = {"device": None, "reserved": None}
        self.facts["memory"] = self.facts["processes"] = None
        try:
            # Version 2: in version 1, `used` includes the driver's reserve of 300 to 900 MB.
            memory = self.nvml.nvmlDeviceGetMemoryInfo(self.handle, version=self.nvml.nvmlMemory_v2)
            sample["device"], sample["reserved"] = memory.used, memory.reserved
        except self.nvml.NVMLError as error:
            self.facts["memory"] = self._why(error)
        try:
            for process in self._processes():
                key, used = str(process.pid), process.usedGpuMemory
                # A process that computes and draws is in both lists with the same figure.
                sample[key] = used if sample.get(key) is None else max(used or 0, sample[key] or 0)
        except self.nvml.NVMLError as error:
            self.facts["processes"] = self._why(error)
        return sample

    def _processes(self) -> list[Any]:
        # With version suffix: the plain name raises something other than an NVMLError if the driver lacks the function.
        computing = list(self.nvml.nvmlDeviceGetComputeRunningProcesses_v3(self.handle))
        try:
            return computing + list(self.nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(self.handle))
        except self.nvml.NVMLError_NotSupported:
            # Accelerators without a display, and MIG instances, do not have this list.
            return computing

    def _why(self, error: Exception) -> str:
        old = isinstance(error, self.nvml.NVMLError_FunctionNotFound)
        return f"NVML: {error}" + (f" (driver {self.facts['driver']} is too old)" if old else "")

    def _find(self, uuid: str, visible: str | None) -> tuple[Any, bool]:
        # CUDA names the GPU of an instance, or from version 12 on the instance itself.
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        instance = self._known("MIG-" + bare)
        if instance is not None:
            return instance, True
        card = self._known("GPU-" + bare)
        if card is None:
            raise SourceError(f"NVML knows no device with the UUID that torch names ({bare})")
        instances = self._instances(card)
        return (card, False) if instances is None else (self._instance(instances, visible), True)

    def _known(self, uuid: str) -> Any:
        """The device with this complete UUID, or None."""
        try:
            return self.nvml.nvmlDeviceGetHandleByUUID(uuid)
        except (self.nvml.NVMLError_NotFound, self.nvml.NVMLError_InvalidArgument):
            return None

    def _instances(self, handle: Any) -> list[Any] | None:
        """The MIG instances of a GPU; None if it is not split."""
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
        """The only instance, or the one whose UUID starts like CUDA_VISIBLE_DEVICES; CUDA uses the first in it."""
        named, number = (visible or "").split(",")[0].strip(), len(instances)
        if number > 1 and named.startswith("MIG-"):
            whole = self._known(named)  # NVML also accepts the older form MIG-GPU-uuid/instance/instance
            if whole is not None:
                return whole
            # CUDA accepts the start of a UUID, NVML does not.
            instances = [handle for handle in instances if self.nvml.nvmlDeviceGetUUID(handle).startswith(named)]
        if len(instances) == 1:
            return instances[0]
        fitting = f" ({named} fits {len(instances)} of them)" if named.startswith("MIG-") else ""
        raise SourceError(
            f"the GPU is split into {number} MIG instances and which one is ours is not known{fitting}: "
            "set CUDA_VISIBLE_DEVICES to the UUID of the instance"
        )
