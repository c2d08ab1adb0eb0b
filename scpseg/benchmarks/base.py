"""Dataclasses that describe a benchmark; each file in this folder fills them in.

The index of a class in `classes` is its training id: the value in the prepared labels and the output channel of the
networks. Facts come from the benchmarks' pages and published code; docs/data.md lists those that could not be checked
against the original archives. No source address has been tried on the network. Sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:  # every command imports the benchmarks; drawing needs numpy and more
    import numpy as np
    from numpy.typing import NDArray

    from scpseg.synthetic import miniatures

Bytes: TypeAlias = "NDArray[np.uint8]"
Mask: TypeAlias = "NDArray[np.bool_]"
Pictures: TypeAlias = "miniatures.Pictures"
Packed: TypeAlias = "Iterator[tuple[str, str, Bytes]]"
"""Zip archive, path in the archive, picture; the file extension of the path determines the format."""
Colour = tuple[int, int, int]
Ids = dict[str, tuple[str, ...]]
"""Image ids by split: 'train', 'val', 'test'."""
How = Literal["files", "archive", "mirror", "share", "members", "kaggle", "huggingface", "drive"]
"""The kind of download of a source; see `Source.how`."""


@dataclass(frozen=True)
class Class:
    """A class: name, colour in the label files (a grey value three times for one band), whether it is in the mean."""

    name: str
    colour: Colour
    scored: bool = True


@dataclass(frozen=True)
class Layout:
    """Which files belong together: case-insensitive patterns for the path below the unpacked folder; labels by kind.

    Each pattern has the group `id`; if folders define the split, also `split`. If an image consists of `rows` x
    `columns` parts, which stage prepare joins, also `part`: the number of the part from 1, row by row.
    """

    image: str
    labels: Mapping[str, str]
    rows: int = 1
    columns: int = 1


@dataclass(frozen=True)
class File:
    """A file of a source; `labels` is the only kind of labels that needs it, '' = all kinds."""

    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    labels: str = ""


@dataclass(frozen=True)
class Source:
    """A source of a benchmark.

    Attributes:
        name: name in section `upstream`.
        folder: folder in the cache.
        how: kind of download: 'files' below an address, one 'archive', a 'mirror' that lists its archives, the file
            of a Seafile 'share', 'members' of the zip in such a share, or a client library.
        address: of the folder, the archive or the share; or a handle, a repository, a Drive folder.
        page: web page about it.
        download: bytes to download; None = unknown.
        disk: maximum bytes in the cache during the download (Kaggle's client unpacks); None = unknown.
        estimated: whether the two sizes are estimates.
        files: files to download. A client downloads its whole data set; files listed here are verified.
        password: of the share, as published by the owners of the benchmark.
        pattern: only these paths are downloaded; empty = all.
        notes: what the user must do or know first.
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
        """The files for images and this kind of labels."""
        return tuple(file for file in self.files if file.labels in ("", labels))


class Scene(NamedTuple):
    """A drawn image and its labels."""

    image: Bytes  # (H, W, 3)
    label: Bytes  # (H, W) training ids, 255 = ignored
    twin: Mask | None = None  # (H, W) True where two classes have the same surface


NOTE = (
    "The synthetic scenes favour methods that see context. About a fifth of their pixels are surfaces that look the "
    "same in two classes (a flat roof and a paved yard, a field and a meadow); only the surroundings show the "
    "class. A patch of 64 pixels holds such a surface with its surroundings for 2 to 6 % of these pixels, a window of "
    "128 pixels for 36 to 68 %, depending on the benchmark. How much of the real benchmarks is like this is not known."
)
"""A statement for readers of scores on synthetic scenes; `make soak` measures its figures."""


@dataclass(frozen=True)
class Miniature:
    """A small synthetic replacement for a benchmark. The functions import their modules when they are called.

    Attributes:
        draw: (side in pixels, seed, number of the image) -> the image and its training ids.
        pack: converts the images to the benchmark's files; None = <Split>/image/<id>.png and <Split>/label/<id>.png.
        wrap: changes the folder of zip archives if the benchmark is packed differently.
        kept: training images that are in every miniature.
    """

    draw: Callable[[int, int, int], Scene]
    pack: Callable[[Pictures], Packed] | None = None
    wrap: Callable[[Path], None] | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: name in params.yaml.
        title: display name.
        side: side of an image in pixels; images are square. With `any_size`, the side of a square with the area of the
            largest image, at which memory is measured.
        counts: labelled images in (train, val, test).
        ground_sampling: metres per pixel; None = not published.
        classes: in the order of the training ids.
        ignored: colours of pixels that are neither trained on nor scored.
        decoding: 'exact' colours, or 'threshold' = each channel is first thresholded at 128.
        masking: the kind of labels in which training id 0 is ignored; '' = none.
        unknown_share: maximum share of pixels per image with an unknown colour; these become ignored.
        layout: patterns of the image and label files.
        splits: split name -> folder in scpseg/benchmarks/splits; empty if folders define the split.
        mean_name: name of the mean over scored classes, 'mIoU' or 'building IoU'.
        any_size: whether images can have any height and width.
        values: if label files can contain class ids, the values of the classes, then those of ignored pixels.
        indexed: whether label files contain class ids: for images with a palette, its indices count, not its colours.
        invented: whether the benchmark is synthetic only.
        public_domain: whether anyone may redistribute its images, for example in a published report.
        terms: conditions that the user must know before a download.
        citation: publication to cite.
        notes: remarks for readers of the results.
        sources: the sources, in the default order of section `upstream`.
        archives: archives in <address>/<name>/ of a mirror without archives.json.
        by_hand: how to download it in a browser; completes a sentence that starts with 'by hand: '.
        miniature: its synthetic replacement for data.source `mirror`; None = it needs the real files.
        discs: training ids of the objects whose class only a cue determines; each of them is evaluated (the probe).
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
    public_domain: bool = False
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    archives: tuple[File, ...] = ()
    by_hand: str = ""
    miniature: Miniature | None = None
    discs: tuple[int, ...] = ()

    @property
    def scored(self) -> tuple[int, ...]:
        """Training ids that are included in the means."""
        return tuple(index for index, cls in enumerate(self.classes) if cls.scored)
