import copy
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("text", ["[" * 100_000, "[NaN]", "[1e999]", r'["\ud800"]', "9" * 5000], ids=range(5))
def test_json_that_is_never_written_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"/a\.json is not valid JSON; delete it"):
        read_json(path)


SHAPE = {"a": (int, None), "b": {"c": [{"d": float, "e?": bool}], str: str}, "f?": [str, int]}
WHOLE = {"a": None, "b": {"c": [{"d": 1}, {"d": 0.5, "e": True}], "any": "text"}, "more": 1, "f": ["x", 3]}


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ((), [], "has [] where a mapping belongs"),
        (("a",), True, "has a true where an integer belongs"),
        (("a",), 2**63, f"has a {2**63} where an integer belongs"),
        (("a",), 1.0, "has a 1.0 where an integer belongs"),
        (("b",), {"any": "text"}, "lacks b.c"),
        (("b", "c"), {}, "has b.c {} where a list belongs"),
        (("b", "c", 1), {}, "lacks b.c[1].d"),
        (("b", "c", 1, "d"), "1", 'has b.c[1].d "1" where a number belongs'),
        (("b", "c", 1, "d"), 10**400, "has b.c[1].d 1000000000000000000000000000000000000000 where a number belongs"),
        (("b", "c", 1, "e"), None, "has b.c[1].e null where true or false belongs"),
        (("b", "any"), 3, "has b.any 3 where a text belongs"),
        (("f",), ["x"], "has 1 values in f where 2 belong"),
        (("f", 1), "x", 'has f[1] "x" where an integer belongs'),
    ],
)
def test_json_of_another_shape_is_named(
    place: tuple[str | int, ...], value: object, problem: str, tmp_path: Path
) -> None:
    path, whole = tmp_path / "a.json", copy.deepcopy({"": WHOLE})
    write_json(path, WHOLE)
    assert read_json(path, SHAPE) == WHOLE
    inner: Any = whole
    for key in ("", *place)[:-1]:
        inner = inner[key]
    inner[("", *place)[-1]] = value
    write_json(path, whole[""])
    with pytest.raises(UserError, match=re.escape(f"/a.json {problem}; delete it and run `dvc repro` again") + "$"):
        read_json(path, SHAPE)
