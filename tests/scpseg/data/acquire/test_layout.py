import unicodedata

import pytest

from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.layout import KINDS, Slot, pair_files, role_of
from scpseg.errors import UserError

INRIA, BLU = BENCHMARKS["inria"], BENCHMARKS["blu"]
LISTS = {"train": ("austin2", "austin1"), "val": ("vienna3",), "test": ()}


def inria(*ids: str) -> list[str]:
    return [f"a.zip/train/{kind}/{id}.tif" for id in ids for kind in ("images", "gt")]


@pytest.mark.parametrize(
    ("benchmark", "variant", "path", "expected"),
    [
        ("deepglobe", "unknown-as-class", "land-train/12_sat.jpg", ("image", "", "12")),
        ("deepglobe", "unknown-as-class", "12_MASK.PNG", ("label", "", "12")),
        ("deepglobe", "unknown-as-class", "train/12_sat.jpeg.txt", None),
        ("inria", "gt", "AerialImageDataset/train/images/tyrol-w7.tif", ("image", "", "tyrol-w7")),
        ("inria", "gt", "AerialImageDataset/test/images/sfo7.tif", None),
        ("potsdam", "bordered", "top_potsdam_2_10_label.tif", ("label", "", "2_10")),
        ("potsdam", "bordered", "top_potsdam_2_10_label_noBoundary.tif", None),
        ("potsdam", "noBoundary", "x/top_potsdam_2_10_label_noBoundary.tif", ("label", "", "2_10")),
        ("potsdam", "noBoundary", "top_potsdam_2_10_IRRG.tif", None),
        ("blu", "label", "BLU/Train/image/area 1.png", ("image", "train", "area 1")),
        ("blu", "label", "val/labels/x.png", ("label", "val", "x")),
        ("blu", "label", "__MACOSX/Train/image/x.png", None),
        ("blu", "label", "Train/image/._x.png", None),
    ],
)
def test_role(benchmark: str, variant: str, path: str, expected: tuple[str, str, str] | None) -> None:
    role = role_of(BENCHMARKS[benchmark], variant, path)
    assert (role and (role.kind, role.split, role.id)) == expected


def test_lists_give_split_and_order() -> None:
    result = pair_files(INRIA, "gt", "fctl", LISTS, inria("vienna3", "austin1", "Austin2", "kitsap1"), False)
    assert list(result.paths.items())[:2] == [
        (Slot("train", "austin2", "image"), "a.zip/train/images/Austin2.tif"),
        (Slot("train", "austin2", "label"), "a.zip/train/gt/Austin2.tif"),
    ]
    assert result.ids == {"train": ("austin2", "austin1"), "val": ("vienna3",), "test": ()}
    assert len(result.paths) == 6
    assert result.expected == {"train": 2, "val": 1, "test": 0}
    assert len(result.warnings) == 1
    assert "1 labelled images are in no list" in result.warnings[0]
    assert "kitsap1" in result.warnings[0]


def test_part_needs_leave() -> None:
    paths = inria("austin1")
    with pytest.raises(UserError) as caught:
        pair_files(INRIA, "gt", "fctl", LISTS, paths, partial=False)
    message = str(caught.value)
    assert "1 of 3 images" in message
    assert "train 1 of 2, val 0 of 1, test 0 of 0" in message
    assert "missing e.g. austin2, vienna3" in message
    assert "set data.partial: true" in message
    assert "\n" not in message
    result = pair_files(INRIA, "gt", "fctl", LISTS, paths, partial=True)
    assert result.ids["train"] == ("austin1",)
    assert result.expected["train"] == 2
    with pytest.raises(UserError, match="0 of 3 images of split 'fctl' found"):
        pair_files(INRIA, "gt", "fctl", LISTS, inria("kitsap1"), partial=True)


def test_image_without_label_is_named() -> None:
    paths = [path for path in inria("austin1", "austin2", "vienna3") if path != "a.zip/train/gt/austin2.tif"]
    with pytest.raises(UserError, match=r"a\.zip/train/images/austin2\.tif has no label file \(gt\)"):
        pair_files(INRIA, "gt", "fctl", LISTS, paths, partial=True)


def test_unlabelled_image_outside_the_lists_is_upstream_habit() -> None:
    paths = [*inria("austin1", "austin2", "vienna3"), "train/images/sfo1.tif"]
    assert pair_files(INRIA, "gt", "fctl", LISTS, paths, partial=False).warnings == ()


