"""What a benchmark is: the dataclasses that each file of this folder fills in.

The index of a class in `classes` is its training id: the value in the prepared labels and the channel that networks
predict. Facts come from the benchmarks' pages and the code of the field; docs/data.md lists those that could not be
checked against the original archives. No address of a source has been tried live. Sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:  # every command imports the benchmarks; what draws needs numpy and more
    import numpy as np
    from numpy.typing import NDArray

    from scpseg.synthetic import miniatures

Bytes: TypeAlias = "NDArray[np.uint8]"
Mask: TypeAlias = "NDArray[np.bool_]"
Pictures: TypeAlias = "miniatures.Pictures"
Packed: TypeAlias = "Iterator[tuple[str, str, Bytes]]"
"""Zip archive, path in it, picture; the ending of the path decides the format."""
Colour = tuple[int, int, int]
Ids = dict[str, tuple[str, ...]]
"""Image ids by split: 'train', 'val', 'test'."""
How = Literal["files", "archive", "mirror", "share", "members", "kaggle", "huggingface", "drive"]
"""Which code fetches a source; see `Source.how`."""


@dataclass(frozen=True)
class Class:
    """One class: name, colour in the label files (a grey value three times for one band), counted in the mean."""

    name: str
    colour: Colour
    scored: bool = True


@dataclass(frozen=True)
class Layout:
    """Which files belong together: patterns on the path below the unpacked folder, ignoring case; labels by kind.

    Each pattern has the group `id`; where folders give the split, also `split`. An image that comes in `rows` x
    `columns` parts, which prepare pastes, has the group `part`: its number from 1, row by row.
    """

    image: str
    labels: Mapping[str, str]
    rows: int = 1
    columns: int = 1


@dataclass(frozen=True)
class File:
    """One file that a source serves; `labels` names the only kind of labels that needs it, '' = every kind."""

    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    labels: str = ""


@dataclass(frozen=True)
class Source:
    """One place that serves a benchmark.

    Attributes:
        name: as in section `upstream`.
        folder: its folder in the cache.
        how: which code fetches it: 'files' below an address, one 'archive', a 'mirror' that lists its archives, the
            file of a Seafile 'share', 'members' of the zip in such a share, or a client library.
        address: of the files' folder, the archive, the share; or a handle, a repository, a Drive folder.
        page: where a person reads about it.
        download: bytes to fetch, None where unknown.
        disk: most bytes in the cache while it is fetched (Kaggle's client unpacks), None where unknown.
        estimated: the two sizes are rough.
        files: what is fetched. A client brings whatever its data set holds; a file named here must be as it says.
        password: of the share, published by the benchmark's owners.
        pattern: the only paths to fetch, empty = all.
        notes: what a person must do, or know, first.
    """

    name: str
    folder: str
    how: How
    address: str
    page: str
    download: int | None
    disk: int | None
    estimated: bool = True
    files: tuple[File, ...] = ()
    password: str = ""
    pattern: str = ""
    notes: str = ""

    def wanted(self, labels: str) -> tuple[File, ...]:
        """The files that images and this kind of labels need."""
        return tuple(file for file in self.files if file.labels in ("", labels))


class Scene(NamedTuple):
    """A drawn picture and its truth."""

    image: Bytes  # (H, W, 3)
    label: Bytes  # (H, W) training ids, 255 = ignored
    twin: Mask | None = None  # (H, W) True where the surface looks the same in two classes


@dataclass(frozen=True)
class Miniature:
    """A small synthetic stand-in for a benchmark. The functions import what they need when they are called.

    Attributes:
        draw: (side in pixels, seed, number of the picture) -> the picture and its training ids.
        pack: the pictures as upstream's files; None = PNG pairs <Split>/image/<id>.png and <Split>/label/<id>.png.
        wrap: changes the folder of zip archives where upstream packs otherwise.
        kept: training images that every miniature has.
    """

    draw: Callable[[int, int, int], Scene]
    pack: Callable[[Pictures], Packed] | None = None
    wrap: Callable[[Path], None] | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as in params.yaml.
        title: for tables.
        side: side of an image in pixels; images are square. With `any_size`, the side of a square whose area is that of
            the largest image, at which memory is measured.
        counts: labelled images in (train, val, test).
        ground_sampling: metres per pixel; None = not published.
        classes: in the order of the training ids.
        ignored: colours of pixels that are neither trained on nor counted.
        decoding: 'exact' colours, or 'threshold' = each channel cut at 128 first.
        masking: the kind of labels in which training id 0 is ignored; '' = none.
        unknown_share: share of an image's pixels that may carry no class's colour; they become ignored.
        layout: which files are images and labels.
        splits: split name -> folder under scpseg/benchmarks/splits; empty where the folders give the split.
        mean_name: what the mean over scored classes is called, 'mIoU' or 'building IoU'.
        any_size: images have any height and width.
        values: of a benchmark whose label files may hold class numbers: those of the classes, then of ignored pixels.
        indexed: label files hold class numbers: the indices of a palette count, not its colours.
        invented: no real benchmark: only the mirror can write it.
        terms: what the user must know before downloading.
        citation: what to cite.
        notes: what a reader of the results must know.
        sources: who serves it, in the order in which section `upstream` lists them by default.
        archives: what <address>/<name>/ of a mirror without archives.json holds.
        by_hand: how a person gets it in a browser; completes a sentence that begins with 'by hand: '.
        miniature: its synthetic stand-in for data.source `mirror`; None = it cannot be used without the real files.
        discs: training ids of things whose kind only a cue tells; evaluation judges each of them (the probe).
    """

    name: str
    title: str
    side: int
    counts: tuple[int, int, int]
    ground_sampling: float | None
    classes: tuple[Class, ...]
    decoding: Literal["exact", "threshold"]
    layout: Layout
    splits: Mapping[str, str]
    terms: str
    citation: str
    ignored: tuple[Colour, ...] = ()
    masking: str = ""
    unknown_share: float = 0.0
    mean_name: str = "mIoU"
    any_size: bool = False
    values: tuple[int, ...] = ()
    indexed: bool = False
    invented: bool = False
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    archives: tuple[File, ...] = ()
    by_hand: str = ""
    miniature: Miniature | None = None
    discs: tuple[int, ...] = ()

    @property
    def scored(self) -> tuple[int, ...]:
        """Training ids that enter the means."""
        return tuple(index for index, cls in enumerate(self.classes) if cls.scored)
