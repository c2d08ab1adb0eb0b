import dataclasses
import functools
import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import py7zr
import pytest
import tifffile
from PIL import Image

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Benchmark, Miniature, Scene
from scpseg.benchmarks.potsdam import without_borders
from scpseg.data.splits import read_split
from scpseg.errors import UserError
from scpseg.files import read_json, sha256
from scpseg.params import MirrorParams
from scpseg.synthetic.miniatures import Pictures, miniature_ids, write_miniature

PARAMS = MirrorParams(seed=3, side=96, train=3, val=1, test=2)
DRAWN = {name: spec for name, spec in BENCHMARKS.items() if spec.miniature}
NAMES = {
    "deepglobe": ["deepglobe-land-cover.zip"],
    "inria": [f"aerialimagelabeling.7z.00{k}" for k in range(1, 6)],
    "potsdam": ["2_Ortho_RGB.zip", "5_Labels_all.zip", "5_Labels_all_noBoundary.zip"],
    "blu": ["BLU.zip"],
    "probe": ["Probe.zip"],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mirror")
    for benchmark, spec in DRAWN.items():
        write_miniature(spec, root / benchmark, PARAMS)
    return root


def members(folder: Path) -> dict[str, bytes]:
    """Every member of a miniature's zips, by name; Inria's zip comes out of the joined 7z volumes."""
    zips = [path.read_bytes() for path in sorted(folder.glob("*.zip"))]
    volumes = sorted(folder.glob("*.7z.*"))
    if volumes:
        whole = io.BytesIO(b"".join(path.read_bytes() for path in volumes))
        with py7zr.SevenZipFile(whole) as seven:
            assert seven.getnames() == ["NEW2-AerialImageDataset.zip"]
            factory = py7zr.io.BytesIOFactory(1 << 30)
            seven.extract(targets=seven.getnames(), factory=factory)
        zips = [factory.products["NEW2-AerialImageDataset.zip"].read()]
    found: dict[str, bytes] = {}
    for content in zips:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            found.update({name: archive.read(name) for name in archive.namelist()})
    return found


def picture(name: str, content: bytes) -> np.ndarray:
    if name.endswith(".tif"):
        return tifffile.imread(io.BytesIO(content))
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("benchmark", list(DRAWN))
def test_archives_are_listed_with_size_and_checksum(written: Path, benchmark: str) -> None:
    listed = read_json(written / benchmark / "archives.json")["archives"]
    names = [one["name"] for one in listed]
    assert names and names == NAMES.get(benchmark, names)
    assert sorted(path.name for path in (written / benchmark).iterdir()) == sorted([*names, "archives.json"])
    for one in listed:
        path = written / benchmark / one["name"]
        assert (one["size"], one["sha256"]) == (path.stat().st_size, sha256(path))


@pytest.mark.parametrize("benchmark", list(DRAWN))
def test_a_second_writing_elsewhere_gives_the_same_bytes(
    written: Path, benchmark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1.9e9)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    old = os.umask(0o077)
    try:
        write_miniature(BENCHMARKS[benchmark], tmp_path / "else" / benchmark, PARAMS)
    finally:
        os.umask(old)
    first, second = written / benchmark / "archives.json", tmp_path / "else" / benchmark / "archives.json"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("benchmark", list(DRAWN))
def test_names_match_the_layout_and_hold_the_expected_ids(written: Path, benchmark: str) -> None:
    spec = BENCHMARKS[benchmark]
    names = list(members(written / benchmark))
    parts = spec.layout.rows * spec.layout.columns
    expected = sorted(name for ids in miniature_ids(spec, PARAMS).values() for name in ids for _ in range(parts))
    for variant, pattern in spec.layout.labels.items():
        found = [match for name in names if (match := re.search(pattern, name, re.IGNORECASE))]
        assert sorted(match["id"] for match in found) == expected, variant
    images = {match["id"] for name in names if (match := re.search(spec.layout.image, name, re.IGNORECASE))}
    assert images >= set(expected)
    assert len(images - set(expected)) == (2 if benchmark == "deepglobe" else 0)


@pytest.mark.parametrize("benchmark", ["deepglobe", "inria", "potsdam"])
def test_ids_come_from_the_lists(benchmark: str) -> None:
    spec = BENCHMARKS[benchmark]
    lists, ids = read_split(spec, next(iter(spec.splits))), miniature_ids(spec, PARAMS)
    assert tuple(map(len, ids.values())) == (3, 1, 2)
    for part, names in ids.items():
        assert set(names) <= set(lists[part])
        if (benchmark, part) != ("potsdam", "train"):
            assert names == lists[part][: len(names)]
    if benchmark == "potsdam":
        assert {"4_12", "6_7"} < set(ids["train"])


@pytest.mark.parametrize("benchmark", list(DRAWN))
def test_files_decode_to_the_scenes(written: Path, benchmark: str) -> None:
    spec, content = BENCHMARKS[benchmark], members(written / benchmark)
    draw = functools.cache(Pictures(spec, PARAMS).draw)
    numbers = {
        name: 10_000 * k + place
        for k, ids in enumerate(miniature_ids(spec, PARAMS).values())
        for place, name in enumerate(ids)
    }
    for name, data in content.items():
        image = re.search(spec.layout.image, name, re.IGNORECASE)
        if image and image["id"] in numbers:
            drawn = part_of(spec, image, draw(numbers[image["id"]]).image)
            error = np.abs(picture(name, data).astype(int) - drawn).mean()
            assert error < (8 if name.endswith(".jpg") else 1e-9)
        for variant, pattern in spec.layout.labels.items():
            label = re.search(pattern, name, re.IGNORECASE)
            if label and label["id"] not in ("4_12", "6_7"):
                truth = draw(numbers[label["id"]]).label
                truth = without_borders(truth) if variant == "noBoundary" else truth
                colours = picture(name, data)
                assert np.array_equal(slow_ids(spec, colours), part_of(spec, label, truth))


def part_of(spec: Benchmark, match: re.Match[str], whole: np.ndarray) -> np.ndarray:
    """The part of a picture that a file holds; all of it where the benchmark does not cut its images."""
    number = int(match.groupdict().get("part", "1")) - 1
    row, column = divmod(number, spec.layout.columns)
    return np.array_split(np.array_split(whole, spec.layout.rows)[row], spec.layout.columns, axis=1)[column]


def slow_ids(spec: Benchmark, colours: np.ndarray) -> np.ndarray:
    """Training ids by one comparison a colour; a colour outside the palette stays 254."""
    colours = np.repeat(colours[..., None], 3, -1) if colours.ndim == 2 else colours
    ids = np.full(colours.shape[:2], 254, np.uint8)
    for index, colour in [*((k, one.colour) for k, one in enumerate(spec.classes)), *((255, c) for c in spec.ignored)]:
        ids[(colours == colour).all(axis=-1)] = index
    return ids


def test_formats(written: Path) -> None:
    inria, potsdam = members(written / "inria"), members(written / "potsdam")
    assert "AerialImageDataset/test/images/bellingham1.tif" in inria
    for name, data in {**inria, **potsdam}.items():
        with tifffile.TiffFile(io.BytesIO(data)) as tif:
            page = tif.pages[0]
            gt = "/gt/" in name
            assert page.compression.name == ("LZW" if gt else "NONE")
            assert page.samplesperpixel == (1 if gt else 3)
            assert not {"DateTime", "Software", "HostComputer"} & {tag.name for tag in page.tags}
    assert all(name.startswith("2_Ortho_RGB/") for name in potsdam if name.endswith("_RGB.tif"))
    assert all("/" not in name for name in potsdam if "label" in name)
    deepglobe = members(written / "deepglobe")
    assert sum(name.startswith("valid/") for name in deepglobe) == 2


def test_a_broken_run_leaves_the_old_archives_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "blu"
    write_miniature(BENCHMARKS["blu"], folder, None)
    before = (folder / "archives.json").read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scpseg.synthetic.miniatures.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        write_miniature(BENCHMARKS["blu"], folder, PARAMS)
    assert [path.name for path in tmp_path.iterdir()] == ["blu"]
    assert (folder / "archives.json").read_bytes() == before


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".blu-partial").mkdir()
    (tmp_path / ".blu-partial" / "BLU.zip").write_bytes(b"half")
    write_miniature(BENCHMARKS["blu"], tmp_path / "blu", None)
    assert [path.name for path in tmp_path.iterdir()] == ["blu"]


def test_a_benchmark_without_a_miniature_says_what_to_do(tmp_path: Path) -> None:
    spec = dataclasses.replace(BENCHMARKS["blu"], miniature=None)
    with pytest.raises(UserError, match=r"blu has no synthetic miniature.*data\.source"):
        write_miniature(spec, tmp_path / "blu", PARAMS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shape", "kind"), [((96, 96, 3), np.uint8), ((96, 95), np.uint8), ((96, 96), np.int64)])
def test_a_scene_of_another_shape_or_type_is_one_sentence(shape: tuple[int, ...], kind: type, tmp_path: Path) -> None:
    def draw(side: int, seed: int, number: int) -> Scene:
        return Scene(np.zeros((96, 96, 3), np.uint8), np.zeros(shape, kind))

    spec = dataclasses.replace(BENCHMARKS["blu"], miniature=Miniature(draw))
    with pytest.raises(UserError, match=r"scpseg/benchmarks/blu\.py draws .*uint8"):
        write_miniature(spec, tmp_path / "blu", PARAMS)
    assert not list(tmp_path.iterdir())
