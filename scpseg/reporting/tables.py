"""Tables and their text as HTML, Markdown, LaTeX or CSV; all number formats are defined here."""

from __future__ import annotations

import csv
import io
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Generic, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from scpseg.reporting.statistics import Estimate

DASH = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "—": "---", "−": "$-$",
    "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$", "·": r"$\cdot$", "→": r"$\to$", "²": r"$^2$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
"""Escapes for LaTeX; other non-ASCII characters become a question mark."""
FORMULA = re.compile(r"^[=+\-@\t\r](?![\d.]+(\s|$))")
"""First characters of texts that a spreadsheet would evaluate."""


@dataclass(frozen=True)
class Column:
    """A column: key (for links and the column picker), title, explanation; `shown` = visible by default."""

    key: str
    title: str
    about: str = ""
    left: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell: text; `value` is its sort key, `flags` its remarks, `shade` its tint 0..1."""

    text: str = DASH
    value: float | str | None = None
    flags: tuple[str, ...] = ()
    best: bool = False
    shade: float | None = None


@dataclass(frozen=True)
class Table:
    """Columns and rows; `name` is that of its files and anchor. The flags of its cells are its notes."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        """Number the flags in reading order."""
        flags = dict.fromkeys(flag for row in self.rows for cell in row for flag in cell.flags)
        object.__setattr__(self, "notes", tuple(flags))

    def marks(self, cell: Cell) -> list[str]:
        """Letters of the cell's flags: a, b, ..., z, aa, ab, ..."""
        return [letter(place) for place in sorted(map(self.notes.index, cell.flags))]

    @property
    def visible(self) -> Table:
        """The columns that are visible by default."""
        return self._only([place for place, column in enumerate(self.columns) if column.shown])

    @property
    def filled(self) -> Table:
        """The table without columns that are empty in all rows; the first column stays."""
        keep = [
            place
            for place in range(len(self.columns))
            if place == 0 or any(row[place].text != DASH or row[place].flags for row in self.rows)
        ]
        return self._only(keep)

    def _only(self, keep: Sequence[int]) -> Table:
        return replace(
            self,
            columns=tuple(self.columns[place] for place in keep),
            rows=tuple(tuple(row[place] for place in keep) for row in self.rows),
        )


def letter(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    first = "" if number < 26 else letter(number // 26 - 1)
    return first + string.ascii_lowercase[number % 26]


def text(value: Any, about: str | None = None) -> Cell:
    """A cell of a plain value; None and '' become a dash."""
    if value is None or value == "":
        return Cell(flags=(about,) if about else ())
    return Cell(str(value), value if isinstance(value, (int, float)) else str(value), (about,) if about else ())


def number(value: float | None, digits: int = 1, flags: Iterable[str] = ()) -> Cell:
    """A number with `digits` decimals."""
    return Cell(flags=tuple(flags)) if value is None else Cell(f"{value:.{digits}f}", value, tuple(flags))


def share(value: Estimate, flags: Iterable[str] = (), best: bool = False) -> Cell:
    """A share in per cent with its interval: '71.2 ± 0.5' for several seeds."""
    if value.mean is None:
        return Cell(flags=tuple(flags))
    half = "" if value.half is None else f" ± {100 * value.half:.1f}"
    return Cell(f"{100 * value.mean:.1f}{half}", value.mean, tuple(flags), best)


def points(value: Estimate, flags: Iterable[str] = ()) -> Cell:
    """A difference of shares in per cent, with its sign."""
    if value.mean is None:
        return Cell(flags=tuple(flags))
    half = "" if value.half is None else f" ± {100 * value.half:.1f}"
    return Cell(f"{100 * value.mean:+.1f}{half}".replace("-", "−"), value.mean, tuple(flags))


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
    return "".join(LATEX.get(sign, sign if sign.isascii() else _letter(sign)) for sign in plain)


def _letter(sign: str) -> str:
    """Keep Latin letters with accents, which LaTeX supports since 2018; replace other characters."""
    return sign if "À" <= sign <= "ſ" else "?"


def csv_field(value: str) -> str:
    """Escape text so that spreadsheets do not evaluate it as a formula."""
    return f"'{value}" if FORMULA.match(value) else value


def csv_plain(value: str) -> str:
    """Undo `csv_field`."""
    return value[1:] if value.startswith("'") and FORMULA.match(value[1:]) else value


def csv_text(table: Table) -> str:
    """The table as CSV, with cells as shown and notes in a last column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([csv_field(column.title) for column in table.columns] + ["notes"] * bool(table.notes))
    for row in table.rows:
        notes = "; ".join(dict.fromkeys(flag for cell in row for flag in cell.flags))
        writer.writerow([csv_field(cell.text) for cell in row] + [csv_field(notes)] * bool(table.notes))
    return stream.getvalue()


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
    environment.globals |= {"letter": letter, "DASH": DASH}
    return environment


def render(template: str, **values: Any) -> str:
    """Render a template; Markdown and LaTeX have at most one empty line in a row."""
    made = templates().get_template(template).render(**values)
    return made if template.startswith("index") else re.sub(r"\n{3,}", "\n\n", made).strip("\n") + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX `table` with booktabs rules."""
    return render("table.tex.j2", table=table.visible)


T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """A column and the function for its cells; arguments as in `Column`."""

    title: str
    cell: Callable[[T], Cell]
    about: str = ""
    left: bool = False
    shown: bool = True
    key: str = ""


def table_of(name: str, caption: str, fields: Sequence[Field[T]], items: Iterable[T]) -> Table:
    """One row per item, without empty columns; keys are the titles unless set."""
    columns = tuple(
        Column(
            one.key or re.sub(r"[^a-z0-9]+", "-", one.title.lower()).strip("-"),
            one.title,
            one.about,
            one.left,
            one.shown,
        )
        for one in fields
    )
    return Table(name, caption, columns, tuple(tuple(one.cell(item) for one in fields) for item in items)).filled


def words(title: str, cell: Callable[[T], Any], about: str = "") -> Field[T]:
    """A text column, aligned left."""
    return Field(title, lambda item: text(cell(item)), about, left=True)
