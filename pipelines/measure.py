"""Peak memory of any command: runs it and samples the memory of all its processes.

    python -m pipelines.measure --benchmark deepglobe --name GLNet -- python test.py --image 10452.jpg

With an NVIDIA GPU: the memory that NVML reports for new processes, or else the increase on the whole device. Without
a GPU: resident memory of the command's processes without file pages, which is not an estimate of GPU memory. With
--benchmark and --name, a row "measured around a command" is written to results/contributed/NAME.csv. The conditions
(image size, windows at once, precision) are not known here: state them with --note.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipelines.score import CONTRIBUTED, slug
from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.profiling.records import MIB
from scpseg.profiling.sampling import PERIOD, Sampler, TimedSamples, gaps

GATE = 'kill -STOP $$; exec "$@"'
"""Shell script that stops until the sampler has started, and then becomes the command."""
OURS = ("device", "reserved")


def gpus() -> list[tuple[str, str]]:
    """(UUID, name) of the GPUs that a command here would see; empty without NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return []
    except pynvml.NVMLError:
        return []
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    found = [(str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle))) for handle in handles]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    names = [name.strip() for name in visible.split(",") if name.strip()]
    chosen = [found[int(name)] for name in names if name.isdecimal() and int(name) < len(found)]
    return chosen + [one for name in names for one in found if not name.isdecimal() and one[0].startswith(name)]


def gpu_peak(samples: TimedSamples) -> tuple[int | None, str]:
    """Peak bytes on one GPU of processes that the first sample does not contain, else the increase on the device."""
    before = samples[0][1]
    new = [{key: used for key, used in sample.items() if key not in (*OURS, *before)} for _, sample in samples]
    known = [sum(used for used in one.values() if used is not None) for one in new]
    if max(known, default=0) > 0:
        return max(known), "nvml"
    device = [sample["device"] for _, sample in samples if sample.get("device") is not None]
    first = before.get("device")
    if not device or first is None:
        return None, "nvml"
    return max(used for used in device if used is not None) - first, "nvml, gain of the whole device"


def resident_peak(samples: TimedSamples) -> tuple[int | None, str]:
    """Peak bytes of all processes of the command together."""
    return max((used for _, sample in samples if (used := sample["rss"]) is not None), default=None), "rss"


def measure(command: Sequence[str], period: float = PERIOD) -> dict[str, Any]:
    """Run a command and return its peak memory and how it was measured.

    Raises:
        UserError: the command cannot be started, or memory cannot be read on this system.
    """
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} is not a command; write the whole command after --, such as -- python test.py")
    devices = gpus()
    process = subprocess.Popen(["/bin/sh", "-c", GATE, "sh", *command])
    sources: list[tuple[str, str | int]] = [("nvml", uuid) for uuid, _ in devices]
    samplers = {Sampler(period): source for source in sources or [("tree", process.pid)]}
    try:
        for sampler, source in samplers.items():
            sampler.start(*source)
        _expect_answers(samplers)
        began = time.monotonic()
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        os.kill(process.pid, signal.SIGCONT)
        code = process.wait()
        seconds = time.monotonic() - began
        taken = [sampler.stop() for sampler in samplers]
        _expect_answers(samplers)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for sampler in samplers:
            sampler.close()
    peaks = [gpu_peak(samples) if devices else resident_peak(samples) for samples in taken]
    # The gain of a whole device may be another process's, so it counts only where no GPU shows the command's own.
    kind = "nvml" if any(kind == "nvml" and peak for peak, kind in peaks) else peaks[0][1]
    used = [peak for peak, found in peaks if peak is not None and found == kind]
    mean, longest = gaps([sample for sample in taken[0] if sample[0] <= began + seconds])
    return {
        "command": list(command),
        "exit": code,
        "seconds": round(seconds, 3),
        # With several GPUs, each holds its own part: the largest decides whether a method fits.
        "memory_mib": round(max(used) / MIB, 1) if used else None,
        "memory_kind": kind,
        "hardware": ", ".join(name for _, name in devices) or processor(),
        "samples": len(taken[0]),
        "period_ms": round(mean, 1),
        "longest_gap_ms": round(longest, 1),
    }


def _expect_answers(samplers: Iterable[Sampler]) -> None:
    for sampler in samplers:
        if sampler.lost is not None:
            raise UserError(f"memory cannot be measured here: {sampler.lost}")


def processor() -> str:
    """Model name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def work(asked: argparse.Namespace) -> None:
    """Measure, print, and write the requested row.

    Raises:
        UserError: see `measure`; the command failed; no memory was observed.
    """
    from scpseg.reporting.contributed import MEASURED, add_row  # imports pandas, for which --help need not wait

    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not command:
        raise UserError("no command is given; write it after --, such as python -m pipelines.measure -- python test.py")
    if bool(asked.benchmark) != bool(asked.name):
        raise UserError("--benchmark and --name belong together: give both for a row, or neither to print only")
    found = measure(command)
    for key, value in found.items():
        print(f"{key:15} {' '.join(value) if isinstance(value, list) else value}")
    if found["exit"] != 0:
        raise UserError(f"the command ended with exit status {found['exit']}, so its memory is not recorded")
    if found["memory_mib"] is None:
        raise UserError(f"no memory was observed by {found['memory_kind']}; let the command run longer than a second")
    if asked.name:
        note = "; ".join(filter(None, (f"sampled every {found['period_ms']} ms", asked.note)))
        row = {key: found[key] for key in ("memory_mib", "memory_kind", "seconds", "hardware")} | {"note": note}
        path = CONTRIBUTED / f"{slug(asked.name)}.csv"
        add_row(path, row | {"benchmark": asked.benchmark, "method": asked.name, "kind": MEASURED})
        print(f"{'row':15} {path}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=list(BENCHMARKS))
    parser.add_argument("--name", metavar="METHOD", help="name of the method in the tables")
    parser.add_argument("--note", default="", help="image size, windows at once, precision, address of the code")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    work(parser.parse_args())


if __name__ == "__main__":
    run_stage(main)
