"""Write the table of base segmenters in docs/methods.md between its markers: `python -m pipelines.segmenters`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import write_text
from scpseg.params import SegmenterParams

PAGE = Path("docs/methods.md")
BEGIN, END = "<!-- segmenters -->\n", "<!-- /segmenters -->\n"
CLASSES = 7
"""Number of classes for the parameter counts: DeepGlobe's."""
HEAD = (
    "| `segmenter.name` | segmenter | `segmenter.encoder`, `output_stride` | parameters | stride of features "
    "| weights | where layout and variant come from |\n|---|---|---|---|---|---|---|\n"
)


def parameters(name: str) -> int:
    """Parameters of a segmenter with its usual encoder and 7 classes, without auxiliary heads."""
    from scpseg.segmenters.build import KINDS, build_segmenter

    encoder, stride = KINDS[name].published
    segmenter = build_segmenter(SegmenterParams(name, encoder, stride, "random", auxiliary=False), CLASSES)
    return sum(parameter.numel() for parameter in segmenter.parameters())


def table() -> str:
    """The table in Markdown, one row per segmenter, in the order of `KINDS`."""
    # Imported once the command line is parsed, because it imports torch.
    from scpseg.segmenters.build import KINDS
    from scpseg.segmenters.encoders import weights_problem

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


def with_table(text: str, table: str, begin: str = BEGIN, end: str = END, page: Path = PAGE) -> str:
    """Replace the text between the markers by the table.

    Raises:
        UserError: the markers do not occur exactly once, or not in order.
    """
    before, found, rest = text.partition(begin)
    old, closed, after = rest.partition(end)
    if not found or not closed or begin in old + after or end in before + after:
        raise UserError(
            f"{page} lacks the markers of its table; add the lines {begin.strip()} and {end.strip()}, "
            "once each and in this order"
        )
    return before + begin + table + end + after


def main() -> None:
    """Write the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), table()))
    print(f"segmenters: {PAGE}")


if __name__ == "__main__":
    run_stage(main)
