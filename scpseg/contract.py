"""The interface of a method, and the inputs it receives.

The training sampler, whole-image inference, the memory measurement and the report use every method through this
interface only, which keeps the comparison fair. Windows are uint8 until a method has reduced them on the device;
then it normalises them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from scpseg.geometry import Size
from scpseg.params import Params, SegmenterParams
from scpseg.tuning import Optimizer


@dataclass(frozen=True)
class Needs:
    """Inputs that a method needs, in image pixels.

    Attributes:
        patch: side L of the square that is labelled.
        context: side G of the square context window, with the patch in its centre; G >= L, G - L even.
        overview: side T of the overview, the whole image reduced to T x T, or None.
        overlap: minimum overlap of neighbouring patches in pixels, whatever `inference.overlap` is; less than L.
    """

    patch: int
    context: int
    overview: int | None = None
    overlap: int = 0

    @property
    def window(self) -> Window:
        """Square windows with these sides."""
        return Window((self.patch, self.patch), (self.context, self.context), self.overlap)


@dataclass(frozen=True)
class Window:
    """Sides (height, width) of the windows of an image at test time, in pixels.

    Attributes:
        patch: the labelled area; if it is larger than the image, the image is mirrored and the result cropped.
        context: the context window, with the patch in its centre; the differences of the sides are even.
        overlap: see `Needs`.
    """

    patch: Size
    context: Size
    overlap: int = 0

    @staticmethod
    def whole(height: int, width: int, multiple: int, least: int = 1) -> Window:
        """One window for the whole image; each side is rounded up to a multiple and is at least `least` pixels."""
        rows, columns = (math.ceil(max(side, least) / multiple) * multiple for side in (height, width))
        return Window((rows, columns), (rows, columns))


@dataclass(frozen=True)
class Views:
    """The inputs for B windows.

    Attributes:
        context: (B, 3, G, G) uint8, of which the central L x L is labelled; mirrored outside the image. At test time
            the sides are those of `Method.needs_at`.
        place: (B, 4) float32, the box of the patch as (top, left, height, width) relative to the sides of the image;
            0..1 is inside. Always in host memory: it is used to compute indices, and reading it from a GPU would
            synchronise each time.
        overview: (B, 3, T, T) uint8, the reduced whole image with the same flips and rotations as the window; or None.
    """

    context: Tensor
    place: Tensor
    overview: Tensor | None = None

    def take(self) -> Tensor:
        """The context. In whole-image inference the views then no longer hold it, so a forward calls this once.

        The memory of a window is free as soon as the method has reduced it, before the network runs.
        """
        return self.context

    def to(self, device: torch.device) -> Views:
        """The same views with their pixels on `device`; copies from pinned memory are asynchronous."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Views:
        """The same views in pinned memory; the data loader calls this method by its name."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Views:
        overview = None if self.overview is None else change(self.overview)
        return Views(change(self.context), self.place, overview)


@dataclass(frozen=True)
class Labels:
    """Ground truth of B windows: uint8 training ids, 255 = ignore.

    Attributes:
        context: (B, G, G), 255 outside the image.
        overview: (B, T, T), labels of the whole image, resized by nearest neighbour; or None.
    """

    context: Tensor
    overview: Tensor | None = None

    def to(self, device: torch.device) -> Labels:
        """The same labels on `device`."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Labels:
        """The same labels in pinned memory; the data loader calls this method by its name."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Labels:
        return Labels(change(self.context), None if self.overview is None else change(self.overview))


@dataclass(frozen=True)
class Recipe:
    """The authors' optimisation of a phase, where it replaces the shared recipe.

    Attributes:
        optimizer: 'sgd' or 'adam'; the weight decay of both is an L2 term in the gradient.
        learning_rate: initial learning rate of the phase.
        weight_decay: see `optimizer`.
        batch: windows (unit 'window') or images (unit 'image') per iteration.
        epochs: passes over the training images, each of ceil(images / batch) iterations; `train.iterations` is
            ignored. None = `train.iterations` applies.
        steps: iterations of the phase, if the authors count these instead of epochs.
        momentum: momentum of 'sgd'.
        nesterov: whether to use Nesterov momentum.
        power: the learning rate decays as (1 - t) ** power, with t from 0 to 1 in the phase; None = half a cosine.
        end: final learning rate of the decay by `power`.
        drops: values of t at which the learning rate is divided by 10; they replace `power`.
        drop_last: whether a pass drops its last batch if that is not full, so that it has floor(images / batch)
            iterations, but at least one.
    """

    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    batch: int
    epochs: int | None = None
    steps: int | None = None
    momentum: float = 0.9
    nesterov: bool = False
    power: float | None = None
    end: float = 0.0
    drops: tuple[float, ...] = ()
    drop_last: bool = False

    @property
    def own_length(self) -> bool:
        """Whether it sets its own number of steps or epochs, so that `train.iterations` is ignored."""
        return self.steps is not None or self.epochs is not None


Sight = Literal["window", "overview"]
"""A field of `Views`."""


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    The length of a phase follows one rule for every method: `train.iterations` steps with the benchmark's batch size.
    A method with several phases uses that many in each; those that only prepare the scored output may be limited by
    `epochs`.

    Attributes:
        name: of the trained branch, for the history, the record, and `Method.begin_phase`.
        learns: prefixes of the names of trained parameters; all others are frozen, with their batch norm statistics.
            None = all parameters are trained.
        unit: 'window' passes batches of windows; 'image' passes the N windows that cover one image, in the order of
            inference, with `Views.overview` (1, 3, T, T) and `Labels.overview` (1, T, T). One image per iteration, or
            `recipe.batch` images with averaged gradients.
        windows: with unit 'image', maximum number of windows per call of `losses`; gradients are averaged over windows,
            so that memory does not grow with the image. None = all N; the method itself bounds its memory.
        recipe: the authors' optimisation; None = section `train`, which all methods share.
        clip: maximum norm of the gradient; None = no clipping.
        epochs: maximum number of passes over the training data in a phase with the shared recipe, as the authors have
            it. A pass is every image once, or with unit 'window' every window that covers them. None = no limit; at
            least one phase has none.
        sees: inputs of its losses, by which the record counts pixels.
        side: of the centre of the window that its losses see; None = the whole window.
        summed: with unit 'image', add the gradients of all portions instead of averaging, as some authors do.
        checks: how many times the validation split is scored, at regular intervals and at the end, where the authors
            keep the best state instead of the last; scores the branch with the phase's name if there is one. 0 = keep
            the last.
    """

    name: str
    learns: tuple[str, ...] | None = None
    unit: Literal["window", "image"] = "window"
    windows: int | None = None
    recipe: Recipe | None = None
    clip: float | None = None
    epochs: int | None = None
    sees: tuple[Sight, ...] = ("window", "overview")
    side: int | None = None
    summed: bool = False
    checks: int = 0


