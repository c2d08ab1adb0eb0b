import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scpseg.contract import Labels, Method, Needs, Phase, Recipe, Views, Weights
from scpseg.data.overviews import Overview
from scpseg.data.sampling import ImageDataset, WindowDataset
from scpseg.errors import UserError
from scpseg.losses import cross_entropy
from scpseg.params import TrainParams
from scpseg.training import checkpoint
from scpseg.training.loop import _Run, train
from scpseg.training.phases import cosine, enter, lengths

CPU = torch.device("cpu")
RECIPE = TrainParams(12, 0.9, 5e-4, "fp32", True, True, 5, "sgd", 0.05)


class TwoParts(Method):
    """A dropout network in two parts, so that randomness, momentum and phases all show."""

    def __init__(self, phases: tuple[Phase, ...] | None = None) -> None:
        super().__init__()
        self.needs, self.weights = Needs(16, 16), Weights("random")
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Conv2d(4, 3, 1)
        self.stop_at: int | None = None
        self.calls = 0
        self._phases = phases

    def forward(self, views: Views, state: Any = None) -> Tensor:
        return self.head(self.body(views.context.float() / 255))

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"segmentation": cross_entropy(self(views), labels.context)}

    def phases(self) -> tuple[Phase, ...]:
        return self._phases or super().phases()


class Squares:
    """Images whose bright half is class 1."""

    def ids(self, split: str) -> tuple[str, ...]:
        return ("a", "b")

    def image(self, split: str, name: str) -> np.ndarray:
        return np.repeat(self.label(split, name)[..., None] * 120 + 60, 3, axis=-1).astype(np.uint8)

    def label(self, split: str, name: str) -> np.ndarray:
        label = np.zeros((40, 40), dtype=np.uint8)
        label[:, 20 if name == "a" else 10 :] = 1
        return label


def windows(seed: int = 1) -> WindowDataset:
    return WindowDataset(Squares(), "train", Needs(16, 16), seed=seed, batch=3, flips=True, turns=True)


def fresh(**options: Any) -> TwoParts:
    torch.manual_seed(0)
    return TwoParts(**options)


def run(method: TwoParts, folder: Path, **options: Any) -> Any:
    return train(method, windows(), options.pop("recipe", RECIPE), CPU, folder, **options)


def test_same_seed_same_weights_and_history(tmp_path: Path) -> None:
    one, two = fresh(), fresh()
    first, second = run(one, tmp_path / "a"), run(two, tmp_path / "b", workers=1)
    assert checkpoint.digest(one.state_dict()) == checkpoint.digest(two.state_dict())
    assert first.history == second.history
    assert [row["iteration"] for row in first.history] == [5, 10, 12]
    assert first.history[-1]["total"] < first.history[0]["total"]


