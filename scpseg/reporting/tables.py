"""Tables: cells with all number formats, and their text as HTML, Markdown, LaTeX or CSV."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import compress
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from scpseg.reporting.statistics import Estimate

DASH = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "—": "---", "−": "$-$",
    "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$", "·": r"$\cdot$", "→": r"$\to$", "²": r"$^2$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
"""Escapes for LaTeX; of other non-ASCII characters, letters of Western languages stay, the rest becomes '?'."""
FORMULA = re.compile(r"^[=+\-@\t\r](?![\d.]+(\s|$))")
"""First characters of texts that a spreadsheet would evaluate."""
EMPTY = (None, "")


@dataclass(frozen=True)
class Cell:
    """A cell: text; `value` is its sort key, `flags` its remarks, `shade` its tint 0..1."""

    text: str = DASH
    value: float | str | None = None
    flags: tuple[str, ...] = ()
    best: bool = False
    shade: float | None = None


@dataclass(frozen=True)
class Column:
    """A column: title, its cells from top to bottom, explanation; `shown` = visible by default, `key` = name in links.

    A cell is a `Cell`, or anything that `text` makes one of.
    """

    title: str
    cells: Iterable[Any] = ()
    about: str = ""
    left: bool = False
    shown: bool = True
    key: str = ""

    def __post_init__(self) -> None:
        """Make the key from the title unless it is set."""
        made = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
        object.__setattr__(self, "key", self.key or made)


@dataclass(frozen=True)
class Table:
    """Columns and rows; `name` is that of its files and anchor."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, name: str, caption: str, columns: Sequence[Column]) -> Table:
        """A table of the columns that are not empty."""
        cells = ([one if isinstance(one, Cell) else text(one) for one in column.cells] for column in columns)
        return cls(name, caption, tuple(columns), tuple(zip(*cells, strict=True))).filled

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """The flags of the cells in reading order."""
        return tuple(dict.fromkeys(flag for row in self.rows for cell in row for flag in cell.flags))

    def marks(self, cell: Cell) -> list[str]:
        """Letters of the cell's flags: a, b, ..., z, aa, ab, ..."""
        return [letter(place) for place in sorted(map(self.notes.index, cell.flags))]

    @property
    def visible(self) -> Table:
        """The columns that are visible by default."""
        return self._only([column.shown for column in self.columns])

    @property
    def filled(self) -> Table:
        """The table without columns that are empty in all rows; the first column stays."""
        there = [any(cell != Cell() for cell in cells) for cells in zip(*self.rows, strict=True)]
        return self._only([True, *there[1:]]) if self.rows else self

    def _only(self, keep: Sequence[bool]) -> Table:
        rows = tuple(tuple(compress(row, keep)) for row in self.rows)
        return replace(self, columns=tuple(compress(self.columns, keep)), rows=rows)


def words(title: str, cells: Iterable[Any], about: str = "") -> Column:
    """A text column, aligned left."""
    return Column(title, cells, about, left=True)


def letter(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    return ("" if number < 26 else letter(number // 26 - 1)) + string.ascii_lowercase[number % 26]


def text(value: Any, about: str | None = None) -> Cell:
    """A cell of a plain value; None and '' become a dash."""
    flags = (about,) if about else ()
    if value in EMPTY:
        return Cell(flags=flags)
    return Cell(str(value), value if isinstance(value, (int, float)) else str(value), flags)


def number(value: float | str | None, digits: int = 1, flags: Iterable[str] = (), scale: float = 1.0) -> Cell:
    """A number times `scale`, with `digits` decimals; an empty text is none."""
    if value in EMPTY:
        return Cell(flags=tuple(flags))
    scaled = scale * float(value)
    return Cell(f"{scaled:.{digits}f}", scaled, tuple(flags))


def share(value: Estimate, flags: Iterable[str] = (), best: bool = False, sign: str = "") -> Cell:
    """A share in per cent with its interval: '71.2 ± 0.5' for several seeds."""
    if value.mean is None:
        return Cell(flags=tuple(flags))
    half = "" if value.half is None else f" ± {100 * value.half:.1f}"
    return Cell(f"{100 * value.mean:{sign}.1f}{half}".replace("-", "−"), value.mean, tuple(flags), best)


def points(value: Estimate, flags: Iterable[str] = ()) -> Cell:
    """A difference of shares in per cent, with its sign."""
    return share(value, flags, sign="+")


def mebibytes(value: float | None, flags: Iterable[str] = ()) -> Cell:
    """MiB, with one decimal if an integer would hide one per cent."""
    return number(value, 1 if value is not None and value < 100 else 0, flags)


def seconds(value: float | None, flags: Iterable[str] = ()) -> Cell:
    """Two significant digits: times range from milliseconds to minutes, and are not repeatable more precisely."""
    if value is None:
        return Cell(flags=tuple(flags))
    rounded = float(f"{value:.1e}")
    return Cell(f"{rounded:.0f}" if rounded >= 10 else f"{rounded:#.2g}", value, tuple(flags))


def markdown_text(value: object) -> str:
    """Escape text for Markdown: no markup, HTML, line break or table cell."""
    plain = " ".join(str(value).split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = re.sub(r"([\\`*\[\]|~])", r"\\\1", plain)
    # An underscore between letters and digits is not markup, as in tu-test_resnet.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", plain)


def latex_text(value: object) -> str:
    """Escape text for LaTeX."""
    plain = " ".join(str(value).split())
    return "".join(LATEX.get(sign, sign if sign.isascii() or "À" <= sign <= "ſ" else "?") for sign in plain)


def csv_field(value: str) -> str:
    """Escape text so that spreadsheets do not evaluate it as a formula."""
    return f"'{value}" if FORMULA.match(value) else value


def csv_plain(value: str) -> str:
    """Undo `csv_field`."""
    return value[1:] if value.startswith("'") and FORMULA.match(value[1:]) else value


def csv_text(table: Table) -> str:
    """The table as CSV, with cells as shown and notes in a last column."""
    rows = [[*(cell.text for cell in row), "; ".join(dict.fromkeys(flag for cell in row for flag in cell.flags))]
            for row in table.rows]  # fmt: skip
    found = pd.DataFrame(rows, columns=[*(column.title for column in table.columns), "notes"])
    shown = found if table.notes else found.iloc[:, :-1]
    return shown.rename(columns=csv_field).map(csv_field).to_csv(index=False, lineterminator="\n")


@cache
def templates() -> Environment:
    """The templates in this folder: HTML is escaped automatically, others by the filters `md` and `tex`."""
    environment = Environment(
        loader=PackageLoader("scpseg.reporting"),
        autoescape=lambda name: name is not None and name.endswith((".html", ".html.j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown_text, "tex": latex_text}
    environment.globals |= {"letter": letter, "share": share, "points": points, "mebibytes": mebibytes}
    return environment


def render(template: str, **values: Any) -> str:
    """Render a template; Markdown and LaTeX have at most one empty line in a row."""
    made = templates().get_template(template).render(**values)
    return made if template.startswith("index") else re.sub(r"\n{3,}", "\n\n", made).strip("\n") + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX `table` with booktabs rules."""
    return render("table.tex.j2", table=table.visible)
