import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines import repro
from pipelines.executor import GRACE, Resources
from pipelines.freshness import Key, State, error_file
from scpseg.errors import UserError
from scpseg.params import SuiteParams
from scpseg.processes import end_tree
from scpseg.reporting import MEMORY

SUITE = SuiteParams(benchmarks=("blu",), baselines=("patch",), seeds=(0, 1))
LACKING: dict[Key, State] = {
    ("blu", "patch", 0): ("failed", "the loss is not finite"),
    ("blu", "patch", 1): ("failed", "the loss is not finite"),
    ("blu", "scpseg", None): ("missing", "it was not run yet"),
    MEMORY: ("stale", "csm.ratio was 0.75, is 0.5"),
}


def test_what_failed_is_named_with_each_reason_once() -> None:
    sentence = repro.named(SUITE, LACKING)
    assert sentence.startswith("4 of 7 results")
    assert "blu patch seed 0, blu patch seed 1: the loss is not finite" in sentence
    assert "blu scpseg profile: it was not run yet" in sentence
    assert "computed memory: csm.ratio was 0.75, is 0.5" in sentence


def test_the_report_is_built_before_the_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[bool] = []
    monkeypatch.setattr(sys, "argv", ["repro"])
    monkeypatch.chdir(Path(repro.__file__).parents[1])
    monkeypatch.setattr(repro, "check", lambda params: None)
    monkeypatch.setattr(repro, "check_surroundings", lambda params: None)
    monkeypatch.setattr(repro, "build", lambda suite, available: built.append(available))
    monkeypatch.setattr(repro, "states", lambda suite: LACKING)
    monkeypatch.setattr(repro, "run_dvc", lambda stages: 255)
    with pytest.raises(UserError, match="the loss is not finite"):
        repro.work()
    assert built == [True]
    monkeypatch.setattr(repro, "states", lambda suite: {})
    with pytest.raises(UserError, match="exit status 255"):
        repro.work()
    monkeypatch.setattr(repro, "run_dvc", lambda stages: 0)
    repro.work()
    assert "reports/README.md" in capsys.readouterr().out


MATRIX = """
stages:
  prepare:
    matrix: {benchmark: [blu]}
    cmd: mkdir -p data && echo prepare >> $SCPSEG_ROOT/.scratch/started && touch data/${item.benchmark}
    deps: [a.py]
    outs: [data/blu]
  evaluate-baseline:
    matrix: {benchmark: [blu], method: [patch, glnet], seed: [0, 1]}
    cmd: sh run.sh ${item.method} ${item.seed}
    deps: [data/blu, run.sh]
    outs: ["results/${item.method}-${item.seed}"]
  profile-baseline:
    matrix: {benchmark: [blu], method: [patch, glnet]}
    cmd: touch results/profile-${item.method}
    deps: [data/blu]
    outs: ["results/profile-${item.method}"]
"""
RUN = """
echo $1-$2 >> $SCPSEG_ROOT/.scratch/started
[ $1-$2 != glnet-1 ] || { echo 'error: the loss is not finite'; exit 1; }
echo $1 > results/$1-$2
"""


@pytest.mark.soak
def test_runs_at_the_same_time_leave_nothing_to_do_here_but_those_that_failed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCPSEG_ROOT", str(project))
    Path("dvc.yaml").write_text(MATRIX)
    Path("run.sh").write_text(RUN)
    subprocess.run(["git", "add", "-A"], check=True)
    assert repro.run_parallel(Resources(2)) == {"evaluate-baseline@blu-glnet-1"}
    assert "evaluate-baseline@blu-glnet-1: failed: the loss is not finite; log" in capsys.readouterr().out
    assert "the loss is not finite" in error_file(["evaluate", "blu", "glnet", "1"]).read_text()
    started = Path(".scratch/started").read_text().split()
    assert started[0] == "prepare" and sorted(started[1:]) == ["glnet-0", "glnet-1", "patch-0", "patch-1"]
    done = [f"evaluate-baseline@blu-{run}" for run in ("patch-0", "patch-1", "glnet-0")]
    left = repro.without({"evaluate-baseline@blu-glnet-1"})
    assert sorted(left) == sorted([*done, "prepare@blu", "profile-baseline@blu-glnet", "profile-baseline@blu-patch"])
    assert repro.run_dvc(left) == 0 and Path("results/patch-1").read_text() == "patch\n"
    assert Path("results/profile-glnet").exists()  # of the method with a failed run too
    assert Path(".scratch/started").read_text().split() == started  # from the cache
    Path("run.sh").write_text(RUN.replace("!= glnet-1", "!= none"))  # not committed: takes part all the same
    assert repro.run_parallel(Resources(2)) == set() and repro.run_dvc() == 0
    assert sorted(Path(".scratch/started").read_text().split()[5:]) == ["glnet-0", "glnet-1", "patch-0", "patch-1"]
    assert Path("results/glnet-1").exists() and repro.run_parallel(Resources(2)) == set()


def test_an_interrupted_dvc_starts_no_other_stage(tmp_path: Path) -> None:
    """A stand-in for dvc ignores Ctrl-C while its stage runs, as dvc does; the stage takes a while to save."""
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import ctypes, pathlib, signal, sys, time\n"
        "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
        "def save(*_):\n    time.sleep(0.3)\n    pathlib.Path(sys.argv[1] + '.saved').touch()\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)\n"
    )
    dvc = tmp_path / "dvc.py"
    dvc.write_text(
        "import signal, subprocess, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"for name in ('first', 'second'):\n    subprocess.run([sys.executable, {str(stage)!r}, name])\n"
    )
    process = subprocess.Popen([sys.executable, str(dvc)], cwd=tmp_path)
    (child,) = wait_for(lambda: [c for c in psutil.Process(process.pid).children() if (tmp_path / "first").exists()])
    process.send_signal(signal.SIGINT)
    end_tree(process, GRACE)
    assert not child.is_running()
    assert (tmp_path / "first.saved").exists() and not (tmp_path / "second").exists()


def wait_for(what: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 s")
