"""Identities and settings of DVC experiments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from pipelines.experiments import identity, settings_for

ROOT = Path(__file__).parents[2]


def test_identity_follows_parameters_and_the_code_of_the_runs(project: Path) -> None:
    values = {"a": {"x": 1, "slow": 0}}
    (project / "scpseg/reporting").mkdir(parents=True)
    (project / "scpseg/reporting/collect.py").write_text("")
    before = identity(values, ("scpseg",), "potsdam", "a CPU")
    Path("page.py").write_text("# of the report, which decides no number\n")
    Path("README.md").write_text("# of nothing\n")
    assert identity(values, ("scpseg",), "potsdam", "a CPU") == before
    assert identity({"a": {"x": 2, "slow": 0}}, ("scpseg",), "potsdam", "a CPU") != before
    assert identity(values, ("scpseg",), "potsdam", "another CPU") != before
    Path("a.py").write_text(Path("a.py").read_text() + "# edited\n")
    edited = identity(values, ("scpseg",), "potsdam", "a CPU")
    assert edited != before
    lock = {"stages": {"download@potsdam": {"outs": [{"path": "data/manifests/potsdam.json", "md5": "0"}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert identity(values, ("scpseg",), "potsdam", "a CPU") != edited
    assert identity(values, ("scpseg",), "inria", "a CPU") == edited


def test_hardware_is_what_a_run_would_have() -> None:
    """In a process of its own, since torch reads the variable once."""
    code = (
        "from scpseg.environment import resolved; from scpseg.params import MachineParams\n"
        "for threads in (0, 2):\n"
        "    print(resolved(MachineParams('cpu', deterministic=False, tf32=False, threads=threads, workers=0)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str({"machine.device": "cpu", "machine.threads": used}) for used in (1, 2)]


def test_settings_make_the_same_run_from_the_commit_and_from_the_tree(project: Path) -> None:
    current = {"a": {"x": 5, "slow": 0}}
    assert settings_for({"a": {"x": 5, "slow": 0}}, current) == ["a.x=5"]
    assert settings_for({"a": {"x": 1, "slow": 0}}, current) == ["a.x=1"]  # committed, but not at hand
    assert settings_for({"a": {"x": 1, "slow": 0}}, {"a": {"x": 1, "slow": 0}}) == []
    texts = {"a": {"x": ["potsdam", 3], "slow": "tu-test_resnet.r160_in1k"}}
    assert settings_for(texts, current) == ["a.x=[potsdam,3]", "a.slow=tu-test_resnet.r160_in1k"]
    assert settings_for({"a": {"x": "1", "slow": True}}, current) == ["a.x='1'", "a.slow=true"]
    assert settings_for({"a": {"x": "Null", "slow": "nan"}}, current) == ["a.x='Null'", "a.slow='nan'"]
    new = {"a": {"x": 1, "slow": 0, "fresh": 3}}  # in params.yaml, but not yet in the commit
    assert settings_for(new, new) == ["a.fresh=3"]
