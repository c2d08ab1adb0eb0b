"""Studies in git: reports/published/NAME with the page, and results.tar.xz with the result files it is made from.

The archive has no weights. With it, a study is made in pieces (seeds, methods, machines) and its page can be written
again by anyone, also with tables that did not exist when the study was run.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Container, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines import paths
from pipelines.freshness import Key, states
from pipelines.methods import METHODS
from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.files import damaged, read_json, replacing
from scpseg.params import Params, SuiteParams
from scpseg.reporting import MEMORY
from scpseg.reporting.build import build_report

PUBLISHED = Path("reports/published")
ARCHIVE = "results.tar.xz"
FREE = {"suite", "data", "upstream", "machine", "profile"}
"""Sections that may differ between the pieces of a study: they do not change the scores of a run."""
IN_GIT = ("bench.csv", "reference", "contributed")
"""Results that are in git themselves."""


def publish(name: str, params: Params, reference: str) -> list[str]:
    """Add the current results to the study, and write its page. Returns what is missing, as sentences.

    Raises:
        UserError: the study was made with other parameters, its archive is damaged, or see `build_report`.
    """
    archive = PUBLISHED / name / ARCHIVE
    with tempfile.TemporaryDirectory() as place:
        work, suite = Path(place), asdict(params.suite)
        if archive.is_file():
            earlier = unpack(archive, work)
            if changed := differences(earlier, params):
                why = f"{changed[0]} of params.yaml is not that of the runs in {archive}"
                raise UserError(f"--publish {name}: {why}; choose another name, or delete the file to start anew")
            suite = {key: (*dict.fromkeys(values + suite[key]),) for key, values in asdict(earlier.suite).items()}
        lacking = states(params.suite)
        files = [*current(params.suite, lacking)]
        for path in files:
            if path.name == "metrics.json":
                shutil.rmtree(work / path.parent, ignore_errors=True)  # pictures of an earlier run may have other names
        for path in files:
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, work / path)
        if MEMORY not in lacking:
            merge_memory(work / paths.memory())
        with (work / "params.yaml").open("w", encoding="utf-8") as stream:
            declared = {key: value for key, value in params.values.items() if key not in FREE}
            YAML().dump({"suite": {key: list(values) for key, values in suite.items()}, **declared}, stream)
        missing = _page(name, work, reference)
        pack(work, archive)
    return missing


def render(name: str, reference: str) -> list[str]:
    """Write the page of a study again from its archive. Returns what is missing, as sentences.

    Raises:
        UserError: the study has no archive, the archive is damaged, or see `build_report`.
    """
    archive = PUBLISHED / name / ARCHIVE
    if not archive.is_file():
        known = ", ".join(sorted(path.parent.name for path in PUBLISHED.glob(f"*/{ARCHIVE}"))) or "none"
        raise UserError(f"--render {name}: {archive} does not exist; studies with an archive: {known}")
    with tempfile.TemporaryDirectory() as place:
        unpack(archive, Path(place))
        return _page(name, Path(place), reference)


def differences(earlier: Params, present: Params) -> list[str]:
    """Sections, and keys of `tuned`, whose present values are not those of the earlier runs."""
    done = {"scpseg", *earlier.suite.baselines}
    keys = [key for key in earlier.values if key not in FREE | {"tuned"} and (key not in METHODS or key in done)]
    found = [key for key in keys if key in present.values and earlier.values[key] != present.values[key]]
    before, now = (params.values.get("tuned") or {} for params in (earlier, present))
    return found + [f"tuned.{method}" for method in sorted(done) if before.get(method) != now.get(method)]


def _page(name: str, work: Path, reference: str) -> list[str]:
    suite = Params.load(work / "params.yaml").suite
    for kept in IN_GIT:
        path = Path("results") / kept
        if path.is_dir():
            shutil.copytree(path, work / path)
        elif path.is_file():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, work / path)
    return build_report(work / "results", PUBLISHED / name, suite, True, {}, reference, public=True)


def current(suite: SuiteParams, lacking: Container[Key]) -> Iterator[Path]:
    """Files of the results that are not `lacking`, as a page shows them: pictures only where terms allow it."""
    for benchmark in suite.benchmarks:
        for method in ("scpseg", *suite.baselines):
            profile = paths.profile(benchmark, method)
            if (benchmark, method, None) not in lacking and profile.is_file():
                yield profile
            for seed in suite.seeds:
                scores = paths.scores(benchmark, method, seed)
                if (benchmark, method, seed) in lacking or not (scores / "metrics.json").is_file():
                    continue
                found = read_json(scores / "metrics.json", {"synthetic": bool, str: object})
                yield from (path for path in scores.iterdir() if path.is_file())
                yield from paths.run(benchmark, method, seed).rglob("history.csv")
                yield from (paths.provenance(benchmark, method, seed, stage) for stage in ("training", "evaluation"))
                if found["synthetic"] or BENCHMARKS[benchmark].public_domain:
                    yield from scores.glob("pictures/*.png")


def merge_memory(kept: Path) -> None:
    """Replace records of computed memory in `kept` by the present ones of the same method and workload."""

    def records(path: Path) -> dict[tuple[Any, ...], Any]:
        rows = read_json(path, [{"benchmark": str, "method": str, "workload": str, str: object}])
        return {(row["benchmark"], row["method"], row["workload"]): row for row in rows}

    found = [records(path) for path in (kept, paths.memory()) if path.is_file()]
    if found:
        kept.parent.mkdir(parents=True, exist_ok=True)
        merged = found[0] | found[-1]
        kept.write_text(json.dumps([merged[key] for key in sorted(merged)], indent=1), encoding="utf-8")


def pack(work: Path, archive: Path) -> None:
    """Write params.yaml and results/ below `work` into an archive; equal files give equal bytes."""
    for method in work.glob("results/metrics/*/*"):
        for folder in sorted(method.glob("*/pictures"), key=lambda path: int(path.parent.name))[1:]:
            shutil.rmtree(folder)  # a page shows those of the first seed
    of_git = [work / "results" / name for name in (*IN_GIT, "summary.csv", "summary.json")]
    files = [path for path in work.rglob("*") if path.is_file() and not any(map(path.is_relative_to, of_git))]
    # Files of one kind stay together, since they have much in common: all methods have the same images.
    files.sort(key=lambda path: (path.suffix, path.name, path))
    with replacing(archive) as temporary, tarfile.open(temporary, "w:xz", preset=9) as stream:
        for path in files:
            entry = tarfile.TarInfo(path.relative_to(work).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                stream.addfile(entry, content)


def unpack(archive: Path, work: Path) -> Params:
    """Unpack an archive into `work`. Returns its parameters.

    Raises:
        UserError: the archive is damaged.
    """
    try:
        with tarfile.open(archive, "r:xz") as stream:
            stream.extractall(work, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise damaged(archive, f"is not a readable archive ({error})") from None
    if not (work / "params.yaml").is_file():
        raise damaged(archive, "has no params.yaml")
    return Params.load(work / "params.yaml")
