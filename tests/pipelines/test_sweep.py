"""Planning a sweep and running what is missing, with experiments that only pretend."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import executor, experiments, grids, sweep
from scpseg.errors import UserError
from scpseg.params import Params

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("undrawn")


class Pretended:
    """Experiments by identity.

    `fail` is a word of the name of experiments that fail, `lose` of those that end well and leave nothing; Ctrl-C comes
    after `stop` of them.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, list[str]]] = []
        self.done: dict[str, tuple[str, str]] = {}
        self.prepared: list[str] = []
        self.fail = self.lose = "nothing"
        self.stop = 99
        self.pages: list[str] = []

    def run_here(
        self, tasks: list[executor.Task], resources: executor.Resources
    ) -> Iterator[tuple[executor.Task, str | None]]:
        self.resources = resources
        for task in tasks:
            yield task, self.run(task)

    def run(self, task: executor.Task) -> str | None:
        if task.target:
            self.prepared.append(task.target)
            return None
        if self.stop == 0:
            raise KeyboardInterrupt
        self.stop -= 1
        self.ran.append((task.name, list(task.settings)))
        page = Path("reports/sweeps/mine-potsdam/README.md")
        self.pages.append(page.read_text() if page.exists() else "")
        if self.fail in task.name:
            return "it went wrong; try again"
        if self.lose not in task.name:
            self.done[task.name.rpartition("-")[2]] = task.name, f"rev-of-{task.name}"
        return None

    def summary_of(self, revision: str) -> list[dict[str, Any]] | None:
        text = {"mean_name": "mIoU", "synthetic": "True", "segmenter:weights": "random", "segmenter:name": "fcn8s"}
        text |= {"benchmark": "potsdam", "seed": "0", "memory_mib": "9.5", "memory_backend": "rss", "split": "val"}
        text |= dict.fromkeys(("images", "images_of", "train_images", "train_images_of", "height", "width"), "4")
        text |= {"split_list": "s", "training:iterations": "5", "training:batch": "8", "segmenter:encoder": "e"}
        return [{**text, "method": method, "mean_iou": "0.5"} for method in ("scpseg", "patch")]


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    subprocess.run(["git", "init", "-q"], check=True)
    fake = Pretended()
    monkeypatch.setattr(executor, "run_here", fake.run_here)
    monkeypatch.setattr(executor, "snapshot", lambda: (tmp_path, "0" * 40, tmp_path / "none.patch"))
    monkeypatch.setattr(experiments, "finished", lambda: fake.done)
    monkeypatch.setattr(experiments, "summary_of", fake.summary_of)
    monkeypatch.setattr(experiments, "_sources", lambda methods: [])
    committed = yaml.safe_load((ROOT / "params.yaml").read_text())
    monkeypatch.setattr(experiments, "settings_for", lambda values, current: changed(values, committed))
    monkeypatch.setattr(grids, "device_name", lambda params: "this device")
    return fake


def changed(values: dict[str, Any], base: dict[str, Any]) -> list[str]:
    return [
        f"{section}.{key}={value}"
        for section, entries in values.items()
        for key, value in entries.items()
        if base[section][key] != value
    ]


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    sweep.main()


GRID = ("mine", "-S", "csm.ratio=0.75,1,1.7", "-S", "csm.context=2,3", "-S", "train.iterations=5")


