"""Memory of every method and segmenter at the benchmarks' real sizes, computed on any machine without data or weights.

Without options, the table at the paper's sizes is written to results/reference/computed/memory.csv. If the options
select one cell, the largest tensors at its peak are printed. Stage `memory` computes what params.yaml declares.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path
from typing import Any

from pipelines import paths
from pipelines.methods import METHODS
from pipelines.profile import computed, request_of, step_request_of
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import csv_rows, write_json, write_text
from scpseg.params import Params
from scpseg.processes import end_with_parent
from scpseg.profiling.records import COLUMNS, INFERENCE, MIB, TRAINING, Record, tidy
from scpseg.validation import nearest

PAPER = Path("profiles/paper.yaml")
TABLE = Path("results/reference/computed/memory.csv")
BOTH = ("deepglobe", "potsdam")
"""One benchmark for each of the paper's two sizes, used where not all benchmarks are computed."""
WINDOWS = (2, 4, 8, 16)
"""Windows per forward pass in the sweep; 1 is in the main table."""
SIDES = (256, 384, 768, 1024)
"""Patch sides, in pixels, of the sweep on the first benchmark of `BOTH`; the paper's is in the main table."""
SWEPT = ("scpseg", "patch", "glnet")
"""Methods in the sweep over patch sides."""
WORKLOADS = {INFERENCE: request_of, TRAINING: step_request_of}
PRELOADED = ["pipelines.profile", "segmentation_models_pytorch", "scpseg.profiling.computed", "scpseg.segmenters.build"]
Request = dict[str, Any]
Compute = Callable[[Sequence[Request]], list[Record]]


def with_section(params: Params, section: str, **values: Any) -> Params:
    """The parameters with other values in one section."""
    return Params({**params.values, section: {**params.values[section], **values}}, params.path)


def requests_of(
    params: Params, benchmarks: Sequence[str], methods: Sequence[str], workloads: Sequence[str] = tuple(WORKLOADS)
) -> list[Request]:
    """The requests of all cells, at the benchmarks' real sizes and with the segmenter of the parameters."""
    real = with_section(params, "profile", side="real", repeats=1)
    cells = [(benchmark, method, workload) for method in methods for benchmark in benchmarks for workload in workloads]
    return [WORKLOADS[workload](real, benchmark, method) for benchmark, method, workload in cells]


def with_segmenter(params: Params, name: str) -> Params:
    """The parameters with another segmenter and its usual encoder.

    Raises:
        UserError: unknown segmenter.
    """
    from scpseg.segmenters.build import KINDS

    if name not in KINDS:
        raise UserError(f"{name!r} is not a segmenter; {nearest(name, KINDS)}")
    encoder, stride = KINDS[name].published
    return with_section(params, "segmenter", name=name, encoder=encoder, output_stride=stride)


def whole_table(params: Params, compute: Compute) -> list[Record]:
    """Every method on every benchmark; on `BOTH` also every segmenter and more windows; then other patch sides."""
    from scpseg.segmenters.build import KINDS

    methods = list(METHODS)
    records = compute(requests_of(params, params.suite.benchmarks, methods))
    common = [name for name in methods if _takes_segmenter(records, name)]
    requests = []
    for name in KINDS:
        if name != params.values["segmenter"]["name"]:
            requests += requests_of(with_segmenter(params, name), BOTH, common)
    inference = [one for one in records if one["workload"] == INFERENCE]
    windows = [
        name for name in methods if any(one["method"] == name and (one["windows"] or 0) > 1 for one in inference)
    ]
    for many in WINDOWS:
        requests += requests_of(with_section(params, "inference", batch=many), BOTH, windows, [INFERENCE])
    for side in SIDES:
        swept = [name for name in SWEPT if name in methods]
        requests += requests_of(with_section(params, BOTH[0], patch=side), BOTH[:1], swept)
    return records + compute(requests)


def computed_all(requests: Sequence[Request]) -> list[Record]:
    """Compute requests one after another; what equal inputs of a network need is computed once in a process."""
    return [computed(request) for request in requests]


