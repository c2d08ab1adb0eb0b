"""Training windows, single or all of an image: sample k of step s is a pure function of (seed, s, k).

Resuming needs no loader state, and the number of workers does not change the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scpseg import parallel
from scpseg.contract import Labels, Needs, Views
from scpseg.data.overviews import Overview
from scpseg.data.store import Store
from scpseg.data.windows import Bytes, cut_label, starts, window_of

Box = tuple[float, float, float, float]
STRIP = 64
"""Columns that are written at a time when a window is turned by an odd number of quarters."""


class Cut(NamedTuple):
    """A window: the image's id, first row and column of its patch, whether it is flipped, and its quarter turns."""

    name: str
    top: int
    left: int
    flip: bool
    turns: int


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Random windows of the training images; item `step * batch + k` is sample k of that step.

    Positions are uniform over all pixels of all images, so larger images are sampled more often.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        needs: Needs,
        *,
        seed: int,
        batch: int,
        flips: bool,
        turns: bool,
        overviews: Mapping[str, Overview] | None = None,
    ) -> None:
        """Sample `split` of `store` for a method with `needs`; `overviews` by image id if it needs them."""
        self.store, self.split, self.needs = store, split, needs
        self.seed, self.batch, self.flips, self.turns = seed, batch, flips, turns
        self.overviews = overviews
        self.ids = store.ids(split)
        self.shapes = {name: store.label(split, name).shape for name in self.ids}
        self.ends = np.cumsum([height * width for height, width in self.shapes.values()])

    def batches_of(self, batch: int) -> WindowDataset:
        """The same windows with another batch size."""
        other = copy(self)
        other.batch = batch
        return other

    def covering(self) -> int:
        """Number of windows that cover all images, as in inference."""
        needs = self.needs
        return sum(
            len(starts(height, needs.patch, 0.0, needs.overlap)) * len(starts(width, needs.patch, 0.0, needs.overlap))
            for height, width in self.shapes.values()
        )

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sample: context (3, G, G), label (G, G), place (4,), and the overview with its label if needed."""
        return {key: tensor[0] for key, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The samples as a batch, as torch's DataLoader asks for them."""
        cuts = [self._draw(index) for index in indices]
        wholes = [self.whole(cut.name, cut.flip, cut.turns) for cut in cuts]
        return self.cut(cuts) | {key: torch.stack([whole[key] for whole in wholes]) for key in wholes[0]}

    def _draw(self, index: int) -> Cut:
        step, position = divmod(index, self.batch)
        random = np.random.default_rng([self.seed, step, position])
        name = self.ids[int(np.searchsorted(self.ends, random.integers(self.ends[-1]), side="right"))]
        flip = bool(random.integers(2)) and self.flips
        # Drawn in any case, so that positions do not change if flips are switched off.
        turns = int(random.integers(4)) * self.turns
        free = [max(size - self.needs.patch, 0) for size in self.shapes[name]]
        top, left = (int(share * (size + 1)) for share, size in zip(random.random(2), free, strict=True))
        return Cut(name, top, left, flip, turns)

    def cut(self, cuts: Sequence[Cut]) -> dict[str, Tensor]:
        """Context, label and place of windows, each written to its place in the batch: a copy less than stacking."""
        patch, side, places = self.needs.patch, self.needs.context, []
        contexts = np.empty((len(cuts), 3, side, side), dtype=np.uint8)
        labels = np.empty((len(cuts), side, side), dtype=np.uint8)
        for (name, top, left, flip, turns), context, label in zip(cuts, contexts, labels, strict=True):
            image, truth = self.store.image(self.split, name), self.store.label(self.split, name)
            height, width = truth.shape
            places.append(turned_box((top / height, left / width, patch / height, patch / width), flip, turns))
            top, left = top - (side - patch) // 2, left - (side - patch) // 2
            turn(window_of(image, top, left, side, side).transpose(2, 0, 1), flip, turns, context)
            turn(cut_label(truth, top, left, side), flip, turns, label)
        place = torch.tensor(places, dtype=torch.float32)
        return {"context": torch.from_numpy(contexts), "label": torch.from_numpy(labels), "place": place}

    def whole(self, name: str, flip: bool, turns: int) -> dict[str, Tensor]:
        """The overview of image `name` and its label, or nothing if it is not needed."""
        if self.overviews is None:
            return {}
        overview = self.overviews[name]
        return {
            "overview": turned(overview.image, flip, turns),
            "overview_label": turned(overview.label, flip, turns),
        }


