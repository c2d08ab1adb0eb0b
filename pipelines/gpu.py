"""Memory and speed of every method x benchmark at the paper's sizes on an NVIDIA GPU, without data, weights or DVC.

Computed memory (`make memory`) is shown next to what torch's allocator counted. Writes DIR/<gpu>/profile.csv after
every cell, and fingerprint.json with the facts of the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from pipelines import profile
from pipelines.profile import INFERENCE, TRAINING
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import write_json, write_text
from scpseg.params import MachineParams, Params
from scpseg.profiling.fresh import ChildKilled, run_fresh
from scpseg.profiling.meter import HEADLINES
from scpseg.profiling.reference import Cell, Table, largest, ordered, slug

BUDGET = 480.0
"""Seconds."""
REPEATING = 3.0
"""Seconds after which no new repeat of a cell starts: a Potsdam tile has 576 windows, which are repeats enough."""


def fingerprint_of(request: dict[str, Any]) -> dict[str, Any]:
    """Facts of the GPU, or the reason why there is none; measured in this fresh process."""
    import torch

    from scpseg.environment import configure
    from scpseg.profiling.fingerprint import fingerprint

    if torch.version.cuda is None:
        return {"gpu": None, "reason": f"torch {torch.__version__} is built without CUDA"}
    if not torch.cuda.is_available():
        return {"gpu": None, "reason": f"torch {torch.__version__} finds none"}
    device = configure(Params(request["params"], Path(request["file"])).section("machine", MachineParams))
    return fingerprint(device)


def child(path: Path) -> None:
    """Read a request from standard input; write the fingerprint or the UserError."""
    request = json.load(sys.stdin)
    try:
        answer = fingerprint_of(request)
    except UserError as error:
        answer = {"user_error": str(error)}
    write_json(path, answer)


def on_gpu(params: Params) -> Params:
    """The parameters of the measurement: on the GPU, with deterministic kernels off as in stage `profile`."""
    machine = {**params.values.get("machine", {}), "device": "cuda", "deterministic": False}
    return Params({**params.values, "machine": machine}, params.path)


def requests_of(params: Params) -> dict[Cell, dict[str, Any]]:
    """The request of every cell, in the order of measurement."""
    suite = params.suite
    make = {INFERENCE: profile.request_of, TRAINING: profile.step_request_of}
    cells = ordered(tuple(make), ("scpseg", *suite.baselines), suite.benchmarks)
    requests = {cell: make[cell.workload](params, cell.benchmark, cell.method) for cell in cells}
    for request in requests.values():
        request["workload"]["seconds"] = REPEATING
        request["beside"] = True
    return requests


def measured(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The record of a request; for a training step, the largest of all phases, each in its own process.

    Raises:
        UserError: a parameter is not valid.
        ChildTooSlow: it took longer than `seconds`.
    """
    if request["kind"] == INFERENCE:
        return profile.record_of(request, profile.ask(request, seconds))
    end = time.monotonic() + seconds
    found = [profile.record_of(request, profile.ask(request, seconds))]
    # Only the method itself, built in a separate process, knows its number of phases.
    for phase in range(1, len(found[0].get("phases") or [])):
        if found[-1]["status"] != "ok":
            break
        one = {**request, "workload": {**request["workload"], "phase": phase}}
        found.append(profile.record_of(one, profile.ask(one, max(0.0, end - time.monotonic()))))
    return largest(found)


def short(table: Table) -> str:
    """The rows as text for a terminal; `ratio` is allocated over computed memory."""
    lines = [
        ("workload", "method", "benchmark", "peak MiB", "allocated MiB", "computed MiB", "ratio", "seconds", "remark")
    ]
    for row in table.rows.values():
        peaks = [row[name] for name in HEADLINES[1:] if row[name] is not None]
        phase = f"phase {row['phase']}" if row["phase"] not in (None, "all") else ""
        taken = row["seconds_per_image"] or row["seconds_per_step"]
        remark = f"{row['status']}: {row['reason']}" if row["status"] != "ok" else phase
        if row["same_as"]:
            remark = f"{remark} (measured on {row['same_as']})".strip()
        lines.append(
            (
                row["workload"],
                row["method"],
                row["benchmark"],
                _mebibytes(peaks[0] if peaks else None),
                _mebibytes(row["torch_allocated"]),
                _mebibytes(row["computed"]),
                _ratio(row["torch_allocated"], row["computed"]),
                "-" if taken is None else f"{taken:.3f}",
                remark,
            )
        )
    wide = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 3 <= column <= 7 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, wide, strict=True))
        ).rstrip()
        for line in lines
    )


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:.0f}"


def _ratio(measured: int | None, computed: int | None) -> str:
    return f"{measured / computed:.3f}" if measured and computed else "-"


def work(file: Path, out: Path, budget: float) -> None:
    """Fill the table and print it.

    Raises:
        UserError: there is no NVIDIA GPU, a parameter is not valid, or a measurement failed (after writing the table).
    """
    end = time.monotonic() + budget
    params = on_gpu(Params.load(file))
    requests = requests_of(params)
    try:
        facts = run_fresh(["pipelines.gpu", "--fingerprint"], {"params": dict(params.values), "file": file.name})
    except ChildKilled as error:
        raise UserError(f"the name of the GPU cannot be read ({error}); see the traceback above") from None
    if "user_error" in facts:
        raise UserError(facts["user_error"])
    if facts["gpu"] is None:
        raise UserError(f"no NVIDIA GPU found ({facts['reason']}); run `make gpu` on a machine with one")
    folder = out / slug(facts["gpu"])
    write_json(folder / "fingerprint.json", {**facts, "parameters": params.path.name})
    table = Table(requests, facts)
    print(f"{facts['gpu']}: {len(requests)} cells in at most {budget:.0f} s, see {folder}/profile.csv", flush=True)
    try:
        table.fill(measured, lambda: end - time.monotonic(), lambda: write_text(folder / "profile.csv", table.text()))
    except KeyboardInterrupt:
        print(f"interrupted; finished measurements are in {folder}/profile.csv", file=sys.stderr, flush=True)
        sys.exit(130)
    finally:
        print(short(table), flush=True)
    if table.failed():
        raise UserError(f"{len(table.failed())} of {len(requests)} measurements failed; see {folder}/profile.csv")


def main() -> None:
    """[--profile FILE] [--out DIR] [--budget SECONDS]; --fingerprint is for internal use."""
    if sys.argv[1:2] == ["--fingerprint"]:
        run_stage(lambda: child(Path(sys.argv[2])))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, default=Path("profiles/paper.yaml"), help="parameters to measure with")
    parser.add_argument("--out", type=Path, default=Path("results/reference"), help="folder of the reference tables")
    parser.add_argument("--budget", type=float, default=BUDGET, help="total seconds; cells that do not fit are skipped")
    given = parser.parse_args()
    run_stage(lambda: work(given.profile, given.out, given.budget))


if __name__ == "__main__":
    main()
