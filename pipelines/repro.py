"""Run everything that params.yaml declares: check, `dvc repro --keep-going`, report.

If a run fails, the others continue, the report uses what exists, and the failures are listed at the end. With --workers
or --on slurm, the runs are first made at the same time, each in a clone that shares the DVC cache; `dvc repro` then
finds them there:

    python -m pipelines.repro --on slurm --slurm partition=gpu,gres=gpu:1,time=240
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines import executor
from pipelines.check import check, warn_of_classes
from pipelines.freshness import Key, record_error, states
from pipelines.plan import Job, job_of, pending
from pipelines.preflight import check_experiments, check_surroundings
from pipelines.report import PAGE, build
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.params import MachineParams, Params, SuiteParams
from scpseg.processes import end_tree


def work() -> None:
    """Run the pipeline.

    Raises:
        UserError: a parameter or option is not valid, or a result could not be made.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    executor.add_options(parser)
    given = parser.parse_args()
    params = Params.load()
    check_surroundings(params)
    check(params)
    warn_of_classes(params.suite)
    resources = executor.resources_of(given, params.section("machine", MachineParams))
    failed = run_parallel(resources) if resources.slurm is not None or resources.workers > 1 else set()
    left = without(failed) if failed else []
    code = 0 if failed and not left else run_dvc(left)
    if code == 0 and not failed:
        print(f"the report: {PAGE}")
        return
    lacking = states(params.suite)
    if not lacking:
        raise UserError(f"all runs have results, but `dvc repro` ended with exit status {code}: see above")
    build(params.suite, available=True)
    raise UserError(f"{named(params.suite, lacking)}; {PAGE} shows what is there")


def named(suite: SuiteParams, lacking: dict[Key, tuple[str, str]]) -> str:
    """List the results that are not current, grouped by reason."""
    reasons: dict[str, list[str]] = {}
    for (benchmark, method, seed), (_, reason) in lacking.items():
        what = "profile" if seed is None else f"seed {seed}"
        reasons.setdefault(reason, []).append(f"{benchmark} {method} {what}" if benchmark else "computed memory")
    all_results = len(suite.benchmarks) * (1 + len(suite.baselines)) * (1 + len(suite.seeds)) + 1
    details = "; ".join(f"{', '.join(runs)}: {reason}" for reason, runs in reasons.items())
    return f"{len(lacking)} of {all_results} results are missing ({details})"


def without(failed: set[str]) -> list[str]:
    """The stages that would run and need none of the `failed` ones, which would fail again here."""
    runs = {replace(job_of(stage), kind="") for stage in failed}
    return [stage for stage in pending() if stage != "report" and replace(job_of(stage), kind="") not in runs]


def run_parallel(resources: executor.Resources) -> set[str]:
    """Make the runs that are not current, each in a clone, for the cache.

    Profiles are made too where each run has a GPU of its own; on a CPU, they would be measured beside other runs.

    Returns:
        The stages that failed.

    Raises:
        UserError: see `executor.prepare` and `executor.run_on_slurm`.
    """
    check_experiments()
    kinds = ("evaluate", "profile") if resources.slurm is not None or resources.gpus else ("evaluate",)
    with executor.turn():
        state = executor.snapshot()
        digest = hashlib.sha256(f"{state[1]} {state[2].name}".encode()).hexdigest()[:8]
        tasks: dict[executor.Task, Job] = {}
        for stage in pending():
            if (job := job_of(stage)).kind in kinds:
                name = f"{stage.replace('@', '-')}-{digest}"
                tasks[executor.Task(*state, name, target=stage)] = job
        if not tasks:
            return set()
        for benchmark in dict.fromkeys(job.benchmark for job in tasks.values()):
            executor.prepare(next(iter(tasks)), benchmark)
        failed: set[str] = set()
        print(f"{len(tasks)} runs: logs in {executor.SCRATCH}", flush=True)
        with contextlib.closing(executor.run(list(tasks), resources)) as done:
            for number, (task, reason) in enumerate(done, 1):
                what = f"failed: {reason}; log {task.log}" if reason else "finished"
                print(f"[{number}/{len(tasks)}] {task.target}: {what}", flush=True)
                if reason:
                    failed.add(task.target)
                    job = tasks[task]
                    words = (job.kind, job.benchmark, job.method, *(() if job.seed is None else (str(job.seed),)))
                    record_error(list(words), reason)
    return failed


def run_dvc(stages: Sequence[str] = ()) -> int:
    """Run `dvc repro --keep-going`, of all stages or of some, and return its exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the running stage has saved its state, and no other was started.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Stages use this interpreter as `python`, whether or not the environment is active.
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--keep-going", *stages], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # DVC ignores Ctrl-C during a stage and would start the next one; a SIGTERM to it ends the stage as well.
        end_tree(process, executor.GRACE)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    run_stage(work)
