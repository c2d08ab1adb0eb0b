"""What a method is, and what it may look at.

The training sampler, the streaming inferer, the memory meter and the report treat every method alike through
this page; that is what makes the comparison fair. Windows travel as uint8; a method normalises on the device,
after whatever reduces them.
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
    """What a method looks at, in pixels of the image.

    Attributes:
        patch: side L of the square that is labelled.
        context: side G of the square window handed over, the patch in its centre; G >= L, G - L even.
        overview: side T of the whole image reduced to T x T, or None.
        overlap: pixels that neighbouring patches share at least, whatever `inference.overlap` says; below L.
    """

    patch: int
    context: int
    overview: int | None = None
    overlap: int = 0

    @property
    def window(self) -> Window:
        """Square windows of these sides."""
        return Window((self.patch, self.patch), (self.context, self.context), self.overlap)


@dataclass(frozen=True)
class Window:
    """Sides (height, width) of the windows of one image at test time, in pixels.

    Attributes:
        patch: of what is labelled; it may be larger than the image, whose pixels are then mirrored and cut off again.
        context: of what is handed over, the patch in its centre; differences are even.
        overlap: see `Needs`.
    """

    patch: Size
    context: Size
    overlap: int = 0

    @staticmethod
    def whole(height: int, width: int, multiple: int, least: int = 1) -> Window:
        """The whole image as one window, each side rounded up to a multiple and to `least` pixels."""
        rows, columns = (math.ceil(max(side, least) / multiple) * multiple for side in (height, width))
        return Window((rows, columns), (rows, columns))


@dataclass(frozen=True)
class Views:
    """What a method sees of B windows.

    Attributes:
        context: (B, 3, G, G) uint8, its centre L x L is what gets labelled; mirrored outside the image. At test time
            its sides are those of `Method.needs_at`.
        place: (B, 4) float32, the patch's box in its image as (top, left, height, width), shares of the
            image's sides, 0..1 inside. Always in host memory: it says which cells to cut, and a GPU would be waited
            for each time it is read.
        overview: (B, 3, T, T) uint8, the whole image, flipped and turned together with the window; or None.
    """

    context: Tensor
    place: Tensor
    overview: Tensor | None = None

    def to(self, device: torch.device) -> Views:
        """The same views with their pixels on `device`; copies from pinned memory do not block."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Views:
        """The same views in page-locked memory; the data loader calls this by name."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Views:
        overview = None if self.overview is None else change(self.overview)
        return Views(change(self.context), self.place, overview)


@dataclass(frozen=True)
class Labels:
    """The truth of B windows, uint8 training ids, 255 = ignore.

    Attributes:
        context: (B, G, G), 255 outside the image.
        overview: (B, T, T) nearest-resized labels of the whole image, or None.
    """

    context: Tensor
    overview: Tensor | None = None

    def to(self, device: torch.device) -> Labels:
        """The same labels on `device`."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Labels:
        """The same labels in page-locked memory; the data loader calls this by name."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Labels:
        return Labels(change(self.context), None if self.overview is None else change(self.overview))


@dataclass(frozen=True)
class Recipe:
    """How its authors optimise a phase, where that replaces the recipe that all methods share.

    Attributes:
        optimizer: 'sgd' or 'adam'; the weight decay of both is an L2 term in the gradient.
        learning_rate: at the start of the phase.
        weight_decay: see `optimizer`.
        batch: windows (unit 'window') or images (unit 'image') per iteration.
        epochs: passes over the training images; the phase takes ceil(epochs * images / batch) iterations, and
            `train.iterations` does not count. None = it does.
        steps: iterations of the phase, where authors count these instead of epochs.
        momentum: of 'sgd'.
        nesterov: whether that momentum is Nesterov's.
        power: the rate falls as (1 - t) ** power with t from 0 to 1 in the phase; None = half a cosine.
        end: the rate that the fall by `power` ends at.
        drops: the values of t from which on the rate is a tenth of what it was before; they replace `power`.
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

    @property
    def own_length(self) -> bool:
        """Whether it counts steps or epochs of its own, so that `train.iterations` does not."""
        return self.steps is not None or self.epochs is not None


