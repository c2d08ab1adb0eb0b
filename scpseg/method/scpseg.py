"""SCPSeg (Liu, Duan, Kang, Li, IJCAI 2025): the context is squeezed into a frame around the patch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from scpseg import IGNORE_INDEX
from scpseg.contract import Labels, Method, Needs, Setting, Views
from scpseg.method.csm import CSMParams, Sizes, centre, patch_of, sizes, squeeze, squeeze_labels
from scpseg.method.lfa import LFAParams, alignment
from scpseg.method.srd import SRDParams, SuperResolutionDecoder
from scpseg.params import Params
from scpseg.segmenters.base import Segmenter, normalise
from scpseg.segmenters.build import build_segmenter, check_segmenter, feature_stride

SECTIONS: dict[str, type] = {"csm": CSMParams, "srd": SRDParams, "lfa": LFAParams}


class SCPSeg(Method):
    """A segmenter on squeezed windows; at test time it needs no more memory than on plain patches."""

    training_parts = ("srd",)

    def __init__(self, segmenter: Segmenter, sizes: Sizes, csm: CSMParams, srd: SRDParams, lfa: LFAParams) -> None:
        """Store the segmenter; the super-resolution decoder is built only if its loss has a weight."""
        super().__init__()
        self.segmenter = segmenter
        self.weights = segmenter.weights
        self.srd = SuperResolutionDecoder(segmenter) if srd.weight else None
        self.sizes, self.csm, self.srd_weight, self.lfa = sizes, csm, srd.weight, lfa
        self.needs = Needs(patch=sizes.patch, context=sizes.context)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L) of the patches: squeeze, segment, crop the frame, upsample [ours]."""
        logits: Tensor = self.segmenter(normalise(squeeze(views.take(), self.sizes, self.csm.kernel), self.weights))
        if self.sizes.frame == 0:
            return logits
        size = (self.sizes.patch, self.sizes.patch)
        return F.interpolate(centre(logits, self.sizes), size=size, mode="bilinear", align_corners=False)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Weighted losses: the segmenter's on the squeezed window; 'srd' and 'lfa' if their weights are not 0."""
        window = normalise(squeeze(views.context, self.sizes, self.csm.kernel), self.weights)
        encoded = self.segmenter.encode(window)
        features = self.segmenter.decode(encoded)
        target = squeeze_labels(labels.context, self.sizes)
        if self.csm.supervise == "centre":
            target = F.pad(centre(target, self.sizes), [self.sizes.frame] * 4, value=IGNORE_INDEX)
        losses = self.segmenter.losses(encoded, features, target, progress)
        if self.srd is None:
            return losses
        detail = self.srd.features(self.segmenter.deep(encoded), self.segmenter.low(encoded), self.sizes)
        truth = normalise(patch_of(views.context, self.sizes), self.weights)
        losses["srd"] = self.srd_weight * F.l1_loss(self.srd(detail).float(), truth)
        if self.lfa.weight:
            losses["lfa"] = self.lfa.weight * alignment(centre(features, self.sizes), detail, self.lfa)
        return losses

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, and the settings of the three modules."""
        return super().describe() | {
            "squeezed": self.sizes.squeezed,
            "csm_ratio": self.sizes.squeezed / self.sizes.patch,
            "csm_context": self.sizes.context / self.sizes.patch,
            "csm_kernel": self.csm.kernel,
            "supervise": self.csm.supervise,
            "srd_weight": self.srd_weight,
            "lfa_weight": self.lfa.weight,
            "lfa_window": self.lfa.window,
            "lfa_stride": self.lfa.stride,
            "lfa_detach": self.lfa.detach,
        }


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter` and `sizes`; LFA without SRD; an LFA window that is larger than the map.
    """
    segmenter = check_segmenter(params, benchmark)
    stride = feature_stride(segmenter.name)
    effective = _sizes(params, params.benchmark(benchmark).patch, stride)
    srd, lfa = params.section("srd", SRDParams), params.section("lfa", LFAParams)
    if not lfa.weight:
        return
    if not srd.weight:
        why = f"LFA (lfa.weight {lfa.weight:g}) needs the features of the decoder, which weight 0 disables"
        raise params.invalid("srd.weight", srd.weight, f"{why}; set it above 0, or set lfa.weight to 0")
    cells = effective.squeezed // stride
    if lfa.window > cells:
        why = f"the features of the squeezed patch of {benchmark} have {cells} x {cells} cells"
        raise params.invalid("lfa.window", lfa.window, f"{why}; the nearest valid value is {cells}")


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    segmenter = build_segmenter(setting.segmenter, setting.classes)
    return SCPSeg(
        segmenter,
        _sizes(setting.params, setting.patch, segmenter.feature_stride),
        setting.params.section("csm", CSMParams),
        setting.params.section("srd", SRDParams),
        setting.params.section("lfa", LFAParams),
    )


def _sizes(params: Params, patch: int, stride: int) -> Sizes:
    csm = params.section("csm", CSMParams)
    return sizes(patch, csm.ratio, csm.context, stride, params.path.name)
