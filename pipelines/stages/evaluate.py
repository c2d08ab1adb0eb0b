"""Segment whole images with a trained method; write the confusion matrix and some pictures."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipelines import paths
from pipelines.methods import build_method, module_of, source_files
from pipelines.runs import revision, write_provenance
from scpseg import IGNORE_INDEX, parallel
from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.contract import Method, Predictor, Weights, drop_training_parts, set_weights
from scpseg.data.store import Store
from scpseg.data.windows import Bytes
from scpseg.environment import configure
from scpseg.errors import UserError
from scpseg.evaluation import probe_answers
from scpseg.evaluation.confusion import Matrix, confusion, described, metrics
from scpseg.evaluation.streaming import mapped_labels, segment
from scpseg.files import damaged, read_json, replacing, write_json, write_text
from scpseg.params import EvaluationParams, InferenceParams, MachineParams, Params
from scpseg.progress import progress
from scpseg.training import checkpoint
from scpseg.training.checkpoint import digest
from scpseg.training.launch import launch

SOURCES = (
    "pipelines/stages/evaluate.py",
    "scpseg/benchmarks",
    "scpseg/contract.py",
    "scpseg/data",
    "scpseg/evaluation",
    "scpseg/geometry.py",
    "scpseg/segmenters",
)
"""Code that decides the scores, next to the method's own; if it changes, images are segmented again."""
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged .npz raises; a packing that zipfile does not know is a NotImplementedError."""
PICTURE_SIDE = 1024
"""Longest side of a picture in pixels; larger images are subsampled."""
TRAINED = {
    "model": dict,
    "segmenter": dict,
    "initial_weights": {"source": str, "sha256": (str, None), "mean": [float] * 3, "std": [float] * 3},
    "weights_hash": str,
}
"""What is read of training.json."""


@dataclass(frozen=True)
class Scored:
    """What is kept of one image.

    Attributes:
        matrix: its confusion matrix.
        alone: the confusion matrix of each branch that predicts alone.
        thin: the prediction as in its picture, see `step_of`.
        answers: of the probe's discs, or none.
    """

    matrix: Matrix
    alone: dict[str, Matrix]
    thin: Bytes
    answers: list[probe_answers.Answer]

    def write(self, path: Path) -> None:
        """Write it atomically."""
        parts: dict[str, Any] = {f"alone-{name}": matrix for name, matrix in self.alone.items()}
        parts |= {"matrix": self.matrix, "thin": self.thin}
        parts["answers"] = np.array(json.dumps([asdict(answer) for answer in self.answers]))
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **parts)

    @staticmethod
    def read(path: Path) -> Scored | None:
        """Read it; None if it is missing or damaged (the parts of the file have checksums)."""
        try:
            with path.open("rb") as stream, np.load(stream) as found:
                parts = dict(found)
            answers = [probe_answers.Answer(**answer) for answer in json.loads(str(parts["answers"]))]
        except DAMAGED:
            return None
        alone = {key.removeprefix("alone-"): value for key, value in parts.items() if key.startswith("alone-")}
        return Scored(parts["matrix"], alone, parts["thin"], answers)


def work(benchmark: str, name: str, seed: int) -> None:
    """Evaluate and write results/metrics/BENCHMARK/METHOD/SEED and its provenance.

    Images that an interrupted run has scored are not segmented again.
    """
    params = Params.load()
    machine = params.section("machine", MachineParams)
    device = configure(machine)
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
    # All folds are read before the first image.
    hashes = [
        read_trained(paths.fold(folder, part.fold, part.folds), method, params.values["segmenter"])["weights_hash"]
        for part in stores
    ]
    training = read_record(folder)
    out = paths.scores(benchmark, name, seed)
    identity = {
        "run": [benchmark, name, seed, split, hashes],
        "params": {key: params.values[key] for key in ("segmenter", "inference", benchmark, *module_of(name).SECTIONS)},
        "store": store.index,
        "device": [device.type, machine.tf32, machine.deterministic, machine.threads],
    }
    scratch = checkpoint.scratch(checkpoint.fingerprint(identity, source_files(name, SOURCES)))
    with checkpoint.alone(scratch):
        launch(machine.devices, device, segment_all, params, benchmark, name, seed, scratch)
        records = [found for number in range(len(ids)) if (found := Scored.read(record_of(scratch, number)))]
    assert len(records) == len(ids)
    matrices = [record.matrix for record in records]
    alone = {name: np.sum([record.alone[name] for record in records], axis=0) for name in records[0].alone}
    answers = {image_id: record.answers for image_id, record in zip(ids, records, strict=True)} if spec.discs else {}
    folds: list[dict[str, Any]] = []
    left = iter(matrices)  # an image may be of several folds: the order says which
    for part, hashed in zip(stores, hashes, strict=True):
        own = [next(left) for _ in part.ids(split)]
        if part.folds > 1:
            mean = metrics(np.sum(own, axis=0), spec.scored).mean_iou
            folds.append({split: list(part.ids(split)), "mean_iou": mean, "weights_hash": hashed})
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    shown = {*ids[: evaluation.pictures], *(ends(ids, matrices, spec) if evaluation.pictures else ())}
    for part in stores:
        for image_id in [image_id for image_id in part.ids(split) if image_id in shown]:
            image, truth = part.image(split, image_id), part.label(split, image_id)
            write_pictures(out / "pictures", image_id, spec, image, truth, records[ids.index(image_id)].thin)
    result = metrics(np.sum(matrices, axis=0), spec.scored)
    with replacing(out / "confusion.npz") as temporary:
        np.savez_compressed(temporary, ids=np.array(ids), matrices=np.stack(matrices))
    if answers:
        write_text(out / "objects.csv", probe_answers.table(answers))
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
    checkpoint.discard(scratch)
    score = "none (no scored class in truth or prediction)" if result.mean_iou is None else f"{result.mean_iou:.4f}"
    print(f"{benchmark} {name} seed {seed}: {spec.mean_name} {score} on {len(ids)} {split} images")


def record_of(scratch: Path, number: int) -> Path:
    """The file of image `number`, in the order of the folds and their images."""
    return scratch / f"{number:06}.npz"


def segment_all(params: Params, benchmark: str, name: str, seed: int, scratch: Path) -> None:
    """Score the images that are not scored yet; in one of several processes, its share of all images."""
    device = configure(params.section("machine", MachineParams))
    inference = params.section("inference", InferenceParams)
    split = params.section("evaluation", EvaluationParams).split
    spec, stores = get_benchmark(benchmark), Store(paths.store(benchmark)).all_folds()
    classes = len(spec.classes)
    method = drop_training_parts(build_method(without_download(params), benchmark, name))
    branches: dict[str, Predictor] = {}
    images = [(part, image_id) for part in stores for image_id in part.ids(split)]
    own = range(parallel.rank(), len(images), parallel.world())
    missing = [number for number in own if Scored.read(record_of(scratch, number)) is None]
    if len(missing) < len(own):
        print(f"{len(own) - len(missing)} of {len(own)} images are scored already", flush=True)
    loaded: Store | None = None
    for number in progress(missing, len(missing), f"evaluating {benchmark} {name}"):
        part, image_id = images[number]
        if part is not loaded:
            place = paths.fold(paths.run(benchmark, name, seed), part.fold, part.folds)
            read_trained(place, method.cpu(), params.values["segmenter"])
            method.to(device)
            branches, loaded = method.branches(), part  # after the weights: branches copy their normalisation
        image, truth = part.image(split, image_id), part.label(split, image_id)

        def labels_of(predictor: Predictor, image: Bytes = image) -> Bytes:
            out = mapped_labels(scratch, *image.shape[:2])
            return segment(predictor, image, classes, device, inference.overlap, inference.batch, out=out)

        prediction, step = labels_of(method), step_of(truth)
        alone = {key: confusion(truth, labels_of(branch), classes) for key, branch in branches.items()}
        found = probe_answers.answers(method, image, truth, prediction, device, inference.overlap) if spec.discs else []
        record = Scored(confusion(truth, prediction, classes), alone, prediction[::step, ::step], found)
        record.write(record_of(scratch, number))


def read_trained(folder: Path, method: Method, segmenter: dict[str, Any]) -> dict[str, Any]:
    """Load the weights of a run and their normalisation into `method`, and return the contents of training.json.

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
    initial = training["initial_weights"]
    set_weights(method, Weights(initial["source"], initial["sha256"], tuple(initial["mean"]), tuple(initial["std"])))
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
    """The parameters with random initial weights, so that nothing is downloaded; `read_trained` replaces them."""
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

    `prediction` is subsampled with the step of `step_of`.
    """
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(spec.classes)] = [cls.colour for cls in spec.classes]
    palette[IGNORE_INDEX] = 0
    step = step_of(truth)
    reduced = np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(step))
    views = {"image": reduced, "truth": palette[truth[::step, ::step]], "prediction": palette[prediction]}
    for kind, pixels in views.items():
        with replacing(folder / f"{name}.{kind}.png") as temporary:
            Image.fromarray(np.ascontiguousarray(pixels)).save(temporary)
