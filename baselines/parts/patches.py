"""A base segmenter on single patches: the baseline without context."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scpseg.contract import Labels, Method, Needs, Views
from scpseg.segmenters.base import Segmenter, normalise


class Patch(Method):
    """Segments each patch without its context."""

    def __init__(self, segmenter: Segmenter, patch: int) -> None:
        """Store the segmenter; `patch` is the side in pixels."""
        super().__init__()
        self.segmenter = segmenter
        self.weights = segmenter.weights
        self.needs = Needs(patch=patch, context=patch)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        logits: Tensor = self.segmenter(normalise(views.take(), self.weights))
        return logits

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """The segmenter's losses on the patch."""
        encoded = self.segmenter.encode(normalise(views.context, self.weights))
        return self.segmenter.losses(encoded, self.segmenter.decode(encoded), labels.context, progress)
