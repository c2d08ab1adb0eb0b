"""A study in pieces: what is published stays, whatever the workspace has later."""

from __future__ import annotations

import json
import lzma
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from pipelines import paths, studies
from scpseg.errors import UserError
from scpseg.params import Params
from scpseg.reporting import MEMORY
from tests.scpseg.reporting import conftest as invented

ROOT = Path(__file__).parents[2]
ARCHIVE = studies.PUBLISHED / "mine" / studies.ARCHIVE


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def declare(seeds: tuple[int, ...], baselines: tuple[str, ...] = ("patch",), **changes: object) -> Params:
    """Parameters of the sample with another suite, and values `section__key`."""
    values = yaml.safe_load((ROOT / "profiles/sample.yaml").read_text(encoding="utf-8"))
    values["suite"] = {"benchmarks": ["potsdam"], "baselines": list(baselines), "seeds": list(seeds)}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return Params.load()


def run(params: Params, images: int = 3, **changes: object) -> Params:
    shutil.rmtree("results", ignore_errors=True)
    invented.fill_whole(Path("results"), params.suite, images, **changes)
    return params


def page() -> dict[str, bytes]:
    """All files of the study but its archive."""
    found = (path for path in ARCHIVE.parent.rglob("*") if path.is_file() and path != ARCHIVE)
    return {path.relative_to(ARCHIVE.parent).as_posix(): path.read_bytes() for path in found if path.suffix != ".pdf"}


def packed() -> dict[str, bytes]:
    """The files in the archive."""
    with tarfile.open(ARCHIVE) as stream:
        return {entry.name: stream.extractfile(entry).read() for entry in stream}  # type: ignore[union-attr]


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing without the page, which takes a second."""
    monkeypatch.setattr(studies, "build_report", lambda *_, **__: [])


def test_the_page_is_written_again_from_the_archive_alone() -> None:
    assert studies.publish("mine", run(declare((0,))), "patch") == []
    before, content = page(), ARCHIVE.read_bytes()
    assert {"index.html", "README.md", "tables/main-potsdam.csv", "figures/potsdam-examples.png"} <= before.keys()
    for path in ARCHIVE.parent.iterdir():
        if path != ARCHIVE:
            path.unlink() if path.is_file() else shutil.rmtree(path)
    shutil.rmtree("results")
    declare((7,), ("glnet",), csm__ratio=0.5)  # of no concern
    assert studies.render("mine", "patch") == []
    assert page() == before and ARCHIVE.read_bytes() == content


@pytest.mark.usefixtures("no_page")
def test_pieces_give_the_archive_of_the_whole() -> None:
    studies.publish("mine", run(declare((0,))), "patch")
    studies.publish("mine", run(declare((1,), ("patch", "glnet"), machine__threads=1, glnet__windows=3)), "patch")
    studies.publish("mine", run(declare((0,), ("patch", "glnet"), glnet__windows=3)), "patch")
    pieces = packed()
    run(declare((0, 1), ("patch", "glnet"), glnet__windows=3))
    odd = paths.scores("potsdam", "patch", 0) / "pictures/of_an_earlier_run.image.png"
    odd.write_bytes(b"")
    studies.publish("mine", Params.load(), "patch")
    odd.unlink()
    studies.publish("mine", Params.load(), "patch")
    assert packed() == pieces  # a run replaces its earlier files
    ARCHIVE.unlink()
    studies.publish("mine", run(declare((0, 1), ("patch", "glnet"), glnet__windows=3)), "patch")
    assert packed() == pieces and any("glnet/0/pictures" in name for name in pieces)


@pytest.mark.usefixtures("no_page")
def test_memory_of_other_parameters_does_not_join(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(mib: int) -> None:
        record = {"benchmark": "potsdam", "method": "scpseg", "workload": "inference", "mib": mib}
        paths.memory().write_text(json.dumps([record]))

    params = run(declare((0,)))
    computed(1)
    studies.publish("mine", params, "patch")
    before = packed()
    computed(2)
    monkeypatch.setattr(studies, "states", lambda suite: {MEMORY: ("stale", "csm.ratio was 0.75, is 0.5")})
    studies.publish("mine", params, "patch")
    assert packed() == before and b'"mib": 1' in before["results/memory.json"]


@pytest.mark.usefixtures("no_page")
def test_runs_of_other_parameters_do_not_join() -> None:
    studies.publish("mine", run(declare((0,))), "patch")
    content = ARCHIVE.read_bytes()
    for changes, key in (({"csm__ratio": 0.5}, "csm"), ({"tuned__patch": "adam 0.002"}, "tuned.patch")):
        with pytest.raises(UserError, match=f"--publish mine: {key} .*another name") as caught:
            studies.publish("mine", run(declare((1,), **changes)), "patch")
        assert ARCHIVE.as_posix() in str(caught.value)
    assert ARCHIVE.read_bytes() == content
    # What no run of the study used may change.
    studies.publish("mine", run(declare((1,), tuned__glnet="adam 0.002", glnet__windows=3)), "patch")
    assert paths.scores("potsdam", "patch", 0).as_posix() + "/metrics.json" in packed()


@pytest.mark.usefixtures("no_page")
def test_the_archive_has_what_a_page_needs_and_nothing_of_this_machine() -> None:
    params = run(declare((0, 1), data__source="somewhere/private", data__cache="/private"))
    weights = paths.run("potsdam", "patch", 0) / "weights.safetensors"
    weights.write_bytes(b"large")
    studies.publish("mine", params, "patch")
    assert not any("weights" in name or "summary" in name for name in packed())
    assert {name.split("/")[-3] for name in packed() if name.endswith(".png")} == {"0"}  # seed
    assert b"private" not in packed()["params.yaml"]
    with tarfile.open(ARCHIVE) as stream:
        assert {(entry.uid, entry.mtime, entry.uname) for entry in stream} == {(0, 0, "")}


@pytest.mark.usefixtures("no_page")
def test_pictures_of_real_images_stay_unless_they_are_in_the_public_domain() -> None:
    studies.publish("mine", run(declare((0,)), synthetic=False, source="isprs"), "patch")
    assert not any(name.endswith(".png") for name in packed())


@pytest.mark.usefixtures("no_page")
def test_a_missing_or_damaged_archive_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"--render mine: .*results.tar.xz does not exist.*none"):
        studies.render("mine", "patch")
    studies.publish("mine", run(declare((0,))), "patch")
    with pytest.raises(UserError, match=r"--render other: .*mine"):
        studies.render("other", "patch")
    whole = ARCHIVE.read_bytes()
    with tarfile.open("empty.tar.xz", "w:xz"):
        pass
    for content in (
        whole[: len(whole) // 2],
        b"text",
        lzma.compress(b"no archive"),
        b"",
        Path("empty.tar.xz").read_bytes(),
    ):
        ARCHIVE.write_bytes(content)
        with pytest.raises(UserError, match=r"results.tar.xz"):
            studies.render("mine", "patch")
