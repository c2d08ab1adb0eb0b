"""Run everything that params.yaml declares: check, `dvc repro --keep-going`, report.

If a run fails, the others continue, the report uses what exists, and the failures are listed at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from pipelines.check import check
from pipelines.freshness import Key, states
from pipelines.preflight import check_surroundings
from pipelines.report import PAGE, build
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.params import Params, SuiteParams
from scpseg.processes import end_tree

GRACE = 60.0
"""Seconds that an interrupted stage gets to save its state."""


def work() -> None:
    """Run the pipeline.

    Raises:
        UserError: a parameter is not valid, or a result could not be made.
    """
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    params = Params.load()
    check_surroundings(params)
    check(params)
    code = run_dvc()
    if code == 0:
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
        reasons.setdefault(reason, []).append(f"{benchmark} {method} {what}")
    all_results = len(suite.benchmarks) * (1 + len(suite.baselines)) * (1 + len(suite.seeds))
    details = "; ".join(f"{', '.join(runs)}: {reason}" for reason, runs in reasons.items())
    return f"{len(lacking)} of {all_results} results are missing ({details})"


def run_dvc() -> int:
    """Run `dvc repro --keep-going` and return its exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the running stage has saved its state, and no other was started.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Stages use this interpreter as `python`, whether or not the environment is active.
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--keep-going"], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # DVC ignores Ctrl-C during a stage and would start the next one; a SIGTERM to it ends the stage as well.
        end_tree(process, GRACE)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    run_stage(work)
