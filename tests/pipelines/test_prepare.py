import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.download import download
from pipelines.mirror import mirror
from pipelines.prepare import prepare
from pipelines.stage import explained
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.store import Store
from scpseg.errors import UserError
from scpseg.files import read_json
from scpseg.params import Params

ROOT = Path(__file__).parents[2]
CROPS = "images that are not of 2448 x 2448 pixels"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path


def sample(source: str = "mine", partial: bool = False, **changed: dict[str, Any]) -> Params:
    """The sample profile with some sections changed."""
    values = dict(Params.load(ROOT / "profiles/sample.yaml").values)
    values["data"] = {"source": source, "partial": partial, "cache": "unused"}
    values["mirror"] = {"seed": 0, "side": 64, "train": 2, "val": 1, "test": 1}
    values["deepglobe"] = {**values["deepglobe"], "split": "lists"}
    for name, section in changed.items():
        values[name] = {**values[name], **section}
    return Params(values, Path("params.yaml"))


def write_pair(id: str, height: int = 20, width: int = 16) -> None:
    Path("mine").mkdir(exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(f"mine/{id}_sat.jpg")
    Image.fromarray(np.full((height, width, 3), (0, 0, 255), np.uint8)).save(f"mine/{id}_mask.png")


@pytest.fixture
def three() -> None:
    """Three pairs smaller than any patch, and lists that name them."""
    Path("lists").mkdir()
    for part, id in (("train", "1"), ("val", "2"), ("test", "3")):
        write_pair(id)
        Path(f"lists/{part}.txt").write_text(f"{id}\n")


def error_of(params: Params) -> str:
    with pytest.raises((UserError, OSError)) as caught:
        prepare(params, "deepglobe", workers=1)
    sentence = explained(caught.value, "")
    assert sentence is not None and "\n" not in sentence
    assert not Path("data/deepglobe").exists()
    return sentence


@pytest.mark.parametrize("benchmark", list(BENCHMARKS))
def test_from_mirror_to_store(benchmark: str) -> None:
    params = sample("mirror", partial=True, deepglobe={"split": "glnet"})
    mirror(benchmark, params, Path("data/mirror") / benchmark)
    download(params, benchmark)
    prepare(params, benchmark, workers=1)
    opened, spec = Store(Path("data") / benchmark), BENCHMARKS[benchmark]
    assert (opened.index["synthetic"], opened.index["source"]) == (True, "mirror")
    assert [len(opened.ids(part)) for part in ("train", "val", "test")] == [2, 1, 1]
    assert tuple(opened.index["expected"][part] for part in ("train", "val", "test")) == spec.counts
    for part in ("train", "val", "test"):
        for id in opened.ids(part):
            record = opened.index["images"][f"{part}/{id}"]
            label = opened.label(part, id)
            assert opened.image(part, id).shape == (64, 64, 3)
            assert [int((label == k).sum()) for k in range(len(spec.classes))] == record["pixels"]
            assert int((label == 255).sum()) == record["ignored"]
            assert sum(record["pixels"]) + record["ignored"] == 64 * 64


def test_images_smaller_than_a_patch(three: None) -> None:
    params = sample(partial=True)
    download(params, "deepglobe")
    prepare(params, "deepglobe", workers=1)
    opened = Store(Path("data/deepglobe"))
    assert opened.label("test", "3").shape == (20, 16)
    assert (opened.label("test", "3") == 5).all()
    assert opened.index["split"] == "lists"
    assert opened.index["labels"] == "unknown-as-class"
    assert opened.index["warnings"] == [f"deepglobe: 3 {CROPS}: train/1, val/2, test/3"]
    assert str(Path.cwd()) not in Path("data/deepglobe/index.json").read_text()


def test_unknown_as_a_switch(three: None) -> None:
    Image.fromarray(np.zeros((20, 16, 3), np.uint8)).save("mine/3_mask.png")
    params = sample(partial=True, deepglobe={"labels": "unknown-ignored"})
    download(params, "deepglobe")
    prepare(params, "deepglobe", workers=1)
    opened = Store(Path("data/deepglobe"))
    assert (opened.label("test", "3") == 255).all()
    assert opened.index["labels"] == "unknown-ignored"
    assert opened.index["warnings"][0] == "deepglobe: 1 labels in which every pixel is ignored: test/3"


def test_part_needs_leave(three: None, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("sat.jpg", "mask.png"):
        Path(f"mine/3_{kind}").unlink()
    download(sample(), "deepglobe")
    message = error_of(sample())
    assert (
        "only 2 of 3 images of split 'lists' found (train 1 of 1, val 1 of 1, test 0 of 1), missing e.g. 3" in message
    )
    prepare(sample(partial=True), "deepglobe", workers=1)
    printed = capsys.readouterr().out.splitlines()[-4:]
    assert printed == [
        "deepglobe: train 1 of 1, val 1 of 1, test 0 of 1",
        "deepglobe: images (height x width) 2 of 20 x 16",
        "deepglobe: labels unknown-as-class: unknown 0.00%, urban 0.00%, agriculture 0.00%, rangeland 0.00%, "
        "forest 0.00%, water 100.00%, barren 0.00%, ignored 0.00%",
        f"warning: deepglobe: 2 {CROPS}: train/1, val/2",
    ]


def test_an_image_of_one_band_is_rejected(three: None) -> None:
    Image.fromarray(np.zeros((20, 16), np.uint8)).save("mine/3_sat.jpg")
    download(sample(), "deepglobe")
    assert "3_sat.jpg has 1 band; expected an RGB image of 3 bands" in error_of(sample(partial=True))


def test_images_of_another_size_need_leave(three: None) -> None:
    download(sample(), "deepglobe")
    assert "1_sat.jpg has 20 x 16 pixels (height x width), images of DeepGlobe 2448 x 2448" in error_of(sample())


def test_no_manifest_and_other_labels(three: None) -> None:
    assert "data/manifests/deepglobe.json is missing; run `dvc repro download@deepglobe`" in error_of(sample())
    params = sample("mirror", partial=True)
    mirror("potsdam", params, Path("data/mirror/potsdam"))
    download(params, "potsdam")
    with pytest.raises(UserError, match=r"of labels 'noBoundary', potsdam\.labels is 'bordered'"):
        prepare(sample("mirror", partial=True, potsdam={"labels": "bordered"}), "potsdam")


def test_another_archive_than_the_manifests() -> None:
    params = sample("mirror", partial=True)
    mirror("inria", params, Path("data/mirror/inria"))
    download(params, "inria")
    archive = Path("data/mirror/inria/aerialimagelabeling.7z.002")
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"aerialimagelabeling\.7z\.002 has \d+ bytes instead of"):
        prepare(params, "inria", workers=1)


@pytest.mark.parametrize("damage", ["corrupt", "size", "colour", "changed", "label", "full"])
def test_bad_input_leaves_no_store(damage: str, three: None, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.zeros((20, 16, 3), np.uint8)
    if damage == "corrupt":
        Path("mine/2_mask.png").write_bytes(Path("mine/2_mask.png").read_bytes()[:60])
    elif damage == "size":
        Image.fromarray(label[:10]).save("mine/2_mask.png")
    elif damage == "colour":
        label[5, 6] = (255, 0, 0)
        Image.fromarray(label).save("mine/2_mask.png")
    elif damage == "label":
        Path("mine/2_mask.png").unlink()
    params = sample(partial=True)
    download(params, "deepglobe")
    if damage == "changed":
        data = bytearray(Path("mine/2_mask.png").read_bytes())
        data[-1] ^= 1
        Path("mine/2_mask.png").write_bytes(data)
    elif damage == "full":

        def full(stream: Any, header: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    expected = {
        "corrupt": "2_mask.png cannot be decoded",
        "size": "2_sat.jpg has 20 x 16 pixels (height x width), but its label 2_mask.png has 10 x 16",
        "colour": "the first at row 5, column 6 is (255, 0, 0)",
        "changed": "2_mask.png is not the file that was downloaded",
        "label": "image 2_sat.jpg has no label file (unknown-as-class)",
        "full": ".image.npy cannot be written (No space left on device): free some space",
    }
    assert expected[damage] in error_of(params)


def test_command_line_says_one_sentence_and_fails(elsewhere: Path) -> None:
    shutil.copy(ROOT / "profiles/sample.yaml", "params.yaml")
    command = [sys.executable, "-m", "pipelines.prepare", "blu"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: data/manifests/blu.json is missing; run `dvc repro download@blu` first\n"


def test_no_torch_is_imported(elsewhere: Path) -> None:
    code = "import sys, pipelines.download, pipelines.prepare; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_real_deepglobe_images(samples: Path) -> None:
    params = sample(str(samples), partial=True, deepglobe={"split": "glnet"})
    download(params, "deepglobe")
    prepare(params, "deepglobe")
    opened = Store(Path("data/deepglobe"))
    assert {part: len(opened.ids(part)) for part in ("train", "val", "test")} == {"train": 7, "val": 3, "test": 0}
    assert opened.index["expected"] == {"train": 454, "val": 207, "test": 142}
    assert opened.index["images"]["train/172307"]["pixels"][0] == 2
    assert opened.image("val", "2774").shape == (2448, 2448, 3)
    assert not opened.index["synthetic"]
    assert len(read_json(Path("data/manifests/deepglobe.json"))["files"]) == 20
    with pytest.raises(UserError, match="only 10 of 803 images"):
        prepare(sample(str(samples), deepglobe={"split": "glnet"}), "deepglobe")
