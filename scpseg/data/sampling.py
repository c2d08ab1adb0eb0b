"""Training windows, single or all of an image: sample k of step s is a pure function of (seed, s, k).

Resuming needs no loader state, and the number of workers does not change the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from scpseg import parallel
from scpseg.contract import Labels, Needs, Views
from scpseg.data.overviews import Overview
from scpseg.data.store import Store
from scpseg.data.windows import Bytes, cut_label, starts, window_of

Box = tuple[float, float, float, float]
STRIP = 64
"""Columns that are written at a time when a window is turned by an odd number of quarters."""


class WindowDataset(Dataset[dict[str, Any]]):
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: context (3, G, G), label (G, G), place (4,), and the overview with its label if needed."""
        step, position = divmod(index, self.batch)
        random = np.random.default_rng([self.seed, step, position])
        number = int(np.searchsorted(self.ends, random.integers(self.ends[-1]), side="right"))
        flip = bool(random.integers(2)) and self.flips
        # Drawn in any case, so that positions do not change if flips are switched off.
        turns = int(random.integers(4)) * self.turns
        shares = random.random(2)
        return self.sample(self.ids[number], shares, flip, turns)

    def sample(self, name: str, shares: NDArray[np.float64], flip: bool, turns: int) -> dict[str, Any]:
        """The window of image `name` whose patch is at `shares` (0..1) of the possible rows and columns."""
        free = [max(size - self.needs.patch, 0) for size in self.shapes[name]]
        top, left = (int(share * (size + 1)) for share, size in zip(shares, free, strict=True))
        return self.cut(name, top, left, flip, turns) | self.whole(name, flip, turns)

    def cut(self, name: str, top: int, left: int, flip: bool, turns: int) -> dict[str, Any]:
        """Context, label and place of the window of image `name` whose patch starts at pixel (top, left)."""
        image, label = self.store.image(self.split, name), self.store.label(self.split, name)
        height, width = label.shape
        patch, side = self.needs.patch, self.needs.context
        place = turned_box((top / height, left / width, patch / height, patch / width), flip, turns)
        top, left = top - (side - patch) // 2, left - (side - patch) // 2
        return {
            "context": turned(window_of(image, top, left, side, side).transpose(2, 0, 1), flip, turns),
            "label": turned(cut_label(label, top, left, side), flip, turns),
            "place": torch.tensor(place, dtype=torch.float32),
        }

    def whole(self, name: str, flip: bool, turns: int) -> dict[str, Any]:
        """The overview of image `name` and its label, or nothing if it is not needed."""
        if self.overviews is None:
            return {}
        overview = self.overviews[name]
        return {
            "overview": turned(overview.image, flip, turns),
            "overview_label": turned(overview.label, flip, turns),
        }


def turned(array: Bytes, flip: bool, turns: int) -> Tensor:
    """Flip the last two axes left to right, then rotate counter-clockwise by `turns` quarters; as a tensor."""
    view = np.rot90(array[..., ::-1] if flip else array, turns, axes=(-2, -1))
    if turns % 2 == 0:
        return torch.from_numpy(np.ascontiguousarray(view))
    # Rows become columns: strips of them stay in the processor's cache, whole columns do not.
    result = np.empty(view.shape, dtype=np.uint8)
    for first in range(0, view.shape[-1], STRIP):
        result[..., first : first + STRIP] = view[..., first : first + STRIP]
    return torch.from_numpy(result)


def turned_box(box: Box, flip: bool, turns: int) -> Box:
    """Transform the box (top, left, height, width), relative to the image, as `turned` transforms the image."""
    top, left, height, width = box
    if flip:
        left = 1 - left - width
    for _ in range(turns % 4):
        top, left, height, width = 1 - left - width, top, width, height
    return top, left, height, width


def collate(samples: list[dict[str, Any]]) -> tuple[Views, Labels]:
    """Collate samples into one batch."""
    parts = default_collate(samples)
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
        views, labels = collate(
            [
                windows.cut(name, top, left, flip, turns)
                for top in starts(height, patch, 0.0, least)
                for left in starts(width, patch, 0.0, least)
            ]
        )
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
    return DataLoader(
        dataset,
        batch_sampler=_Batches(range(first_step, last_step), batch, own),
        num_workers=workers,
        collate_fn=collate if isinstance(dataset, WindowDataset) else list,
        pin_memory=pin,
        persistent_workers=workers > 0,
    )
