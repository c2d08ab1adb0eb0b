"""Memory and speed of every method x benchmark at the paper's sizes on an NVIDIA GPU, without data, weights or DVC.

Computed memory (`make memory`) is shown next to what torch's allocator counted. Writes DIR/<gpu>/memory.json after
every cell, and fingerprint.json with the facts of the machine. If it is started again on the same machine, cells that
this code has measured are kept; an older record stays until its cell is tried again. This process does not import
torch, which would take memory on the device that is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines import paths, profile
from pipelines.memory import aligned
from pipelines.methods import METHODS
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.params import MachineParams, Params
from scpseg.profiling.fresh import ChildKilled, run_fresh
from scpseg.profiling.records import (
    COSTS,
    HEADLINES,
    INFERENCE,
    MEASURED,
    MIB,
    REFERENCE,
    Record,
    largest,
    read_records,
    without_figures,
)
from scpseg.validation import nearest

PAIR, SINGLE = ("scpseg", "patch"), ("glnet", "downscale")
"""Measured first, benchmark by benchmark, since they are compared with each other; then SINGLE; then the others."""
NOT_MEASURED = "not measured"
ELSEWHERE = ("timeline", "environment")
"""Keys of a record that are not kept: fingerprint.json has the environment."""
COMPUTING = 120.0
"""Seconds for the computed memory of one cell."""
BUDGET = 480.0
"""Seconds."""
REPEATING = 3.0
"""Seconds after which no new repeat of a cell starts: a Potsdam tile has 576 windows, which are repeats enough."""

Request = dict[str, Any]
Ask = Callable[[Request, float], Record]
"""(request, seconds) -> its record, measured in a fresh process within this time."""


def fingerprint_of(request: Request) -> dict[str, Any]:
    """Facts of the GPU, or the reason why there is none; measured in this fresh process."""
    import torch

    from scpseg.environment import configure
    from scpseg.profiling.meters import fingerprint

    if torch.version.cuda is None:
        return {"gpu": None, "reason": f"torch {torch.__version__} is built without CUDA"}
    if not torch.cuda.is_available():
        return {"gpu": None, "reason": f"torch {torch.__version__} finds none"}
    device = configure(Params(request["params"], Path(request["file"])).section("machine", MachineParams))
    return fingerprint(device)


def compute(request: Request) -> Record:
    """`profile.computed` at the lowest priority, because speed is measured at the same time."""
    os.nice(19)
    return profile.computed(request)


def on_gpu(params: Params) -> Params:
    """The parameters of the measurement: on the GPU, with deterministic kernels off as in stage `profile`."""
    machine = {**params.values.get("machine", {}), "device": "cuda", "deterministic": False}
    return Params({**params.values, "machine": machine}, params.path)


def requests_of(params: Params, methods: Collection[str] = tuple(METHODS)) -> list[Request]:
    """The requests of methods: inference first; in each workload first SCPSeg and `patch`, then the rivals."""
    benchmarks = params.suite.benchmarks
    pair = [method for method in PAIR if method in methods]
    rest = [method for method in SINGLE if method in methods]
    rest += [method for method in methods if method not in (*PAIR, *SINGLE)]
    cells = [(benchmark, method) for benchmark in benchmarks for method in pair]
    cells += [(benchmark, method) for method in rest for benchmark in benchmarks]
    requests = [
        make(params, benchmark, method)
        for make in (profile.request_of, profile.step_request_of)
        for benchmark, method in cells
    ]
    for request in requests:
        request["workload"]["seconds"] = REPEATING
        request["count"] = False
    return requests


def digest(request: Request, code: str) -> str:
    """SHA-256 of all that decides a measurement: the request, but not which others are made, and the code."""
    params = {key: value for key, value in request["params"].items() if key != "suite"}
    parts = {**request, "params": params, "file": None, "code": code}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digest(root: Path) -> str:
    """SHA-256 of the suite's Python files."""
    whole = hashlib.sha256()
    for path in sorted(path for folder in paths.CODE for path in (root / folder).rglob("*.py")):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()


def earlier(folder: Path, facts: dict[str, Any]) -> list[Record]:
    """The records in `folder`.

    Raises:
        UserError: a file is damaged, or another machine or other software than that of `facts` measured them.
    """
    path = folder / "fingerprint.json"
    if not path.is_file() or not (folder / REFERENCE).is_file():
        return []
    known = read_json(path, {str: object})
    other = [f"{key} {known.get(key)} there, {value} here" for key, value in facts.items() if known.get(key) != value]
    if other:
        raise UserError(
            f"{path.as_posix()} is of another machine or other software ({other[0]}); delete its folder, or name "
            "another one with --out"
        )
    return read_records(folder / REFERENCE)


