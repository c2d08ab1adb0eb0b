"""A project whose only stage takes a moment."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

STAGE = """
import os, pathlib, pipelines, time, yaml  # as every stage does, it ends with the DVC that started it
params = yaml.safe_load(open("params.yaml"))["a"]
with open(os.path.join(os.environ["SCPSEG_ROOT"], ".scratch/started"), "a") as log:
    log.write(f"{params['x']}\\n")
if params["x"] < 0:
    raise SystemExit("error: a.x is negative; set it above 0.")
time.sleep(params["slow"])
pathlib.Path("results/summary.csv").write_text(f"method,x,empty\\nscpseg,{params['x']},\\n")
"""
DVC = {
    "stages": {
        "a": {"cmd": "python a.py", "deps": ["a.py"], "params": ["a"], "outs": ["results/summary.csv"]},
        "report": {"cmd": "true", "deps": ["page.py"]},
    }
}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    (folder / ".dvc").mkdir()
    files = {
        "a.py": STAGE,
        "page.py": "",
        "dvc.yaml": yaml.safe_dump(DVC),
        "params.yaml": yaml.safe_dump({"a": {"x": 1, "slow": 0}}),
        ".gitignore": "/results\n/.scratch\n",
        ".dvc/config": "[core]\n    analytics = false\n",
        ".dvcignore": "__pycache__/\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    for command in ("init -q", "config user.name t", "config user.email t@example.org", "add -A", "commit -qm t"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path / "project"