def test_interrupted_and_resumed_equals_unbroken(tmp_path: Path) -> None:
    whole, broken, later = fresh(), fresh(), fresh()
    expected = run(whole, tmp_path / "a")
    broken.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "b")
    assert (tmp_path / "b/checkpoint.pt").exists()
    resumed = run(later, tmp_path / "b")
    assert later.calls == 5
    assert resumed.history == expected.history
    assert checkpoint.digest(later.state_dict()) == checkpoint.digest(whole.state_dict())
    # Whoever writes the weights discards it then: until they are on the disk it is all that there is.
    assert (tmp_path / "b/checkpoint.pt").exists()


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_a_resumed_state_lies_where_torch_keeps_it(tmp_path: Path) -> None:
    """'meta' stands in for a GPU: moments move there, Adam's counts of steps stay in host memory."""
    phases = (Phase("all", recipe=Recipe("adam", 0.01, 0.0, 3)),)
    broken = fresh(phases=phases)
    broken.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path)
    meta = torch.device("meta")
    resumed = _Run(fresh(phases=phases).to(meta), windows(), RECIPE, meta, tmp_path, 0)
    resumed._begin(resumed.plan[0])
    assert resumed.pending and all(value.device == meta for value in resumed.pending.values())
    assert resumed.stepper.optimizer is not None and resumed.stepper.optimizer.state
    for state in resumed.stepper.optimizer.state.values():
        places = {key: value.device.type for key, value in state.items()}
        assert places == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_equals_a_plain_sgd_loop(tmp_path: Path) -> None:
    method, reference = fresh(), fresh()
    run(method, tmp_path / "a")
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    data = windows()
    for step in range(12):
        samples = [data[step * 3 + number] for number in range(3)]
        torch.manual_seed(1 * 1_000_003 + step)
        views = Views(torch.stack([s["context"] for s in samples]), torch.stack([s["place"] for s in samples]))
        labels = torch.stack([s["label"] for s in samples]).long()
        loss = torch.nn.functional.cross_entropy(reference(views), labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_each_phase_moves_exactly_its_part(tmp_path: Path) -> None:
    phases = (Phase("head", ("head",)), Phase("body", ("body",)))
    states: dict[str, dict[str, Tensor]] = {}

    class Recording(TwoParts):
        def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
            states[f"{self.calls}"] = {key: value.clone() for key, value in self.state_dict().items()}
            assert progress == (self.calls % 12) / 12
            return super().losses(views, labels, progress)

    torch.manual_seed(0)
    method = Recording(phases)
    run(method, tmp_path / "a")
    states["24"] = method.state_dict()
    for before, after, part in (("0", "12", "head"), ("12", "24", "body")):
        moved = {
            key.split(".")[0] for key in states[before] if not torch.equal(states[before][key], states[after][key])
        }
        assert moved == {part}


def test_every_phase_takes_all_iterations_unless_capped() -> None:
    def found(*phases: Phase, iterations: int = 1000, batch: int = 8) -> list[int]:
        return lengths(phases, iterations, batch, images=18, windows=450)

    assert found(Phase("one")) == [1000]
    assert found(Phase("before"), Phase("then")) == [1000, 1000]
    # A pass is each image once for a phase that sees nothing else, and all windows of all images otherwise.
    overview = Phase("overview", epochs=120, sees=("overview",))
    assert found(overview, Phase("local")) == [120 * 18 // 8, 1000]
    assert found(Phase("first", epochs=10), Phase("then")) == [math.ceil(10 * 450 / 8), 1000]
    assert found(overview, Phase("local"), Phase("mutual", unit="image", epochs=20)) == [270, 1000, 360]
    # Never more than everybody's.
    assert found(overview, Phase("local"), iterations=100) == [100, 100]
    author = Phase("a", recipe=Recipe("adam", 1e-3, 0.0, 6, epochs=50))
    assert lengths((author, Phase("b")), 10, 8, 454, 0) == [50 * 76, 10]
    # A pass ends with its last batch, full or not, unless the authors drop that one.
    full = Phase("a", recipe=Recipe("sgd", 1e-3, 0.0, 12, epochs=484, drop_last=True))
    assert [lengths((full,), 10, 8, images, 0) for images in (454, 456, 5)] == [[37 * 484], [38 * 484], [484]]
    with pytest.raises(ValueError, match="at least one"):
        found(overview)


def test_cosine() -> None:
    assert cosine(0, 10) == 1 and cosine(5, 10) == pytest.approx(0.5) and cosine(10, 10) == pytest.approx(0)


def test_what_each_branch_saw_is_counted(tmp_path: Path) -> None:
    """3 windows a step of 16 x 16 pixels; 9 windows cover an image of 40 x 40."""
    adam = Recipe("adam", 0.01, 5e-4, 2, epochs=3, power=0.9)
    phases = (Phase("head", ("head",)), Phase("body", ("body",), "image", 2, adam))
    broken = fresh(phases=phases)
    broken.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path)
    trained = run(fresh(phases=phases), tmp_path)
    branches = trained.branches
    windows_seen = {"head": 12 * 3, "body": 3 * 2 * 9}
    for name, steps in (("head", 12), ("body", 3)):
        branch = branches[name]
        assert (branch["steps"], branch["samples"]) == (steps, windows_seen[name])
        assert branch["megapixels"] == pytest.approx(windows_seen[name] * 16 * 16 / 1e6)
        totals = [row["total"] for row in trained.history if row["phase"] == name]
        assert trained.seconds[name] > 0 and (branch["loss_start"], branch["loss_end"]) == (totals[0], totals[-1])


def test_overviews_count_where_a_phase_looks_at_them(tmp_path: Path) -> None:
    whole = {name: Overview(np.zeros((3, 32, 32), np.uint8), np.zeros((32, 32), np.uint8)) for name in ("a", "b")}
    data = WindowDataset(
        Squares(), "train", Needs(16, 16, 32), seed=1, batch=3, flips=True, turns=True, overviews=whole
    )
    phases = (Phase("one", epochs=2, sees=("overview",)), Phase("two"), Phase("near", sees=("window",), side=8))
    branches = train(fresh(phases=phases), data, RECIPE, CPU, tmp_path).branches
    assert [branches[name]["samples"] for name in ("one", "two", "near")] == [2 * 3, 12 * 3, 12 * 3]
    assert branches["one"]["megapixels"] == pytest.approx(6 * 32 * 32 / 1e6)
    assert branches["two"]["megapixels"] == pytest.approx(36 * (16 * 16 + 32 * 32) / 1e6)
    assert branches["near"]["megapixels"] == pytest.approx(36 * 8 * 8 / 1e6)


def scored(values: list[float], seen: list[dict[str, Tensor]]) -> Any:
    """A score that takes these values in turn and notes the weights that it was asked for."""
    left = iter(values)

    def score(method: Method) -> float:
        assert not any(module.training for module in method.modules())
        seen.append({key: value.clone() for key, value in method.state_dict().items()})
        return next(left)

    return score


def test_the_state_that_scores_best_is_kept_where_a_phase_asks_for_it(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    method, last = fresh(phases=(Phase("all", checks=3),)), fresh()
    trained = run(method, tmp_path / "a", score=scored([0.2, 0.6, 0.5], seen))
    run(last, tmp_path / "b")
    assert len(seen) == 3 and all(torch.equal(value, seen[1][key]) for key, value in method.state_dict().items())
    assert (trained.branches["all"]["kept_step"], trained.branches["all"]["kept_score"]) == (8, 0.6)
    # Scoring changes nothing of the training itself.
    assert all(torch.equal(value, seen[2][key]) for key, value in last.state_dict().items())
    ties = fresh(phases=(Phase("all", checks=3),))
    assert run(ties, tmp_path / "c", score=scored([0.6, 0.6, 0.6], [])).branches["all"]["kept_step"] == 4


def test_the_best_state_outlives_an_interruption(tmp_path: Path) -> None:
    phases = (Phase("all", checks=3),)
    seen: list[dict[str, Tensor]] = []
    broken, later = fresh(phases=phases), fresh(phases=phases)
    broken.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path, score=scored([0.9], seen))
    trained = run(later, tmp_path, score=scored([0.6, 0.5], []))
    assert trained.branches["all"]["kept_step"] == 4
    assert all(torch.equal(value, seen[0][key]) for key, value in later.state_dict().items())


def test_gradients_of_portions_are_added_where_the_authors_do(tmp_path: Path) -> None:
    """The authors' sums: one step over two images in portions of 2, 2, 2, 2, 1 windows."""
    sgd = Recipe("sgd", 0.01, 0.0, 2, epochs=1)
    method = fresh(phases=(Phase("all", None, "image", 2, sgd, summed=True),))
    reference = fresh()
    method.body, reference.body = method.body[:1], reference.body[:1]
    run(method, tmp_path)
    for views, labels in ImageDataset(windows().batches_of(2))[0], ImageDataset(windows().batches_of(2))[1]:
        for first in range(0, 9, 2):
            part = slice(first, first + 2)
            logits = reference(Views(views.context[part], views.place[part]))
            torch.nn.functional.cross_entropy(logits, labels.context[part].long()).backward()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.01 * theirs.grad, rtol=1e-4, atol=1e-6)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    method = fresh()
    enter(method, Phase("head", ("head",)))
    assert not method.body[1].training and method.head.training
    assert all(not p.requires_grad for p in method.body.parameters())
    assert all(p.requires_grad for p in method.head.parameters())


