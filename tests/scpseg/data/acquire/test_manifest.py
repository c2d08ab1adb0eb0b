import hashlib
from pathlib import Path

import pytest

from scpseg.data.acquire.manifest import FileRecord, Manifest, hash_files, verify
from scpseg.errors import UserError
from scpseg.files import read_json, write_json


def test_goes_to_disk_and_back_without_any_place(tmp_path: Path) -> None:
    manifest = Manifest("inria", "folder", "gt", (FileRecord("a.zip", 3, "ab"),), (FileRecord("a.zip/x.tif", 2, "cd"),))
    manifest.write(tmp_path / "inria.json")
    assert Manifest.read(tmp_path / "inria.json", "inria") == manifest
    assert read_json(tmp_path / "inria.json") == {
        "benchmark": "inria",
        "source": "folder",
        "synthetic": False,
        "labels": "gt",
        "archives": [{"name": "a.zip", "size": 3, "sha256": "ab"}],
        "files": [{"path": "a.zip/x.tif", "size": 2, "sha256": "cd"}],
    }
    assert str(tmp_path) not in (tmp_path / "inria.json").read_text()
    with pytest.raises(UserError, match=r"blu\.json is missing; run `dvc repro download@blu`"):
        Manifest.read(tmp_path / "blu.json", "blu")


def test_verifies_size_and_checksum(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"content")
    right = hashlib.sha256(b"content").hexdigest()
    assert hash_files(tmp_path, ["a.zip"], "hashing") == (FileRecord("a.zip", 7, right),)
    verify(tmp_path, [FileRecord("a.zip", 7, right)], "do it")
    for record, why in (
        (FileRecord("b.zip", 7, right), r"b\.zip is missing; do it"),
        (FileRecord("a.zip", 8, right), r"a\.zip has 7 bytes instead of 8; do it"),
        (FileRecord("a.zip", 6, right), r"a\.zip has 7 bytes instead of 6; do it"),
        (FileRecord("a.zip", 7, "0" * 64), rf"a\.zip has the wrong checksum: SHA-256 {right} instead of 0+; do it"),
    ):
        with pytest.raises(UserError, match=why):
            verify(tmp_path, [record], "do it")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "inria.json"
    for text, why in (("{", "is not valid JSON"), ('{"benchmark": "inria"}', "lacks source, labels, archives, files")):
        path.write_text(text)
        with pytest.raises(UserError, match=f"inria.json {why}; delete it"):
            Manifest.read(path, "inria")
    Manifest("inria", "folder", "gt", (FileRecord("a.zip", 3, "ab"),), ()).write(path)
    whole = read_json(path)
    entry = whole["archives"][0]
    for change in (
        *({"benchmark": 3}, {"archives": 3}, {"archives": [3]}, {"archives": [{}]}, {"files": None}),
        *({"archives": [entry | wrong]} for wrong in ({"size": "3"}, {"size": 3.5}, {"name": 1})),
    ):
        write_json(path, whole | change)
        with pytest.raises(UserError, match=r"inria\.json (has|lacks) .*; delete it"):
            Manifest.read(path, "inria")
