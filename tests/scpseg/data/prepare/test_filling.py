import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.stage import explained
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire import space
from scpseg.data.acquire.manifest import fetch, locate
from scpseg.data.prepare import fill as filling
from scpseg.data.prepare.fill import Choice, Record, Task, fill
from scpseg.data.store import Store
from scpseg.errors import UserError
from scpseg.files import sha256
from scpseg.params import DataParams, UpstreamParams

SPEC = BENCHMARKS["deepglobe"]
DATA = DataParams("sets", True, "cache")
NOBODY = UpstreamParams({})
LISTS = {"train": ("3", "1"), "val": ("2",), "test": ()}
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]
TARGET, WORKING = Path("data/deepglobe"), Path("data")


@pytest.fixture(autouse=True)
def pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_pairs: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return write_pairs(tmp_path / "sets", ["1", "2", "3"])


def filled(workers: int = 1, ignore_first: bool = False) -> dict[str, Any]:
    manifest = fetch(SPEC, "unknown-as-class", DATA, NOBODY)
    folder = locate(SPEC, manifest, DATA, NOBODY)
    return fill(SPEC, manifest, folder, Choice("mine", LISTS, True, ignore_first), TARGET, WORKING, workers)


def failed(workers: int = 1) -> str:
    """A fill that must fail with one sentence and leave no store."""
    with pytest.raises(UserError) as caught:
        filled(workers)
    assert "\n" not in str(caught.value)
    assert not TARGET.exists()
    with pytest.raises(UserError, match="does not contain a prepared benchmark"):
        Store(TARGET)
    return str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_store_holds_the_decoded_files(pairs: Pairs, workers: int) -> None:
    index = filled(workers)
    opened = Store(TARGET)
    assert opened.index == index
    assert (opened.ids("train"), opened.ids("val"), opened.ids("test")) == (("3", "1"), ("2",), ())
    for split, id in (("train", "3"), ("train", "1"), ("val", "2")):
        image, label = pairs[id]
        assert np.array_equal(opened.image(split, id), image)
        assert np.array_equal(opened.label(split, id), label)
        record = index["images"][f"{split}/{id}"]
        assert (record["height"], record["width"]) == label.shape
        assert record["pixels"] == [int((label == index).sum()) for index in range(7)]
        for kind, name in (("image", f"{id}_sat.jpg"), ("label", f"{id}_mask.png")):
            file = Path("sets") / name
            expected = {"path": name, "bytes": file.stat().st_size, "sha256": sha256(file)}
            assert record[f"{kind}_files"] == [expected]
    assert index["expected"] == {"train": 2, "val": 1, "test": 0}
    assert (index["source"], index["synthetic"], index["split"]) == ("folder", False, "mine")
    assert [path.name for path in WORKING.iterdir() if path.is_dir()] == ["deepglobe"]
    assert sorted(path.name for path in TARGET.iterdir()) == ["index.json", "train", "val"]


def test_processes_and_reruns_give_the_same_bytes() -> None:
    stores = []
    for workers in (1, 2):
        filled(workers)
        stores.append({path: path.read_bytes() for path in sorted(TARGET.rglob("*")) if path.is_file()})
    assert stores[0] == stores[1]


def test_masked_unknown(pairs: Pairs) -> None:
    index = filled(ignore_first=True)
    label = pairs["1"][1]
    assert np.array_equal(Store(TARGET).label("train", "1"), np.where(label == 0, 255, label))
    assert index["images"]["train/1"]["ignored"] == (label == 0).sum()


def test_goes_on_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    decode, decoded = filling.decode_file, []

    def counted(task: Task) -> Record:
        if len(decoded) == 4:
            raise KeyboardInterrupt
        decoded.append(task.path)
        return decode(task)

    monkeypatch.setattr(filling, "decode_file", counted)
    with pytest.raises(KeyboardInterrupt):
        filled()
    assert not TARGET.exists()
    (working,) = WORKING.glob(".preparing-*/")
    (working / "store" / "train" / ".1.image-half.npy").write_bytes(b"left by a kill")
    (working / "store" / "train" / "1.image.npy").write_bytes(b"half")  # a record whose array was damaged since
    (WORKING / ".preparing-deepglobe-stale").mkdir()
    assert decoded == ["3_sat.jpg", "3_mask.png", "1_sat.jpg", "1_mask.png"]
    decoded.clear()
    monkeypatch.setattr(filling, "decode_file", lambda task: (decoded.append(task.path), decode(task))[1])
    filled()
    assert decoded == ["1_sat.jpg", "2_sat.jpg", "2_mask.png"]
    assert "preparing deepglobe: 3 files of an earlier run are kept" in capsys.readouterr().err
    assert [path.name for path in WORKING.iterdir() if path.is_dir()] == ["deepglobe"]
    assert not list(TARGET.rglob(".*"))


