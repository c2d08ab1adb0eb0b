"""Large patch: plain patches of the side of SCPSeg's window, the price of seeing as many pixels unsqueezed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from scpseg.contract import Method, Setting
from scpseg.params import Params
from scpseg.segmenters.build import build_segmenter, check_segmenter, maps_problem, side_problem
from scpseg.segmenters.patches import Patch
from scpseg.validation import Range


@dataclass(frozen=True)
class LargeParams:
    """Section `large`: `scale`, the side of its patches over the benchmark's patch L; `csm.context` for a control."""

    scale: Annotated[float, Range(1, 16)]


SECTIONS: dict[str, type] = {"large": LargeParams}


def side_of(params: Params, patch: int) -> int:
    """Side of its patches in pixels where the benchmark's is `patch`."""
    return round(patch * params.section("large", LargeParams).scale)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter`; a scale that gives a side which the segmenter cannot work with.
    """
    segmenter = check_segmenter(params, benchmark)
    side = side_of(params, params.benchmark(benchmark).patch)
    problem = side_problem(segmenter, side) or maps_problem(segmenter, side)
    if problem:
        scale = params.section("large", LargeParams).scale
        raise params.invalid("large.scale", scale, f"it gives patches of {side} pixels on {benchmark}: {problem}")


def build(setting: Setting) -> Method:
    """The method from checked parameters."""
    return Patch(build_segmenter(setting.segmenter, setting.classes), side_of(setting.params, setting.patch))
