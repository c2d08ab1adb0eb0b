"""The pipeline file itself."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipelines.methods import METHODS
from scpseg.benchmarks import BENCHMARKS

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_stage_says_what_it_is_for_and_names_files_that_exist() -> None:
    for name, stage in STAGES.items():
        assert stage["desc"], name
        assert stage["cmd"].startswith("python -m pipelines."), name
        for path in stage["deps"]:
            source = path.startswith(("scpseg", "baselines", "pipelines"))
            if source and "$" not in path:
                assert (ROOT / path).exists(), (name, path)


def test_every_parameter_is_used_by_a_stage() -> None:
    """A parameter that no stage lists could be changed without anything rerunning."""
    used = {entry for stage in STAGES.values() for entry in stage.get("params", []) if isinstance(entry, str)}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    # Where archives lie and come from (a manifest says what came), how many processes cut
    # windows or train together: no result depends.
    free = {"data.cache", "machine.devices", "machine.workers"} | {f"upstream.{key}" for key in params["upstream"]}
    generic = {entry.removeprefix("${item.benchmark}") for entry in used if entry.startswith("${item.benchmark}")}
    for section, values in params.items():
        for key in values:
            name = f"{section}.{key}"
            if section in BENCHMARKS:
                assert "" in generic or f".{key}" in generic
            elif section != "suite" and name not in free:
                rivals = section in METHODS and "${item.method}" in used
                tuned = section == "tuned" and "tuned.${item.method}" in used
                assert section in used or name in used or rivals or tuned, name


EVERY = ".*"
NOT_NEEDED = {
    "pipelines/__init__.py": (EVERY, "how Ctrl-C is told"),
    "pipelines/check.py": ("(?!check)", "parameters are checked before, by a stage of its own"),
    "pipelines/experiments.py": ("report", "what --compare reads, which no stage does"),
    "pipelines/freshness.py": (EVERY, "what a report built outside DVC leaves out"),
    "pipelines/methods.py": ("(?!check)", "the list of methods: a new one must rerun nothing of the others"),
    "pipelines/paths.py": (EVERY, "where results are: the outputs in dvc.yaml say the same"),
    "pipelines/plan.py": (EVERY, "what `download --check` says of time and space"),
    "pipelines/preflight.py": (EVERY, "what is around the project, no result"),
    "pipelines/runs.py": (EVERY, "command line and provenance, no result"),
    "pipelines/stage.py": (EVERY, "messages of errors"),
    "pipelines/studies.py": ("report", "what --publish and --render do, which no stage does"),
    "scpseg/__init__.py": (EVERY, "the ignore index, which every store has"),
    "scpseg/benchmarks": ("train", "the number of classes, which the labels in the store follow"),
    "scpseg/benchmarks/__init__.py": (EVERY, "the list of benchmarks: a new one must rerun nothing of the others"),
    "scpseg/benchmarks/custom.py": ("download|prepare", "the user's own benchmark: its own stage depends on it"),
    "scpseg/benchmarks/probe.py": ("evaluate", "the probe's class numbers: its own stage depends on them"),
    "scpseg/contract.py": ("check", "what methods compute: their sections and limits alone are read"),
    "scpseg/data/overviews.py": (".*-scpseg", "SCPSeg has no overview"),
    "scpseg/data/store.py": ("profile|memory", "random pixels are in the place of a store"),
    "scpseg/data/splits.py": ("(?!check|mirror|prepare)", "split lists, which the store follows"),
    "scpseg/evaluation": ("train-scpseg", "only rivals keep the state that scores best; SCPSeg keeps the last"),
    "scpseg/errors.py": (EVERY, "the class of errors"),
    "scpseg/files.py": (EVERY, "atomic writing and its errors"),
    "scpseg/geometry.py": ("check", "what methods compute: their sections and limits alone are read"),
    "scpseg/losses.py": ("check|evaluate|profile", "training alone uses it"),
    "scpseg/method/lfa.py": ("profile", "training alone uses it"),
    "scpseg/method/srd.py": ("profile", "training alone uses it"),
    "scpseg/parallel.py": ("check|evaluate|profile", "training alone splits batches"),
    "scpseg/params.py": ("(?!check)", "reading of values: these are dependencies themselves"),
    "scpseg/processes.py": (EVERY, "the end of processes"),
    "scpseg/progress.py": (EVERY, "the line that tells of progress"),
    "scpseg/synthetic": ("(?!mirror)", "drawing, which the mirror alone does"),
    "scpseg/training/interrupt.py": ("evaluate", "the end of processes"),
    "scpseg/training/launch.py": ("evaluate", "the start of processes"),
    "scpseg/training": ("profile", "the same process can measure a training step; the stage measures inference"),
    "scpseg/tuning.py": (EVERY, "how a value of section `tuned` is written; values are dependencies themselves"),
    "scpseg/validation.py": ("(?!check)", "messages about values"),
}
"""What a stage need not depend on though it imports it: for which stages (a regular expression), and why.

