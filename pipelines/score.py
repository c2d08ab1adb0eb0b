"""Score label maps of any method with the suite's own confusion matrix; no network is run.

FOLDER contains one label map per image of the split, named by its id (10452.png) or like the benchmark's files
(10452_mask.png): PNG or TIFF with class ids or the benchmark's colours, or .npy with class ids. Scores are written to
results/contributed/NAME/BENCHMARK/SPLIT, and a row marked "label maps handed in" to results/contributed/NAME.csv.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines import paths
from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.data.prepare.decode import Pixels, decode_label, read_pixels
from scpseg.data.store import Store
from scpseg.errors import UserError
from scpseg.evaluation.confusion import Metrics, confusion, described, metrics
from scpseg.files import read_json, replacing, write_json

CONTRIBUTED = Path("results/contributed")
ENDINGS = (".png", ".tif", ".tiff", ".npy")
SHOWN = 3
"""Number of names shown in a message."""


def slug(name: str) -> str:
    """Turn a method's name into a file name.

    Raises:
        UserError: no valid character is left.
    """
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not made:
        raise UserError(f"--name {name!r} has neither letters nor digits; give the method's name")
    return made


def find_maps(
    folder: Path, ids: tuple[str, ...], spec: Benchmark, expected: set[str]
) -> tuple[dict[str, Path], list[str]]:
    """The file of every image, and the names of files that belong to no image of the split.

    Args:
        folder: contains the label maps, at any depth.
        ids: images of the split.
        spec: benchmark whose file names are also recognised.
        expected: ids of the benchmark's other splits, whose files are ignored silently.

    Raises:
        UserError: the folder is missing, or an image has no file or two.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a directory; name the folder with the label maps")
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in (*spec.layout.labels.values(), spec.layout.image)]
    found: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS):
        relative = path.relative_to(folder).as_posix()
        endings = [relative, *(f"{relative.removesuffix(path.suffix)}{ending}" for ending in (*ENDINGS, ".jpg"))]
        named = [match["id"] for pattern in patterns for name in endings if (match := pattern.search(name))]
        name = next((name for name in (path.stem, *named) if name in ids), None)
        if name is None:
            others += [] if path.stem in expected or expected.intersection(named) else [relative]
        elif name in found:
            first = found[name].relative_to(folder).as_posix()
            raise UserError(f"{folder}: {first} and {relative} are both of image {name}; keep one")
        else:
            found[name] = path
    missing = [name for name in ids if name not in found]
    if missing:
        more = f"; not of this split: {_few(others)}" if others else ""
        example = f"{missing[0]}.png or {missing[0]}.npy"
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(ids)} label maps: {_few(missing)}{more}; name each file by its id, "
            f"such as {example}"
        )
    return found, others


