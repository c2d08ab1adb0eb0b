"""Change a few parameters and see the effect: runs experiments and writes the page reports/sweeps/NAME-BENCHMARK.

NAME is components, segmenters, sizes, choices or tuning; any other name runs the grid given by -S. If it is started
again, only the missing runs are made. Uncommitted changes of tracked files are included, as they are when the sweep
starts; params.yaml and results/ do not change. --on slurm submits the runs to a cluster that shares this folder:

    python -m pipelines.sweep components --on slurm --slurm partition=gpu,gres=gpu:1,time=240
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import executor, experiments
from pipelines.methods import METHODS
from pipelines.plan import counted, duration, training_seconds
from pipelines.preflight import check_experiments, check_repository
from pipelines.stage import run_stage
from scpseg.params import MachineParams, Params
from scpseg.reporting.published import title_of

if TYPE_CHECKING:
    from pipelines.grids import Job, Point
    from scpseg.reporting.sweeps import Row, Status, Sweep

REPORTS = Path("reports/sweeps")
SCPSEG = ("csm.", "srd.", "lfa.")
"""Parameters that do not affect a rival's row."""
Found = dict[str, tuple[str, list[dict[str, Any]]]]
"""Identity of an experiment -> its name and its rows of results/summary.csv."""


def main() -> None:
    """Parse the command line, then list or run the experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="of a known sweep, or for your own grid")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=A,B", help="values of the grid")
    parser.add_argument("--benchmark", default="potsdam")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="images to score (default val)")
    parser.add_argument("--seeds", help="such as 0,1,2 (default: those of params.yaml)")
    parser.add_argument("--methods", help="methods whose results are shown, such as scpseg,patch (own grids)")
    executor.add_options(parser)
    parser.add_argument("--dry", action="store_true", help="only list the runs and their expected time")
    given = parser.parse_args()
    from pipelines.grids import planned  # imports torch, for which --help need not wait

    base = Params.load()
    if not given.dry:
        check_repository()
        check_experiments()
    params, sweep, jobs = planned(base, given)
    if given.dry:
        print(plan(sweep, jobs, given.benchmark))
    else:
        run_sweep(sweep, jobs, REPORTS / f"{sweep.name}-{given.benchmark}", params, given)


def run_sweep(sweep: Sweep, jobs: list[Job], folder: Path, params: Params, given: argparse.Namespace) -> None:
    """Run missing experiments, and write the page again after each.

    Raises:
        UserError: see `executor.resources_of`, `executor.prepare` and `executor.run_on_slurm`.
    """
    from scpseg.reporting.sweeps import write_sweep

    resources = executor.resources_of(given, params.section("machine", MachineParams))
    with executor.turn():
        results = found_for(jobs)
        failures: dict[str, str] = {}
        todo = {job.identity: job for job in reversed(jobs) if job.name and job.identity not in results}
        missing = {job.name: job for job in sorted(todo.values(), key=jobs.index)}
        write_sweep(sweep, list(rows_of(jobs, results, failures)), folder)
        state = executor.snapshot()
        tasks = [executor.Task(*state, job.name, job.settings) for job in missing.values()]
        if len(tasks) > 1 and resources.workers > 1:
            executor.prepare(tasks[0], given.benchmark)
        for task in tasks:
            print(f"{label(sweep, missing[task.name].point)}: log {task.log}", flush=True)
        with contextlib.closing(executor.run(tasks, resources)) as done:  # ends the runs after Ctrl-C
            for number, (task, reason) in enumerate(done, 1):
                job = missing[task.name]
                results |= found_for([job])
                if not reason and job.identity not in results:
                    reason = "it ended normally, but DVC saved no experiment: see its log"
                if reason:
                    failures[job.identity] = reason
                what = f"[{number}/{len(tasks)}] {label(sweep, job.point)}"
                print(f"{what}: {f'failed: {reason}' if reason else 'finished'}", flush=True)
                write_sweep(sweep, list(rows_of(jobs, results, failures)), folder)
    rows = list(rows_of(jobs, results, failures))
    print(f"{folder}/README.md: {sum(row.status == 'ok' for row in rows)} of {len(rows)} rows have a result")


def found_for(jobs: list[Job]) -> Found:
    """The finished experiments by identity: name, and rows of results/summary.csv."""
    wanted = {job.identity for job in jobs}
    known = {key: (name, revision) for key, (name, revision) in experiments.finished().items() if key in wanted}
    read = {key: (name, experiments.summary_of(revision)) for key, (name, revision) in known.items()}
    return {key: (name, rows) for key, (name, rows) in read.items() if rows is not None}


def label(sweep: Sweep, point: Point) -> str:
    """The point as text."""
    if sweep.figure == "grid":
        return f"{sweep.axes[1].split()[0]} {point.series}, {sweep.axes[0].split()[0]} {point.x}"
    return ", ".join(part for part in (point.series, point.x) if part)


def rows_of(jobs: list[Job], results: Found, failures: dict[str, str]) -> Iterator[Row]:
    """One row per point and method."""
    from scpseg.reporting.sweeps import Row, tidy

    first = {job.identity: job.name for job in reversed(jobs)}
    for job in jobs:
        name, found = results.get(job.identity, (first[job.identity], []))
        reason = failures.get(job.identity, job.error)
        for method in job.point.methods:
            series = job.point.series or title_of(method)
            reference = job.point.reference
            runs = [run for run in found if run["method"] == method]
            others = tuple(f"tuned.{name}" for name in METHODS if name != method)
            foreign = others if method == "scpseg" else (*SCPSEG, *others)
            status: Status = "ok" if runs else "invalid" if job.error else "failed" if reason else "missing"
            yield Row(
                x=job.point.x,
                series=series,
                method=method,
                settings=tuple(
                    f"{key}={tidy(value)}" for key, value in job.point.settings.items() if not key.startswith(foreign)
                ),
                status=status,
                reason="" if runs else reason,
                notes=tuple(note for note in job.point.notes if not note.startswith(foreign)),
                reference=None if reference is None else (reference[0] or series, reference[1]),
                experiment=name,
                command=shlex.join(["dvc", *experiments.arguments(job.settings)]) if job.name else "",
                runs=tuple(runs),
            )


def plan(sweep: Sweep, jobs: list[Job], benchmark: str) -> str:
    """List the runs, which of them are finished, and the expected time of the others."""
    results, device, params = found_for(jobs), jobs[0].device, jobs[0].params
    seeds = params.suite.seeds
    runs = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    where = f"{benchmark} ({params.values['evaluation']['split']}), {runs}, on {device}"
    lines, times = [f"{sweep.name}: {counted(len(jobs), 'point')} on {where}"], list[float | None]()
    seen: set[str] = set()
    for job in jobs:
        state, about = "to run", ""
        if job.error:
            state, about = "invalid", f": {job.error}"
        elif job.identity in results:
            state = "done"
        elif job.identity in seen:
            state, about = "as above", ": the same sizes after rounding"
        else:
            methods = dict.fromkeys(("scpseg", *job.point.methods))  # the pipeline always trains SCPSeg
            each = [training_seconds(job.params, benchmark, method, device) for method in methods]
            known = [seconds * len(seeds) for seconds in each if seconds is not None]
            times.append(sum(known) if len(known) == len(each) else None)
            about = f": training {duration(times[-1])}"
        seen.add(job.identity)
        lines += [f"{state:8} {label(sweep, job.point)}{about}", *(f"{'':8} {note}" for note in job.point.notes)]
    total, unknown = sum(time for time in times if time is not None), times.count(None)
    expected = [f"{duration(total)} of training"] if total else []
    expected += [f"{counted(unknown, 'run')} of unknown time (nothing like them was measured here)"] if unknown else []
    return "\n".join([*lines, f"expected: {'; '.join(expected) or 'nothing to run'}"])


if __name__ == "__main__":
    run_stage(main)