def identity(request: Request, sizes: bool) -> str:
    """Equal for requests with the same workload; without `sizes`, the size of the image is ignored.

    A training step on windows does not depend on the size of the image that they are cut from.
    """
    workload = {key: value for key, value in request["workload"].items() if sizes or key not in ("height", "width")}
    patch = request["params"][request["benchmark"]]["patch"]
    return json.dumps([request["kind"], request["method"], patch, sizes, workload], sort_keys=True)


def fill(
    requests: Sequence[Request],
    ask: Ask,
    left: Callable[[], float],
    save: Callable[[list[Record]], None],
    old: Sequence[Record] = (),
    code: str = "",
) -> None:
    """Measure one request after another while seconds are `left`; `save` all records after each.

    Every request has a record from the start, so that none is missing however the run ends. The same workload on
    another benchmark is measured once; `same_as` names the benchmark of the measurement. An `old` record stays until
    its cell is tried again, which it is not if the same code measured it.
    """
    before = {_cell(record): record for record in old}
    records = [_unmeasured(request, NOT_MEASURED, "the run ended before it") for request in requests]
    requested = {_cell(record) for record in records}
    others = [record for cell, record in before.items() if cell not in requested]
    records = [before.get(_cell(record), record) for record in records]
    known: dict[str, Record] = {}
    save(records + others)
    for place, request in enumerate(requests):
        twin = known.get(identity(request, sizes=True)) or known.get(identity(request, sizes=False))
        mine, record = digest(request, code), records[place]
        valid = record["status"] in MEASURED and record.get("request") == mine
        if not valid:
            found = _kept(request, twin) | {"same_as": twin["benchmark"]} if twin else _asked(request, ask, left())
            valid = found["status"] in MEASURED
            if valid and found["memory"].get("computed") is not None:
                found["request"] = mine
            if found["status"] != NOT_MEASURED or record["status"] not in MEASURED:
                records[place] = found
            save(records + others)
        if valid and not twin:
            known[identity(request, sizes=True)] = records[place]
            if records[place].get("units") == ["window"]:
                known[identity(request, sizes=False)] = records[place]


def _cell(record: Record) -> tuple[str, str, str]:
    return record["benchmark"], record["method"], record["workload"]


def _asked(request: Request, ask: Ask, seconds: float) -> Record:
    try:
        if seconds > 0:
            return _kept(request, ask(request, seconds))
    except TimeoutError:
        pass  # not measured, as if the time had been up before
    except UserError as error:
        return _unmeasured(request, "failed", str(error))
    return _unmeasured(request, NOT_MEASURED, "time budget")


def _unmeasured(request: Request, status: str, reason: str) -> Record:
    return _kept(request, without_figures(status, reason, backend=None))


def _kept(request: Request, figures: Record) -> Record:
    figures = {key: value for key, value in figures.items() if key not in ELSEWHERE}
    patch = request["params"][request["benchmark"]]["patch"]
    return profile.record_of(request, figures) | {"patch": patch}