def read_map(path: Path, spec: Benchmark) -> Pixels:
    """(H, W) class ids of a label map.

    Raises:
        UserError: the file cannot be read, or contains values or colours that are not classes.
    """
    classes, name = len(spec.classes), path.name
    if path.suffix.lower() == ".npy":
        try:
            ids = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{name} cannot be read as an array of class ids ({error})") from None
        if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu":
            kind = f"{ids.dtype} of shape {ids.shape}" if isinstance(ids, np.ndarray) else "no array"
            raise UserError(f"{name} contains {kind}; save class ids as a two-dimensional array of integers")
        return _checked(ids, classes, name)
    pixels, indices = read_pixels(path, name), read_pixels(path, name, indices=True)
    if indices.ndim == 2 and pixels.ndim == 3:
        # Colours of a palette are used if they are the benchmark's, otherwise its indices are class ids.
        used = {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
        pixels = pixels if used <= {cls.colour for cls in spec.classes} else indices
    if pixels.ndim == 2 and pixels.max(initial=0) < classes:
        return pixels
    return _checked(decode_label(pixels, spec, name).ids, classes, name)


def _checked(ids: np.ndarray, classes: int, name: str) -> Pixels:
    wrong = (ids < 0) | (ids >= classes)
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise UserError(
            f"{name}: {int(wrong.sum())} pixels are not of a class, the first at row {row}, column {column} with value "
            f"{ids[row, column]}; every pixel needs a class id from 0 to {classes - 1} or a class's colour"
        )
    return ids.astype(np.uint8)


def score(maps: Mapping[str, Path], store: Store, split: str, spec: Benchmark) -> tuple[np.ndarray, Metrics]:
    """A confusion matrix per image in the split's order, and the metrics of their sum.

    Raises:
        UserError: see `read_map`; a map and its image have different sizes.
    """
    matrices = []
    truths = {name: fold.label(split, name) for fold in store.all_folds() for name in fold.ids(split)}
    for name, truth in truths.items():
        prediction = read_map(maps[name], spec)
        if truth.shape != prediction.shape:
            (height, width), (rows, columns) = truth.shape, prediction.shape
            raise UserError(
                f"{maps[name].name} has {rows} x {columns} pixels (rows x columns), the image {name} has {height} x "
                f"{width}; resize it with nearest neighbour, or provide a map of the whole image"
            )
        matrices.append(confusion(truth, prediction, len(spec.classes)))
    return np.stack(matrices), metrics(np.sum(matrices, axis=0), spec.scored)


def work(folder: Path, benchmark: str, name: str, split: str, note: str = "") -> None:
    """Score, and write results/contributed/NAME."""
    from scpseg.reporting.contributed import MAPS, add_row  # imports pandas, for which --help need not wait

    spec, store, place = get_benchmark(benchmark), Store(paths.store(benchmark)), slug(name)
    ids = tuple(name for fold in store.all_folds() for name in fold.ids(split))
    if not ids:
        raise UserError(f"{benchmark} has no {split} image in its store; prepare it first, or choose another --split")
    others = {other for part in store.index["ids"] for other in store.ids(part)} - set(ids)
    maps, extra = find_maps(folder, ids, spec, others)
    out = CONTRIBUTED / place / benchmark / split
    if (out / "metrics.json").is_file():
        other = read_json(out / "metrics.json", {"method": str, str: object})["method"]
        if other != name:
            why = f"{out} has the scores of {other!r}"
            raise UserError(f"--name {name!r}: {why}; choose a name with other letters or digits")
    matrices, result = score(maps, store, split, spec)
    with replacing(out / "confusion.npz") as temporary:
        np.savez_compressed(temporary, ids=np.array(ids), matrices=matrices)
    known = {"benchmark": benchmark, "method": name, "split": split, "split_list": store.index["split"]}
    known |= {"images": len(ids)}
    synthetic = bool(store.index["synthetic"])
    write_json(out / "metrics.json", {**known, "synthetic": synthetic, "metrics": described(result, spec)})
    scores = {"mean_iou": result.mean_iou, "mean_f1": result.mean_f1, "accuracy": result.accuracy}
    notes = "; ".join(filter(None, ("procedural scenes" if synthetic else "", note)))
    add_row(CONTRIBUTED / f"{place}.csv", {**known, **scores, "kind": MAPS, "note": notes})
    if extra:
        print(f"ignored, because no image of the split has this name: {_few(extra)}")
    shown = "none occurs" if result.mean_iou is None else f"{result.mean_iou:.4f}"
    print(f"{benchmark} {name}: {spec.mean_name} {shown} on {len(ids)} {split} images; {CONTRIBUTED / place}.csv")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def main() -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--benchmark", required=True, choices=list(BENCHMARKS))
    parser.add_argument("--name", required=True, metavar="METHOD", help="name of the method in the tables")
    parser.add_argument("--split", default="test", choices=("test", "val"))
    parser.add_argument("--note", default="", help="remarks for the reader, such as the address of the code")
    asked = parser.parse_args()
    work(asked.folder, asked.benchmark, asked.name, asked.split, asked.note)


if __name__ == "__main__":
    run_stage(main)
