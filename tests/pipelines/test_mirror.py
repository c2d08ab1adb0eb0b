import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.mirror import mirror
from scpseg.errors import UserError
from scpseg.files import read_json
from scpseg.params import Params

VALUES = {
    "data": {"source": "mirror", "partial": True, "cache": "cache"},
    "mirror": {"seed": 0, "side": 64, "train": 2, "val": 1, "test": 1},
}


def test_the_miniature_is_written(tmp_path: Path) -> None:
    line = mirror("blu", Params(VALUES, Path("params.yaml")), tmp_path / "blu")
    assert line.startswith("mirror blu: 1 files")
    assert [one["name"] for one in read_json(tmp_path / "blu/archives.json")["archives"]] == ["BLU.zip"]


def test_nothing_is_written_for_real_data_but_the_output_exists(tmp_path: Path) -> None:
    values = {**VALUES, "data": {**VALUES["data"], "source": "/somewhere/real"}}
    line = mirror("inria", Params(values, Path("params.yaml")), tmp_path / "inria")
    assert "nothing to write" in line
    assert [path.name for path in (tmp_path / "inria").iterdir()] == ["archives.json"]
    text = (tmp_path / "inria/archives.json").read_text()
    assert read_json(tmp_path / "inria/archives.json")["archives"] == []
    assert "/somewhere" not in text


def test_a_bad_value_is_rejected(tmp_path: Path) -> None:
    values = {**VALUES, "mirror": {**VALUES["mirror"], "side": 8}}
    with pytest.raises(UserError, match=r"mirror\.side is 8"):
        mirror("blu", Params(values, Path("params.yaml")), tmp_path / "blu")
    assert not (tmp_path / "blu").exists()


def test_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            mirror("blu", Params(VALUES, Path("params.yaml")), tmp_path / "blu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "blu")
    assert not (tmp_path / "blu").exists()


def test_the_stage_needs_no_torch() -> None:
    code = "import sys, pipelines.mirror; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
