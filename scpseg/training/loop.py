"""The training loop, the same for every method: plain PyTorch, counted in iterations, resumable.

Recipe (paper): SGD with cosine decay per iteration, restarted in each phase. Momentum, weight decay and augmentation
are ours and are parameters. A phase can use its authors' recipe. `phases.lengths` is the budget rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scpseg import parallel
from scpseg.contract import Labels, Method, Phase, Predictor, Recipe, Views
from scpseg.data.sampling import ImageDataset, WindowDataset, loader
from scpseg.errors import UserError
from scpseg.params import TrainParams
from scpseg.progress import progress
from scpseg.training import checkpoint
from scpseg.training.interrupt import deferred_interrupt
from scpseg.training.phases import check_devices, checked, described, factor, lengths, shared
from scpseg.training.step import Portion, Stepper

CHECKPOINT_SECONDS = 60.0
"""Shortest time between two checkpoints."""
CHECKPOINT_SHARE = 0.02
"""Maximum share of the time for checkpoints: after a slow one, the next is delayed."""


@dataclass(frozen=True)
class Trained:
    """Results of a training.

    Attributes:
        history: rows of phase, iteration, learning rate and mean losses.
        seconds: by name of the phase.
        steps: total of all phases.
        recipe: the optimisation, see `described`.
        branches: by name of the phase, its steps, samples (windows, or images if a phase uses nothing else),
            megapixels in its losses, and the mean total loss of its first and last log interval; if the best state was
            kept, its step in the phase and its score.
    """

    history: list[dict[str, Any]]
    seconds: dict[str, float]
    steps: int
    recipe: dict[str, Any]
    branches: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Stretch:
    """A phase with its recipe, for iterations `first` to `last` - 1."""

    phase: Phase
    recipe: Recipe
    first: int
    last: int


def train(
    method: Method,
    dataset: WindowDataset,
    params: TrainParams,
    device: torch.device,
    folder: Path,
    workers: int = 0,
    score: Callable[[Predictor], float] | None = None,
) -> Trained:
    """Train `method` in place on windows of `dataset`; resumes from the last checkpoint in `folder`.

    `score` returns the score of a method on the validation split; phases that keep their best state need it.

    All random numbers of step s depend on (seed, s) only, so that a resumed run equals an uninterrupted one.

    Raises:
        UserError: the precision needs a GPU, or the loss is not finite.
        KeyboardInterrupt: after SIGINT or SIGTERM; a checkpoint was written after the current step.
    """
    if params.precision != "fp32" and device.type != "cuda":
        raise UserError(f"train.precision is {params.precision!r}, but it needs a CUDA device; set it to fp32")
    run = _Run(method.to(device), dataset, params, device, folder, workers, score)
    with deferred_interrupt() as interrupted:
        run.finish(interrupted)
    recipe = described([stretch.recipe for stretch in run.plan])
    return Trained(run.history, run.seconds, run.step, recipe, run.branches())


class _Run:
    """State of one training."""

    def __init__(
        self,
        method: Method,
        dataset: WindowDataset,
        params: TrainParams,
        device: torch.device,
        folder: Path,
        workers: int,
        score: Callable[[Predictor], float] | None = None,
    ) -> None:
        self.method, self.dataset, self.params, self.device, self.folder = method, dataset, params, device, folder
        self.workers, self.score = workers, score
        self.best: dict[str, dict[str, Any]] = {}
        self.step = 0
        self.seconds: dict[str, float] = {}
        self.seen: dict[str, dict[str, int]] = {}
        self.history: list[dict[str, Any]] = []
        self.stepper = Stepper(method, params, device)
        self.processes = parallel.world()
        if self.processes > 1:
            parallel.join_modules(method, device)
        self.pending: dict[str, Tensor] = {}
        self.plan: list[_Stretch] = []
        phases, last = method.phases(), 0
        found = lengths(phases, params.iterations, dataset.batch, len(dataset.ids), dataset.covering())
        for phase, length in zip(phases, found, strict=True):
            first, last = last, last + length
            # In units of images, one image is one step.
            recipe = phase.recipe or shared(params, dataset.batch if phase.unit == "window" else 1)
            check_devices(phase, recipe.batch, self.processes)
            self.plan.append(_Stretch(phase, recipe, first, last))
        self.iterations = last
        self.resumed = checkpoint.load(folder)
        if self.resumed:
            method.load_state_dict(self.resumed["method"])
            self.step, self.history = self.resumed["step"], self.resumed["history"]
            self.seconds, self.seen = self.resumed["seconds"], self.resumed["seen"]
            self.best = self.resumed["best"]
            self.pending = {key: value.to(device) for key, value in self.resumed["pending"].items()}
            self.stepper.scaler.load_state_dict(self.resumed["scaler"])
            print(f"resuming at iteration {self.step} of {self.iterations}", flush=True)

    def finish(self, interrupted: Callable[[], bool]) -> None:
        """Run all phases from the current step on."""
        bar = progress(self._steps(), self.iterations, "training", done=self.step)
        for stretch in self.plan:
            if self.step < stretch.last:
                self._begin(stretch)
                self._run(stretch, bar, interrupted)
        # One more call ends the progress line and the worker processes of the loader.
        assert next(bar, None) is None

    def _steps(self) -> Iterator[list[tuple[Views, Labels]]]:
        """The data of each step from the current one on: a batch of windows, or all windows of each image."""
        pin = self.device.type == "cuda"
        for stretch in self.plan:
            if self.step >= stretch.last:
                continue
            windows, first = self.dataset.batches_of(stretch.recipe.batch), max(self.step, stretch.first)
            if stretch.phase.unit == "window":
                with parallel.split(self.processes):
                    batches = loader(windows, first, stretch.last, self.workers, pin)
                for batch in batches:
                    yield [batch]
            else:
                yield from loader(ImageDataset(windows), first, stretch.last, self.workers, pin)

    def _begin(self, stretch: _Stretch) -> None:
        self.stepper.begin(stretch.phase, stretch.recipe, fresh=self.step == stretch.first)
        # A checkpoint after the last step of a phase holds that phase's optimiser, which the next phase does not use.
        if self.resumed and self.step > stretch.first:
            assert self.stepper.optimizer is not None
            self.stepper.optimizer.load_state_dict(self.resumed["optimizer"])
        self.resumed = None

    def _run(
        self,
        stretch: _Stretch,
        steps: Iterator[list[tuple[Views, Labels]]],
        interrupted: Callable[[], bool],
    ) -> None:
        assert self.stepper.optimizer is not None
        saved, pause = time.monotonic(), CHECKPOINT_SECONDS
        length = stretch.last - stretch.first
        while self.step < stretch.last:
            start = time.monotonic()
            batches = next(steps)
            done = self.step - stretch.first
            rate = stretch.recipe.learning_rate * factor(stretch.recipe, done, length)
            for group in self.stepper.optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(self.dataset.seed * 1_000_003 + self.step)
            self._note(self.stepper(_portions(batches, stretch.phase), done / length))
            self._count(stretch.phase, batches)
            self.step += 1
            if self.step % self.params.log_every == 0 or self.step == stretch.last:
                self._log(stretch.phase.name, rate)
            if self.step - stretch.first in checked(length, stretch.phase.checks):
                self._check(stretch)
            now = time.monotonic()
            name = stretch.phase.name
            self.seconds[name] = self.seconds.get(name, 0.0) + now - start
            due = now - saved > pause and self.step < self.iterations
            stop, due = parallel.any_of([interrupted(), due])
            if stop or due:
                self.save()
                saved = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, (saved - now) / CHECKPOINT_SHARE)
            if stop:
                raise KeyboardInterrupt

    def _check(self, stretch: _Stretch) -> None:
        """Score the method and store the best state; at the end of the phase, restore it."""
        assert self.score is not None, "a phase that keeps its best state is trained with a score"
        name, method = stretch.phase.name, self.method
        training = {module: module.training for module in method.modules()}
        method.eval()
        score = self.score(method.branches().get(name, method))
        for module, flag in training.items():
            module.training = flag
        best = self.best.get(name)
        if best is None or score > best["score"]:
            state = {key: value.detach().cpu().clone() for key, value in method.state_dict().items()}
            self.best[name] = {"score": score, "step": self.step - stretch.first, "state": state}
        if self.step == stretch.last:
            method.load_state_dict(self.best[name].pop("state"))

    def _count(self, phase: Phase, batches: list[tuple[Views, Labels]]) -> None:
        """Add the inputs of the phase's losses in a step to the counts."""
        seen = self.seen.setdefault(phase.name, {"samples": 0, "pixels": 0})
        for views, _ in batches:
            window = views.context if phase.side is None else views.context[..., : phase.side, : phase.side]
            parts = {"window": window, "overview": views.overview}
            looked = [part for name in phase.sees if (part := parts[name]) is not None]
            seen["samples"] += len(looked[0]) * self.stepper.parts
            seen["pixels"] += sum(len(part) * part.shape[-2] * part.shape[-1] for part in looked) * self.stepper.parts

    def branches(self) -> dict[str, dict[str, Any]]:
        """Counts and losses of each phase, see `Trained`."""
        result = {}
        for stretch in self.plan:
            name = stretch.phase.name
            totals = [row["total"] for row in self.history if row["phase"] == name]
            result[name] = {
                "steps": stretch.last - stretch.first,
                "samples": self.seen[name]["samples"],
                "megapixels": self.seen[name]["pixels"] / 1e6,
                "loss_start": totals[0],
                "loss_end": totals[-1],
            }
            if best := self.best.get(name):
                result[name] |= {"kept_step": best["step"], "kept_score": best["score"]}
        return result

    def _note(self, means: dict[str, Tensor]) -> None:
        for key, value in {**means, "steps": torch.ones((), device=self.device)}.items():
            self.pending[key] = self.pending[key] + value if key in self.pending else value

    def _average(self) -> None:
        """Replace the sums of losses by their mean over the processes."""
        if self.processes > 1 and self.pending:
            means = parallel.total(torch.stack(list(self.pending.values()))) / self.processes
            self.pending = dict(zip(self.pending, means.unbind(), strict=True))

    def _log(self, phase: str, rate: float) -> None:
        self._average()
        sums = {key: float(value) for key, value in self.pending.items()}
        self.pending = {}
        means = {key: value / sums["steps"] for key, value in sums.items() if key != "steps"}
        if not means["total"] < float("inf"):
            raise UserError(
                f"the training loss is {means['total']} at iteration {self.step} (training diverged); "
                "lower the learning rate of the method in section tuned, or set train.precision to fp32"
            )
        self.history.append({"phase": phase, "iteration": self.step, "rate": rate, **means})

    def save(self) -> None:
        """Write a checkpoint to resume from."""
        if self.stepper.optimizer is None:
            return
        self._average()
        state = {
            "method": self.method.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "seen": self.seen,
            "best": self.best,
            "history": self.history,
            "pending": self.pending,
        }
        if parallel.rank() == 0:
            checkpoint.save(self.folder, state)
        parallel.wait()  # until it is written


def _portions(batches: list[tuple[Views, Labels]], phase: Phase) -> Iterator[Portion]:
    """Each batch in portions of at most `phase.windows`.

    The weight is the portion's share in the mean over windows, then over batches, or 1 if the phase sums them.
    """
    for views, labels in batches:
        count = len(views.place)
        size = phase.windows or count
        for first in range(0, count, size):
            part = slice(first, first + size)
            portion = replace(views, context=views.context[part], place=views.place[part])
            weight = 1.0 if phase.summed else len(portion.place) / count / len(batches)
            yield portion, replace(labels, context=labels.context[part]), weight