def measured(request: Request, seconds: float) -> Record:
    """The record of a request; for a training step, the largest of all phases, each in its own process.

    Raises:
        UserError: a parameter is not valid.
        TimeoutError: it took longer than `seconds`.
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


class Computing:
    """Computed memory of requests, one after another in fresh processes beside the measurements."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.pool = ThreadPoolExecutor(1)
        self.found: dict[str, Future[Record]] = {}

    def ask(self, request: Request, seconds: float) -> Record:
        """`measured` with its computed memory and its costs; those of the request are computed meanwhile.

        Raises:
            UserError: as `measured`.
            TimeoutError: as `measured`.
        """
        key = identity(request, sizes=True)
        if key not in self.found:
            self.found[key] = self.pool.submit(run_fresh, ["pipelines.gpu", "--computed"], request, COMPUTING)
        record = measured(request, seconds)
        try:
            return with_computed(record, profile.accepted(self.found[key].result()))
        except (ChildKilled, TimeoutError, UserError) as error:
            what = f"memory of {request['method']} on {request['benchmark']} could not be computed"
            print(f"{what}: {error}", file=sys.stderr, flush=True)
            return record

    def close(self) -> None:
        """Do not start what is waiting."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def with_computed(record: Record, computed: Record) -> Record:
    """A measured record with the computed memory of the same phase, or None where it could not be computed.

    The costs of inference are counted where memory is computed: in another process, while the GPU measures.
    """
    peaks: dict[str, int] = computed.get("peak_by_phase") or {}
    memory = {**record["memory"], "computed": peaks.get(record.get("phase") or "", computed["memory"].get("computed"))}
    costs = {name: computed[name] for name in COSTS} if record["workload"] == INFERENCE else {}
    return {**record, **costs, "memory": memory}


def short(records: Sequence[Record]) -> str:
    """The records as text for a terminal; `ratio` is allocated over computed memory."""
    lines = [
        ("workload", "method", "benchmark", "peak MiB", "allocated MiB", "computed MiB", "ratio", "seconds", "remark")
    ]
    for record in records:
        memory = record["memory"]
        peaks = [memory[name] for name in HEADLINES[1:] if memory[name] is not None]
        allocated, computed = memory["torch_allocated"], memory.get("computed")
        phase = f"phase {record['phase']}" if record.get("phase") not in (None, "all") else ""
        taken = record.get("seconds_per_image") or record.get("seconds_per_step")
        remark = f"{record['status']}: {record['reason']}" if record["status"] != "ok" else phase
        if record.get("same_as"):
            remark = f"{remark} (measured on {record['same_as']})".strip()
        lines.append(
            (
                record["workload"],
                record["method"],
                record["benchmark"],
                _mebibytes(peaks[0] if peaks else None),
                _mebibytes(allocated),
                _mebibytes(computed),
                f"{allocated / computed:.3f}" if allocated and computed else "-",
                "-" if taken is None else f"{taken:.3f}",
                remark,
            )
        )
    return aligned(lines, right=range(3, 8))


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / MIB:.0f}"


def work(file: Path, out: Path, budget: float, methods: Collection[str] = tuple(METHODS)) -> None:
    """Measure, write the records, print them.

    Raises:
        UserError: a method is unknown, no NVIDIA GPU is found, `out` contains records of another machine, a parameter
            is not valid, or a measurement failed (after writing records).
    """
    end = time.monotonic() + budget
    params = on_gpu(Params.load(file))
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--methods {method}: unknown method; {nearest(method, METHODS)}")
    requests = requests_of(params, methods)
    try:
        request = {"params": dict(params.values), "file": file.name}
        facts = profile.accepted(run_fresh(["pipelines.gpu", "--fingerprint"], request))
    except ChildKilled as error:
        raise UserError(f"the name of the GPU cannot be read ({error}); see the traceback above") from None
    if facts["gpu"] is None:
        raise UserError(f"no NVIDIA GPU found ({facts['reason']}); run `make gpu` on a machine with one")
    folder = out / re.sub(r"[^a-z0-9]+", "-", facts["gpu"].lower()).strip("-")
    old, code = earlier(folder, facts), code_digest(Path(__file__).parents[1])
    write_json(folder / "fingerprint.json", {**facts, "parameters": params.path.name})
    path, records = folder / REFERENCE, list[Record]()
    print(f"{facts['gpu']}: {len(requests)} cells in at most {budget:.0f} s, see {path}", flush=True)

    def save(found: list[Record]) -> None:
        records[:] = found
        write_json(path, found)

    computing = Computing()
    try:
        fill(requests, computing.ask, lambda: end - time.monotonic(), save, old, code)
    except KeyboardInterrupt:
        print(f"interrupted; finished measurements are in {path}", file=sys.stderr, flush=True)
        sys.exit(130)
    finally:
        computing.close()
        print(short(records), flush=True)
    failed = sum(record["status"] == "failed" for record in records[: len(requests)])
    if failed:
        raise UserError(f"{failed} of {len(requests)} measurements failed; see {path}")


def main() -> None:
    """Parse the command line and measure; --fingerprint and --computed are for internal use."""
    tasks = {"--fingerprint": fingerprint_of, "--computed": compute}
    if sys.argv[1:2] and sys.argv[1] in tasks:
        run_stage(lambda: profile.child(tasks[sys.argv[1]], Path(sys.argv[2])))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, default=Path("profiles/paper.yaml"), help="parameters to measure with")
    parser.add_argument("--out", type=Path, default=Path("results/reference"), help="folder of the reference tables")
    parser.add_argument("--budget", type=float, default=BUDGET, help="total seconds; cells that do not fit are skipped")
    parser.add_argument("--methods", default=",".join(METHODS), help="such as scpseg,patch (default: all)")
    given = parser.parse_args()
    run_stage(lambda: work(given.profile, given.out, given.budget, list(dict.fromkeys(given.methods.split(",")))))


if __name__ == "__main__":
    main()