What only these import is not needed either.
"""


@cache
def file_of(module: str) -> Path | None:
    """Path of a module of ours, as seen from the root; None for a name inside a module."""
    path = Path(*module.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if (ROOT / candidate).is_file():
            return candidate
    return None


@cache
def imported(path: Path) -> frozenset[str]:
    """Modules of ours that a file imports anywhere, inside functions too, those for type checkers left out."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    ours = ("scpseg", "baselines", "pipelines")
    return frozenset(name for name in walk(ast.parse((ROOT / path).read_text())) if name.partition(".")[0] in ours)


def reached(modules: list[str], stage: str | None = None) -> set[Path]:
    """Files that running the modules imports; for a stage, without those that it does not need."""
    found: set[Path] = set()
    todo = list(modules)
    while todo:
        parts = todo.pop().split(".")
        for length in range(1, len(parts) + 1):
            path = file_of(".".join(parts[:length]))
            if path and path not in found and (stage is None or needed(path, stage)):
                found.add(path)
                todo += imported(path)
    return found


@cache
def needed(path: Path, stage: str) -> bool:
    places = [path.as_posix(), *(folder.as_posix() for folder in path.parents)]
    return not any(place in NOT_NEEDED and re.match(NOT_NEEDED[place][0], stage) for place in places)


def closure(modules: list[str], stage: str) -> set[str]:
    """Files with code that a stage imports and needs."""
    return {path.as_posix() for path in reached(modules, stage) if has_code(path)}


@cache
def has_code(path: Path) -> bool:
    """Whether there is more in a file than its docstring."""
    return len(ast.parse((ROOT / path).read_text()).body) > 1


def variants() -> Iterator[tuple[str, str, str, set[str], list[str]]]:
    """Stage, benchmark, method, paths it depends on, and the modules that its command runs."""
    for name, stage in STAGES.items():
        module = re.fullmatch(r"python -m (pipelines\.\w+).*", stage["cmd"])
        assert module, stage["cmd"]
        methods = [method for method in METHODS if method != "scpseg"] if name.endswith("-baseline") else [""]
        for benchmark in BENCHMARKS if "${item.benchmark}" in stage["cmd"] else [""]:
            for method in methods:
                items = {"${item.benchmark}": benchmark, "${item.method}": method}
                paths = set()
                for path in stage["deps"]:
                    for key, value in items.items():
                        path = path.replace(key, value)
                    paths.add(path)
                run = [module[1], *([f"scpseg.benchmarks.{benchmark}"] if benchmark else [])]
                if name.endswith(("-scpseg", "-baseline")):
                    run.append(METHODS[method or "scpseg"])
                if name in ("check", "memory"):
                    run += METHODS.values()
                if name in ("check", "memory", "report"):
                    run += [f"scpseg.benchmarks.{every}" for every in BENCHMARKS]
                yield name, benchmark, method, paths, run


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_modules_that_it_imports(name: str) -> None:
    for stage, benchmark, method, paths, run in variants():
        if stage != name:
            continue
        files = closure(run, stage)
        lacking = {file for file in files if not any(within(file, path) for path in paths)}
        assert not lacking, f"{stage} {benchmark} {method} imports {sorted(lacking)}: add to deps or NOT_NEEDED"
        code = {path for path in paths if path.startswith(("scpseg", "baselines", "pipelines"))}
        # A template cannot say which parts a method uses, so every rival depends on all of them.
        data = {"baselines/parts", "scpseg/benchmarks/splits", f"scpseg/benchmarks/{benchmark}.py"}
        unused = {path for path in code - data if not any(within(file, path) for file in files)}
        assert not unused, f"{stage} {benchmark} {method} depends on {sorted(unused)} without using it"


def within(file: str, path: str) -> bool:
    return file == path or file.startswith(f"{path}/")


def test_what_is_not_needed_exists_and_is_imported() -> None:
    """A reason that no stage needs any more is deleted."""
    everything: set[str] = set()
    for _, _, _, _, run in variants():
        everything |= {path.as_posix() for path in reached(run)}
    for path in NOT_NEEDED:
        assert any(within(file, path) for file in everything), path


def test_no_parameter_has_a_name_that_the_run_cache_ignores() -> None:
    """DVC leaves `size` and `nfiles` out of the identity of a run, so another value would restore its result."""
    from dvc.stage.cache import _get_cache_hash

    def of(key: str, value: int) -> str:
        return _get_cache_hash({"cmd": "run", "params": {"params.yaml": {"profile": {key: value}}}})

    for section, values in yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")).items():
        for key in values:
            assert of(key, 1) != of(key, 2), f"{section}.{key}"
    assert of("size", 1) == of("size", 2)  # if this fails, DVC has changed and the names are free