def test_two_files_for_one_id() -> None:
    with pytest.raises(UserError, match="are both the image of austin1"):
        pair_files(INRIA, "gt", "fctl", LISTS, [*inria("austin1"), "b/train/images/austin1.tif"], partial=True)


def blu(**ids: list[str]) -> list[str]:
    return [f"BLU/{part.title()}/{kind}/{id}.png" for part in ids for id in ids[part] for kind in ("image", "label")]


def test_accents_are_equal_however_they_are_written() -> None:
    one, two = (unicodedata.normalize(form, "M\u00fcnchen") for form in ("NFC", "NFD"))
    paths = [f"Train/image/{two}.png", f"Train/label/{one.upper()}.png"]
    for lists, id in (({"train": (one,)}, one), ({}, two)):
        result = pair_files(BLU, "label", "mine", lists, paths, True)
        assert result.paths == {Slot("train", id, kind): path for kind, path in zip(KINDS, paths, strict=True)}


def test_an_id_that_is_too_long_for_the_store() -> None:
    longest = "\u00fc" * 122  # 244 bytes
    assert pair_files(BLU, "label", "folders", {}, blu(train=[longest]), True).ids["train"] == (longest,)
    with pytest.raises(UserError, match=r"^blu: BLU/Train/image/n+.png has an id of more than 244 bytes.*; rename"):
        pair_files(BLU, "label", "folders", {}, blu(train=["n" * 245]), True)


def test_folders_give_the_split() -> None:
    paths = blu(train=["b", "A"], val=["A"], test=["c"])
    result = pair_files(BLU, "label", "folders", {}, paths, partial=False)
    assert result.ids == {"train": ("A", "b"), "val": ("A",), "test": ("c",)}
    assert result.paths[Slot("val", "A", "image")] == "BLU/Val/image/A.png"
    assert result.paths[Slot("val", "A", "label")] == "BLU/Val/label/A.png"
    assert result.expected == {"train": 196, "val": 28, "test": 32}
    assert result.warnings == ("blu: 2/1/1 images in train/val/test, but 196/28/32 are published",)


def test_folders_without_test_images_are_a_part() -> None:
    with pytest.raises(UserError, match="no image in test"):
        pair_files(BLU, "label", "folders", {}, blu(train=["a"], val=["b"]), partial=False)


def test_own_lists_cannot_tell_equal_names_apart() -> None:
    with pytest.raises(UserError, match=r"Train/image/a.png and .*Val/image/a.png are both the image of a; .*rename"):
        pair_files(BLU, "label", "mine", {"train": ("a",)}, blu(train=["a"], val=["a"]), partial=True)
    result = pair_files(BLU, "label", "mine", {"train": ("c",), "val": ("a",), "test": ()}, blu(test=["a", "c"]), False)
    assert result.paths[Slot("val", "a", "image")] == "BLU/Test/image/a.png"


def test_places_in_the_store() -> None:
    assert role_of(INRIA, "gt", "a.7z/b.zip/D/train/gt/Austin2.tif") == ("", "Austin2", "label", 0)
    assert role_of(INRIA, "gt", "train/images/vienna3.tif") == ("", "vienna3", "image", 0)
    assert [role_of(INRIA, "gt", path) for path in ("test/images/austin2.tif", "readme.txt")] == [None] * 2
    assert role_of(BLU, "label", "BLU/Val/label/A.png") == ("val", "A", "label", 0)
    paths = [path for id in ("kitsap1", "Austin2") for path in inria(id)]
    assert pair_files(INRIA, "gt", "mine", {"val": ("austin2",)}, paths, True).paths == {
        Slot("val", "austin2", kind): path for kind, path in zip(("image", "label"), paths[2:], strict=True)
    }


def test_potsdams_labels_for_participants_are_the_same_twice() -> None:
    potsdam, inside = BENCHMARKS["potsdam"], "Potsdam.zip/Potsdam"
    labels = [f"{inside}/5_Labels_{kind}.zip/top_potsdam_2_10_label.tif" for kind in ("for_participants", "all")]
    image = f"{inside}/2_Ortho_RGB.zip/2_Ortho_RGB/top_potsdam_2_10_RGB.tif"
    for found in (labels, labels[:1]):
        result = pair_files(potsdam, "bordered", "mine", {"train": ("2_10",)}, [image, *found], False)
        assert list(result.paths.values()) == [image, found[-1]] and result.ids["train"] == ("2_10",)