def test_full_disk_leaves_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    header, calls = np.lib.format.write_array_header_1_0, []

    def full(stream: Any, values: Any) -> None:
        calls.append(stream)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        header(stream, values)

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(OSError) as caught:
        filled()
    said = str(explained(caught.value, ""))
    assert (
        "data/.preparing-deepglobe-" in said and ".npy cannot be written (No space left on device): free some" in said
    )
    assert not TARGET.exists()
    filled()
    assert Store(TARGET).ids("val") == ("2",)


def test_too_little_space_is_seen_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda folder: 100)
    assert f"preparing deepglobe needs {space.MARGIN + 4608} bytes (16.0 MiB), but 100 bytes" in failed()
    assert not list(WORKING.glob("*/*"))


def test_what_killed_runs_left_does_not_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    other = WORKING / ".preparing-deepglobe-other"
    (other / "spool").mkdir(parents=True)
    (other / "store").mkdir()
    (WORKING / ".preparing-inria-other/spool").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(space, "free_bytes", lambda folder: 100)
        assert "; delete data/.preparing-deepglobe-other, which killed runs left, or move " in failed()
    assert [path.name for path in other.iterdir()] == ["store"]
    filled()
    assert not other.exists()
    other.mkdir()
    filled()  # finds the finished store
    assert not other.exists() and (WORKING / ".preparing-inria-other/spool").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_corrupt_image_is_named(workers: int) -> None:
    path = Path("sets/1_sat.jpg")
    path.write_bytes(path.read_bytes()[:-300])
    assert failed(workers).startswith("1_sat.jpg cannot be decoded")


def test_no_image_at_all_is_named() -> None:
    Path("sets/1_sat.jpg").write_bytes(b"<html>")
    assert failed().startswith("1_sat.jpg is not a PNG, JPEG or TIFF image")


def test_different_sizes_are_named() -> None:
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save("sets/1_mask.png")
    assert "1_sat.jpg has 20 x 16 pixels (height x width), but its label 1_mask.png has 16 x 20" in failed()


@pytest.mark.parametrize("workers", [1, 2])
def test_unknown_colour_is_named(workers: int) -> None:
    label = np.zeros((20, 16, 3), np.uint8)
    label[3, 4:6] = (255, 0, 0)
    Image.fromarray(label).save("sets/2_mask.png")
    message = failed(workers)
    assert message.startswith("2_mask.png: 2 of 320 pixels have a colour of no class")
    assert "the first at row 3, column 4 is (255, 0, 0)" in message


def test_grey_image_is_named() -> None:
    Image.fromarray(np.zeros((20, 16), np.uint8)).save("sets/3_sat.jpg")
    assert failed().startswith("3_sat.jpg has 1 band")


def test_file_changed_since_download_is_named() -> None:
    manifest = fetch(SPEC, "unknown-as-class", DATA, NOBODY)
    data = bytearray(Path("sets/2_sat.jpg").read_bytes())
    data[-3] ^= 1
    Path("sets/2_sat.jpg").write_bytes(data)
    with pytest.raises(UserError, match=r"2_sat\.jpg is not the file that was downloaded"):
        fill(SPEC, manifest, Path("sets"), Choice("mine", LISTS, True, False), TARGET, WORKING, 1)


