"""Invented but plausible result files in the formats of the stages evaluate and profile."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from scpseg.benchmarks import BENCHMARKS
from scpseg.evaluation.confusion import metrics as confusion_metrics
from scpseg.params import SuiteParams

GAIN = {"scpseg": 0.02, "patch": 0.0, "downscale": -0.09, "glnet": 0.008}
MEMORY = {"scpseg": 1.0, "patch": 0.997, "downscale": 0.55, "glnet": 1.46}
BASE = {"dubai": 0.66, "deepglobe": 0.72, "inria": 0.751, "potsdam": 0.846, "blu": 0.702, "probe": 0.6}
DEVICE = "Invented CPU"


def environment(device: str = DEVICE) -> dict[str, Any]:
    return {
        "python": "3.11.9",
        "torch": "2.15.0",
        "cuda": None,
        "cudnn": None,
        "device": device,
        "threads": 2,
        "tf32": None,
        "deterministic": False,
    }


def model(method: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {"patch": 64, "context": 64, "overview": None}
    if method == "scpseg":
        sizes |= {"context": 128, "squeezed": 48, "csm_ratio": 0.75}
    return sizes | ({"overview": 128} if method in ("glnet", "downscale") else {})


SEGMENTER = {
    "name": "deeplabv3plus",
    "encoder": "resnet18",
    "output_stride": 8,
    "weights": "random",
    "weights_sha256": "",
}


def metrics(benchmark: str, method: str, seed: int, **changes: Any) -> dict[str, Any]:
    spec = BENCHMARKS[benchmark]
    rng = np.random.default_rng([seed, *f"{benchmark}{method}".encode()])
    centre = BASE[benchmark] + GAIN.get(method, 0.0)
    iou = {cls.name: round(float(centre + rng.normal(0, 0.03)), 6) for cls in spec.classes}
    scored = [iou[spec.classes[index].name] for index in spec.scored]
    mean = float(np.mean(scored)) if len(scored) > 1 else float(centre + rng.normal(0, 0.006))
    found = {
        "benchmark": benchmark,
        "method": method,
        "seed": seed,
        "split": "test",
        "images": 4,
        "image_sizes": f"{spec.side} x {spec.side}",
        "images_of": spec.counts[2],
        "train_images": 8,
        "train_images_of": spec.counts[0],
        "synthetic": True,
        "source": "mirror",
        "mean_name": spec.mean_name,
        "labels": "noBoundary" if benchmark == "potsdam" else None,
        "split_list": "glnet",
        "model": model(method),
        "segmenter": SEGMENTER,
        "training": {
            "iterations": 300,
            "batch": 8,
            "precision": "fp32",
            "seconds": 61.25,
            "revision": "0123abc",
            "parameters_training": 3000000,
            "weights_hash": "ff" * 32,
            "steps": 300,
            "samples": 2400,
            "megapixels": 157.286,
            "branches": {"all": {"steps": 300, "samples": 2400, "megapixels": 157.2864}},
        },
        "branches": {"overview": mean - 0.05} if method == "glnet" else {},
        "environment": environment(),
        "evaluation_environment": environment(),
        "inference": {"overlap": 0.0, "batch": 1},
        "warnings": [],
        "metrics": {
            "mean_iou": mean,
            "mean_f1": 2 * mean / (1 + mean),
            "accuracy": mean + 0.1,
            "chance": 0.1,
            "iou": iou,
            "f1": {name: 2 * value / (1 + value) for name, value in iou.items()},
            "absent": [],
        },
    }
    return found | changes


def profile(benchmark: str, method: str, **changes: Any) -> dict[str, Any]:
    backend = changes.get("backend", "rss")
    peak = int((214 if backend == "rss" else 1834) * MEMORY.get(method, 1.2) * 2**20)
    channels = ("rss", "nvml_process", "nvml_above_context", "nvml_device", "torch_allocated", "torch_reserved")
    there = "rss" if backend == "rss" else "nvml_process"
    found = {
        "benchmark": benchmark,
        "method": method,
        "workload": "inference",
        "status": "ok",
        "reason": "",
        "backend": backend,
        "height": 384,
        "width": 384,
        "real_size": False,
        "windows": 36,
        "windows_per_batch": 1,
        "memory": {name: peak if name == there else None for name in channels},
        "unavailable": {name: "no NVIDIA GPU" for name in channels if name != there},
        "seconds_per_image": 0.41234,
        "megapixels_per_second": 0.35761,
        "parameters": 2345678,
        "multiply_adds": 123456789,
        "samples": 80,
        "period_ms": 5.0,
        "longest_gap_ms": 9.5,
        "repeats": 3,
        "timeline": [[0.0, 1], [0.1, 2]],
        "model": model(method),
        "segmenter": SEGMENTER,
        "environment": environment(),
    }
    return found | changes


def out_of_memory(benchmark: str, method: str) -> dict[str, Any]:
    """What the profile stage writes for a workload that was killed: no model, no environment, no figure."""
    found = profile(benchmark, method, status="oom", reason="it does not fit into 24564 MiB", backend=None, model=None)
    for name in ("windows", "seconds_per_image", "megapixels_per_second", "parameters", "multiply_adds"):
        found[name] = None
    del found["environment"]
    return found | {"memory": dict.fromkeys(found["memory"]), "samples": 0, "period_ms": None, "timeline": []}


def pictures(folder: Path, ids: tuple[str, ...], seed: int, side: int = 96, benchmark: str = "potsdam") -> None:
    """Blobs of the benchmark's classes, a prediction that is wrong at their borders, and an image like the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ids:
        for kind, content in picture(name, seed, side, benchmark).items():
            (folder / f"{name}.{kind}.png").write_bytes(content)