def rows() -> list[dict[str, str]]:
    with Path("reports/sweeps/mine-potsdam/runs.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.drawn
def test_a_sweep_runs_each_network_once_and_reports_invalid_points(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch, *GRID)
    # Ratio 1 has no frame: one run whatever the context. Ratio 1.7 cannot be.
    assert [name.rpartition("-")[0] for name, _ in pretended.ran] == ["mine-0.75-2", "mine-0.75-3", "mine-1-2"]
    first = pretended.ran[0][1]
    assert "suite.benchmarks=['potsdam']" in first and "evaluation.split=val" in first
    assert "train.iterations=5" in first and "suite.baselines=[]" in first
    assert [row["status"] for row in rows()] == ["ok"] * 4 + ["invalid"] * 2
    assert rows()[2]["experiment"] == rows()[3]["experiment"] == pretended.ran[2][0]
    assert "csm.ratio is 1.7" in rows()[4]["reason"] and "correct it" not in rows()[4]["reason"]
    assert "not run yet" in pretended.pages[0] and "5 of 6 rows" in pretended.pages[1]
    page = Path("reports/sweeps/mine-potsdam/README.md").read_text()
    assert page.count("dvc exp run -S") == 3 and Path("reports/sweeps/mine-potsdam/mine.svg").exists()


def test_after_an_interrupt_only_what_is_missing_runs(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    pretended.stop = 1
    with pytest.raises(KeyboardInterrupt):
        start(monkeypatch, *GRID)
    assert len(pretended.ran) == 1
    pretended.stop = 99
    start(monkeypatch, *GRID)
    assert len(pretended.ran) == len({name for name, _ in pretended.ran}) == 3
    start(monkeypatch, *GRID)
    assert len(pretended.ran) == 3
    # The same points under another name are the same experiments; other seeds are not.
    start(monkeypatch, "another", *GRID[1:])
    assert len(pretended.ran) == 3
    start(monkeypatch, *GRID, "--seeds", "0,1")
    assert len(pretended.ran) == 6


def test_points_of_another_thread_count_or_device_run_again(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, names = "torch.get_num_threads", len({"0.75-2", "0.75-3", "1-2"})
    monkeypatch.setattr(count, lambda: 1)
    start(monkeypatch, *GRID)
    monkeypatch.setattr(count, lambda: 2)
    start(monkeypatch, *GRID)
    assert len(pretended.ran) == 2 * names
    # Said to DVC too, which would restore the first runs' memory from its cache.
    assert ["machine.threads=1" in settings for _, settings in pretended.ran] == [True] * names + [False] * names
    assert all("machine.threads=2" in settings for _, settings in pretended.ran[names:])
    monkeypatch.setattr(grids, "device_name", lambda params: "another device")
    start(monkeypatch, *GRID)
    assert len(pretended.ran) == 3 * names


def test_a_failure_is_a_row_with_its_reason_and_is_tried_again(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended.fail = "0.75-3"
    start(monkeypatch, *GRID)
    assert [row["status"] for row in rows()][:4] == ["ok", "failed", "ok", "ok"]
    assert rows()[1]["reason"] == "it went wrong; try again"
    pretended.fail = "nothing"
    start(monkeypatch, *GRID)
    assert len(pretended.ran) == 4 and [row["status"] for row in rows()][:4] == ["ok"] * 4


def test_a_run_that_ends_well_without_its_experiment_has_failed(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended.lose = "0.75-3"
    start(monkeypatch, *GRID)
    assert [row["status"] for row in rows()][:4] == ["ok", "failed", "ok", "ok"]
    assert "saved no experiment" in rows()[1]["reason"]


def test_several_workers_find_the_images_prepared(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, *GRID, "--workers", "2")
    assert (pretended.resources, pretended.prepared) == (executor.Resources(2), ["prepare@potsdam"])


def test_parameters_of_slurm_are_passed_on(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[executor.Resources] = []

    def run_on_slurm(tasks: list[executor.Task], resources: executor.Resources) -> Any:
        seen.append(resources)
        return pretended.run_here(tasks, resources)

    monkeypatch.setattr(executor, "run_on_slurm", run_on_slurm)
    monkeypatch.setattr(executor, "_slurm", lambda resources: None)
    start(monkeypatch, *GRID, "--on", "slurm", "--slurm", "partition=a,gres=gpu:a100:2", "--slurm", "time=240")
    assert seen == [executor.Resources(256, slurm={"partition": "a", "gres": "gpu:a100:2", "time": 240})]
    assert pretended.prepared == ["prepare@potsdam"] and len(pretended.ran) == 3


def test_on_slurm_the_device_of_this_machine_is_not_that_of_the_runs(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "run_on_slurm", pretended.run_here)
    monkeypatch.setattr(executor, "_slurm", lambda resources: None)
    start(monkeypatch, *GRID)
    here = dict(pretended.ran)
    start(monkeypatch, *GRID, "--on", "slurm", "--slurm", "time=9")
    there = pretended.ran[len(here) :]
    assert len(there) == len(here) == 3 and not {name for name, _ in there} & here.keys()
    assert not any(setting.startswith("machine.") for _, settings in there for setting in settings)
    start(monkeypatch, *GRID, "--on", "slurm", "--slurm", "time=20")  # another limit, the same runs
    assert len(pretended.ran) == 6


def test_names_of_experiments_are_names_for_git(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
    monkeypatch.setattr(grids, "check", lambda params: None)
    start(monkeypatch, "mine", "-S", "data.source=../a,../b..")
    assert [name.rpartition("-")[0] for name, _ in pretended.ran] == ["mine-.-a", "mine-.-b"]
    for name, _ in pretended.ran:
        subprocess.run(["git", "check-ref-format", f"refs/exps/{name}"], check=True)


def test_segmenters_show_patch_beside_scpseg_from_one_experiment(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch, "mine", "-S", "csm.supervise=frame,centre", "--methods", "patch,scpseg")
    assert len(pretended.ran) == 2 and "suite.baselines=['patch']" in pretended.ran[0][1]
    assert [(row["series"], row["x"]) for row in rows()] == [
        ("Patch", "frame"),
        ("SCPSeg", "frame"),
        ("Patch", "centre"),
        ("SCPSeg", "centre"),
    ]


def test_dry_lists_runs_and_time_and_runs_nothing(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended.stop = 1
    with pytest.raises(KeyboardInterrupt):
        start(monkeypatch, *GRID)
    monkeypatch.setattr(sweep, "training_seconds", lambda params, benchmark, method, device: 30.0)
    capsys.readouterr()
    start(monkeypatch, *GRID, "--dry")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["mine:", "done", "to", "to", "as", "invalid", "invalid", "expected:"]
    assert lines[4].endswith(": the same sizes after rounding")
    assert "training 30 s" in lines[2] and lines[-1] == "expected: 60 s of training"
    assert len(pretended.ran) == 1
    monkeypatch.setattr(sweep, "training_seconds", lambda params, benchmark, method, device: None)
    start(monkeypatch, *GRID, "--dry")
    assert "training not measured" in capsys.readouterr().out


def test_help_names_every_sweep_and_needs_no_torch() -> None:
    assert all(name in str(sweep.__doc__) for name in grids.NAMED)
    code = "import sys, pipelines.sweep; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", sorted(grids.NAMED))
def test_every_point_of_a_named_sweep_is_valid_at_sample_scale(
    name: str, pretended: Pretended, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, name, "--dry")
    output = capsys.readouterr().out
    assert "to run" in output and "invalid" not in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mine",), "your own grid"),
        (("My Grid", "-S", "csm.ratio=1"), "lower-case letters"),
        (("sizes", "-S", "csm.kernel=bilinear,antialias"), "^-S csm.kernel: sizes sets its own points"),
        (("sizes", "-S", "csm.ratio=0.5"), "^-S csm.ratio: .*another name"),
        (("sizes", "--methods", "patch"), "^--methods: sizes"),
        (("sizes", "--workers", "0"), "^--workers 0: it must be 1 or more"),
        (("sizes", "--slurm", "partition=a"), "^--slurm partition=a needs --on slurm"),
        (("sizes", "--on", "slurm", "--slurm", "time=4:00:00"), "^--slurm time=4:00:00: .*minutes"),
        (("sizes", "--on", "slurm", "--slurm", "gpu"), "^--slurm gpu: write partition=gpu"),
        (("sizes", "--on", "slurm"), "^--on slurm needs the time limit .*--slurm time=240"),
        (("sizes", "--seeds", "a"), "^--seeds a: give whole numbers from 0 to 4294967295, each once"),
        (("sizes", "--seeds", "0,0"), "^--seeds 0,0: .*each once"),
        (("sizes", "--seeds=-1"), "^--seeds -1: "),
        (("sizes", "--seeds", "4294967296"), "^--seeds 4294967296: "),
        (("sizes", "--seeds", ""), "^--seeds : give whole numbers"),
        (("sizes", "--benchmark", "postdam"), "^--benchmark postdam: unknown benchmark; did you mean 'potsdam'"),
    ],
)
def test_mistakes_on_the_command_line_are_sentences(
    arguments: tuple[str, ...], words: str, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=words):
        start(monkeypatch, *arguments)
    assert not pretended.ran


def test_parameters_are_narrowed_without_touching_the_file(pretended: Pretended) -> None:
    before = Path("params.yaml").read_text()
    asked = argparse.Namespace(benchmark="blu", seeds="3", split="test")
    values = grids.with_suite(Params.load(), asked).values
    assert values["suite"]["benchmarks"] == ["blu"] and values["suite"]["seeds"] == [3]
    assert values["evaluation"]["split"] == "test" and Path("params.yaml").read_text() == before
