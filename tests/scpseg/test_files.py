import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scpseg.errors import UserError
from scpseg.files import naming, read_json, replacing, without_room, write_json


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 1000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["json", "npz", "png"])
def test_no_room_keeps_the_old_file_and_names_it(kind: str, tmp_path: Path, small_disk: None) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large") as caught:
        if kind == "json":
            write_json(path, list(range(1000)))
        else:
            with replacing(path) as temporary:
                np.savez(temporary, NOISE) if kind == "npz" else Image.fromarray(NOISE).save(temporary)
    full = without_room(caught.value)
    assert full is not None and full.filename == str(path)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]


def test_the_innermost_name_stays(tmp_path: Path, small_disk: None) -> None:
    with pytest.raises(OSError) as caught, naming(tmp_path), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(bytes(2000))
    assert caught.value.filename == str(tmp_path / "a")


def test_other_errors_have_no_room() -> None:
    assert without_room(ValueError()) is None
    assert without_room(FileNotFoundError(2, "No such file")) is None


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": 1} x', b"\xff\xfe", b"\0" * 40], ids=range(5))
def test_damaged_json_is_named(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"/a\.json is not valid JSON; delete it and run `dvc repro` again$"):
        read_json(path)


@pytest.mark.parametrize("value", [[], "a b", None, 3, {"a": 1}])
def test_json_without_its_keys_is_named(value: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, value)
    assert read_json(path) == value
    with pytest.raises(UserError, match=r"/a\.json lacks (a, )?b; delete it and run `dvc repro` again$"):
        read_json(path, "a", "b")


def test_json_with_its_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": None, "b": [1], "c": 2})
    assert read_json(tmp_path / "a.json", "a", "b") == {"a": None, "b": [1], "c": 2}
