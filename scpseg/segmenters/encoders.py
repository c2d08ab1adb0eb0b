"""Encoders of segmentation-models-pytorch by name: which exist, what they can do, what they start from."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from scpseg.contract import Weights
from scpseg.errors import UserError
from scpseg.params import Params, SegmenterParams
from scpseg.validation import nearest

TIMM = "tu-"
"""Prefix of an encoder that timm provides."""


@lru_cache
def encoder_problem(name: str, output_stride: int, side: int) -> str | None:
    """Why the encoder cannot give maps at strides 4 and `output_stride` of a `side` pixel patch, or None.

    The encoder is built, then run on the meta device: shapes without arithmetic. The random state is left as it was.
    """
    import segmentation_models_pytorch as smp

    unknown = _unknown(name, smp.encoders.get_encoder_names())
    if unknown:
        return unknown
    try:
        with torch.random.fork_rng(devices=[]):
            encoder = smp.encoders.get_encoder(name, weights=None, output_stride=output_stride)
        maps = encoder.to("meta").eval()(torch.empty(1, 3, side, side, device="meta"))
    except Exception as error:  # any third-party constructor or forward pass: its own words are the reason
        reason = " ".join(str(error).split()).rstrip(".!")
        return f"it cannot work at output stride {output_stride} on {side} pixel patches ({reason}); try resnet18"
    for map_, stride in ((maps[2], 4), (maps[-1], output_stride)):
        if tuple(map_.shape[-2:]) != (side // stride, side // stride):
            return (
                f"its map at stride {stride} of a {side} pixel patch has {map_.shape[-2]} x {map_.shape[-1]} cells "
                f"instead of {side // stride} x {side // stride}; try resnet18"
            )
    return None


def _unknown(name: str, known: list[str]) -> str | None:
    if not name.startswith(TIMM):
        return None if name in known else f"there is no such encoder; {nearest(name, known)}"
    import timm

    if timm.is_model(name.removeprefix(TIMM)):
        return None
    # timm knows more than a thousand: the close ones only.
    close = difflib.get_close_matches(name.removeprefix(TIMM).partition(".")[0], timm.list_models(), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(TIMM + model for model in close)}?" if close else "see timm.list_models()"
    return f"timm has no such encoder; {hint}"


def weights_problem(name: str) -> str | None:
    """Why there are no ImageNet weights for a known encoder, or None."""
    try:
        imagenet_source(name)
    except KeyError:
        return f"there are no such weights for the encoder {name}; set segmenter.weights to random"
    return None


def imagenet_source(name: str) -> str:
    """'repository@revision' of an encoder's ImageNet weights; timm has no fixed revision.

    Raises:
        KeyError: there are none.
    """
    if name.startswith(TIMM):
        import timm

        config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        if config is None or not config.has_weights:
            raise KeyError(name)
        return str(config.hf_hub_id or f"timm/{name.removeprefix(TIMM)}")
    import segmentation_models_pytorch as smp

    settings = smp.encoders.encoders[name]["pretrained_settings"]["imagenet"]
    return f"{settings['repo_id']}@{settings['revision']}"


def library_weights(params: SegmenterParams) -> Any:
    """`params.weights` in the library's own terms: None, 'imagenet', or True for encoders of timm."""
    if params.weights == "random":
        return None
    return True if params.encoder.startswith(TIMM) else "imagenet"


@contextmanager
def fetching(params: SegmenterParams) -> Iterator[None]:
    """Turn a failure to fetch weights into a sentence; nothing is caught where none are fetched.

    Raises:
        UserError: the weights could not be fetched.
    """
    try:
        yield
    except Exception as error:
        if params.weights == "random":
            raise
        # The encoder itself was probed before; what is left to fail is the fetching, in any of several libraries.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"segmenter.weights is 'imagenet', but {imagenet_source(params.encoder)} could not be fetched ({reason}); "
            "connect this machine once, after which they are cached, or set `-S segmenter.weights=random`"
        ) from error


def weights_of(params: SegmenterParams, encoder: nn.Module) -> Weights:
    """What a freshly built encoder started from."""
    if params.weights == "random":
        return Weights("random")
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return Weights(imagenet_source(params.encoder), digest.hexdigest())


def build_encoder(params: SegmenterParams, name: str, output_stride: int = 32) -> tuple[Any, Weights]:
    """The encoder `name` and what it starts from, `params.weights`.

    Raises:
        UserError: ImageNet weights could not be fetched.
    """
    import segmentation_models_pytorch as smp

    own = replace(params, encoder=name)
    with fetching(own):
        encoder = smp.encoders.get_encoder(name, weights=library_weights(own), output_stride=output_stride)
    return encoder, weights_of(own, encoder)


def check_encoder(params: Params, key: str, name: str, output_stride: int, side: int) -> None:
    """Reject an encoder of a method's own, the value of `key`, that cannot work on inputs of `side` pixels.

    Raises:
        UserError: it is unknown, gives other maps than asked for, or has no ImageNet weights where these are wanted.
    """
    problem = encoder_problem(name, output_stride, side)
    if not problem and params.section("segmenter", SegmenterParams).weights == "imagenet":
        problem = weights_problem(name)
    if problem:
        raise params.refuse(key, name, problem)