def grouped(requests: Sequence[Request], compute: Callable[[list[list[Request]]], list[list[Record]]]) -> list[Record]:
    """Compute requests in groups of one method and segmenter; the records are in the order of the requests."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault((request["method"], request["params"]["segmenter"]["name"]), []).append(index)
    results = compute([[requests[index] for index in indices] for indices in groups.values()])
    found = dict(zip(chain(*groups.values()), chain(*results), strict=True))
    return [found[index] for index in range(len(requests))]


def _takes_segmenter(records: Sequence[Record], method: str) -> bool:
    """Whether a method uses the common segmenter; other methods report their own encoder."""
    models = [record["model"] for record in records if record["method"] == method and record["status"] == "ok"]
    return any("encoder" not in model for model in models)


def work(given: argparse.Namespace) -> None:
    """Compute, print and write the selected cells.

    Raises:
        UserError: a name or a parameter is not valid, or a process was killed.
    """
    params = Params.load(given.params)
    if given.precision:
        params = with_section(params, "train", precision=given.precision)
    if given.segmenter:
        params = with_segmenter(params, given.segmenter)
    if given.windows:
        params = with_section(params, "inference", batch=given.windows)
    for name in given.method:
        if name not in METHODS:
            raise UserError(f"{name!r} is not a method; {nearest(name, METHODS)}")
    suite = params.suite
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    pool = ProcessPoolExecutor(min(given.processes, os.cpu_count() or 1), context, end_with_parent)
    try:

        def compute(requests: Sequence[Request]) -> list[Record]:
            if given.precision:
                requests = [{**request, "precision": given.precision} for request in requests]
            return grouped(requests, lambda groups: list(pool.map(computed_all, groups)))

        if given.declared:
            records = compute(requests_of(params, suite.benchmarks, ("scpseg", *suite.baselines)))
            write_json(paths.memory(), records)
        elif given.benchmark or given.method or given.segmenter or given.windows or given.precision:
            records = compute(requests_of(params, given.benchmark or suite.benchmarks, given.method or list(METHODS)))
        else:
            records = whole_table(params, compute)
            write_text(TABLE, csv_rows(COLUMNS, tidy(records)))
    except BrokenProcessPool:
        why = "a process that computes was killed, probably because memory ran out"
        raise UserError(f"{why}: free some memory, or use fewer with --processes 1") from None
    finally:
        pool.shutdown(cancel_futures=True)
    print(short(records), flush=True)
    if len({(record["benchmark"], record["method"]) for record in records}) == 1:
        print("".join(breakdown(record) for record in records), end="", flush=True)


def short(records: Sequence[Record]) -> str:
    """The records as text for a terminal, in MiB."""
    lines = [("benchmark", "method", "segmenter", "patch", "windows", "workload", "MiB", "of which")]
    for record in records:
        size = record["memory"].get("computed")
        parts = [f"{name} {of / MIB:.0f}" for name, of in (record.get("parts") or {}).items() if of]
        lines.append(
            (
                record["benchmark"],
                record["method"],
                "own" if "encoder" in (record["model"] or {}) else record["segmenter"]["name"],
                str(record["patch"]),
                str(record["windows_per_batch"]),
                record["workload"],
                "-" if size is None else f"{size / MIB:.1f}",
                record["reason"] or ", ".join(parts),
            )
        )
    return aligned(lines, right=(3, 4, 6))


def aligned(lines: Sequence[Sequence[str]], right: Container[int]) -> str:
    """Lines of cells as text with columns, of which those numbers in `right` are aligned to the right."""
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, wide, strict=True))
        ).rstrip()
        for line in lines
    )


def breakdown(record: Record) -> str:
    """The largest tensors at the peak of a record, one per line."""
    lines = [f"\n{record['workload']}: the largest tensors at the peak\n"]
    for block in record.get("alive") or []:
        sides = " x ".join(map(str, block["shape"]))
        made = f"{block['operation'].removeprefix('aten.')} of {block['module']}"
        lines.append(f"{block['bytes'] / MIB:9.1f} MiB  {block['kind']:11}  {block['dtype']} {sides}: {made}\n")
    return "".join(lines)


def main() -> None:
    """Parse the command line; without options, compute all cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=PAPER, help="parameter file (default: profiles/paper.yaml)")
    parser.add_argument("--declared", action="store_true", help="the cells that this file declares, for DVC")
    parser.add_argument("--benchmark", action="append", default=[], help="can be repeated")
    parser.add_argument("--method", action="append", default=[], help="can be repeated")
    parser.add_argument("--segmenter", help="with its usual encoder, instead of the segmenter of the parameters")
    parser.add_argument("--windows", type=int, help="windows per forward pass at inference")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], help="of inference and training")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per processor")
    given = parser.parse_args()
    run_stage(lambda: work(given))


if __name__ == "__main__":
    main()
