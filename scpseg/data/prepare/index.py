"""The store's index: compare what was found with what the benchmark expects, and describe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.layout import Pairing, Slot
from scpseg.data.acquire.manifest import Manifest
from scpseg.data.prepare.work import Job, Record
from scpseg.errors import UserError

SHOWN, NAMED = 3, 8  # sizes of images in a line, images in a warning


def build_index(job: Job, manifest: Manifest, pairing: Pairing, records: Mapping[Slot, Record]) -> dict[str, Any]:
    """What index.json of the store holds; UserError where no label of a whole real benchmark shows some class."""
    spec, choice, counts = job.spec, job.choice, pairing.expected
    present = {id for ids in pairing.ids.values() for id in ids}
    images = {}
    for split, ids in pairing.ids.items():
        for id in ids:
            image, label = records[Slot(split, id, "image")], records[Slot(split, id, "label")]
            images[f"{split}/{id}"] = {
                **{key: label[key] for key in ("height", "width", "pixels", "ignored", "unknown")},
                "near_threshold": label["near"],
                **{f"{kind}_sha256": record["array_sha256"] for kind, record in (("image", image), ("label", label))},
                **{f"{kind}_files": record["files"] for kind, record in (("image", image), ("label", label))},
            }
    if not (choice.partial or job.synthetic) and choice.split in spec.splits:
        _expect_classes(spec, images, choice.ignore_first)
    return {
        "benchmark": spec.name,
        "classes": [cls.name for cls in spec.classes],
        "inputs": job.inputs,
        "synthetic": manifest.synthetic,
        "source": manifest.source,
        "split": choice.split,
        "labels": manifest.labels,
        # Of a rotation, the images that are scored in all folds, and those that the first one is trained on.
        "expected": {
            part: sum(len(fold[part]) for fold in choice.folds if part != "train") or count
            for part, count in counts.items()
        },
        "ids": {split: list(ids) for split, ids in pairing.ids.items()},
        "folds": [{part: [id for id in ids if id in present] for part, ids in fold.items()} for fold in choice.folds],
        "images": images,
        "warnings": [*pairing.warnings, *_warnings(spec, images, job.sides == "most")],
    }


def summary(spec: Benchmark, index: Mapping[str, Any]) -> list[str]:
    """Lines that describe the contents of the store and what the benchmark expects."""
    images = index["images"].values()
    sizes = Counter(f"{image['height']} x {image['width']}" for image in images)
    often = sorted(sizes, key=lambda size: (-sizes[size], size))[:SHOWN]
    shown = ", ".join(f"{sizes[size]} of {size}" for size in often) + (", ..." if len(sizes) > SHOWN else "")
    found = {part: len(ids) for part, ids in index["ids"].items()}
    for part in found.keys() - {"train"} if index["folds"] else ():
        found[part] = sum(len(fold[part]) for fold in index["folds"])
    counts = ", ".join(f"{part} {count} of {index['expected'][part]}" for part, count in found.items())
    counts += f" in {len(index['folds'])} folds" if index["folds"] else ""
    ignored, unknown, near = (sum(image[key] for image in images) for key in ("ignored", "unknown", "near_threshold"))
    area = sum(image["height"] * image["width"] for image in images)
    pixels = _class_pixels(spec, index["images"])
    shares = ", ".join(f"{cls.name} {count / area:.2%}" for cls, count in zip(spec.classes, pixels, strict=True))
    own = "" if spec.any_size else f"; the benchmark's have {spec.side} x {spec.side}"
    lines = [
        f"{spec.name}: {counts}",
        f"{spec.name}: images (height x width) {shown}{own}",
        f"{spec.name}: labels {index['labels']}: {shares}, ignored {ignored / area:.2%}",
    ]
    if spec.decoding == "threshold":
        lines.append(
            f"{spec.name}: {unknown} pixels with a colour of no class, {near} with a channel near the threshold"
        )
    return lines


def _class_pixels(spec: Benchmark, images: Mapping[str, Any]) -> list[int]:
    return [sum(image["pixels"][index] for image in images.values()) for index in range(len(spec.classes))]


def _expect_classes(spec: Benchmark, images: Mapping[str, Any], ignore_first: bool) -> None:
    counts = _class_pixels(spec, images)
    absent = [cls.name for k, cls in enumerate(spec.classes) if not counts[k] and not (ignore_first and k == 0)]
    if absent:
        raise UserError(
            f"{spec.name}: no label has a pixel of class {', '.join(absent)}, so these are not its labels; "
            "download them again, or set data.partial: true to use them as they are"
        )


def _warnings(spec: Benchmark, images: Mapping[str, Any], crops: bool) -> list[str]:
    unknown = [f"{name} {image['unknown']}" for name, image in images.items() if image["unknown"]]
    unscored = {name: im for name, im in images.items() if not any(im["pixels"][index] for index in spec.scored)}
    blank = [name for name, image in unscored.items() if not sum(image["pixels"])]
    other = sum((image["height"], image["width"]) != (spec.side, spec.side) for image in images.values())
    warnings = []
    for what, names in (
        ("pixels of no class's colour, ignored", unknown),
        ("labels in which every pixel is ignored", blank),
        ("labels without a pixel of a scored class", [name for name in unscored if name not in blank]),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            warnings.append(f"{spec.name}: {what}: {', '.join(names[:NAMED])}{more}")
    if crops and other:
        warnings.append(f"{spec.name}: {other} of {len(images)} images are not of {spec.side} x {spec.side} pixels")
    return warnings