def test_divergence_and_precision_are_sentences(tmp_path: Path) -> None:
    class Broken(TwoParts):
        def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
            return {"segmentation": self(views).sum() * float("nan")}

    with pytest.raises(UserError, match=r"diverged.*; lower the learning rate"):
        train(Broken(), windows(), RECIPE, CPU, tmp_path / "a")
    half = TrainParams(12, 0.9, 5e-4, "fp16", True, True, 5, "sgd", 0.05)
    with pytest.raises(UserError, match=r"train\.precision is 'fp16'"):
        train(fresh(), windows(), half, CPU, tmp_path / "b")


def test_resuming_between_and_within_phases_equals_unbroken(tmp_path: Path) -> None:
    adam = Recipe("adam", 0.01, 5e-4, 2, epochs=3, power=0.9)
    phases = (Phase("head", ("head",)), Phase("body", ("body",), "image", 2, adam))
    entered: list[tuple[str, bool]] = []

    class Noting(TwoParts):
        def begin_phase(self, name: str, fresh: bool) -> None:
            entered.append((name, fresh))
            if name == "body" and fresh:
                with torch.no_grad():
                    self.body[0].bias.add_(1.0)

    def noting() -> Noting:
        torch.manual_seed(0)
        return Noting(phases)

    whole = noting()
    expected = run(whole, tmp_path / "a")
    assert expected.steps == 15 and expected.history[-1]["iteration"] == 15
    # 12 steps of one batch, then 3 of two images with 9 windows in portions of 2.
    for stop, fresh in ((12, True), (12 + 10 + 1, False)):
        entered.clear()
        broken, later = noting(), noting()
        broken.stop_at = stop
        with pytest.raises(KeyboardInterrupt):
            run(broken, tmp_path / str(stop))
        resumed = run(later, tmp_path / str(stop))
        assert entered[-1] == ("body", fresh)
        assert resumed.history == expected.history
        assert checkpoint.digest(later.state_dict()) == checkpoint.digest(whole.state_dict())


