"""Stage `profile`: peak memory and speed of one method at a benchmark's image size, in a fresh process.

It needs neither a dataset nor trained weights, so memory can be measured before anything is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import paths
from pipelines.stage import run_stage
from scpseg.benchmarks import get_benchmark
from scpseg.errors import UserError
from scpseg.files import write_json
from scpseg.params import InferenceParams, MachineParams, Params, ProfileParams
from scpseg.processes import end_with_parent
from scpseg.profiling.fresh import ChildKilled, allocator, memory_limit, run_fresh
from scpseg.profiling.records import COSTS, HEADLINES, INFERENCE, MIB, TRAINING, without_figures


def request_of(params: Params, benchmark: str, method: str) -> dict[str, Any]:
    """The request for the fresh process: plain parameters and the sizes of whole-image inference."""
    spec = get_benchmark(benchmark)
    profile = params.section("profile", ProfileParams)
    inference = params.section("inference", InferenceParams)
    side = spec.side if profile.side == "real" else profile.side
    # Memory and speed do not depend on the weights: random ones need no download.
    values = {**params.values, "segmenter": {**params.values["segmenter"], "weights": "random"}}
    return {
        "benchmark": benchmark,
        "method": method,
        "kind": INFERENCE,
        "file": params.path.name,
        "params": values,
        "workload": {
            "height": side,
            "width": side,
            "classes": len(spec.classes),
            "overlap": inference.overlap,
            "batch": inference.batch,
            "repeats": profile.repeats,
        },
    }


def step_request_of(params: Params, benchmark: str, method: str, phase: int = 0) -> dict[str, Any]:
    """The same for a training step of the method's phase number `phase`, with the benchmark's batch size."""
    request = request_of(params, benchmark, method)
    sizes = {key: request["workload"][key] for key in ("height", "width", "classes", "repeats")}
    batch = params.benchmark(benchmark).batch
    return {**request, "kind": TRAINING, "workload": {**sizes, "batch": batch, "phase": phase}}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Measure in this process, which must be fresh."""
    # Imported here: the stage's own process computes nothing and starts without torch.
    import torch

    from pipelines.methods import build_method, module_of
    from scpseg.contract import Method
    from scpseg.environment import configure, environment
    from scpseg.profiling.computed import inference
    from scpseg.profiling.meters import CudaMeter, RssMeter
    from scpseg.profiling.workload import Workload, measure

    params = Params(request["params"], Path(request["file"]))
    machine = params.section("machine", MachineParams)
    # Deterministic kernels need other algorithms and memory: off for all methods, and recorded.
    device = configure(MachineParams(**{**asdict(machine), "deterministic": False}))
    # Imports count as memory of the idle process, not of the model.
    importlib.import_module("segmentation_models_pytorch")
    module_of(request["method"])
    torch.manual_seed(0)

    def make() -> Method:
        return build_method(params, request["benchmark"], request["method"])

    train = params.training(request["method"]) if request["kind"] == TRAINING else None
    workload = Workload(**request["workload"])
    figures = measure(make, workload, device, CudaMeter(device) if device.type == "cuda" else RssMeter(), train)
    if figures["status"] == "ok" and train is None and request.get("count", True):
        counted = inference(make, workload)
        figures |= {name: counted[name] for name in COSTS}
    return {**figures, "environment": {**environment(device), "allocator": allocator()}}


def attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Measure in this process; a failure is a result to report, with its traceback on the terminal."""
    try:
        return answer(request)
    except UserError:
        raise
    except Exception as error:
        traceback.print_exc()
        reason = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        return without_figures("failed", reason, backend=None)


def child(task: Callable[[dict[str, Any]], dict[str, Any]], path: Path) -> None:
    """Read a request from standard input; write the task's answer, or its UserError."""
    end_with_parent()
    request = json.load(sys.stdin)
    try:
        result = task(request)
    except UserError as error:
        result = {"user_error": str(error)}
    write_json(path, result)


def accepted(result: dict[str, Any]) -> dict[str, Any]:
    """What `child` wrote; raises the UserError if it is one."""
    if "user_error" in result:
        raise UserError(result["user_error"])
    return result