def turned(array: Bytes, flip: bool, turns: int) -> Tensor:
    """Flip the last two axes, of equal length, left to right, then rotate counter-clockwise by `turns` quarters."""
    result = np.empty(array.shape, dtype=np.uint8)
    turn(array, flip, turns, result)
    return torch.from_numpy(result)


def turn(array: Bytes, flip: bool, turns: int, result: Bytes) -> None:
    """Write what `turned` returns to `result`."""
    if turns % 2:
        view = np.rot90(array[..., ::-1] if flip else array, turns, axes=(-2, -1))
        # Strips of the rows that become columns stay in the processor's cache; whole columns do not.
        for first in range(0, view.shape[-1], STRIP):
            result[..., first : first + STRIP] = view[..., first : first + STRIP]
        return
    result[:] = array[..., ::-1, :] if turns == 2 else array
    if flip != (turns == 2):
        result[:] = torch.from_numpy(result).flip(-1).numpy()  # numpy copies backwards byte by byte


def turned_box(box: Box, flip: bool, turns: int) -> Box:
    """Transform the box (top, left, height, width), relative to the image, as `turned` transforms the image."""
    top, left, height, width = box
    if flip:
        left = 1 - left - width
    for _ in range(turns % 4):
        top, left, height, width = 1 - left - width, top, width, height
    return top, left, height, width


def collate(parts: dict[str, Tensor]) -> tuple[Views, Labels]:
    """A batch as training wants it."""
    views = Views(parts["context"], parts["place"], parts.get("overview"))
    return views, Labels(parts["label"], parts.get("overview_label"))


class ImageDataset(Dataset[tuple[Views, Labels]]):
    """All windows that cover one training image, as in inference; for phases with unit 'image'.

    Item i is image i of an infinite sequence of shuffled passes over the images: a pure function of (seed, i).
    """

    def __init__(self, windows: WindowDataset) -> None:
        """Use the windows of `windows`; its batch size counts images."""
        self.windows, self.batch = windows, windows.batch

    def __getitem__(self, index: int) -> tuple[Views, Labels]:
        """The windows of one image, row by row before the image is flipped and rotated, and one overview."""
        windows = self.windows
        turn, position = divmod(index, len(windows.ids))
        # The ones separate these random numbers from those of single windows.
        order = np.random.default_rng([windows.seed, turn, 1, 1]).permutation(len(windows.ids))
        random = np.random.default_rng([windows.seed, turn, position, 1, 1])
        flip = bool(random.integers(2)) and windows.flips
        turns = int(random.integers(4)) if windows.turns else 0
        name = windows.ids[order[position]]
        height, width = windows.shapes[name]
        patch, least = windows.needs.patch, windows.needs.overlap
        rows, columns = starts(height, patch, 0.0, least), starts(width, patch, 0.0, least)
        views, labels = collate(windows.cut([Cut(name, top, left, flip, turns) for top in rows for left in columns]))
        whole = {key: tensor.unsqueeze(0) for key, tensor in windows.whole(name, flip, turns).items()}
        return (
            replace(views, overview=whole.get("overview")),
            replace(labels, overview=whole.get("overview_label")),
        )


class _Batches(Sampler[list[int]]):
    """Indices of the samples of each step, at the positions `own` of its batch."""

    def __init__(self, steps: range, batch: int, own: range) -> None:
        self.steps, self.batch, self.own = steps, batch, own

    def __iter__(self) -> Iterator[list[int]]:
        return ([step * self.batch + position for position in self.own] for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def loader(
    dataset: WindowDataset | ImageDataset, first_step: int, last_step: int, workers: int, pin: bool
) -> DataLoader[Any]:
    """The data of steps `first_step`..`last_step - 1` in order: (Views, Labels), or a list of them for images.

    Of a batch of windows that is split over processes, only the slice of this one.
    """
    own, batch = parallel.slice_of(dataset.batch), dataset.batch
    gather: Callable[[Any], Any] = collate if isinstance(dataset, WindowDataset) else list
    return DataLoader(
        dataset,
        batch_sampler=_Batches(range(first_step, last_step), batch, own),
        num_workers=workers,
        collate_fn=gather,
        pin_memory=pin,
        persistent_workers=workers > 0,
    )
