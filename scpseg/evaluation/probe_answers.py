"""Predictions of a method for every disc of the probe, and whether the method received the cue. This file is ours.

Two things are predicted for a disc: its kind, which the cue determines, and its texture.

Each disc is evaluated twice: in a window centred on it, where only its distance to the cue decides whether the cue is
visible, and in the windows of whole-image inference, where the position in the window matters as well.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from scpseg.benchmarks.probe import CUES, DIAMETERS, DISCS
from scpseg.contract import Method, Views, Window
from scpseg.data.windows import Bytes, cut_image, cut_label, starts
from scpseg.evaluation.streaming import TestImage

BATCH = 16
"""Centred windows per forward pass."""


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom` - 1, columns `left` to `right` - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def centre(self) -> tuple[int, int]:
        """Row and column of the pixel corner in the middle; the sides are even."""
        return (self.top + self.bottom) // 2, (self.left + self.right) // 2


@dataclass(frozen=True)
class Scene:
    """The objects in a label: the cue's box, and box, kind and texture (0 or 1 each) of every disc.

    `number` (H, W) is k + 1 on the pixels of disc k, otherwise 0.
    """

    cue: Box
    discs: tuple[Box, ...]
    kinds: tuple[int, ...]
    textures: tuple[int, ...]
    number: NDArray[np.int32]


@dataclass(frozen=True)
class Answer:
    """Result for one disc.

    Attributes:
        row: row of its centre in pixels.
        column: column of its centre in pixels.
        kind: 0 or 1, the ground truth.
        texture: 0 or 1, the ground truth.
        detail: side of the texture's bars or squares in pixels.
        distance: Chebyshev distance from its centre to the cue's in pixels.
        cue_side: side of the cue in pixels.
        centred: majority kind of its pixels in a window centred on it; None = no pixel is predicted as a disc.
        grid: the same with the windows of whole-image inference.
        centred_texture: majority texture of its pixels in a window centred on it, or None.
        grid_texture: the same with the windows of whole-image inference.
        visible: share 0..1 of the cue's pixels in the window that labels the disc's centre in whole-image inference,
            the largest if windows overlap; 1 for a method that uses an overview.
    """

    row: int
    column: int
    kind: int
    texture: int
    detail: int
    distance: int
    cue_side: int
    centred: int | None
    grid: int | None
    centred_texture: int | None
    grid_texture: int | None
    visible: float


def read_scene(label: Bytes) -> Scene:
    """The objects in a label (H, W) of the probe, discs in the order of their first pixels."""
    number, _ = ndimage.label(np.isin(label, DISCS))
    discs = tuple(_box(found) for found in ndimage.find_objects(number))
    classes = [np.argwhere(np.array(DISCS) == label[disc.centre])[0] for disc in discs]
    kinds, textures = (tuple(int(found[axis]) for found in classes) for axis in (0, 1))
    (cue,) = ndimage.find_objects(np.isin(label, CUES).astype(np.int8))
    return Scene(_box(cue), discs, kinds, textures, number.astype(np.int32))


@torch.inference_mode()
def answers(
    method: Method, image: Bytes, label: Bytes, prediction: Bytes, device: torch.device, overlap: float
) -> list[Answer]:
    """Results of `method` for every disc of an image.

    Args:
        method: in evaluation mode, on `device`.
        image: (H, W, 3) uint8.
        label: (H, W) training ids of the probe.
        prediction: (H, W), the labels of whole-image inference with `overlap`.
        device: where windows are computed.
        overlap: as in `scpseg.evaluation.streaming.segment`.
    """
    scene = read_scene(label)
    height, width = label.shape
    details = {diameter: detail for detail, diameter in DIAMETERS.items()}
    found = []
    for index, (disc, labels) in enumerate(
        zip(scene.discs, _centred(method, image, scene, device, overlap), strict=True)
    ):
        row, column = disc.centre
        patch = method.needs.patch
        mine = cut_label((scene.number == index + 1).astype(np.uint8), row - patch // 2, column - patch // 2, patch)
        centred, grid = _votes(labels[mine == 1]), _votes(prediction[scene.number == index + 1])
        found.append(
            Answer(
                row=row,
                column=column,
                kind=scene.kinds[index],
                texture=scene.textures[index],
                detail=details[disc.bottom - disc.top],
                distance=max(abs(row - scene.cue.centre[0]), abs(column - scene.cue.centre[1])),
                cue_side=scene.cue.bottom - scene.cue.top,
                centred=centred[0],
                grid=grid[0],
                centred_texture=centred[1],
                grid_texture=grid[1],
                visible=1.0
                if method.needs.overview is not None
                else visible(method.needs_at(height, width), (height, width), overlap, disc, scene.cue),
            )
        )
    return found


def visible(window: Window, size: tuple[int, int], overlap: float, disc: Box, cue: Box) -> float:
    """See `Answer.visible`; `size` is that of the image. Mirrored borders show only what the window contains anyway."""
    shares = [
        # The largest part of the cue, along one axis, in one of the windows that label the centre.
        max(
            max(0, min(last, start + (patch + context) // 2) - max(first, start - (context - patch) // 2))
            / (last - first)
            for start in starts(length, patch, overlap, window.overlap)
            if start <= centre < start + patch
        )
        for length, patch, context, centre, first, last in zip(
            size, window.patch, window.context, disc.centre, (cue.top, cue.left), (cue.bottom, cue.right), strict=True
        )
    ]
    return float(shares[0] * shares[1])


def table(found: Mapping[str, Sequence[Answer]]) -> str:
    """CSV of the results by image id; no kind is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", *(field.name for field in fields(Answer))])
    for name, discs in found.items():
        writer.writerows([name, *asdict(disc).values()] for disc in discs)
    return stream.getvalue()


def _centred(method: Method, image: Bytes, scene: Scene, device: torch.device, overlap: float) -> list[Bytes]:
    """Labels (L, L) of the window centred on each disc, with the sides of training.

    The method receives the image as in whole-image inference.
    """
    needs = method.needs
    height, width = image.shape[:2]
    state = method.begin_image(TestImage(image, method.needs_at(height, width), device, overlap))
    labels: list[Bytes] = []
    for first in range(0, len(scene.discs), BATCH):
        centres = [disc.centre for disc in scene.discs[first : first + BATCH]]
        side = needs.context
        cuts = [cut_image(image, y - side // 2, x - side // 2, side, side) for y, x in centres]
        boxes = [
            ((y - needs.patch // 2) / height, (x - needs.patch // 2) / width, needs.patch / height, needs.patch / width)
            for y, x in centres
        ]
        views = Views(torch.from_numpy(np.stack(cuts)), torch.tensor(boxes, dtype=torch.float32)).to(device)
        labels.extend(method(views, state).argmax(dim=1).to(torch.uint8).cpu().numpy())
    return labels


def _votes(labels: Bytes) -> tuple[int, int] | tuple[None, None]:
    """The majority kind and the majority texture of these labels, the first in a tie; None if no label is a disc."""
    counts = np.array([[(labels == disc).sum() for disc in kind] for kind in DISCS])
    if not counts.any():
        return None, None
    return int(counts.sum(axis=1).argmax()), int(counts.sum(axis=0).argmax())


def _box(found: tuple[slice, slice]) -> Box:
    rows, columns = found
    return Box(rows.start, columns.start, rows.stop, columns.stop)
