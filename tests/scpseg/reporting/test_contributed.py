from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from scpseg.errors import UserError
from scpseg.reporting.contributed import COLUMNS, MEASURED, REPORTED, add_row, contributed_table, read_contributed

GOOD = {"benchmark": "inria", "method": "Mine <b>", "kind": REPORTED, "split": "test", "mean_iou": "0.7712"}
GOOD |= {"memory_mib": "1834.5", "memory_kind": "nvml", "code": "https://example.org/x", "note": "one, two"}


def put(folder: Path, *rows: dict[str, str], header: list[str] | None = None) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header or list(COLUMNS), restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    folder.mkdir(exist_ok=True)
    (folder / "mine.csv").write_text(stream.getvalue(), encoding="utf-8")


def test_rows_are_a_table_of_their_own(tmp_path: Path) -> None:
    assert contributed_table(tmp_path / "nowhere") is None
    put(tmp_path, GOOD, {"benchmark": "blu", "method": "B", "kind": MEASURED, "memory_mib": "5", "memory_kind": "rss"})
    table = contributed_table(tmp_path)
    assert table
    titles = [column.title for column in table.columns]
    first, second = ({title: cell.text for title, cell in zip(titles, row, strict=True)} for row in table.rows)
    assert (first["method"], first["mean IoU %"], first["memory MiB"]) == ("Mine <b>", "77.12", "1834")
    assert first["what was handed in"] == REPORTED and table.notes == ("one, two",)
    assert (second["benchmark"], second["mean IoU %"], second["measured by"]) == ("BLU", "–", "rss")
    assert "mean F1 %" not in titles


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"benchmark": "inira"}, ("line 2", "benchmark", "'inira'", "inria")),
        ({"method": " "}, ("line 2", "method is empty")),
        ({"kind": "guessed"}, ("kind", "'guessed'", REPORTED)),
        ({"split": "train"}, ("split", "'train'", "test or val")),
        ({"mean_iou": "77.12"}, ("mean_iou", "'77.12'", "0.713 for 71.3 %")),
        ({"mean_iou": "nan"}, ("mean_iou", "'nan'")),
        ({"mean_iou": ""}, ("mean_iou is empty",)),
        ({"accuracy": "-0.1"}, ("accuracy", "'-0.1'")),
        ({"images": "0"}, ("images", "'0'")),
        ({"memory_mib": "inf"}, ("memory_mib", "'inf'")),
        ({"memory_kind": ""}, ("memory_kind is empty", "nvml")),
        ({"code": "javascript:alert(1)"}, ("code", "javascript", "https")),
    ],
)
def test_mistakes_are_named_with_line_column_and_remedy(
    tmp_path: Path, change: dict[str, str], words: tuple[str, ...]
) -> None:
    put(tmp_path, GOOD | change)
    with pytest.raises(UserError) as caught:
        read_contributed(tmp_path)
    assert all(word in str(caught.value) for word in ("mine.csv", *words)) and "\n" not in str(caught.value)


def test_headers_and_bytes_are_checked(tmp_path: Path) -> None:
    for header, words in (
        ([name for name in COLUMNS if name != "kind"], "lacks the column kind"),
        ([*COLUMNS, "mean_uio"], "unknown column 'mean_uio'"),
    ):
        put(tmp_path, GOOD, header=header)
        with pytest.raises(UserError, match=words):
            read_contributed(tmp_path)
    (tmp_path / "mine.csv").write_text(",".join(COLUMNS) + "\ninria,x\n")
    with pytest.raises(UserError, match="line 2 has fewer cells"):
        read_contributed(tmp_path)
    (tmp_path / "mine.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_contributed(tmp_path)


def test_a_row_is_added_in_order_and_takes_the_place_of_its_like(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    add_row(path, GOOD)
    add_row(path, GOOD | {"benchmark": "blu"})
    add_row(path, GOOD | {"mean_iou": 0.5})
    assert [(row["benchmark"], row["mean_iou"]) for row in read_contributed(tmp_path)] == [
        ("blu", "0.7712"),
        ("inria", "0.5"),
    ]
    before = path.read_bytes()
    with pytest.raises(UserError, match="mean_iou"):
        add_row(path, GOOD | {"mean_iou": 5})
    assert path.read_bytes() == before