@cache
def picture(name: str, seed: int, side: int, benchmark: str) -> dict[str, bytes]:
    spec = BENCHMARKS[benchmark]
    palette = np.array([cls.colour for cls in spec.classes], dtype=np.uint8)
    rng = np.random.default_rng(list(name.encode()))
    fields = gaussian_filter(rng.normal(size=(len(palette), side, side)), (0, side / 16, side / 16))
    truth = fields.argmax(0)
    own = np.random.default_rng([seed, *name.encode()])
    prediction = (fields + gaussian_filter(own.normal(size=fields.shape), (0, 2, 2)) * fields.std() * 1.5).argmax(0)
    image = np.clip(palette[truth] * 0.6 + rng.normal(60, 14, (side, side, 1)), 0, 255).astype(np.uint8)
    found = {}
    for kind, pixels in (("image", image), ("truth", palette[truth]), ("prediction", palette[prediction])):
        Image.fromarray(pixels).save(stream := io.BytesIO(), "PNG")
        found[kind] = stream.getvalue()
    return found


def matrices(benchmark: str, method: str, seed: int, images: int = 14, gain: float = 0.0) -> np.ndarray:
    """(images, K, K) pixel counts: images differ from each other, methods a little."""
    spec = BENCHMARKS[benchmark]
    classes = len(spec.classes)
    truth = np.random.default_rng([1, *benchmark.encode()]).dirichlet(np.ones(classes) * 2, images)
    ease = np.random.default_rng([2, *benchmark.encode()]).normal(0, 0.05, images)
    noise = np.random.default_rng([seed, *method.encode()]).normal(0, 0.012, images + 1)
    right = np.clip(BASE[benchmark] + 0.1 + gain + ease + noise[:-1] + noise[-1], 0.02, 0.98)
    wrong = (1 - right)[:, None, None] * truth[:, :, None] * np.full((classes, classes), 1 / max(classes - 1, 1))
    found = wrong * (1 - np.eye(classes)) + np.eye(classes) * (right[:, None, None] * truth[:, :, None])
    return np.round(1e5 * found).astype(np.int64)


