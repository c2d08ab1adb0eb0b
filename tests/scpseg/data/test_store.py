import os
from pathlib import Path

import numpy as np
import pytest

from scpseg.data.store import Store, image_path, label_path, save_array
from scpseg.errors import UserError
from scpseg.files import write_json


def made(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    label = np.arange(35, dtype=np.uint8).reshape(7, 5)
    save_array(image_path(folder, "val", "a 1"), image)
    save_array(label_path(folder, "val", "a 1"), label)
    images = {"val/a 1": {"height": 7, "width": 5}}
    write_json(folder / "index.json", {"benchmark": "blu", "ids": {"train": [], "val": ["a 1"]}, "images": images})
    return image, label


def test_maps_what_was_saved(tmp_path: Path) -> None:
    image, label = made(tmp_path)
    store = Store(tmp_path)
    assert store.ids("val") == ("a 1",)
    assert store.ids("train") == ()
    for mapped, array in ((store.image("val", "a 1"), image), (store.label("val", "a 1"), label)):
        assert isinstance(mapped, np.memmap)
        assert np.array_equal(mapped, array)
        with pytest.raises(ValueError, match="read-only"):
            mapped[0, 0] = 0


def test_saves_like_numpy_and_strided_arrays_too(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)[:, ::2, ::-1]
    save_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "theirs.npy", np.ascontiguousarray(array))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["ours.npy", "theirs.npy"]


def test_missing_or_damaged_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.json is missing\); run `dvc repro`"):
        Store(tmp_path)
    made(tmp_path)
    store = Store(tmp_path)
    path = image_path(tmp_path, "val", "a 1")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"a 1\.image\.npy is missing or damaged; run"):
        store.image("val", "a 1")
    save_array(path, np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(UserError, match=r"a 1\.image\.npy is uint8 of \(5, 7, 3\)"):
        store.image("val", "a 1")
    path.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        store.image("val", "a 1")


def test_damaged_index_and_empty_array_are_named(tmp_path: Path) -> None:
    made(tmp_path)
    store = Store(tmp_path)
    image_path(tmp_path, "val", "a 1").write_bytes(b"")
    with pytest.raises(UserError, match=r"a 1\.image\.npy is missing or damaged; run"):
        store.image("val", "a 1")
    for text, why in (("", "is no valid JSON"), ("{}", "lacks benchmark, ids, images")):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(UserError, match=f"index.json {why}; delete it"):
            Store(tmp_path)