def ask(request: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
    """Measure in a fresh process; if the process dies, this is a result as well.

    Raises:
        UserError: a parameter is not valid.
        TimeoutError: it did not end within `timeout` seconds.
    """
    try:
        return accepted(run_fresh(["pipelines.profile", "--child"], request, timeout))
    except ChildKilled as error:
        # The kernel does not report the limit; on a CPU it is that of the machine or the control group.
        limit = memory_limit() if error.status == "oom" else None
        return without_figures(error.status, str(error), backend=None, limit=limit)


def record_of(request: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """The measurement with its request."""
    workload = request["workload"]
    batch = {"batch": workload["batch"]} if request["kind"] == TRAINING else {}
    return {
        "repeats": workload["repeats"],
        **figures,
        **batch,
        "benchmark": request["benchmark"],
        "method": request["method"],
        "workload": request["kind"],
        "height": workload["height"],
        "width": workload["width"],
        "real_size": workload["height"] == get_benchmark(request["benchmark"]).side,
        "windows_per_batch": workload["batch"],
        "overlap": workload.get("overlap"),
        "segmenter": {**request["params"]["segmenter"], "weights": "random, since memory does not depend on them"},
    }


def computed(request: dict[str, Any]) -> dict[str, Any]:
    """The record of a request; if a parameter is not valid or the measurement failed, with the reason."""
    import torch

    from pipelines.methods import build_method
    from scpseg.contract import Method
    from scpseg.profiling import computed
    from scpseg.profiling.workload import Workload

    params = Params(request["params"], Path(request["file"]))
    train = params.training(request["method"])
    # Values that a method computes with, such as grid positions, are created in host memory.
    torch.manual_seed(0)

    def make() -> Method:
        return build_method(params, request["benchmark"], request["method"])

    try:
        if request["kind"] == INFERENCE:
            figures = computed.inference(make, Workload(**request["workload"]), request.get("precision", "fp32"))
        else:
            figures = computed.training_step(make, Workload(**request["workload"]), train)
    except UserError as error:
        figures = without_figures("failed", str(error), backend="computed")
    except (RuntimeError, ValueError) as error:  # of the graph on `meta`; the record names it, and the report shows it
        traceback.print_exc()
        figures = without_figures("failed", f"{type(error).__name__}: {error}".splitlines()[0], backend="computed")
    return record_of(request, figures) | {"patch": params.benchmark(request["benchmark"]).patch}


def work(benchmark: str, method: str) -> None:
    """Profile and write results/profile/BENCHMARK/METHOD.json.

    Raises:
        UserError: a parameter is not valid, or the measurement failed; the reason is stored for the report.
    """
    request = request_of(Params.load(), benchmark, method)
    record = record_of(request, ask(request))
    write_json(paths.profile(benchmark, method), record)
    if record["status"] == "failed":
        raise UserError(f"profiling {method} on {benchmark} failed ({record['reason']}); see the traceback above")
    print(f"{benchmark} {method}: {summary_line(record)}")


def summary_line(record: dict[str, Any]) -> str:
    """One line for the terminal."""
    side = record["height"]
    if record["status"] == "oom":
        return f"out of memory at {side} x {side} pixels: {record['reason']}"
    peaks = [(name, record["memory"][name]) for name in HEADLINES if record["memory"][name] is not None]
    name, peak = peaks[0]
    return f"peak {peak / MIB:.1f} MiB ({name}), {record['seconds_per_image']:.3f} s per {side} x {side} image"


def main() -> None:
    """BENCHMARK METHOD; --child is for internal use."""
    parser = argparse.ArgumentParser(description=__doc__)
    if sys.argv[1:2] == ["--child"]:
        # run_stage is used for Ctrl-C only, which also reaches the child: no traceback after the stage's own message.
        run_stage(lambda: child(attempt, Path(sys.argv[2])))
    parser.add_argument("benchmark")
    parser.add_argument("method")
    given = parser.parse_args()
    # On SIGTERM, as when DVC was killed, it removes the folder of the answer.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_stage(lambda: work(given.benchmark, given.method))


if __name__ == "__main__":
    main()
