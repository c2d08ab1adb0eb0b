"""Pages from sections of texts, lists, tables and figures, as Markdown and as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scpseg.reporting import tables
from scpseg.reporting.figures import Drawn
from scpseg.reporting.tables import Table, markdown_text

Pairs = Sequence[tuple[str, str]]
"""A list; each item is a title in bold, which may be empty, and a text."""


class Markup(str):
    """A text that is Markdown already; not in HTML."""


@dataclass(frozen=True)
class Section:
    """A title and blocks; `anchor` is its id in HTML.

    `fold`: in HTML it can be folded, and is 'open' or 'closed' at first, or it has the class 'beside', which places the
    blocks beside each other. `page` = only in HTML.
    """

    title: str
    blocks: Sequence[Block]
    anchor: str = ""
    fold: str = ""
    page: bool = False

    def shown(self, html: bool) -> list[Block]:
        """The blocks that are not empty, for HTML or Markdown."""

        def there(block: Block) -> bool:
            match block:
                case Section():
                    return bool(block.shown(html)) and (html or not block.page)
                case Table():
                    return bool(block.rows)
                case Drawn():
                    return bool(block.svg if html else block.files)
                case Gallery() | Markup():
                    return bool(block) and html == isinstance(block, Gallery)
            return bool(block)

        return [block for block in self.blocks if there(block)]

    def all(self, kind: type) -> Iterator[Any]:
        """All blocks of a type at any depth, without empty tables."""
        for block in self.blocks:
            if isinstance(block, Section):
                yield from block.all(kind)
            elif isinstance(block, kind) and getattr(block, "rows", True):
                yield block


@dataclass(frozen=True)
class Gallery:
    """Pictures in HTML: `key` has the names and colours of the classes; `methods` the rows of `pictures.album`."""

    key: Mapping[str, tuple[int, int, int]]
    methods: Sequence[Mapping[str, Any]]


Block = str | Pairs | Table | Drawn | Section | Gallery | None


@cache
def templates() -> Environment:
    """The templates in this folder; HTML is escaped automatically."""
    return Environment(
        loader=PackageLoader("scpseg.reporting"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def texts() -> Any:
    """The sentences of texts.j2: each macro gives a text, or a line with title, tab and text for each of several."""
    cells = {"share": tables.share, "points": tables.points, "mebibytes": tables.mebibytes}
    return templates().get_template("texts.j2", globals=cells).module


def listed(lines: str) -> list[tuple[str, str]]:
    """(title, text) of the lines of a macro in texts.j2; a line without a tab has no title."""
    pairs = (line.rpartition("\t") for line in lines.splitlines() if line.strip())
    return [(title.strip(), text.strip()) for title, _, text in pairs]


def html(page: Section, notices: Pairs, album: Mapping[str, str]) -> str:
    """The page as HTML that fetches nothing; `album` are the addresses and names of pictures."""
    return templates().get_template("page.html.j2").render(page=page, notices=notices, album=album, latex=tables.LATEX)


def markdown(page: Section, folder: Path, notices: Pairs = ()) -> str:
    """The page as Markdown for a file in `folder`, with the notices first."""
    quoted = "\n>\n".join(f"> **{markdown_text(title)}** {markdown_text(text)}" for title, text in notices)
    return "\n\n".join([*filter(None, [quoted]), *_markdown(page, folder, 1)]) + "\n"


def _markdown(section: Section, folder: Path, depth: int) -> Iterator[str]:
    if section.title:
        yield f"{'#' * depth} {markdown_text(section.title)}"
    for block in section.shown(False):
        match block:
            case Section():
                yield from _markdown(block, folder, depth + bool(block.title))
            case Table():
                if block.caption not in ("", section.title):
                    yield f"**{markdown_text(block.caption)}**"
                yield tables.markdown(block).rstrip("\n")
            case Drawn():
                yield f"![{markdown_text(block.about)}]({block.files[0].relative_to(folder).as_posix()})"
            case Markup():
                yield block
            case str():
                yield markdown_text(block)
            case list() | tuple():
                bold = [(f"**{markdown_text(title)}** " if title else "", markdown_text(text)) for title, text in block]
                yield "\n".join(f"- {title}{text}" for title, text in bold)
