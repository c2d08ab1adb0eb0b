"""Stage `evaluate`: segment whole images with a trained method; write the confusion matrix and some pictures."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipelines import paths
from pipelines.methods import build_method
from pipelines.runs import arguments, revision, write_provenance
from pipelines.stage import run_stage
from scpseg import IGNORE_INDEX
from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.contract import Method, drop_training_parts
from scpseg.data.store import Store
from scpseg.data.windows import Bytes
from scpseg.environment import configure
from scpseg.errors import UserError
from scpseg.evaluation import probe
from scpseg.evaluation.confusion import Matrix, confusion, described, metrics
from scpseg.evaluation.streaming import segment
from scpseg.files import damaged, read_json, replacing, write_json, write_text
from scpseg.params import EvaluationParams, InferenceParams, MachineParams, Params
from scpseg.progress import progress
from scpseg.training.checkpoint import digest

PICTURE_SIDE = 1024
"""Longest side of a picture in pixels; larger images are subsampled."""
TRAINED = {
    "model": dict,
    "segmenter": dict,
    "initial_weights": {"source": str, "sha256": (str, None)},
    "weights_hash": str,
}
"""What is read of training.json."""


def work(benchmark: str, name: str, seed: int) -> None:
    """Evaluate and write results/metrics/BENCHMARK/METHOD/SEED and its provenance."""
    params = Params.load()
    device = configure(params.section("machine", MachineParams))
    evaluation = params.section("evaluation", EvaluationParams)
    inference = params.section("inference", InferenceParams)
    spec, store = get_benchmark(benchmark), Store(paths.store(benchmark))
    store.expect_classes([cls.name for cls in spec.classes])
    split = evaluation.split
    stores = store.all_folds()
    ids = [image_id for part in stores for image_id in part.ids(split)]
    if not ids:
        raise UserError(f"{benchmark} has no {split} image in its store: change evaluation.split, or check data.source")
    folder = paths.run(benchmark, name, seed)
    method = drop_training_parts(build_method(without_download(params), benchmark, name))
    places = [paths.fold(folder, part.fold, part.folds) for part in stores]
    for place in places:  # all of them, before the first image
        read_trained(place, method, params.values["segmenter"])
    training = read_record(folder)
    folds: list[dict[str, Any]] = []
    out = paths.scores(benchmark, name, seed)
    classes = len(spec.classes)
    matrices: list[Matrix] = []
    branches = method.branches()
    alone: dict[str, Matrix] = {name: np.zeros((classes, classes), dtype=np.int64) for name in branches}
    answers: dict[str, list[probe.Answer]] = {}
    kept: dict[str, bytes] = {}  # pictures of images that may be the worst, the median or the best

    def each() -> Iterator[str]:
        for part, place in zip(stores, places, strict=True):
            trained = read_trained(place, method.cpu(), params.values["segmenter"])
            method.to(device)
            for image_id in part.ids(split):
                yield one(image_id, part.image(split, image_id), part.label(split, image_id))
            if part.folds == 1:
                continue
            mean = metrics(np.sum(matrices[-len(part.ids(split)) :], axis=0), spec.scored).mean_iou
            hashed = trained["weights_hash"]
            folds.append({split: list(part.ids(split)), "mean_iou": mean, "weights_hash": hashed})

    def one(image_id: str, image: Bytes, truth: Bytes) -> str:
        prediction = segment(method, image, classes, device, inference.overlap, inference.batch)
        number = len(matrices)
        matrices.append(confusion(truth, prediction, classes))
        for branch, part in branches.items():
            labels = segment(part, image, classes, device, inference.overlap, inference.batch)
            alone[branch] += confusion(truth, labels, classes)
        if spec.discs:
            answers[image_id] = probe.answers(method, image, truth, prediction, device, inference.overlap)
        if number < evaluation.pictures:
            write_pictures(out / "pictures", image_id, spec, image, truth, prediction)
        elif evaluation.pictures:
            step = step_of(prediction)
            kept[image_id] = zlib.compress(prediction[::step, ::step].tobytes(), 1)
        return image_id

    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for _ in progress(each(), len(ids), f"evaluating {benchmark} {name}"):
        pass
    for image_id in ends(ids, matrices, spec) & kept.keys():
        part = next(part for part in stores if image_id in part.ids(split))
        image, truth = part.image(split, image_id), part.label(split, image_id)
        step = step_of(truth)
        thin = np.frombuffer(zlib.decompress(kept[image_id]), np.uint8).reshape(truth[::step, ::step].shape)
        write_pictures(out / "pictures", image_id, spec, image, truth, thin)
    result = metrics(np.sum(matrices, axis=0), spec.scored)
    with replacing(out / "confusion.npz") as temporary:
        np.savez_compressed(temporary, ids=np.array(ids), matrices=np.stack(matrices))
    if answers:
        write_text(out / "objects.csv", probe.table(answers))
    index = store.index
    write_json(
        out / "metrics.json",
        {
            "benchmark": benchmark,
            "method": name,
            "seed": seed,
            "split": split,
            "split_list": index["split"],
            "images": len(ids),
            "image_sizes": store.sizes(split),
            "images_of": index["expected"][split],
            "train_images": len(store.ids("train")),
            "train_images_of": index["expected"]["train"],
            "synthetic": index["synthetic"],
            "source": index["source"],
            "labels": index["labels"],
            "mean_name": spec.mean_name,
            "model": training["model"],
            "segmenter": {
                **training["segmenter"],
                "weights": training["initial_weights"]["source"],
                "weights_sha256": training["initial_weights"]["sha256"],
            },
            "training": {
                key: value for key, value in training.items() if key not in ("model", "segmenter", "initial_weights")
            },
            "inference": {"overlap": inference.overlap, "batch": inference.batch},
            "warnings": index["warnings"],
            "metrics": described(result, spec),
            "branches": {name: metrics(matrix, spec.scored).mean_iou for name, matrix in alone.items()},
            **({"folds": folds} if folds else {}),
        },
    )
    write_provenance(benchmark, name, seed, "evaluation", device, revision=revision())
    mean = "none (no scored class in truth or prediction)" if result.mean_iou is None else f"{result.mean_iou:.4f}"
    print(f"{benchmark} {name} seed {seed}: {spec.mean_name} {mean} on {len(ids)} {split} images")


def read_trained(folder: Path, method: Method, segmenter: dict[str, Any]) -> dict[str, Any]:
    """Load the weights of a run into `method`, and return the contents of training.json.

    Raises:
        UserError: a file is missing or damaged, or belongs to another network than the parameters describe.
    """
    path, training = folder / "weights.safetensors", read_record(folder)
    _expect(path)
    trained, asked = {**training["segmenter"], **training["model"]}, {**segmenter, **method.describe()}
    other = [key for key in asked if key in trained and trained[key] != asked[key]]
    if other:
        was, now = (", ".join(f"{key} {values[key]}" for key in other) for values in (trained, asked))
        raise UserError(f"{path.as_posix()} was trained with {was}, params.yaml has {now}; run `dvc repro`")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise damaged(path, f"is damaged ({error})") from error
    shapes = [{key: value.shape for key, value in state.items()} for state in (weights, method.state_dict())]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path.as_posix()} belongs to another network than params.yaml describes; run `dvc repro`")
    if digest(weights) != training["weights_hash"]:
        raise damaged(path, f"was changed (its SHA-256 differs from the one in {folder.as_posix()}/training.json)")
    method.load_state_dict(weights)
    return training


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of training.json in the folder of a run, or of a fold.

    Raises:
        UserError: it is missing or damaged.
    """
    _expect(folder / "training.json")
    training: dict[str, Any] = read_json(folder / "training.json", TRAINED)
    return training


