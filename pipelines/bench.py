"""Cost of SCPSeg's parts relative to the network: `python -m pipelines.bench` prints a table and writes nothing.

Times are medians of interleaved runs, so that a busy machine slows both sides of a ratio; memory is the peak of a
fresh process above its state before the work (Linux only). The table has a target for each figure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.stage import run_stage
from scpseg.contract import Labels, Method, Setting, Views
from scpseg.environment import processor
from scpseg.errors import UserError
from scpseg.method import scpseg
from scpseg.method.csm import squeeze
from scpseg.method.lfa import LFAParams, alignment
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.validation import Range

Work = Callable[[], object]
PAPER = ((256, 16), (512, 8))
"""(patch L in pixels, windows per step) of the paper; ratio 0.75 and context 2 in both."""
SIDE_BY_SIDE = LFAParams(weight=0.5, window=7, stride="k", detach=True)
DENSE = replace(SIDE_BY_SIDE, stride=1)
VALID = {"share": Range(1, 16), "repeats": Range(1, 1000), "threads": Range(0, 1024)}
"""Valid ranges of the arguments."""


def seconds(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median seconds of each function, run in turn after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def explicit_windows(features: Tensor, teacher: Tensor, params: LFAParams) -> Tensor:
    """The dense loss as equation 8 is written, with all windows built: the reference for `dense`."""
    grams: list[Tensor] = []
    for x in (features, teacher):
        columns = F.unfold(F.normalize(x, dim=1), params.window)
        cells = columns.reshape(x.shape[0], x.shape[1], params.window**2, -1).permute(0, 3, 2, 1)
        grams.append(cells @ cells.mT)
    return (grams[0] - grams[1]).abs().mean()


def peak_mib(loss: Callable[[Tensor, Tensor, LFAParams], Tensor], batch: int, cells: int) -> float | None:
    """Peak resident memory in MiB of a loss and its gradient, in a fresh process; None if /proc lacks it."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (loss, batch, cells))


def _peak(loss: Callable[[Tensor, Tensor, LFAParams], Tensor], batch: int, cells: int) -> float:
    features, teacher = torch.randn(batch, 256, cells, cells, requires_grad=True), torch.randn(batch, 32, cells, cells)
    torch.autograd.backward(loss(features[:1, :, :8, :8], teacher[:1, :, :8, :8], DENSE))  # loads torch's lazy parts
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    torch.autograd.backward(loss(features, teacher, DENSE))
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def build(patch: int) -> Method:
    """SCPSeg with the paper's settings, DeepLabv3+ with ResNet-18 at output stride 8, random weights."""
    sections = {
        "csm": {"ratio": 0.75, "context": 2.0, "kernel": "antialias", "supervise": "frame"},
        "srd": {"weight": 0.5},
        "lfa": {"weight": 0.5, "window": 7, "stride": "k", "detach": True},
    }
    segmenter = SegmenterParams("deeplabv3plus", "resnet18", 8, "random", True)
    return scpseg.build(Setting(7, patch, segmenter, Params(sections, Path("params.yaml"))))


def measure(patch: int, batch: int, repeats: int) -> list[tuple[str, str, str]]:
    """Rows of (what, figure, target) at one of the paper's sizes, for `batch` windows."""
    torch.manual_seed(0)
    method = build(patch)
    assert isinstance(method, scpseg.SCPSeg)
    side = method.needs.context
    views = Views(torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8), torch.zeros(batch, 4))
    labels = Labels(torch.randint(0, 7, (batch, side, side), dtype=torch.uint8))
    cells = method.sizes.squeezed // method.segmenter.feature_stride
    features = torch.randn(batch, method.segmenter.feature_channels, cells, cells, requires_grad=True)
    detail = torch.randn(batch, 32, patch, patch)
    small = torch.randn(batch, 32, cells, cells)
    squeezed = normalise(squeeze(views.context, method.sizes, "antialias"), method.weights)

    def forward() -> None:
        with torch.no_grad():
            method.segmenter.eval()(squeezed)

    def step() -> None:
        method.train().zero_grad()
        torch.autograd.backward(list(method.losses(views, labels, 0.0).values()))

    took = seconds(
        {
            "csm": lambda: squeeze(views.context, method.sizes, "antialias"),
            "forward": forward,
            "apart": lambda: torch.autograd.backward(alignment(features, detail, SIDE_BY_SIDE)),
            "step": step,
            "dense": lambda: torch.autograd.backward(alignment(features, small, DENSE)),
            "explicit": lambda: torch.autograd.backward(explicit_windows(features, small, DENSE)),
        },
        repeats,
    )
    memory = [peak_mib(loss, batch, cells) for loss in (alignment, explicit_windows)]
    name = f"L={patch}, {batch} windows: "

    def row(what: str, part: str, whole: str, target: str) -> tuple[str, str, str]:
        figure = f"{100 * took[part] / took[whole]:.1f} %  ({1000 * took[part]:.0f} of {1000 * took[whole]:.0f} ms)"
        return name + what, figure, target

    rows = [
        row("CSM / inference forward pass", "csm", "forward", "5 %"),
        row("LFA on adjacent windows / training step", "apart", "step", "10 %"),
        row("LFA on all windows / training step", "dense", "step", "-"),
        row("LFA on all windows / the same with explicit windows, time", "dense", "explicit", "20 %"),
    ]
    if memory[0] is not None and memory[1]:
        figure = f"{100 * memory[0] / memory[1]:.1f} %  ({memory[0]:.0f} of {memory[1]:.0f} MiB)"
        rows.append((name + "LFA on all windows / the same with explicit windows, memory", figure, "10 %"))
    return rows


def arguments() -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: a number is out of range.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=int, default=4, help="measure 1/SHARE of the paper's batch size (default 4)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each part (default 3)")
    parser.add_argument("--threads", type=int, default=0, help="number of threads (default 0: torch's default)")
    asked = parser.parse_args()
    for name, valid in VALID.items():
        value = getattr(asked, name)
        if problem := valid.problem(value):
            raise UserError(f"--{name} is {value}, but {problem}")
    return asked


def main() -> None:
    """Measure and print the table."""
    asked = arguments()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for patch, batch in PAPER:
        for what, figure, target in measure(patch, max(2, batch // asked.share), asked.repeats):
            print(f"{what:58} {figure:36} target {target}", flush=True)


if __name__ == "__main__":
    run_stage(main)
