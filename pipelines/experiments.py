"""Recognise DVC experiments by everything that their result depends on, and read their results."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scpseg.processes import git
from scpseg.validation import parse_yaml

NUMBERLESS = ("check", "report")
"""Stages that do not affect the numbers of a run; of the report, only the code for results/summary.csv counts."""


def identity(values: Mapping[str, Any], methods: Sequence[str], benchmark: str, device: str) -> str:
    """Eight hex digits of all parameters, the name of the device, and all code and data of the runs of `methods`.

    The code is that of the working tree, found through the dependencies in dvc.yaml: edits and commits of other files
    do not invalidate an experiment. The data are those recorded by the last `dvc repro` or forced download.
    """
    digest = hashlib.sha256(json.dumps([values, device], sort_keys=True).encode())
    for path in _sources(methods):
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    lock = Path("dvc.lock")
    known = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    manifest = known.get("stages", {}).get(f"download@{benchmark}", {}).get("outs")
    digest.update(json.dumps(manifest, sort_keys=True).encode())
    return digest.hexdigest()[:8]


def _sources(methods: Sequence[str]) -> list[Path]:
    """dvc.yaml and the files in the dependencies of its stages, without outputs, which git ignores."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {path for name, stage in stages.items() if name not in NUMBERLESS for path in stage.get("deps", [])}
    named |= {"dvc.yaml", "scpseg/reporting/collect.py"}
    patterns = {name.replace("${item.benchmark}", "*") for name in named}
    names = sorted({name.replace("${item.method}", method) for name in patterns for method in methods})
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *names).split("\0")
    return [path for path in map(Path, sorted(set(listed))) if path.is_file()]


def finished() -> dict[str, tuple[str, str]]:
    """Name and revision of every experiment in this repository, by its identity (the last part of its name)."""
    from dvc.repo import Repo

    with Repo(".", _wait_for_lock=True) as repo:
        every = repo.experiments.ls(all_commits=True)
    return {name.rpartition("-")[2]: (name, revision) for pairs in every.values() for name, revision in pairs}


def summary_of(revision: str) -> list[dict[str, Any]] | None:
    """Rows of results/summary.csv of an experiment, empty cells as None; None if the file is not in the cache."""
    text = _read("results/summary.csv", revision)
    if text is None:
        return None
    return [{key: value or None for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def params_of(revision: str) -> dict[str, Any] | None:
    """params.yaml of a revision or experiment; None if it does not exist."""
    text = _read("params.yaml", revision)
    return None if text is None else dict(parse_yaml(text, f"params.yaml of {revision}"))


def _read(name: str, revision: str) -> str | None:
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        return str(dvc.api.read(name, rev=revision, encoding="utf-8"))
    except (DvcException, SCMError, FileNotFoundError):
        return None


def settings_for(values: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """`section.key=value` for all `values` that differ from the committed params.yaml or from the `current` values.

    They give the same run in the current working tree and in a fresh checkout of the commit.

    Raises:
        UserError: the repository has no commit.
    """
    head = parse_yaml(git("show", "HEAD:./params.yaml"), "params.yaml of the commit")
    return [
        f"{section}.{key}={_text(value)}"
        for section, entries in values.items()
        for key, value in entries.items()
        if head.get(section, {}).get(key, ...) != value or current[section][key] != value
    ]


def _text(value: Any) -> str:
    """A value in the syntax of `-S`."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, str):
        # Text that would be read as a number, a boolean or a list must be quoted.
        word = re.fullmatch(r"(?!(?i:null|nan|inf)$)[A-Za-z_~/][\w./~-]*", value)
        plain = word and isinstance(yaml.safe_load(value), str)
        return value if plain else "'" + value.replace("'", "\\'") + "'"
    return json.dumps(value)


def arguments(settings: Sequence[str]) -> list[str]:
    """Arguments of `dvc` for one experiment."""
    return ["exp", "run", *(part for setting in settings for part in ("-S", setting))]
