"""The table of base segmenters in docs/methods.md: `python -m pipelines.segmenters` writes it between its markers."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import write_text
from scpseg.params import SegmenterParams
from scpseg.segmenters.build import KINDS, build_segmenter
from scpseg.segmenters.encoders import weights_problem

PAGE = Path("docs/methods.md")
BEGIN, END = "<!-- segmenters -->\n", "<!-- /segmenters -->\n"
CLASSES = 7
"""Outputs of the networks whose parameters are counted: DeepGlobe's."""
HEAD = (
    "| `segmenter.name` | segmenter | `segmenter.encoder`, `output_stride` | parameters | stride of features "
    "| weights | where layout and variant come from |\n|---|---|---|---|---|---|---|\n"
)


def parameters(name: str) -> int:
    """Parameters of a segmenter's usual variant with 7 outputs, without auxiliary heads."""
    encoder, stride = KINDS[name].published
    segmenter = build_segmenter(SegmenterParams(name, encoder, stride, "random", auxiliary=False), CLASSES)
    return sum(parameter.numel() for parameter in segmenter.parameters())


def table() -> str:
    """Markdown, one row per segmenter, in the order of `KINDS`."""
    rows = []
    for name, kind in KINDS.items():
        encoder, stride = kind.published
        weights = "random" if weights_problem(encoder) else "ImageNet, random"
        cells = (
            f"`{name}`",
            f"{kind.title} ({kind.paper})",
            f"`{encoder}`, {stride}",
            f"{parameters(name):,}",
            str(kind.feature_stride),
            weights,
            kind.source,
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)


def with_table(text: str, table: str) -> str:
    """A text with the table between its markers instead of what was there.

    Raises:
        UserError: the markers are not there once each, the first one first.
    """
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end or BEGIN in old + after or END in before + after:
        raise UserError(
            f"{PAGE} has no place for the table of segmenters; put the lines {BEGIN.strip()} and {END.strip()} "
            "around it, once each and in this order"
        )
    return before + begin + table + end + after


def main() -> None:
    """Write the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), table()))
    print(f"segmenters: {PAGE}")


if __name__ == "__main__":
    run_stage(main)
