"""Build base segmenters by name, and check their parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm
from typing import Literal

from scpseg.params import Params, SegmenterParams
from scpseg.segmenters import ddrnet, pidnet, segformer, topformer
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.deeplabv3plus import DeepLabV3Plus
from scpseg.segmenters.encoders import encoder_problem, weights_problem
from scpseg.segmenters.fcn import FCN
from scpseg.segmenters.fcn8s import FCN8s
from scpseg.segmenters.lanet import LANet
from scpseg.segmenters.pspnet import PSPNet
from scpseg.validation import nearest

Stride = Literal[8, 16, 32]


@dataclass(frozen=True)
class Kind:
    """Properties of a segmenter that are known before it is built.

    Attributes:
        build: builds the segmenter from (params, classes).
        title: display name.
        paper: short reference.
        published: encoder and output stride of the paper's table 5, or our choice if the table names none.
        source: origin of the layout and of our choices, as a phrase.
        output_strides: supported output strides of the encoder.
        feature_stride: stride of the features before the classifier, in pixels.
        multiple: the sides of the input must be multiples of this and of the output stride.
        batch: smallest number of windows in a training step, given the side of the input in pixels.
        encoders: supported encoders, smallest first; None = any encoder of segmentation-models-pytorch.
    """

    build: Callable[[SegmenterParams, int], Segmenter]
    title: str
    paper: str
    published: tuple[str, Stride]
    source: str
    output_strides: tuple[Stride, ...]
    feature_stride: int
    multiple: int
    batch: Callable[[int], int]
    encoders: tuple[str, ...] | None = None


def _one(side: int) -> int:
    return 1


def _two(side: int) -> int:
    """Two, where a map is pooled to one value per window: batch norm needs more than one value per channel."""
    return 2


KINDS: dict[str, Kind] = {
    "deeplabv3plus": Kind(
        DeepLabV3Plus,
        "DeepLabv3+",
        "Chen et al., ECCV 2018",
        ("resnet18", 8),
        "variant named by the paper; network of segmentation-models-pytorch",
        output_strides=(8, 16),
        feature_stride=4,
        multiple=4,
        batch=_two,
    ),
    "fcn8s": Kind(
        FCN8s,
        "FCN-8s",
        "Long et al., CVPR 2015",
        ("resnet50", 8),
        "encoder named by the paper; head without skips as in WiCoNet's repository",
        output_strides=(8,),
        feature_stride=8,
        multiple=8,
        batch=_one,
    ),
    "fcn": Kind(
        FCN,
        "FCN, wide head",
        "Long et al., CVPR 2015",
        ("resnet50", 8),
        "the other reading of FCN-8s: head as in mmsegmentation, without dropout",
        output_strides=(8,),
        feature_stride=8,
        multiple=8,
        batch=_one,
    ),
    "pspnet": Kind(
        PSPNet,
        "PSPNet",
        "Zhao et al., CVPR 2017",
        ("resnet50", 8),
        "variant ours; head as published, without dropout, widths as in mmsegmentation",
        output_strides=(8,),
        feature_stride=8,
        multiple=8,
        batch=_two,
    ),
    "segformer": Kind(
        segformer.SegFormer,
        "SegFormer",
        "Xie et al., NeurIPS 2021",
        ("mit_b0", 32),
        "variant ours; network of segmentation-models-pytorch",
        output_strides=(32,),
        feature_stride=4,
        multiple=32,
        batch=_one,
        encoders=segformer.VARIANTS,
    ),
    "lanet": Kind(
        LANet,
        "LANet",
        "Ding et al., TGRS 2021",
        ("resnet50", 16),
        "variant ours; layout as published, maps joined before the classifiers, attention without norm",
        output_strides=(16,),
        feature_stride=4,
        multiple=16,
        batch=_one,
    ),
    "topformer": Kind(
        topformer.TopFormer,
        "TopFormer",
        "Zhang et al., CVPR 2022",
        ("topformer-b", 32),
        "variant ours; layout as published, without dropout",
        output_strides=(32,),
        feature_stride=8,
        multiple=32,
        batch=lambda side: 2 if side <= topformer.TOKEN else 1,
        encoders=tuple(topformer.VARIANTS),
    ),
    "ddrnet": Kind(
        ddrnet.DDRNet,
        "DDRNet",
        "Hong et al., 2021",
        ("ddrnet-23-slim", 8),
        "variant ours; layout as published, plain cross-entropy",
        output_strides=(8,),
        feature_stride=8,
        multiple=8,
        batch=_two,
        encoders=tuple(ddrnet.VARIANTS),
    ),
    "pidnet": Kind(
        pidnet.PIDNet,
        "PIDNet",
        "Xu et al., CVPR 2023",
        ("pidnet-s", 8),
        "variant ours; layout as published, plain cross-entropy, borders from the labels",
        output_strides=(8,),
        feature_stride=8,
        multiple=8,
        batch=_two,
        encoders=tuple(pidnet.VARIANTS),
    ),
}


def check_segmenter(params: Params, benchmark: str) -> SegmenterParams:
    """Check section `segmenter` for a benchmark, and return it.

    Raises:
        UserError: the segmenter or encoder is unknown, does not support the output stride, patch side or batch size, or
            has no ImageNet weights.
    """
    segmenter = params.section("segmenter", SegmenterParams)
    sizes = params.benchmark(benchmark)
    if segmenter.name not in KINDS:
        raise params.invalid(
            "segmenter.name", segmenter.name, f"it is not a segmenter; {nearest(segmenter.name, KINDS)}"
        )
    kind, stride = KINDS[segmenter.name], segmenter.output_stride
    if kind.encoders is not None and segmenter.encoder not in kind.encoders:
        encoder, published = kind.published
        why = f"{segmenter.name} does not support it; {nearest(segmenter.encoder, kind.encoders)}"
        why += f" (usual: segmenter.encoder={encoder} with segmenter.output_stride={published})"
        raise params.invalid("segmenter.encoder", segmenter.encoder, why)
    if stride not in kind.output_strides:
        valid = " or ".join(map(str, kind.output_strides))
        raise params.invalid("segmenter.output_stride", stride, f"{segmenter.name} supports output stride {valid}")
    problem = side_problem(segmenter, sizes.patch)
    if problem:
        raise params.invalid(f"{benchmark}.patch", sizes.patch, problem)
    fewest = fewest_windows(segmenter, sizes.patch)
    if sizes.batch < fewest:
        why = f"{segmenter.name} needs at least {fewest} windows of {sizes.patch} pixels per step"
        raise params.invalid(f"{benchmark}.batch", sizes.batch, f"{why}; set it to {fewest} or more")
    problem = maps_problem(segmenter, sizes.patch)
    if problem:
        raise params.invalid("segmenter.encoder", segmenter.encoder, problem)
    problem = weights_problem(segmenter.encoder) if segmenter.weights == "imagenet" else None
    if problem:
        raise params.invalid("segmenter.weights", segmenter.weights, problem)
    return segmenter


def side_problem(segmenter: SegmenterParams, side: int) -> str | None:
    """Why a known segmenter does not support inputs of `side` pixels, with the nearest valid side, or None."""
    multiple = lcm(KINDS[segmenter.name].multiple, segmenter.output_stride)
    if side % multiple == 0:
        return None
    near = max(1, (side + multiple // 2) // multiple) * multiple
    why = f"it must be a multiple of {multiple} for {segmenter.name} at output stride {segmenter.output_stride}"
    return f"{why}; the nearest valid value is {near}"


def maps_problem(segmenter: SegmenterParams, side: int) -> str | None:
    """Why the feature maps of the encoder do not fit a known segmenter, or None; see `encoder_problem`."""
    if KINDS[segmenter.name].encoders is not None:
        return None  # encoder and decoder belong together
    return encoder_problem(segmenter.encoder, segmenter.output_stride, side)


def fewest_windows(segmenter: SegmenterParams, side: int) -> int:
    """Smallest number of inputs of `side` pixels in a training step of a known segmenter."""
    return KINDS[segmenter.name].batch(side)


def feature_stride(name: str) -> int:
    """Stride, in pixels, of the features of a known segmenter."""
    return KINDS[name].feature_stride


def build_segmenter(params: SegmenterParams, classes: int) -> Segmenter:
    """Build a segmenter with `classes` outputs from a section that passed `check_segmenter`.

    Raises:
        UserError: the ImageNet weights could not be downloaded.
    """
    return KINDS[params.name].build(params, classes)
