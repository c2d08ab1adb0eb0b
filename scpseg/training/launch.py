"""Start the processes of a data-parallel training on one machine, and end them together."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from scpseg.errors import UserError
from scpseg.training.interrupt import deferred_interrupt

GRACE = 60.0
"""Seconds that the other processes get to end when one has failed."""
REPORT = "error"
"""Start of the names of files with the errors of processes."""
PATIENCE = timedelta(hours=1)
"""Time after which a process that waits for another one gives up."""


def launch(count: int, device: torch.device, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(*arguments)` in `count` processes that train together; 1 = in this process.

    Process r uses the CUDA device number r, or its share of the CPU's threads; only process 0 prints.

    Raises:
        UserError: there are fewer CUDA devices; a process was killed; or the first that a process raised.
        KeyboardInterrupt: after SIGINT or SIGTERM, when all processes have saved their state and ended.
        ProcessException: a process failed otherwise.
    """
    if count == 1:
        work(*arguments)
        return
    available = torch.cuda.device_count() if device.type == "cuda" else count
    if count > available:
        raise UserError(
            f"params.yaml: machine.devices is {count}, but {available} CUDA devices are visible; set it to {available}"
        )
    # Else each process says in every phase whether parameters are unused.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as folder, deferred_interrupt() as interrupted:
        place = Path(folder).resolve()
        given = (count, device.type, place, work, arguments)
        started = start_processes(_process, given, count, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
        context = cast(ProcessContext, started)
        passed = False
        try:
            while not context.join(timeout=0.2, grace_period=GRACE):
                if interrupted() and not passed:
                    passed = True
                    for process in context.processes:
                        process.terminate()
        except (ProcessExitedException, ProcessRaisedException) as error:
            if interrupted():
                raise KeyboardInterrupt from None
            if isinstance(error, ProcessExitedException):
                how = f"was killed by {error.signal_name}" if error.signal_name else f"exited with {error.exit_code}"
                hint = ", probably because memory ran out" if error.signal_name == "SIGKILL" else ""
                again = "run the same command again to continue"
                raise UserError(f"process {error.error_index} of {count} {how}{hint}; {again}") from None
            # What is raised first may be of a process that lost its connection to the one with the error.
            for report in sorted(place.glob(f"{REPORT}*")):
                raise UserError(report.read_text(encoding="utf-8")) from None
            text = str(error)
            if "OutOfMemoryError" in text:
                raise torch.OutOfMemoryError(text.strip().splitlines()[-1]) from None
            raise
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
                process.join()
    if interrupted():
        raise KeyboardInterrupt


def _process(
    rank: int, count: int, device: str, place: Path, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    # Ctrl-C of a terminal reaches all processes of a group; the first process alone passes it on, once.
    os.setpgid(0, 0)
    if rank:
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    rendezvous = f"file://{place}/rendezvous"
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        work(*arguments)
    except UserError as error:
        (place / f"{REPORT}{rank}").write_text(str(error), encoding="utf-8")
        raise
    finally:
        distributed.destroy_process_group()
