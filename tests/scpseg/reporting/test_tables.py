from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scpseg.reporting.pages import Section, templates
from scpseg.reporting.pages import html as page
from scpseg.reporting.statistics import Estimate
from scpseg.reporting.tables import (
    DASH,
    Cell,
    Column,
    Table,
    csv_text,
    latex,
    latex_text,
    letter,
    markdown,
    markdown_text,
    points,
    share,
    text,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[link](javascript:alert(1))",
    "a|b",
    "a_b_c",
    "_emphasis_ *bold* `code`",
    "100 % & $x$ # {y} ~z^2 \\write18{ls}",
    "=HYPERLINK(1)",
    '=1 +HYPERLINK("http://x","y")',
    "-1 +cmd|' /C calc'!A0",
    "@x",
    "two\nlines",
    "\U0001f600 Ünïcode 中",
    "\"quoted\" 'single'",
)


def hostile() -> Table:
    columns = (Column("<b>method</b>", "text"), Column("a|b_%", about='"><script>'))
    rows = tuple((text(name), Cell(name, name, (f"flag {name}",), best=True)) for name in HOSTILE)
    return Table("t", "<i>cap</i> 100 % _x_", columns, rows)


def html(table: Table) -> str:
    made = page(Section("t", [Section("s", [table], "s")]), [], {})
    return made[made.index("</h2>") + 5 : made.index("</section>")]


def test_numbers_for_people() -> None:
    assert share(Estimate(0.71234, 0.01266, 3)).text == "71.2 ± 1.3"
    assert share(Estimate(0.71234, None, 1)).text == "71.2"
    assert Column("", "share").cell(Estimate(None, None, 0)).text == DASH
    assert [Column("", "s").cell(value).text for value in (None, 0.041234, 2.0, 9.96, 43.21, 123.4)] == [
        *(DASH, "0.041", "2.0", "10", "43", "120"),
    ]
    assert [Column("", "mib").cell(value).text for value in (None, 11.54, 157.9)] == [DASH, "11.5", "158"]
    assert [points(Estimate(value, 0.01, 2)).text for value in (0.012, -0.03)] == ["+1.2 ± 1.0", "−3.0 ± 1.0"]
    assert [letter(number) for number in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


def test_flags_are_numbered_once_and_follow_their_numbers() -> None:
    rows = ((text("a"), Cell("1", 1.0, ("first", "second"))), (text("b"), Cell("2", 2.0, ("second",))))
    table = Table("t", "c", (Column("m"), Column("x")), rows)
    assert table.notes == ("first", "second") and table.marks(rows[1][1]) == "b"
    assert "| 2 <sup>b</sup> |" in markdown(table) and "- b: second" in markdown(table)
    assert '<sup title="first; second">a,b</sup>' in html(table)


def test_empty_columns_vanish_and_hidden_ones_are_in_the_csv() -> None:
    columns = (Column("m"), Column("x"), Column("y", shown=False), Column("z"))
    table = Table("t", "c", columns, ((text("a"), Cell(), text("1"), Cell(flags=("why",))),)).filled
    assert [column.title for column in table.columns] == ["m", "y", "z"]
    assert [column.title for column in table.visible.columns] == ["m", "z"]
    assert csv_text(table).splitlines() == ["m,y,z,notes", f"a,1,{DASH},why"]
    assert "| m | z |" in markdown(table)


def test_hostile_names_stay_text_in_html() -> None:
    made = html(hostile())
    assert not re.findall(r"<(?!/?(?:div|table|caption|thead|tbody|tr|th|td|b|sup|ol|li)\b)", made)
    assert "<b>method" not in made and "<script" not in made and "onerror" not in re.sub(r"&lt;.*?&gt;", "", made)
    assert all(re.fullmatch(r'[^"]*', value) for value in re.findall(r'title="([^"]*)"', made))


def test_hostile_names_stay_cells_of_one_line_in_markdown() -> None:
    made = markdown(hostile())
    lines = [line for line in made.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(HOSTILE)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert not re.search(r"<(?!/?sup>)", made) and not re.search(r"(?<!\\)\]\(", made)
    assert markdown_text("tu-test_resnet.r160_in1k") == "tu-test_resnet.r160_in1k"
    assert markdown_text("_a_ *b*") == r"\_a\_ \*b\*"


def test_hostile_names_are_read_back_from_csv_and_are_no_formula() -> None:
    header, *rows = list(csv.reader(io.StringIO(csv_text(hostile()))))
    assert header[-1] == "notes" and len(rows) == len(HOSTILE)
    for name, row in zip(HOSTILE, rows, strict=True):
        assert row[0].lstrip("'") == name and row[0][0] not in "=@-"
    for half, shown in ((None, "+1.0"), (0.002, "+1.0 ± 0.2")):
        assert csv_text(Table("t", "c", (Column("m"),), ((points(Estimate(0.01, half, 1)),),))) == f"m\n{shown}\n"


def test_latex_has_nothing_that_tex_would_run() -> None:
    made = latex(hostile())
    for name in HOSTILE:
        assert latex_text(name) in made
    # After \\\\ TeX would take a bracket or a star for an argument.
    escapes = r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\[&%$#_{}]"
    body = re.sub(escapes, "", latex_text(" ".join(HOSTILE)))
    body = re.sub(r"\{[\[\]*]\}|\$[<>|]\$", "", body)
    assert not re.findall(r"[\\&%#_{}~^\[\]*]", body) and body.isprintable()
    assert latex_text("é ± – −1 中") == r"é $\pm$ -- $-$1 ?"
    rows = [line for line in made.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 1 + len(HOSTILE)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {1}


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(tmp_path: Path) -> None:
    source = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{source}\n{latex(hostile())}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_a_template_lacks_nothing_without_a_word() -> None:
    with pytest.raises(Exception, match="undefined"):
        templates().get_template("page.html.j2").render(page=Section("t", []), notices=[])
