"""All columns of results/summary.csv with order, unit and meaning; the source of docs/columns.md."""

from __future__ import annotations

SCHEMA = 2
"""Increased when a column changes its meaning, unit or name, but not for a new column."""
FIRST: dict[str, tuple[str, str]] = {
    "schema": ("number", "version of this table"),
    "benchmark": ("name", "as in params.yaml"),
    "method": ("name", "as in params.yaml"),
    "seed": ("number", "of the training: initial weights, order of windows, augmentation"),
    "status": ("word", "ok; missing = no result; failed = the run ended in an error; stale = made from other inputs"),
    "reason": ("text", "why the status is not ok"),
    "revision": ("git revision", "of the code that trained; + = with uncommitted changes"),
    "split": ("name", "images that were scored: test or val"),
    "split_list": ("name", "list that says which image belongs to which split"),
    "labels": ("name", "kind of labels"),
    "images": ("number", "images scored"),
    "image_sizes": ("text", "height x width of the images scored; of many sizes the smallest and the largest"),
    "images_of": ("number", "images that the split has in full"),
    "train_images": ("number", "images trained on"),
    "train_images_of": ("number", "images that the training split has in full"),
    "synthetic": ("true or false", "procedural scenes, no real image"),
    "source": ("text", "where the archives came from"),
    "mean_name": ("text", "what mean_iou is called on this benchmark"),
    "mean_iou": ("share 0..1", "IoU of one confusion matrix over all images, mean over the scored classes that occur; "
                 "empty where no scored class occurs"),
    "mean_f1": ("share 0..1", "likewise F1"),
    "accuracy": ("share 0..1", "correctly classified share of all labelled pixels, scored class or not"),
    "chance": ("share 0..1", "mean IoU of the best prediction that is one class everywhere"),
    "memory_mib": ("MiB", "peak memory of stage profile on its own image size, of the backend in memory_backend"),
    "memory_backend": ("name", "meter of memory_mib; figures of two backends are not comparable"),
    "profile_status": ("word", "ok, oom = out of memory, failed, missing"),
    "profile_reason": ("text", "why profile_status is not ok, or why there is no memory"),
    "height": ("pixels", "of the profiled image"),
    "width": ("pixels", "of the profiled image"),
    "real_size": ("true or false", "whether the profiled image has the benchmark's own size"),
    "windows": ("number", "windows that label the profiled image"),
    "windows_per_batch": ("number", "windows in one forward pass"),
    "seconds_per_image": ("seconds", "median over the repeats, without reading files"),
    "megapixels_per_second": ("megapixels/s", "of the profiled image"),
    "parameters": ("number", "that inference needs"),
    "multiply_adds": ("number", "of convolutions and linear layers, whole profiled image"),
    "samples": ("number", "samples that the memory meter took"),
    "period_ms": ("milliseconds", "mean time between two of them"),
}  # fmt: skip
"""Fixed columns in order, with unit and meaning."""
LAST: dict[str, tuple[str, str]] = {
    "absent": ("text", "scored classes that are in neither ground truth nor prediction, left out of the means"),
    "warnings": ("text", "warnings of the data preparation"),
}
FAMILIES: dict[str, tuple[str, str]] = {
    "iou:": ("share 0..1", "IoU of the class; empty where it is in neither ground truth nor prediction"),
    "f1:": ("share 0..1", "F1 of the class, likewise"),
    "fold:": ("share 0..1", "mean IoU of the test images of one fold, of a benchmark that is evaluated by rotation"),
    "branch:": ("share 0..1", "mean IoU of one branch of the method alone"),
    "environment:": ("text", "of the training: versions, device, threads, flags"),
    "evaluation_environment:": ("text", "of the evaluation, likewise"),
    "profile_environment:": ("text", "of the memory and speed measurement, likewise"),
    "inference:": ("number", "overlap of windows and windows per forward pass when the images were scored"),
    "memory:": ("bytes", "peak by channel of the meter; empty with the reason in unavailable:"),
    "unavailable:": ("text", "why a channel of the meter has no figure"),
    "model:": ("text", "what the method reports: sides in pixels, weights of losses, recipe"),
    "profile_model:": ("text", "likewise of the profiled model; it must agree with model:"),
    "profile_segmenter:": ("text", "segmenter of the profiled model"),
    "profile:": ("text", "how memory and speed were measured"),
    "segmenter:": ("text", "base segmenter, its encoder and initial weights"),
    "trained:": ("number", "what one branch trained on: steps, samples, megapixels, loss at start and end"),
    "training:": ("text", "optimiser, schedule, seconds; steps, samples and megapixels seen"),
    "run:": ("text", "what the run was made from: hashes of code, parameters, data and weights"),
}  # fmt: skip
"""Prefixes of columns that depend on benchmarks and methods."""


def meaning(name: str) -> tuple[str, str] | None:
    """Unit and meaning of a column, or None if it is not described."""
    fixed = FIRST.get(name) or LAST.get(name)
    return fixed or next((found for prefix, found in FAMILIES.items() if name.startswith(prefix)), None)


def page() -> str:
    """The page that describes the table, in Markdown."""
    from scpseg.reporting.tables import render

    return render("columns.md.j2", schema=SCHEMA, fixed=FIRST | LAST, families=FAMILIES)
