"""Base segmenters by name, and what their parameters may be."""

from __future__ import annotations

from dataclasses import dataclass

from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.deeplabv3plus import DeepLabV3Plus
from scpseg.segmenters.encoders import encoder_problem, weights_problem
from scpseg.segmenters.fcn8s import FCN8s
from scpseg.values import nearest


@dataclass(frozen=True)
class Kind:
    """What is known of a segmenter before it is built.

    Attributes:
        cls: built from (params, classes).
        output_strides: of the encoder, that it works with.
        feature_stride: of its last features, in pixels.
        batch: fewest windows in a training step.
    """

    cls: type[DeepLabV3Plus] | type[FCN8s]
    output_strides: tuple[int, ...]
    feature_stride: int
    batch: int


KINDS = {
    # ASPP pools each window to one value, and batch norm needs more than one value per channel.
    "deeplabv3plus": Kind(DeepLabV3Plus, (8, 16), feature_stride=4, batch=2),
    "fcn8s": Kind(FCN8s, (8,), feature_stride=8, batch=1),
}
NAMES = tuple(KINDS)


def check_segmenter(params: Params, benchmark: str) -> SegmenterParams:
    """The section `segmenter`, known to work on the benchmark's patches.

    Raises:
        UserError: unknown segmenter or encoder, an output stride, patch or batch that they cannot work with, no
            ImageNet weights for the encoder.
    """
    segmenter = params.section("segmenter", SegmenterParams)
    sizes = params.benchmark(benchmark)
    if segmenter.name not in KINDS:
        raise params.refuse(
            "segmenter.name", segmenter.name, f"there is no such segmenter; {nearest(segmenter.name, KINDS)}"
        )
    kind, stride = KINDS[segmenter.name], segmenter.output_stride
    if stride not in kind.output_strides:
        valid = " or ".join(map(str, kind.output_strides))
        raise params.refuse("segmenter.output_stride", stride, f"{segmenter.name} works at output stride {valid}")
    if sizes.patch % stride:
        near = max(1, (sizes.patch + stride // 2) // stride) * stride
        why = f"it must be a multiple of the encoder's output stride {stride}; the nearest valid value is {near}"
        raise params.refuse(f"{benchmark}.patch", sizes.patch, why)
    if sizes.batch < kind.batch:
        why = f"{segmenter.name} cannot train on fewer than {kind.batch} windows a step; set it to {kind.batch} or more"
        raise params.refuse(f"{benchmark}.batch", sizes.batch, why)
    problem = encoder_problem(segmenter.encoder, stride, sizes.patch)
    if problem:
        raise params.refuse("segmenter.encoder", segmenter.encoder, problem)
    problem = weights_problem(segmenter.encoder) if segmenter.weights == "imagenet" else None
    if problem:
        raise params.refuse("segmenter.weights", segmenter.weights, problem)
    return segmenter


def feature_stride(name: str) -> int:
    """Stride in pixels of the last features of a known segmenter."""
    return KINDS[name].feature_stride


def build_segmenter(params: SegmenterParams, classes: int) -> Segmenter:
    """A segmenter with `classes` outputs from a section that `check_segmenter` accepts.

    Raises:
        UserError: ImageNet weights could not be fetched.
    """
    return KINDS[params.name].cls(params, classes)
