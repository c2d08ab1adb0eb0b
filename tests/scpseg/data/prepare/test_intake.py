"""Archives to store: nothing but wanted members reaches the disk, whatever the archive holds or whenever it stops."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import py7zr
import pytest
import tifffile
from PIL import Image

from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire import space
from scpseg.data.acquire.archives import group_archives, inner_zips, list_members
from scpseg.data.acquire.manifest import fetch
from scpseg.data.prepare import fill as filling
from scpseg.data.prepare.fill import Choice, Record, Task, fill
from scpseg.data.store import Store
from scpseg.errors import UserError
from scpseg.params import DataParams, UpstreamParams

ROOT = Path(__file__).parents[4]
SPEC = replace(BENCHMARKS["inria"], side=24)
DATA = DataParams("sets", True, "cache")
NOBODY = UpstreamParams({})
IDS = [f"austin{number}" for number in range(1, 13)]
LISTS = {"train": tuple(IDS[:8]), "val": tuple(IDS[8:10]), "test": tuple(IDS[10:])}
TARGET, WORKING = Path("data/inria"), Path("data")
Tile = tuple[np.ndarray, np.ndarray]
Write = Callable[..., Callable[[str], Tile]]
OUTER, INNER = "aerialimagelabeling.7z", "aerialimagelabeling.7z/NEW2-AerialImageDataset.zip"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.fixture
def spooled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The members that were written to the spool."""
    names: list[str] = []
    read = filling.read_members

    def noted(*arguments: Any) -> Iterator[tuple[str, Path]]:
        for path, place in read(*arguments):
            names.append(path)
            assert sum(path.suffix != ".zip" for path in place.parent.iterdir()) <= 2 + filling.AHEAD
            yield path, place

    monkeypatch.setattr(filling, "read_members", noted)
    return names


def filled(partial: bool = False, workers: int = 1, spec: Any = SPEC, split: str = "mine") -> Any:
    manifest = fetch(spec, "gt", DATA, NOBODY)
    return fill(spec, manifest, Path("sets"), Choice(split, LISTS, partial, False), TARGET, WORKING, workers)


def error_of(**options: Any) -> str:
    with pytest.raises(UserError) as caught:
        filled(**options)
    assert "\n" not in str(caught.value)
    assert not TARGET.exists()
    assert not list(WORKING.glob(".preparing-*/spool/*"))
    return str(caught.value)