def test_an_image_phase_averages_over_its_windows_and_images(tmp_path: Path) -> None:
    adam = Recipe("adam", 0.01, 5e-4, 2, epochs=4, power=0.9)
    # No batch norm, no dropout: portions of an image must not matter.
    method, reference = fresh(phases=(Phase("all", None, "image", 2, adam),)), fresh()
    method.body, reference.body = method.body[:1], reference.body[:1]
    seen = []
    method.losses = lambda views, labels, progress: (  # type: ignore[method-assign]
        seen.append(len(views.place)) or TwoParts.losses(method, views, labels, progress)
    )
    trained = run(method, tmp_path / "a")
    assert seen == [2, 2, 2, 2, 1] * 8 and trained.steps == 4
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.01, weight_decay=5e-4)
    data = ImageDataset(windows().batches_of(2))
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 4) ** 0.9
        images = [data[2 * step], data[2 * step + 1]]
        loss = torch.stack(
            [torch.nn.functional.cross_entropy(reference(views), labels.context.long()) for views, labels in images]
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert trained.history[-1]["rate"] == pytest.approx(0.01 * 0.25**0.9)


def test_a_phase_with_a_clip_takes_no_longer_gradient(tmp_path: Path) -> None:
    plain, clipped = fresh(), fresh(phases=(Phase("all", clip=1e-3),))
    recipe = TrainParams(1, 0.9, 0.0, "fp32", True, True, 1, "sgd", 0.05)
    start = [parameter.detach().clone() for parameter in fresh().parameters()]
    for method in (plain, clipped):
        run(method, tmp_path / "a", recipe=recipe)
    free, held = (
        torch.cat([(after - before).flatten() for after, before in zip(method.parameters(), start, strict=True)])
        for method in (plain, clipped)
    )
    assert held.norm().item() == pytest.approx(0.05 * 1e-3, rel=1e-3) and free.norm() > 10 * held.norm()
    assert torch.nn.functional.cosine_similarity(free, held, dim=0) > 0.999