def history(phases: tuple[str, ...] = ("all",), start: float = 2.0, end: float = 0.4, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    lines = ["phase,iteration,rate,total"]
    for number, phase in enumerate(phases):
        for step in range(1, 21):
            loss = end + (start - end) * np.exp(-step / 6) * rng.uniform(0.93, 1.07)
            lines.append(f"{phase},{20 * number * 10 + 10 * step},0.01,{loss:.6g}")
    return "\n".join(lines) + "\n"


def put(results: Path, value: dict[str, Any]) -> None:
    """Write a metrics or profile record where its stage puts it, a run's seconds and environments apart."""
    if "seed" in value:
        place = Path(value["benchmark"]) / value["method"] / str(value["seed"])
        path = results / "metrics" / place / "metrics.json"
        value = {**value, "training": dict(value["training"])}
        identity = {name: value[name] for name in ("benchmark", "method", "seed")}
        measured = {name: value["training"].pop(name) for name in ("seconds", "revision") if name in value["training"]}
        if "seconds" in measured:
            measured["branch_seconds"] = dict.fromkeys(value["training"]["branches"], measured["seconds"])
        parts = {
            "training": {**identity, **measured, "environment": value.pop("environment")},
            "evaluation": {**identity, "environment": value.pop("evaluation_environment")},
        }
        for name, part in parts.items():
            (results / "provenance" / place).mkdir(parents=True, exist_ok=True)
            (results / "provenance" / place / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    else:
        path = results / "profile" / value["benchmark"] / f"{value['method']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def fill(results: Path, suite: SuiteParams, with_pictures: bool = False) -> SuiteParams:
    for benchmark in suite.benchmarks:
        for number, method in enumerate(("scpseg", *suite.baselines)):
            put(results, profile(benchmark, method))
            for seed in suite.seeds:
                put(results, metrics(benchmark, method, seed))
                if with_pictures:
                    place = results / "metrics" / benchmark / method / str(seed) / "pictures"
                    pictures(place, ("a_1",), number)
    return suite


def fill_whole(results: Path, suite: SuiteParams, images: int = 14, **changes: Any) -> SuiteParams:
    """Everything that stages write, consistent: scores from matrices, pictures of every image, curves, memory."""
    for benchmark in suite.benchmarks:
        spec = BENCHMARKS[benchmark]
        ids = [f"{benchmark[:2]}_{number}" for number in range(images)]
        for number, method in enumerate(("scpseg", *suite.baselines)):
            gain = GAIN.get(method, -0.012 * number)
            steps = [[round(0.01 * at, 3), int(9e6 + 3e6 * ((at % 12) / 12) + 4e5 * number)] for at in range(40)]
            put(results, profile(benchmark, method, timeline=steps, timeline_of="rss"))
            for seed in suite.seeds:
                found = matrices(benchmark, method, seed, images, gain)
                scores = confusion_metrics(found.sum(0), spec.scored)
                names = [cls.name for cls in spec.classes]
                record = metrics(benchmark, method, seed, images=images, branches={}, **changes)
                record["metrics"] = {
                    "mean_iou": scores.mean_iou,
                    "mean_f1": scores.mean_f1,
                    "accuracy": scores.accuracy,
                    "chance": 0.1,
                    "iou": dict(zip(names, scores.iou, strict=True)),
                    "f1": dict(zip(names, scores.f1, strict=True)),
                    "absent": [],
                }
                put(results, record)
                place = results / "metrics" / benchmark / method / str(seed)
                np.savez_compressed(place / "confusion.npz", ids=np.array(ids), matrices=found)
                if seed == suite.seeds[0]:
                    pictures(place / "pictures", tuple(ids[:6]), number, 192, benchmark)
                run = results / "runs" / benchmark / method / str(seed)
                run.mkdir(parents=True, exist_ok=True)
                phases = ("overview", "local") if method == "glnet" else ("all",)
                (run / "history.csv").write_text(history(phases, 2 + 0.1 * number, seed=seed), encoding="utf-8")
    return suite


class Invented:
    """The functions above, for tests."""

    metrics = staticmethod(metrics)
    profile = staticmethod(profile)
    out_of_memory = staticmethod(out_of_memory)
    environment = staticmethod(environment)
    pictures = staticmethod(pictures)
    put = staticmethod(put)
    fill = staticmethod(fill)
    fill_whole = staticmethod(fill_whole)
    matrices = staticmethod(matrices)
    history = staticmethod(history)


@pytest.fixture
def invented() -> type[Invented]:
    return Invented


@pytest.fixture
def suite() -> Callable[..., SuiteParams]:
    def make(
        benchmarks: tuple[str, ...] = ("potsdam",),
        baselines: tuple[str, ...] = ("patch",),
        seeds: tuple[int, ...] = (0,),
    ) -> SuiteParams:
        return SuiteParams(benchmarks=benchmarks, baselines=baselines, seeds=seeds)

    return make