def holds(tiles: Callable[[str], Tile], ids: list[str] = IDS) -> None:
    store = Store(TARGET)
    assert {id for part in LISTS for id in store.ids(part)} == set(ids)
    for part in LISTS:
        for id in store.ids(part):
            image, label = tiles(id)
            assert np.array_equal(store.image(part, id), image)
            assert np.array_equal(store.label(part, id), label // 255)
    arrays = {f"{part}/{id}.{kind}.npy" for part in LISTS for id in store.ids(part) for kind in ("image", "label")}
    assert {p.relative_to(TARGET).as_posix() for p in TARGET.rglob("*") if p.is_file()} == arrays | {"index.json"}
    assert [path.name for path in WORKING.iterdir() if path.is_dir()] == ["inria"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("method", "filters"),
    [
        (zipfile.ZIP_DEFLATED, [{"id": py7zr.FILTER_COPY}]),
        (zipfile.ZIP_STORED, [{"id": py7zr.FILTER_LZMA2, "preset": 0}]),
    ],
)
def test_zip_in_split_7z(method: int, filters: Any, workers: int, write_inria: Write, spooled: list[str]) -> None:
    tiles = write_inria(Path("sets"), [*IDS, "kitsap1"], method=method, filters=filters)
    before = sorted(Path("sets").iterdir())
    index = filled(workers=workers)
    holds(tiles)
    assert spooled == [f"{INNER}/AerialImageDataset/train/{kind}/{id}.tif" for kind in ("gt", "images") for id in IDS]
    assert sorted(Path("sets").iterdir()) == before
    unused = f"{INNER}/AerialImageDataset/train/images/kitsap1.tif"
    assert index["warnings"] == [f"inria: 1 labelled images are in no list of split 'mine' and not used, e.g. {unused}"]
    file = index["images"]["train/austin1"]["label_files"][0]
    assert file["path"] == f"{INNER}/AerialImageDataset/train/gt/austin1.tif"


@pytest.mark.parametrize("place", ["plain", "stored", "deflated"])
def test_zips_are_entered_anywhere(place: str, write_inria: Write, spooled: list[str]) -> None:
    tiles = write_inria(Path("sets"), IDS, sevenfold=False)
    inner = Path("sets/NEW2-AerialImageDataset.zip")
    if place != "plain":
        method = zipfile.ZIP_STORED if place == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile("sets/outer.zip", "w", method) as file:
            file.write(inner, "P/inner.zip")
        inner.unlink()
    filled()
    holds(tiles)
    assert len(spooled) == 2 * len(IDS)


def test_what_headers_tell_is_rejected_before_anything_is_unpacked(write_inria: Write, spooled: list[str]) -> None:
    write_inria(Path("sets"), IDS[1:], sevenfold=False)
    assert "only 11 of 12 images of split 'mine' found" in error_of()
    with zipfile.ZipFile("sets/more.zip", "w") as file:
        file.writestr("train/images/austin2.tif", b"x")
    assert "are both the image of austin2" in error_of()
    assert spooled == []


def test_what_only_the_inner_zip_tells_is_rejected_once_it_is_unpacked(write_inria: Write, spooled: list[str]) -> None:
    write_inria(Path("sets"), IDS[1:])
    assert "only 11 of 12 images of split 'mine' found (train 7 of 8, val 2 of 2, test 2 of 2)" in error_of()
    assert spooled == []


def test_what_was_decoded_before_an_error_is_kept(write_inria: Write, spooled: list[str]) -> None:
    tiles = write_inria(Path("sets"), IDS)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("scpseg.data.prepare.fill.build_index", lambda *rest: 1 / 0)
        filled()
    assert len(spooled) == 24 and not list(WORKING.glob(".preparing-*/spool/*"))
    spooled.clear()
    filled()
    holds(tiles)
    assert spooled == []


def test_a_file_that_is_no_image_is_named(write_inria: Write) -> None:
    write_inria(
        Path("sets"), IDS[1:], extra=[("D/train/gt/austin1.tif", b"no tiff"), ("D/train/images/austin1.tif", b"")]
    )
    assert "austin1.tif is not a PNG, JPEG or TIFF image" in error_of()


def test_label_without_image_leaves_no_array(write_inria: Write) -> None:
    tiles = write_inria(Path("sets"), IDS[1:], extra=[("D/train/gt/austin1.tif", tiff_of(24))])
    filled(partial=True)
    holds(tiles, IDS[1:])


def test_image_without_label_is_named(write_inria: Write) -> None:
    write_inria(Path("sets"), IDS[1:], extra=[("D/train/images/austin1.tif", tiff_of(24, 3))])
    assert "austin1.tif has no label file (gt)" in error_of()


def tiff_of(side: int, bands: int = 1) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((side, side, bands), np.uint8).squeeze())
    return stream.getvalue()


def test_two_members_for_one_place(write_inria: Write) -> None:
    write_inria(Path("sets"), [*IDS[:-1], "x1"], extra=[("again/train/images/Austin1.tif", tiff_of(24, 3))])
    message = error_of()
    assert f"{INNER}/AerialImageDataset/train/images/austin1.tif and " in message
    assert f"{INNER}/again/train/images/Austin1.tif are both the image of Austin1" in message


def test_unsafe_member_is_rejected_even_if_nobody_wants_it(write_inria: Write) -> None:
    write_inria(Path("sets"), IDS, extra=[("../evil.tif", b"x")])
    assert "'../evil.tif' points outside" in error_of()


@pytest.mark.parametrize("kind", ["exact", "crops"])
def test_sizes_are_the_benchmarks(kind: str, write_inria: Write) -> None:
    tiles = write_inria(Path("sets"), IDS, side=20)
    if kind == "exact":
        assert "austin1.tif has 20 x 20 pixels (height x width), images of Inria Aerial 24 x 24" in error_of()
        assert "set data.partial: true" in error_of()
    else:
        names = ", ".join(f"train/austin{number}" for number in range(1, 6))
        crops = f"inria: 12 images that are not of 24 x 24 pixels: {names}, ..."
        assert filled(partial=True)["warnings"] == [crops]
        holds(tiles)
        assert "images of Inria Aerial 16 x 16; crop it" in failing_again(replace(SPEC, side=16))


def failing_again(spec: Any) -> str:
    with pytest.raises(UserError) as caught:
        filled(partial=True, spec=spec)
    return str(caught.value)


