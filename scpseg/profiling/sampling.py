"""Memory sampled every few milliseconds by a process of its own, and the measuring process's connection to it.

A thread would starve while the network holds the interpreter. The sampling process is this module run by `python -m`,
without torch and numpy, so that it is small and starts fast. It reads lines from its standard input (`last` or `all`)
and answers each with its samples in one line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import scpseg
from scpseg.processes import end_with_parent

PERIOD = 0.008  # seconds between two samples
PATIENCE = 60.0
"""Seconds to wait for an answer: opening NVML is slow where there are many GPUs, and may hang if the driver does."""
Sample = dict[str, int | None]
"""Bytes by key: 'rss' of a process; or 'device' and 'reserved' of a GPU, and each process on it by its id."""
TimedSamples = list[tuple[float, Sample]]  # with their times (`time.monotonic`)


class SourceError(Exception):
    """Memory cannot be read this way; the message says why."""


class Sampler:
    """A sampling process, which starts with `start`.

    `facts` describes the source (driver, MIG) as of the last answer. `lost` is None while samples arrive, otherwise the
    reason why they stopped: the source cannot be read, or the process has ended or does not answer.
    """

    process: subprocess.Popen[bytes] | None = None
    lost: str | None = None

    def __init__(self, period: float = PERIOD) -> None:
        """Sample every `period` seconds."""
        self.period = period
        self.facts: dict[str, Any] = {}

    def start(self, source: str, what: int | str) -> None:
        """Sample 'rss' of a process or of its 'tree', by its id, or 'nvml' of a GPU, by its UUID."""
        paths = [str(Path(scpseg.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scpseg.profiling.sampling", str(self.period), source, str(what)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._ask("last")

    def mark(self) -> Sample:
        """A sample taken now; without any key once the sampler is lost."""
        samples = self._ask("last")
        return samples[0][1] if samples else {}

    def stop(self) -> TimedSamples:
        """Every sample, with a last one taken now; none if the sampler is lost. The process ends."""
        samples = self._ask("all")
        self.close()
        return samples

    def close(self) -> None:
        """End the process if it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()  # an unsent line is lost with its reader

    def _ask(self, command: str) -> TimedSamples:
        if self.process is None or self.lost is not None:
            return []
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        answered = select.select([self.process.stdout], [], [], PATIENCE)[0]
        line = self.process.stdout.readline() if answered else b""
        if line.endswith(b"\n"):
            answer = json.loads(line)
            self.lost, self.facts = answer["error"], answer["facts"]
            return [(at, sample) for at, sample in answer["samples"]]
        self.close()
        code = self.process.returncode
        how = f"ended too early ({f'killed by signal {-code}' if code < 0 else f'exit status {code}'})"
        self.lost = f"the sampling process {how if answered else f'did not answer within {PATIENCE:.0f} s'}"
        return []


def gaps(samples: TimedSamples) -> tuple[float, float]:
    """Mean and longest time between two samples in milliseconds; 0 for fewer than two samples."""
    between = [(late - early) * 1000 for early, late in pairwise(at for at, _ in samples)]
    return (sum(between) / len(between), max(between)) if between else (0.0, 0.0)


class Resident:
    """Resident memory of a process without file pages, from Linux's /proc; with `tree`, of its children too.

    Pages that a fork shares with its parent until one of them writes are counted in both.
    """

    def __init__(self, pid: int, tree: bool) -> None:
        """Read process `pid`; raises SourceError if the process does not exist, or /proc is missing."""
        self.pid, self.tree, self.page = pid, tree, os.sysconf("SC_PAGE_SIZE")
        self.facts: dict[str, Any] = {}
        needed = f"/proc/{pid}/task/{pid}/children" if tree else f"/proc/{pid}/statm"
        if not os.path.exists(needed):
            raise SourceError(f"{needed} cannot be read")

    def read(self) -> Sample:
        """{'rss': bytes}; None once all processes have ended."""
        sizes, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            with suppress(OSError, ValueError):  # it has ended meanwhile
                with open(f"/proc/{pid}/statm", "rb", buffering=0) as stream:
                    _, resident, shared = stream.read().split()[:3]
                sizes.append((int(resident) - int(shared)) * self.page)
                for thread in os.listdir(f"/proc/{pid}/task") if self.tree else ():
                    with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                        waiting += map(int, stream.read().split())
        return {"rss": sum(sizes) if sizes else None}