def _expect(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path.as_posix()} is missing; run `dvc repro`, which trains first")


def without_download(params: Params) -> Params:
    """The parameters with random initial weights: trained weights replace them, so nothing is downloaded."""
    segmenter = {**params.values["segmenter"], "weights": "random"}
    return Params({**params.values, "segmenter": segmenter}, params.path)


def ends(ids: Sequence[str], matrices: Sequence[Matrix], spec: Benchmark) -> set[str]:
    """The images with the lowest, the median and the highest mean IoU per image."""
    scores = [(metrics(matrix, spec.scored).mean_iou, name) for name, matrix in zip(ids, matrices, strict=True)]
    order = [name for _, name in sorted((score, name) for score, name in scores if score is not None)]
    return {order[0], order[(len(order) - 1) // 2], order[-1]} if order else set()


def step_of(pixels: Bytes) -> int:
    """Step in pixels at which an image is subsampled for its picture."""
    longest: int = max(pixels.shape[:2])
    return max(1, -(-longest // PICTURE_SIDE))


def write_pictures(folder: Path, name: str, spec: Benchmark, image: Bytes, truth: Bytes, prediction: Bytes) -> None:
    """Write <name>.{image,truth,prediction}.png, at most PICTURE_SIDE wide, with the benchmark's class colours.

    `prediction` has the size of the truth, or is already subsampled.
    """
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(spec.classes)] = [cls.colour for cls in spec.classes]
    palette[IGNORE_INDEX] = 0
    step = step_of(truth)
    own = step if prediction.shape == truth.shape else 1
    reduced = np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(step))
    views = {"image": reduced, "truth": palette[truth[::step, ::step]], "prediction": palette[prediction[::own, ::own]]}
    for kind, pixels in views.items():
        with replacing(folder / f"{name}.{kind}.png") as temporary:
            Image.fromarray(np.ascontiguousarray(pixels)).save(temporary)


if __name__ == "__main__":
    given = arguments(__doc__)
    run_stage(
        lambda: work(given.benchmark, given.method, given.seed),
        f"lower inference.batch, or train with a lower {given.benchmark}.patch",
    )
