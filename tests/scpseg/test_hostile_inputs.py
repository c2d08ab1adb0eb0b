"""Fuzz of what users hand in: parameter files, split lists and image files. Each works or is one sentence."""

import io
import random
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.check import sections
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.prepare.decode import read_pixels, read_size
from scpseg.data.splits import read_split
from scpseg.errors import UserError
from scpseg.params import Params

ROOT = Path(__file__).parents[2]
CASES = 3000
PIECES = [
    b"\0",
    b"\xff\xfe",
    b"[",
    b"{",
    b"- ",
    b": ",
    b"&a ",
    b"*a",
    b"!!python/none",
    b"1e999",
    b"\n",
    b"\t",
    b"'",
    b"#",
]

pytestmark = pytest.mark.soak


def mutated(original: bytes, rng: random.Random) -> bytes:
    """A copy with a few bytes flipped, cut, repeated or replaced."""
    content = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 8, 64))
        match rng.randrange(4):
            case 0 if place < len(content):
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                del content[place : place + length]
            case 2:
                content[place:place] = content[place : place + length]
            case _:
                content[place:place] = rng.choice(PIECES)
    return bytes(content)


def one_sentence(work: Callable[[], object]) -> None:
    try:
        work()
    except UserError as error:
        assert str(error) and "\n" not in str(error)


def test_parameter_files(tmp_path: Path) -> None:
    original, known, path = (ROOT / "params.yaml").read_bytes(), sections(), tmp_path / "params.yaml"

    def load() -> None:
        params = Params.load(path)
        for name, cls in known.items():
            params.section(name, cls)

    for case in range(CASES):
        path.write_bytes(mutated(original, random.Random(case)))
        one_sentence(load)


def test_split_lists(tmp_path: Path) -> None:
    spec = BENCHMARKS["potsdam"]
    original = "".join(f"{name}\n" for name in read_split(spec, next(iter(spec.splits)))["train"])
    for case in range(CASES):
        encoding = ("utf-8", "utf-8-sig", "utf-16", "latin-1")[case % 4]
        (tmp_path / "train.txt").write_bytes(mutated(original.encode(encoding), random.Random(case)))
        one_sentence(lambda: read_split(spec, str(tmp_path)))


def picture(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    stream = io.BytesIO()
    if kind == "tif":
        tifffile.imwrite(stream, pixels, photometric="rgb", compression="zlib", rowsperstrip=8)
    else:
        Image.fromarray(pixels).save(stream, {"png": "PNG", "jpg": "JPEG"}[kind])
    return stream.getvalue()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A damaged header may declare any size: allow 4 GiB more than this process has now."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_image_files(kind: str, tmp_path: Path) -> None:
    original, path = picture(kind), tmp_path / f"a.{kind}"

    def read() -> None:
        size = read_size(path, path.name)
        pixels = read_pixels(path, path.name)
        assert pixels.dtype == np.uint8 and pixels.shape[:2] == size

    for case in range(CASES):
        path.write_bytes(mutated(original, random.Random(case)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries may warn about what they can still read
            with suppress(MemoryError):  # which the stage tells
                one_sentence(read)
