"""Twenty tiles of Inria's size from a zip in a split 7z to the store: time, memory and disk."""

import glob
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from scpseg.data.prepare.fill import AHEAD
from scpseg.data.store import Store

ROOT = Path(__file__).parents[4]
IDS = [f"austin{number}" for number in range(1, 21)]
CHILD = f"""
from pathlib import Path
from scpseg.data.prepare.fill import Choice, fill
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.manifest import FileRecord, Manifest
paths = sorted(Path("sets").iterdir())
records = tuple(FileRecord(path.name, path.stat().st_size, "") for path in paths)
lists = {{"train": tuple({IDS!r}), "val": (), "test": ()}}
manifest = Manifest("inria", "folder", "gt", records, ())
choice = Choice("mine", lists, False, False)
fill(BENCHMARKS["inria"], manifest, Path("sets"), choice, Path("data/inria"), Path("data"), 2)
"""


def watched(process: subprocess.Popen[bytes], spool: Callable[[], int]) -> tuple[int, int, float, float]:
    """Largest resident memory of a process and its children together, and of the spool, in bytes; and the seconds that
    they ran, and that they waited for a processor, which other programs of the machine may have had."""
    root, memory, disk = psutil.Process(process.pid), 0, 0
    times: dict[str, tuple[float, float]] = {}
    while process.poll() is None:
        total = 0
        for one in [root, *root.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            for path in glob.glob(f"/proc/{one.pid}/task/*/schedstat"):
                try:
                    ran, waited, _ = Path(path).read_text().split()
                except OSError:
                    continue
                times[path] = int(ran) / 1e9, int(waited) / 1e9
        memory, disk = max(memory, total), max(disk, spool())
        time.sleep(0.02)
    return memory, disk, sum(ran for ran, _ in times.values()), sum(waited for _, waited in times.values())


def spool_bytes() -> int:
    total = 0
    for path in Path("data").glob(".preparing-*/spool/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # decoded meanwhile
            continue
    return total


@pytest.mark.soak
def test_twenty_tiles(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_inria: Callable[..., Callable[[str], tuple[np.ndarray, np.ndarray]]],
) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    tiles = write_inria(tmp_path / "sets", IDS, side=5000)
    packed = sum(path.stat().st_size for path in (tmp_path / "sets").iterdir())
    writing = time.monotonic() - start
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", CHILD], env=environment) as process:
        memory, spool, ran, waited = watched(process, spool_bytes)
    wall = time.monotonic() - start
    store = sum(path.stat().st_size for path in Path("data/inria").rglob("*.npy"))
    print(
        f"\n{packed / 1e9:.2f} GB packed (written in {writing:.0f} s) to {store / 1e9:.2f} GB in {wall:.1f} s: ran "
        f"{ran:.1f} s, waited {waited:.1f} s for a processor; memory {memory / 2**20:.0f} MiB, "
        f"spool {spool / 1e6:.0f} MB"
    )
    assert process.returncode == 0
    for id in (IDS[0], IDS[-1]):
        image, label = tiles(id)
        opened = Store(Path("data/inria"))
        assert np.array_equal(opened.image("train", id), image)
        assert np.array_equal(opened.label("train", id), label // 255)
    assert store == 20 * (4 * 5000**2 + 2 * 128)
    assert memory < 2 * 2**30
    assert spool <= packed + (2 + AHEAD) * 75.1e6  # the zip inside the 7z, and files that wait to be decoded
    if waited:  # the kernel tells
        assert (ran + waited) / wall > 1.5  # processes that ran or would have, all the time: two processors stay busy
