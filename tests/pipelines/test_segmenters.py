from pathlib import Path

import pytest

from pipelines.segmenters import BEGIN, END, PAGE, main, table, with_table
from scpseg.errors import UserError
from scpseg.segmenters.build import KINDS

ROOT = Path(__file__).parents[2]


def test_the_page_has_the_table_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (ROOT / PAGE).read_bytes()
    monkeypatch.chdir(tmp_path)
    PAGE.parent.mkdir()
    PAGE.write_bytes(before)
    monkeypatch.setattr("sys.argv", ["segmenters"])
    main()
    assert PAGE.read_bytes() == before, "run `python -m pipelines.segmenters`"


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("x", 2)])
def test_help_and_stray_arguments_write_nothing(
    argument: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PAGE.parent.mkdir()
    PAGE.write_text(f"{BEGIN}old\n{END}")
    monkeypatch.setattr("sys.argv", ["segmenters", argument])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status and PAGE.read_text() == f"{BEGIN}old\n{END}"


def test_a_row_for_every_segmenter() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(KINDS)
    assert (
        "| `deeplabv3plus` | DeepLabv3+ (Chen et al., ECCV 2018) | `resnet18`, 8 | 12,330,839 | 4 | ImageNet, random |"
        in table()
    )
    assert "| `pidnet-s`, 8 |" in rows[-1] and "| random |" in rows[-1]


def test_only_what_is_between_the_markers_changes() -> None:
    once = with_table(f"a\n{BEGIN}old\n{END}b\n", "new\n")
    assert once == f"a\n{BEGIN}new\n{END}b\n" == with_table(once, "new\n")


@pytest.mark.parametrize("text", ["a\n", f"{BEGIN}a\n", f"{END}a\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_text_without_a_place_for_it_is_rejected(text: str) -> None:
    with pytest.raises(UserError, match="add the lines <!-- segmenters --> and <!-- /segmenters -->"):
        with_table(text, "new\n")