Sight = Literal["window", "overview"]
"""A part of `Views`."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    One rule sets its length for every method: `train.iterations` steps at the benchmark's batch. A method with several
    phases takes that many in each, so that no network that is used at test time is trained for less than another
    method's. What is needed beforehand may be capped by `epochs`.

    Attributes:
        name: of the branch that learns, for the history, the record, and `Method.begin_phase`.
        learns: prefixes of the parameter names that move; everything else is frozen, statistics of batch norm
            included. None = everything learns.
        unit: 'window' hands over batches of windows; 'image' the N windows that cover one image, in the order of
            testing, with `Views.overview` (1, 3, T, T) and `Labels.overview` (1, T, T). One image per iteration, or
            `recipe.batch` images whose gradients are averaged.
        windows: with unit 'image', at most so many windows reach `losses` at once, and gradients are averaged over
            windows, so that memory does not grow with the image; None = all N, bounded by the method itself.
        recipe: the authors' optimisation; None = section `train`, as for everybody.
        clip: largest norm of the whole gradient, a longer one is shortened to it; None = never.
        epochs: the most passes over the training data that a phase with the shared recipe takes, its authors' number.
            A pass is every image once, or every window that covers them where single windows are seen. None = no cap;
            at least one phase has none.
        sees: what its losses look at; the record counts pixels by it.
        summed: with unit 'image', gradients of all portions are added, as some authors do, not averaged.
        checks: how often the validation split is scored, evenly spread and at the end, where authors keep the best
            state instead of the last; the branch of the phase's name is scored where there is one. 0 = keep the last.
    """

    name: str
    learns: tuple[str, ...] | None = None
    unit: Literal["window", "image"] = "window"
    windows: int | None = None
    recipe: Recipe | None = None
    clip: float | None = None
    epochs: int | None = None
    sees: tuple[Sight, ...] = ("window", "overview")
    summed: bool = False
    checks: int = 0


class ImageViews(Protocol):
    """One image at test time, as `Method.begin_image` may look at it, as often as it likes."""

    def overview(self, side: int) -> Tensor:
        """The whole image reduced by area to (1, 3, side, side), uint8, on the method's device."""
        ...

    def windows(self) -> Iterator[Views]:
        """The windows in the order in which `forward` will get them, on the method's device."""
        ...


@dataclass(frozen=True)
class Weights:
    """The initial weights of an encoder.

    Attributes:
        source: repository or package with its revision, or 'random'.
        sha256: of the loaded tensors, '' for random weights.
        mean: of the normalisation that the weights were trained with, per channel in 0..1; ImageNet's for random ones.
        std: as `mean`.
    """

    source: str
    sha256: str = ""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Method(nn.Module, ABC):
    """A network with its losses. Subclasses set `needs` and `weights` on construction.

    A method, and any module inside it, may name children that only training uses in `training_parts`.
    """

    needs: Needs
    weights: Weights
    training_parts: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L) of the patches, of the sides that `needs_at` names; called at test time only."""

    @abstractmethod
    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Training losses by name, scalars whose sum is minimised; `progress` runs from 0 to 1 in the phase."""

    def needs_at(self, height: int, width: int) -> Window:
        """The windows of an image of these sides at test time. Default: those of training.

        A method that sees the whole image at once answers with `Window.whole`.
        """
        return self.needs.window

    def begin_image(self, image: ImageViews) -> Any:
        """What `forward` needs to know of the whole image, computed once per image. Default: nothing."""
        return None

    def phases(self) -> tuple[Phase, ...]:
        """The stretches of training in order. Default: one, everything learns."""
        return (Phase("all"),)

    def branches(self) -> dict[str, Method]:
        """Parts that label images alone, by name, around the same weights: they are scored beside the whole.

        A method whose combined output scores below one of its own branches is flagged. Default: none.
        """
        return {}

    def begin_phase(self, name: str, fresh: bool) -> None:
        """Training enters phase `name`: at its first iteration (`fresh`), or resuming within it. Default: nothing.

        Only when `fresh` may weights be written, such as one part's copied into another.
        """
        return None

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes and settings, flat, for the result row; a method adds its own."""
        return {"patch": self.needs.patch, "context": self.needs.context, "overview": self.needs.overview}


@dataclass(frozen=True)
class Setting:
    """What a method is built from: number of outputs, patch side L in pixels, base segmenter, all parameters.

    `benchmark` is its name, for authors' recipes that differ between benchmarks.
    """

    classes: int
    patch: int
    segmenter: SegmenterParams
    params: Params
    benchmark: str = ""


def drop_training_parts(method: Method) -> Method:
    """Remove, in place, the modules that only training uses, and return the method in evaluation mode."""
    for module in list(method.modules()):
        for name in getattr(module, "training_parts", ()):
            setattr(module, name, None)
    return method.eval()
