"""The plain patch: the base segmenter on the patch alone, the zero line for every gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scpseg.contract import Labels, Method, Needs, Setting, Views
from scpseg.params import Params
from scpseg.segmenters.base import Segmenter, normalise
from scpseg.segmenters.build import build_segmenter, check_segmenter


@dataclass(frozen=True)
class PatchParams:
    """Section `patch`: nothing to choose beyond the segmenter."""


SECTIONS: dict[str, type] = {"patch": PatchParams}


class Patch(Method):
    """Segments each patch without its surroundings."""

    def __init__(self, segmenter: Segmenter, patch: int) -> None:
        """Keep the segmenter; `patch` in pixels."""
        super().__init__()
        self.segmenter = segmenter
        self.weights = segmenter.weights
        self.needs = Needs(patch=patch, context=patch)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        logits: Tensor = self.segmenter(normalise(views.context, self.weights))
        return logits

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Those of the segmenter on the patch."""
        encoded = self.segmenter.encode(normalise(views.context, self.weights))
        return self.segmenter.losses(encoded, self.segmenter.decode(encoded), labels.context, progress)


def check(params: Params, benchmark: str) -> None:
    """Refuse impossible values.

    Raises:
        UserError: see `check_segmenter`.
    """
    params.section("patch", PatchParams)
    check_segmenter(params, benchmark)


def build(setting: Setting) -> Method:
    """The method from checked parameters."""
    return Patch(build_segmenter(setting.segmenter, setting.classes), setting.patch)