def test_crops_of_an_earlier_run_are_no_whole_images(write_inria: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inria(Path("sets"), IDS, side=20)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("scpseg.data.prepare.fill.build_index", lambda *rest: 1 / 0)
        filled(partial=True)
    assert "has 20 x 20 pixels" in error_of()


def test_hidden_folders_give_the_split(spooled: list[str]) -> None:
    spec, names = BENCHMARKS["blu"], [("Train", "b"), ("Train", "a"), ("Val", "a"), ("Test", "c")]
    pixels = np.random.default_rng(0).choice(np.array([(255, 0, 0), (125, 125, 125)], np.uint8), (9, 9))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        for part, name in names:
            for kind in ("image", "label"):
                file.writestr(f"BLU/{part}/{kind}/{name}.png", stream.getvalue())
        file.writestr("BLU/readme.txt", "x")
    Path("sets").mkdir()
    with py7zr.SevenZipFile("sets/blu.7z", "w") as file:
        file.writestr(inner.getvalue(), "BLU.zip")
    manifest = fetch(spec, "label", DATA, NOBODY)
    index = fill(spec, manifest, Path("sets"), Choice("folders", {}, True, False), Path("data/blu"), WORKING, 1)
    assert index["ids"] == {"train": ["a", "b"], "val": ["a"], "test": ["c"]}
    assert index["warnings"][0] == "blu: 2/1/1 images in train/val/test, but 196/28/32 are published"
    assert len(spooled) == 8
    assert np.array_equal(Store(Path("data/blu")).label("val", "a"), np.where(pixels[..., 1] == 0, 1, 5))


def test_member_larger_than_any_image_is_rejected(write_inria: Write) -> None:
    extra = [("D/train/images/austin1.tif", bytes(1 << 20)), ("D/train/gt/austin1.tif", tiff_of(24))]
    write_inria(Path("sets"), IDS[1:], extra=extra)
    message = error_of()
    assert "austin1.tif declares 1048576 bytes, more than the 9216 bytes" in message


def test_a_class_that_never_occurs(write_inria: Write) -> None:
    write_inria(Path("sets"), [])
    with zipfile.ZipFile("sets/a.zip", "w") as file:
        for id in IDS:
            file.writestr(f"train/images/{id}.tif", tiff_of(24, 3))
            file.writestr(f"train/gt/{id}.tif", tiff_of(24))
    for path in Path("sets").glob("*.7z.*"):
        path.unlink()
    assert "inria: no label has a pixel of class building" in error_of(split="fctl")
    assert filled(partial=True, split="fctl")["images"]["train/austin1"]["pixels"] == [576, 0]


def test_whole_potsdam_zip(spooled: list[str]) -> None:
    """Upstream's one archive: stored zips with and without a top folder, the training labels twice."""
    inside = {"2_Ortho_RGB": ["2_Ortho_RGB/top_potsdam_{}_RGB.tif"], "5_Labels_all": ["top_potsdam_{}_label.tif"]}
    inside |= {"5_Labels_for_participants": inside["5_Labels_all"], "1_DSM_normalisation": ["dsm_potsdam_{}.jpg"]}
    Path("sets").mkdir()
    with zipfile.ZipFile("sets/Potsdam.zip", "w") as outer:
        for name, (pattern,) in inside.items():
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as inner:
                for id in ("2_10", "2_11"):
                    inner.writestr(pattern.format(id), tiff_of(8, 3))
            outer.writestr(f"Potsdam/{name}.zip", stream.getvalue())
    manifest = fetch(BENCHMARKS["potsdam"], "bordered", DATA, NOBODY)
    lists = {"train": ("2_10",), "val": ("2_11",), "test": ()}
    choice = Choice("mine", lists, True, False)
    fill(BENCHMARKS["potsdam"], manifest, Path("sets"), choice, Path("data/potsdam"), WORKING, 1)
    assert sorted(spooled) == sorted(
        f"Potsdam.zip/Potsdam/{name}.zip/{inside[name][0].format(id)}"
        for name in ("2_Ortho_RGB", "5_Labels_all")
        for id in ("2_10", "2_11")
    )
    assert (Store(Path("data/potsdam")).label("val", "2_11") == 255).all()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_pair_may_differ_in_case(hidden: bool) -> None:
    Path("sets").mkdir()
    inner = io.BytesIO()
    for stream in (inner, Path("sets/blu.zip")):
        with zipfile.ZipFile(stream, "w") as file:
            for name in ("image/A", "label/a"):
                picture = io.BytesIO()
                Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8)).save(picture, "png")
                file.writestr(f"Train/{name}.png", picture.getvalue())
    if hidden:
        Path("sets/blu.zip").unlink()
        with py7zr.SevenZipFile("sets/blu.7z", "w") as packed:
            packed.writestr(inner.getvalue(), "BLU.zip")
    manifest = fetch(BENCHMARKS["blu"], "label", DATA, NOBODY)
    choice = Choice("folders", {}, True, False)
    fill(BENCHMARKS["blu"], manifest, Path("sets"), choice, Path("data/blu"), WORKING, 1)
    assert (Store(Path("data/blu")).label("train", "A") == 1).all()