class Device:
    """Memory of a GPU or a MIG instance, from NVML; found by UUID, because torch and NVML number devices differently.

    `facts` has the version of the 'driver'; 'mig', whether it is an instance; 'processes' and 'memory', None if the
    last reading has the list of processes and the device's memory, otherwise the reason.
    """

    def __init__(self, uuid: str) -> None:
        """Open NVML and find the device with torch's `uuid`, which may lack its prefix.

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
            self.handle, mig = self._find(uuid)
            self.facts: dict[str, Any] = {"driver": pynvml.nvmlSystemGetDriverVersion(), "mig": mig}
        except pynvml.NVMLError as error:
            raise SourceError(f"NVML: {error}") from None

    def read(self) -> Sample:
        """Bytes in use on the device ('device', without the driver's 'reserved') and by each process (its id)."""
        sample: Sample = {"device": None, "reserved": None}
        with self._noting("memory"):
            # Version 2: in version 1, `used` includes the driver's reserve of 300 to 900 MB.
            memory = self.nvml.nvmlDeviceGetMemoryInfo(self.handle, version=self.nvml.nvmlMemory_v2)
            sample = {"device": memory.used, "reserved": memory.reserved}
        with self._noting("processes"):
            # With version suffix: the plain name raises something other than an NVMLError if the driver lacks it.
            processes = list(self.nvml.nvmlDeviceGetComputeRunningProcesses_v3(self.handle))
            # Accelerators without a display, and MIG instances, do not have this list.
            with suppress(self.nvml.NVMLError_NotSupported):
                processes += self.nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(self.handle)
            for process in processes:
                key, used = str(process.pid), process.usedGpuMemory
                # A process that computes and draws is in both lists with the same figure.
                sample[key] = used if sample.get(key) is None else max(used or 0, sample[key] or 0)
        return sample

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note under `what` in the facts why NVML gave no answer within the block, None if it did."""
        self.facts[what] = None
        try:
            yield
        except self.nvml.NVMLError as error:
            old = isinstance(error, self.nvml.NVMLError_FunctionNotFound)
            self.facts[what] = f"NVML: {error}" + (f" (driver {self.facts['driver']} is too old)" if old else "")

    def _find(self, uuid: str) -> tuple[Any, bool]:
        # CUDA names the GPU of an instance, or from version 12 on the instance itself.
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        if (instance := self._known("MIG-" + bare)) is not None:
            return instance, True
        if (card := self._known("GPU-" + bare)) is None:
            raise SourceError(f"NVML knows no device with the UUID that torch names ({bare})")
        with suppress(self.nvml.NVMLError_NotSupported):
            if self.nvml.nvmlDeviceGetMigMode(card)[0] == self.nvml.NVML_DEVICE_MIG_ENABLE:
                return self._instance(card), True
        return card, False

    def _known(self, uuid: str) -> Any:
        """The device with this complete UUID, or None."""
        with suppress(self.nvml.NVMLError_NotFound, self.nvml.NVMLError_InvalidArgument):
            return self.nvml.nvmlDeviceGetHandleByUUID(uuid)

    def _instance(self, card: Any) -> Any:
        """The only MIG instance, or the one whose UUID starts like CUDA_VISIBLE_DEVICES; CUDA uses the first in it."""
        instances = []
        for index in range(self.nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
            with suppress(self.nvml.NVMLError_NotFound):
                instances.append(self.nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))
        named, number = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip(), len(instances)
        if number > 1 and named.startswith("MIG-"):
            # NVML also accepts the older form MIG-GPU-uuid/instance/instance.
            if (whole := self._known(named)) is not None:
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


def main() -> None:
    """Sample the source that the command line names (PERIOD SOURCE ID) until stopped, or until the parent ends."""
    # Ctrl-C reaches the whole terminal group; the measuring process decides, and its end is seen as end of input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    period, kind, what = sys.argv[1:]
    try:
        source = Device(what) if kind == "nvml" else Resident(int(what), kind == "tree")
    except SourceError as error:
        print(json.dumps({"samples": [], "facts": {}, "error": str(error)}), flush=True)
        return
    samples: TimedSamples = []
    due = time.monotonic()
    with open(0, "rb", buffering=0) as commands:
        while True:
            asked = select.select([commands], [], [], max(0.0, due - time.monotonic()))[0]
            command = commands.readline().strip() if asked else None
            if command == b"":
                return
            samples.append((time.monotonic(), source.read()))
            if command:
                answer = samples if command == b"all" else samples[-1:]
                print(json.dumps({"samples": answer, "facts": source.facts, "error": None}), flush=True)
            else:
                # A late sample delays the next: samples that pile up would only repeat each other.
                due = max(due + float(period), time.monotonic())


if __name__ == "__main__":
    main()