def killed(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "decode_file", killed)
    assert "was killed, probably because memory ran out" in failed(2)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "from scpseg.data.prepare.fill import _follow_parent\n"
        "with ProcessPoolExecutor(2, initializer=_follow_parent) as pool:\n"
        "    print(*{f.result() for f in [pool.submit(os.getpid) for _ in range(50)]}, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(filling.__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert workers
    end = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [pid for pid in workers if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("times", [1, 2])
def test_a_store_that_is_a_link_is_filled_where_it_points(times: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "store").mkdir(parents=True)
    (disk / "store/old").touch()
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.symlink_to(disk / "store")
    for _ in range(times):
        index = filled()
    assert TARGET.is_symlink() and Store(TARGET).index == index
    assert sorted(path.name for path in (disk / "store").iterdir()) == ["index.json", "train", "val"]
    assert [path.name for folder in (disk, WORKING) for path in folder.iterdir() if path.is_dir()] == [
        "store",
        TARGET.name,
    ]


CHILD = """
import sys, time
from pathlib import Path
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.manifest import fetch
from scpseg.data.prepare import fill as filling
from scpseg.data.prepare.fill import Choice
from scpseg.params import DataParams, UpstreamParams

decode = filling.decode_file

def slow(task):
    print("decoding", flush=True)
    while not Path("go").exists():
        time.sleep(0.01)
    return decode(task)

filling.decode_file = slow
spec = BENCHMARKS["deepglobe"]
manifest = fetch(spec, "unknown-as-class", DataParams("sets", True, "cache"), UpstreamParams({}))
choice = Choice("mine", {"train": ("3", "1"), "val": ("2",), "test": ()}, True, False)
filling.fill(spec, manifest, Path("sets"), choice, Path("data/deepglobe"), Path("data"), 1)
"""


def child() -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(filling.__file__).parents[3])}
    command = [sys.executable, "-c", CHILD]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_second_process_waits_and_uses_what_the_first_made(pairs: Pairs) -> None:
    """As when dvc is killed, its prepare goes on, and dvc is started again."""
    with child() as first:
        assert first.stdout is not None and first.stdout.readline() == "decoding\n"
        with child() as second:
            assert second.stderr is not None
            lines = iter(second.stderr.readline, "")
            assert any("another process is preparing deepglobe; waiting for it" in line for line in lines)
            Path("go").touch()
            assert second.communicate(timeout=60)[0] == ""  # nothing is decoded again
        first.communicate(timeout=60)
        assert (first.returncode, second.returncode) == (0, 0)
    for split, id in (("train", "3"), ("train", "1"), ("val", "2")):
        assert np.array_equal(Store(TARGET).image(split, id), pairs[id][0])
    assert [path.name for path in WORKING.iterdir() if path.is_dir()] == ["deepglobe"]


def test_the_lock_ends_with_its_holder(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    with child() as first:
        assert first.stdout is not None and first.stdout.readline() == "decoding\n"
        first.kill()
    filled()
    assert "waiting" not in capsys.readouterr().err
    assert np.array_equal(Store(TARGET).image("val", "2"), pairs["2"][0])


def test_a_finished_store_is_made_anew_where_it_is_damaged_or_asked_for_otherwise(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded = filling.decode_file, []
    monkeypatch.setattr(filling, "decode_file", lambda task: (decoded.append(task.path), decode(task))[1])
    filled()
    decoded.clear()
    filled()
    assert decoded == []
    path = TARGET / "val/2.label.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    filled()
    assert len(decoded) == 6
    assert np.array_equal(Store(TARGET).label("val", "2"), pairs["2"][1])
    filled(ignore_first=True)
    assert len(decoded) == 12


def test_an_array_that_vanishes_while_the_store_is_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = filling.decode_file

    def lost(task: Task) -> Record:
        record = decode(task)
        if task.path == "2_mask.png":
            (task.job.folder / "store/train/1.image.npy").unlink()
        return record

    monkeypatch.setattr(filling, "decode_file", lost)
    filled()
    with pytest.raises(UserError, match=r"1\.image\.npy is missing or damaged; run `dvc repro -f prepare@deepglobe`"):
        Store(TARGET).check("train")
    monkeypatch.setattr(filling, "decode_file", decode)
    filled()
    Store(TARGET).check("train")


def test_a_file_with_a_damaged_record_is_decoded_again(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, decoded = filling.decode_file, []

    def stopped(*rest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(filling, "build_index", stopped)
        filled()
    for name, text in (("1.image", "{"), ("1.label", "{}"), ("2.image", '{"slot": [1]}')):
        (path,) = WORKING.glob(f".preparing-*/records/*/{name}.json")
        path.write_text(text)
    monkeypatch.setattr(filling, "decode_file", lambda task: (decoded.append(task.path), decode(task))[1])
    filled()
    assert decoded == ["1_sat.jpg", "1_mask.png", "2_sat.jpg"]
    assert np.array_equal(Store(TARGET).image("train", "1"), pairs["1"][0])