def inner_zip() -> int:
    """Bytes of the zip inside the 7z, which is on the disk for a while; 0 where there is none."""
    (group,) = group_archives(path.name for path in Path("sets").iterdir())
    return sum(inner_zips(list_members(group, Path("sets"))).values())


def test_space_for_a_part_is_what_archives_declare(write_inria: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inria(Path("sets"), IDS)
    monkeypatch.setattr(space, "free_bytes", lambda folder: 0)
    assert f"preparing inria needs {inner_zip() + space.MARGIN} bytes" in error_of(partial=True)


@pytest.mark.parametrize("sevenfold", [False, True])
def test_space_is_asked_for_before_the_start(
    sevenfold: bool, write_inria: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inria(Path("sets"), IDS, sevenfold=sevenfold)
    arrays = 12 * (4 * 24 * 24 + 2 * 128)
    spool = (1 + filling.AHEAD) * (3 * 24 * 24 + 128) + inner_zip()
    monkeypatch.setattr(space, "free_bytes", lambda folder: arrays + spool + space.MARGIN - 1)
    assert f"preparing inria needs {arrays + spool + space.MARGIN} bytes" in error_of()
    assert not list(WORKING.glob("*/*"))
    monkeypatch.setattr(space, "free_bytes", lambda folder: arrays + spool + space.MARGIN)
    filled()


CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from scpseg.data.prepare import fill as filling
from scpseg.data.prepare.fill import Choice, fill
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.manifest import fetch
from scpseg.params import DataParams, UpstreamParams

decode = filling.decode_file

def slow(task):
    time.sleep(0.05)
    return decode(task)

filling.decode_file = slow
ids = [f"austin{number}" for number in range(1, 13)]
lists = {"train": tuple(ids[:8]), "val": tuple(ids[8:10]), "test": tuple(ids[10:])}
spec = replace(BENCHMARKS["inria"], side=24)
manifest = fetch(spec, "gt", DataParams("sets", True, "cache"), UpstreamParams({}))
choice = Choice("mine", lists, False, False)
fill(spec, manifest, Path("sets"), choice, Path("data/inria"), Path("data"), 2)
"""


@pytest.mark.parametrize("sevenfold", [True, False])
def test_kill_in_the_middle_loses_nothing_that_is_done(
    sevenfold: bool,
    write_inria: Write,
    spooled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiles = write_inria(Path("sets"), IDS, sevenfold=sevenfold)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", CHILD], env=environment, stderr=subprocess.DEVNULL) as child:
        end = time.monotonic() + 60
        while len(finished()) < 7 and child.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    time.sleep(0.3)  # its processes end by themselves
    done = finished()
    assert 7 <= len(done) < 24
    left = list(WORKING.glob(".preparing-*/spool/*"))
    assert left and len(left) <= 4 + filling.AHEAD  # one more, and the zip inside
    written = {path: path.stat().st_mtime_ns for path in WORKING.rglob("*.npy") if stem(path) in done}
    assert len(written) == len(done)
    decoded: list[str] = []
    decode = filling.decode_file

    def noted(task: Task) -> Record:
        decoded.append(f"{task.slot[1]}.{task.slot[2]}")
        return decode(task)

    monkeypatch.setattr(filling, "decode_file", noted)
    filled()
    holds(tiles)
    assert len(decoded) == len(spooled) == 24 - len(done)
    assert not done & set(decoded)
    for path, time_ns in written.items():
        assert (TARGET / path.parent.name / path.name).stat().st_mtime_ns == time_ns
    assert f"preparing inria: {len(done)} files of an earlier run are kept" in capsys.readouterr().err


def stem(path: Path) -> str:
    return path.name.removesuffix(".npy").removesuffix(".json")


def finished() -> set[str]:
    return {stem(path) for path in WORKING.glob(".preparing-*/records/*/[!.]*.json")}
