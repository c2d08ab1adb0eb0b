"""Large patch: plain patches as large as SCPSeg's context window, the cost of the same context without squeezing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from baselines.parts.patches import Patch
from scpseg.contract import Method, Setting
from scpseg.params import Params
from scpseg.segmenters.build import build_segmenter, check_segmenter, maps_problem, side_problem
from scpseg.validation import Range


@dataclass(frozen=True)
class LargeParams:
    """Section `large`: `scale`, its patch side relative to the benchmark's L; as a control, equal to `csm.context`."""

    scale: Annotated[float, Range(1, 16)]


SECTIONS: dict[str, type] = {"large": LargeParams}


def side_of(params: Params, patch: int) -> int:
    """Its patch side in pixels, given the benchmark's."""
    return round(patch * params.section("large", LargeParams).scale)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter`; the segmenter does not support the resulting side.
    """
    segmenter = check_segmenter(params, benchmark)
    side = side_of(params, params.benchmark(benchmark).patch)
    problem = side_problem(segmenter, side) or maps_problem(segmenter, side)
    if problem:
        scale = params.section("large", LargeParams).scale
        raise params.invalid("large.scale", scale, f"it gives patches of {side} pixels on {benchmark}: {problem}")


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    return Patch(build_segmenter(setting.segmenter, setting.classes), side_of(setting.params, setting.patch))
