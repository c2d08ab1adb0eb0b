from __future__ import annotations

from pathlib import Path
from typing import Any

from scpseg.reporting.build import columns_page
from scpseg.reporting.collect import FAMILIES, FIRST, LAST, collect


def test_every_column_is_described(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(("potsdam", "inria"), ("patch", "glnet")))
    frame = collect(tmp_path, chosen, available=False)
    known, prefixes = FIRST | LAST, tuple(FAMILIES)
    assert [name for name in frame.columns if name not in known and not name.startswith(prefixes)] == []
    assert list(frame.columns)[: len(FIRST)] == list(FIRST) and list(frame.columns)[-len(LAST) :] == list(LAST)
    assert (frame["schema"] == 2).all()
    assert all(unit and text for unit, text in (FIRST | LAST | FAMILIES).values())


def test_the_committed_page_is_that_of_the_code() -> None:
    committed = Path(__file__).parents[3] / "docs/columns.md"
    assert committed.read_text(encoding="utf-8") == columns_page()
