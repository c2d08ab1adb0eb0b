"""Tables, whose columns tables.csv describes: cells with all number formats, and their text as Markdown, LaTeX, CSV."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any

import pandas as pd

from scpseg.reporting.published import read_table
from scpseg.reporting.statistics import Difference, Estimate

DASH = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "—": "---", "−": "$-$",
    "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$", "·": r"$\cdot$", "→": r"$\to$", "²": r"$^2$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
"""Escapes for LaTeX; of other non-ASCII characters, letters of Western languages stay, the rest becomes '?'."""
FORMULA = re.compile(r"^(?:[=@\t\r]|[+\-](?![\d.]+( ± [\d.]+)?$))")
"""First characters of texts that a spreadsheet would evaluate."""


@dataclass(frozen=True)
class Cell:
    """A cell: text; `value` is its sort key, `flags` its remarks, `shade` its tint 0..1."""

    text: str = DASH
    value: float | str | None = None
    flags: tuple[str, ...] = ()
    best: bool = False
    shade: float | None = None


def text(value: Any) -> Cell:
    """A cell of a plain value."""
    return Cell(str(value), value if isinstance(value, (int, float)) else str(value))


def number(digits: int, scale: float = 1.0) -> Callable[[float | str], Cell]:
    """Cells of numbers times `scale`, with `digits` decimals."""

    def cell(value: float | str) -> Cell:
        scaled = scale * float(value)
        return Cell(f"{scaled:.{digits}f}", scaled)

    return cell


def share(value: Estimate | Difference, sign: str = "") -> Cell:
    """A share in per cent with its interval: '71.2 ± 0.5' for several seeds."""
    if value.mean is None:
        return Cell()
    half = "" if value.half is None else f" ± {100 * value.half:.1f}"
    return Cell(f"{100 * value.mean:{sign}.1f}{half}".replace("-", "−"), value.mean)


def points(value: Estimate | Difference) -> Cell:
    """A difference of shares in per cent, with its sign."""
    return share(value, "+")


def mebibytes(value: float | str) -> Cell:
    """MiB, with one decimal if an integer would hide one per cent."""
    return number(1 if float(value) < 100 else 0)(value)


def seconds(value: float) -> Cell:
    """Two significant digits: times range from milliseconds to minutes, and are not repeatable more precisely."""
    rounded = float(f"{value:.1e}")
    return Cell(f"{rounded:.0f}" if rounded >= 10 else f"{rounded:#.2g}", value)


FORMATS: dict[str, Callable[[Any], Cell]] = {
    "": text, "text": text, "0": number(0), "1": number(1), "%": number(2, 100.0), "M": number(2, 1e-6),
    "3": lambda value: Cell(f"{float(value):{'.0f' if float(value) >= 100 else '.3g'}}", float(value)),
    "p": lambda value: Cell("<0.001" if value < 0.001 else f"{value:.3f}", value),
    "share": share, "shade": lambda value: replace(share(value), shade=value.mean), "points": points,
    "mib": mebibytes, "s": seconds,
}  # fmt: skip
"""Formats in tables.csv: % = two decimals of a share in per cent, M = millions, 3 = three digits."""


@dataclass(frozen=True)
class Column:
    """A column: title, format, explanation; `key` = its values' name in the rows, and in links to the page.

    `shown` = visible by default; texts are aligned left.
    """

    title: str
    format: str = ""
    about: str = ""
    key: str = ""
    shown: bool = True

    @property
    def left(self) -> bool:
        """Whether its cells are aligned left."""
        return self.format == "text"

    def cell(self, value: Any) -> Cell:
        """The cell of a value, or of (value, remarks); None and '' become a dash, and a cell stays as it is."""
        if isinstance(value, tuple):
            return replace(self.cell(value[0]), flags=tuple(filter(None, value[1])))
        if isinstance(value, Cell):
            return value
        return Cell() if value in (None, "") else FORMATS[self.format](value)


@dataclass(frozen=True)
class Table:
    """Columns and rows; `name` is that of its files and anchor."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """The flags of the cells in reading order."""
        return tuple(dict.fromkeys(flag for row in self.rows for cell in row for flag in cell.flags))

    def marks(self, cell: Cell) -> str:
        """Letters of the cell's flags, separated by commas: a, b, ..., z, aa, ab, ..."""
        return ",".join(letter(place) for place in sorted(map(self.notes.index, cell.flags)))

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


def made(
    kind: str, rows: Iterable[Mapping[str, Any]], more: Sequence[Column] = (), part: object = "", **words: object
) -> Table:
    """The table `kind` of tables.csv, of the columns that are not empty; `rows` have values by the columns' keys.

    `more` are columns in the place of '*', `part` is added to the name, `words` are filled into titles.
    """
    columns, caption = list[Column](), ""
    for row in (row for row in read_table("tables.csv") if row["table"] == kind):
        title, about = row["title"].format(**words), row["about"].format(**words)
        if row["key"] == "*":
            columns += more
        elif row["key"]:
            columns.append(Column(title, row["format"], about, row["key"], not row["hidden"]))
        else:
            caption = title
    cells = tuple(tuple(column.cell(row.get(column.key)) for column in columns) for row in rows)
    return Table(f"{kind}-{part}".strip("-"), caption, tuple(columns), cells).filled


def letter(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    return ("" if number < 26 else letter(number // 26 - 1)) + string.ascii_lowercase[number % 26]


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


def _lines(table: Table, escape: Callable[[object], str], bold: str, raised: str) -> list[list[str]]:
    """Titles and cells as escaped texts; `bold` and `raised` have a place for the best cell and for the marks."""
    rows = [[(bold if cell.best else "%s") % escape(cell.text) + (raised % table.marks(cell) if cell.flags else "")
             for cell in row] for row in table.rows]  # fmt: skip
    return [[escape(column.title) for column in table.columns], *rows]


def markdown(table: Table) -> str:
    """The visible columns and the notes in Markdown."""
    table = table.visible
    head, *rows = _lines(table, markdown_text, "**%s**", " <sup>%s</sup>")
    lines = [head, [":--" if column.left else "--:" for column in table.columns], *rows]
    notes = "".join(f"- {letter(n)}: {markdown_text(note)}\n" for n, note in enumerate(table.notes))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (f"\n{notes}" if notes else "")


def latex(table: Table) -> str:
    """The visible columns and the notes as a LaTeX `table` with booktabs rules."""
    table = table.visible
    head, *rows = (" & ".join(line) + r" \\" for line in _lines(table, latex_text, r"\textbf{%s}", r"$^{\mathrm{%s}}$"))
    left = "".join("l" if column.left else "r" for column in table.columns)
    notes = (
        f"\n{{\\footnotesize $^{{\\mathrm{{{letter(n)}}}}}$ {latex_text(note)}}}" for n, note in enumerate(table.notes)
    )
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{latex_text(table.caption)}}}", rf"\begin{{tabular}}{{{left}}}"]
    lines += [r"\toprule", head, r"\midrule"]
    lines += [*rows, r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}"]
    return "\n".join(lines) + "\n"
