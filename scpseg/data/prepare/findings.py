"""What was found against what the spec expects: the store's index, the refusal of a mismatch, and words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.layout import KINDS, Slot
from scpseg.data.prepare.filework import Record
from scpseg.data.prepare.plan import Plan
from scpseg.errors import UserError

SHOWN = 3
"""Sizes of images named in a line."""


def check_same(record: Record, other: Record) -> None:
    """Refuse an image and its label of different size.

    Raises:
        UserError: they differ.
    """
    image, label = (record, other) if "pixels" in other else (other, record)
    sizes = [(one["height"], one["width"]) for one in (image, label)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{image['path']} has {sizes[0][0]} x {sizes[0][1]} pixels (height x width), but its label "
            f"{label['path']} has {sizes[1][0]} x {sizes[1][1]}; fetch both again"
        )


def build_index(plan: Plan, records: Mapping[Slot, Record]) -> dict[str, Any]:
    """What index.json of the store holds.

    Raises:
        UserError: an image without label, a part of the benchmark without leave, or a class that no label of a whole
            real benchmark shows.
    """
    spec, manifest, pairing = plan.job.spec, plan.manifest, plan.pairing()
    images = {}
    for split, pairs in pairing.pairs.items():
        for pair in pairs:
            image, label = (records.get((split, pair.id, kind)) for kind in KINDS)
            if image is None or label is None:  # only where folders give the split, so that nothing else gives the id
                raise UserError(
                    f"{pair.image} and {pair.label} differ in upper and lower case; "
                    "unpack them, give both the same name and name the folder in data.source"
                )
            images[f"{split}/{pair.id}"] = {
                "height": image["height"],
                "width": image["width"],
                "image_sha256": image["array_sha256"],
                "label_sha256": label["array_sha256"],
                "pixels": label["pixels"],
                "ignored": label["ignored"],
                "unknown": label["unknown"],
                "near_threshold": label["near"],
                "image_file": _file(image),
                "label_file": _file(label),
            }
    if plan.job.sides == "exact" and plan.choice.split in spec.splits:
        _expect_classes(spec, images, plan.job.ignore_first)
    warnings = [*pairing.warnings, *_warnings(spec, images, plan.job.sides == "most")]
    return {
        "benchmark": spec.name,
        "synthetic": manifest.synthetic,
        "source": manifest.source,
        "split": plan.choice.split,
        "labels": manifest.labels,
        "expected": dict(pairing.expected),
        "ids": {split: [pair.id for pair in pairs] for split, pairs in pairing.pairs.items()},
        "images": images,
        "warnings": warnings,
    }


def summary(spec: Benchmark, index: Mapping[str, Any]) -> list[str]:
    """Lines that say what the store holds, beside what the spec expects."""
    images = index["images"].values()
    sizes: dict[str, int] = {}
    for image in images:
        size = f"{image['height']} x {image['width']}"
        sizes[size] = sizes.get(size, 0) + 1
    often = sorted(sizes, key=lambda size: (-sizes[size], size))[:SHOWN]
    shown = ", ".join(f"{sizes[size]} of {size}" for size in often)
    counts = ", ".join(f"{part} {len(ids)} of {index['expected'][part]}" for part, ids in index["ids"].items())
    pixels = _class_pixels(spec, index["images"])
    ignored, unknown, near = (sum(image[key] for image in images) for key in ("ignored", "unknown", "near_threshold"))
    area = sum(image["height"] * image["width"] for image in images)
    shares = ", ".join(f"{cls.name} {count / area:.2%}" for cls, count in zip(spec.classes, pixels, strict=True))
    lines = [
        f"{spec.name}: {counts}",
        f"{spec.name}: images (height x width) {shown}{', ...' if len(sizes) > SHOWN else ''}; the benchmark's have "
        f"{spec.side} x {spec.side}",
        f"{spec.name}: labels {index['labels']}: {shares}, ignored {ignored / area:.2%}",
    ]
    if spec.decoding == "threshold":
        lines.append(f"{spec.name}: {unknown} pixels of no class's colour, {near} with a channel near the threshold")
    return lines


def _file(record: Record) -> dict[str, Any]:
    return {key: record[key] for key in ("path", "bytes", "sha256")}


def _class_pixels(spec: Benchmark, images: Mapping[str, Any]) -> list[int]:
    return [sum(image["pixels"][index] for image in images.values()) for index in range(len(spec.classes))]


def _expect_classes(spec: Benchmark, images: Mapping[str, Any], ignore_first: bool) -> None:
    counts = _class_pixels(spec, images)
    absent = [cls.name for k, cls in enumerate(spec.classes) if not counts[k] and not (ignore_first and k == 0)]
    if absent:
        raise UserError(
            f"{spec.name}: no label has a pixel of class {', '.join(absent)}, so these are not its labels; "
            "fetch them again, or set data.partial: true to use them as they are"
        )


def _warnings(spec: Benchmark, images: Mapping[str, Any], crops: bool) -> list[str]:
    unknown = ", ".join(f"{name} {image['unknown']}" for name, image in images.items() if image["unknown"])
    blank = ", ".join(name for name, image in images.items() if not sum(image["pixels"]))
    other = sum((image["height"], image["width"]) != (spec.side, spec.side) for image in images.values())
    warnings = []
    if unknown:
        warnings.append(f"{spec.name}: pixels of no class's colour, ignored: {unknown}")
    if blank:
        warnings.append(f"{spec.name}: labels in which every pixel is ignored: {blank}")
    if crops and other:
        warnings.append(f"{spec.name}: {other} of {len(images)} images are not of {spec.side} x {spec.side} pixels")
    return warnings