class ImageViews(Protocol):
    """One image at test time, the argument of `Method.begin_image`; it can be read any number of times."""

    def overview(self, side: int) -> Tensor:
        """The whole image reduced by area to (1, 3, side, side), uint8, on the method's device."""
        ...

    def windows(self) -> Iterator[Views]:
        """The windows in the order of the calls of `forward`, on the method's device."""
        ...


@dataclass(frozen=True)
class Weights:
    """The initial weights of an encoder.

    Attributes:
        source: repository or package with its revision, or 'random'.
        sha256: of the loaded tensors; '' for random weights.
        mean: channel means of the normalisation, in 0..1; those of ImageNet for random weights.
        std: channel standard deviations, in 0..1.
    """

    source: str
    sha256: str = ""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Predictor(nn.Module, ABC):
    """A network that labels images: what inference needs. Subclasses set `needs` and `weights` in the constructor."""

    needs: Needs
    weights: Weights

    @abstractmethod
    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L) of the patches, with the sides that `needs_at` returns; called at test time only."""

    def needs_at(self, height: int, width: int) -> Window:
        """The windows for an image of this size at test time. Default: those of training.

        A method that processes the whole image at once returns `Window.whole`.
        """
        return self.needs.window

    def begin_image(self, image: ImageViews) -> Any:
        """Compute, once per image, the state that `forward` receives. Default: none."""
        return None


class Method(Predictor):
    """A predictor and its losses.

    A method, and any module in it, can list children that are used in training only in `training_parts`.
    """

    training_parts: tuple[str, ...] = ()

    @abstractmethod
    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Training losses by name, scalars that are summed and minimised; `progress` is 0..1 in the phase."""

    def phases(self) -> tuple[Phase, ...]:
        """The phases of training in order. Default: one phase that trains all parameters."""
        return (Phase("all"),)

    def branches(self) -> dict[str, Predictor]:
        """Parts that can label images alone, by name, with the same weights; they are scored as well.

        A method whose combined output scores below one of its branches is flagged. Default: none.
        """
        return {}

    def begin_phase(self, name: str, fresh: bool) -> None:
        """Called when training enters phase `name`, at its first step (`fresh`) or after a resume. Default: nothing.

        Weights may be changed only if `fresh` is true, for example to copy one part's weights to another.
        """
        return None

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes and settings for the result row, as a flat dict; methods add their own."""
        return {"patch": self.needs.patch, "context": self.needs.context, "overview": self.needs.overview}


@dataclass(frozen=True)
class Setting:
    """Arguments from which a method is built: number of classes, patch side L in pixels, segmenter, all parameters.

    `benchmark` is the benchmark's name, for authors' recipes that differ between benchmarks.
    """

    classes: int
    patch: int
    segmenter: SegmenterParams
    params: Params
    benchmark: str = ""


def drop_training_parts(method: Method) -> Method:
    """Remove the modules that are used in training only, in place, and return the method in evaluation mode."""
    for module in list(method.modules()):
        for name in getattr(module, "training_parts", ()):
            setattr(module, name, None)
    return method.eval()


def set_weights(method: nn.Module, weights: Weights) -> None:
    """Let every part of a method normalise images as a network that started from these weights, in place."""
    for module in method.modules():
        if isinstance(getattr(module, "weights", None), Weights):
            module.weights = weights  # type: ignore[assignment]
