"""Patch: the base segmenter on the patch alone, the baseline for every gain."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.parts.patches import Patch
from scpseg.contract import Method, Setting
from scpseg.params import Params
from scpseg.segmenters.build import build_segmenter, check_segmenter


@dataclass(frozen=True)
class PatchParams:
    """Section `patch`: empty, because only the segmenter has parameters."""


SECTIONS: dict[str, type] = {"patch": PatchParams}


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter`.
    """
    params.section("patch", PatchParams)
    check_segmenter(params, benchmark)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    return Patch(build_segmenter(setting.segmenter, setting.classes), setting.patch)
