import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from scpseg.data import store as store_module
from scpseg.data.store import Store, array_hash, image_path, label_path, save_array, save_image
from scpseg.errors import UserError
from scpseg.files import write_json


def made(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    label = np.arange(35, dtype=np.uint8).reshape(7, 5)
    record = {
        "height": 7,
        "width": 5,
        "image_sha256": save_image(image_path(folder, "val", "a 1"), image),
        "label_sha256": save_array(label_path(folder, "val", "a 1"), label),
    }
    images = {"val/a 1": record}
    index = {
        "benchmark": "blu",
        "classes": ["a", "b"],
        "split": "authors",
        "source": "mirror",
        "labels": "all",
        "synthetic": True,
        "expected": {"train": 0, "val": 1, "test": 0},
        "ids": {"train": [], "val": ["a 1"], "test": []},
        "folds": [],
        "images": images,
        "warnings": [],
    }
    write_json(folder / "index.json", index)
    return image, label


def test_maps_what_was_saved(tmp_path: Path) -> None:
    image, label = made(tmp_path)
    store = Store(tmp_path)
    assert store.ids("val") == ("a 1",)
    assert store.ids("train") == ()
    for mapped, array in ((store.image("val", "a 1"), image), (store.label("val", "a 1"), label)):
        assert type(mapped) is np.ndarray and not mapped.flags.owndata
        assert np.array_equal(mapped, array)
        with pytest.raises(ValueError, match="read-only"):
            mapped[0, 0] = 0


def test_the_longest_name_of_a_file_can_be_written(tmp_path: Path) -> None:
    path = image_path(tmp_path, "val", "x" * 245)
    assert len(path.name) == 255
    save_array(path, np.zeros((2, 2), np.uint8))
    assert list(path.parent.iterdir()) == [path]


def test_saves_like_numpy_and_strided_arrays_too(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)[:, ::2, ::-1]
    found = save_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "theirs.npy", np.ascontiguousarray(array))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    assert found == hashlib.sha256(array.tobytes()).hexdigest()
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
    save_image(path, np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(UserError, match=r"a 1\.image\.npy is uint8 of \(5, 3, 7\), but the index has \(7, 3, 5\)"):
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
    for text, why in (("", "is not valid JSON"), ("{}", "lacks benchmark, classes, ")):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(UserError, match=f"index.json {why}.*; delete it"):
            Store(tmp_path)


def test_hashes_are_those_of_the_data(tmp_path: Path) -> None:
    image, _ = made(tmp_path)
    path = image_path(tmp_path, "val", "a 1")
    rows = b"".join(row[:, channel].tobytes() for row in image for channel in range(3))
    assert Store(tmp_path).index["images"]["val/a 1"]["image_sha256"] == hashlib.sha256(rows).hexdigest()
    assert array_hash(path) == hashlib.sha256(rows).hexdigest()
    assert np.array_equal(Store(tmp_path).image("val", "a 1"), image)


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("all_at_once", [True, False])
def test_a_flipped_bit_is_found(kind: str, all_at_once: bool, tmp_path: Path) -> None:
    made(tmp_path)
    path = (image_path if kind == "image" else label_path)(tmp_path, "val", "a 1")
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    store = Store(tmp_path)
    with pytest.raises(UserError, match=rf"a 1\.{kind}\.npy has changed .* run `dvc repro -f prepare@blu`"):
        store.check("val") if all_at_once else getattr(store, kind)("val", "a 1")


def test_each_array_is_hashed_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    hashed: list[Path] = []
    monkeypatch.setattr(store_module, "array_hash", lambda path: (hashed.append(path), array_hash(path))[1])
    store = Store(tmp_path)
    store.check("val")
    copied = pickle.loads(pickle.dumps(store))  # as a process that loads data gets it
    for opened in (store, store, copied):
        opened.image("val", "a 1")
        opened.label("val", "a 1")
    assert len(hashed) == 2
    assert store.label("val", "a 1") is store.label("val", "a 1") and store.in_fold(0).ids("val") == ("a 1",)
    assert store._mapped and pickle.loads(pickle.dumps(store))._mapped == {}
    path = label_path(tmp_path, "val", "a 1")
    save_array(path, np.ones((7, 5), np.uint8))
    with pytest.raises(UserError, match="has changed"):
        store.label("val", "a 1")


def test_a_large_benchmark_does_not_use_up_the_file_descriptors(tmp_path: Path) -> None:
    """DeepGlobe has 454 training images, so 908 arrays; a process often has 1,024 descriptors."""
    made(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    ids = [f"i{number}" for number in range(300)]
    image, label = np.zeros((7, 5, 3), np.uint8), np.zeros((7, 5), np.uint8)
    record = {"height": 7, "width": 5}
    for name in ids:
        record["image_sha256"] = save_image(image_path(tmp_path, "val", name), image)
        record["label_sha256"] = save_array(label_path(tmp_path, "val", name), label)
        index["images"][f"val/{name}"] = record
    index["ids"]["val"] = ids
    write_json(tmp_path / "index.json", index)
    before = len(os.listdir("/proc/self/fd"))
    stores = [Store(tmp_path), Store(tmp_path)]
    for store in stores:
        store.check("val")
        assert all(store.image("val", name).shape == (7, 5, 3) for name in ids)
    # Threads of `check` may each keep one more.
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * (store_module.KEPT + os.cpu_count())


def test_sizes_are_said(tmp_path: Path) -> None:
    made(tmp_path)
    store = Store(tmp_path)
    assert (store.sizes("val"), store.sizes("train")) == ("7 x 5", "")
    for k in range(3):
        store.index["ids"]["val"].append(str(k))
        store.index["images"][f"val/{k}"] = {"height": 9 - k, "width": 9}
    assert store.sizes("val") == "7 x 5 to 9 x 9"
    store.index["ids"]["val"] = ["0", "1", "1"]
    assert store.sizes("val") == "8 x 9, 9 x 9"


def test_an_npz_and_a_pickle_are_named(tmp_path: Path) -> None:
    made(tmp_path)
    path = label_path(tmp_path, "val", "a 1")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object), allow_pickle=True)
    for other in ("a.npz", "b.npy"):
        path.write_bytes((tmp_path / other).read_bytes())
        with pytest.raises(UserError, match=r"label\.npy is missing or damaged"):
            Store(tmp_path).label("val", "a 1")


def test_other_classes_are_rejected(tmp_path: Path) -> None:
    made(tmp_path)
    store = Store(tmp_path)
    store.index["classes"] = ["a", "b"]
    store.expect_classes(("a", "b"))
    with pytest.raises(UserError, match=r"but .* has b, a; run `dvc repro -f download@blu`, then `dvc repro`$"):
        store.expect_classes(("b", "a"))


def test_folds_share_their_arrays(tmp_path: Path) -> None:
    image, label = made(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    folds = [{"train": [], "val": ["a 1"], "test": []}, {"train": [], "val": [], "test": ["a 1"]}]
    write_json(tmp_path / "index.json", index | {"folds": folds})
    store = Store(tmp_path)
    assert (store.folds, store.ids("val"), store.sizes("test")) == (2, ("a 1",), "7 x 5")
    other = store.in_fold(1)
    assert (other.ids("val"), other.ids("test"), store.ids("test")) == ((), ("a 1",), ())
    assert np.array_equal(other.image("test", "a 1"), image) and np.array_equal(other.label("test", "a 1"), label)
    write_json(tmp_path / "index.json", index | {"folds": [*folds, {"train": ["b"], "val": [], "test": []}]})
    with pytest.raises(UserError, match=r"lacks images\.train/b"):
        Store(tmp_path)
