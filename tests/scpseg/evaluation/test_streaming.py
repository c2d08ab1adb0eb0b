from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scpseg.contract import ImageViews, Labels, Method, Needs, Views, Weights, Window
from scpseg.data.windows import cut_image, starts
from scpseg.evaluation.streaming import mapped_labels, segment

CLASSES = 5


class Wild(Method):
    """Logits depend on the pixel, its place in the window and the context: any misplaced window shows."""

    def __init__(self, patch: int, context: int) -> None:
        super().__init__()
        self.needs = Needs(patch, context)
        self.weights = Weights("random")
        self.net = nn.Conv2d(3, CLASSES, 5, padding=2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, views: Views, state: Any = None) -> Tensor:
        self.seen.append(tuple(views.context.shape))
        margin = (self.needs.context - self.needs.patch) // 2
        logits = self.net(views.context.float() / 255)
        wave = torch.sin(torch.arange(self.needs.context) * 1.3)
        logits = logits + wave[:, None] * wave[None] + views.place.sum(1)[:, None, None, None]
        return logits[..., margin : margin + self.needs.patch, margin : margin + self.needs.patch]

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        return {}


def naive(method: Wild, image: np.ndarray, overlap: float) -> np.ndarray:
    """Full-size maps of summed logits and counts, averaged, then decided."""
    height, width = image.shape[:2]
    patch, context = method.needs.patch, method.needs.context
    margin = (context - patch) // 2
    sums = np.zeros((CLASSES, height + patch, width + patch), dtype=np.float64)
    counts = np.zeros((height + patch, width + patch))
    for top in starts(height, patch, overlap):
        for left in starts(width, patch, overlap):
            window = torch.from_numpy(cut_image(image, top - margin, left - margin, context, context)).unsqueeze(0)
            place = torch.tensor([[top / height, left / width, patch / height, patch / width]])
            with torch.no_grad():
                logits = method(Views(window, place))[0].double().numpy()
            sums[:, top : top + patch, left : left + patch] += logits
            counts[top : top + patch, left : left + patch] += 1
    return (sums[:, :height, :width] / counts[:height, :width]).argmax(0)


@pytest.mark.parametrize("shape", [(96, 96), (70, 133), (20, 50), (33, 32), (32, 200)])
@pytest.mark.parametrize(("overlap", "batch"), [(0.0, 1), (0.5, 3), (0.3, 4)])
def test_equals_the_naive_full_map(shape: tuple[int, int], overlap: float, batch: int) -> None:
    torch.manual_seed(0)
    method = Wild(32, 48)
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    labels = segment(method, image, CLASSES, torch.device("cpu"), overlap, batch)
    assert labels.dtype == np.uint8 and labels.shape == shape
    # float32 against float64 sums may decide a near-tie differently
    assert (labels != naive(method, image, overlap)).mean() < 1e-3
    assert len(np.unique(labels)) > 1


def test_state_is_made_once_per_image_and_windows_agree_with_forward() -> None:
    class Stateful(Wild):
        calls = 0

        def begin_image(self, image: ImageViews) -> Any:
            Stateful.calls += 1
            assert image.overview(8).shape == (1, 3, 8, 8)
            return [views.context for views in image.windows()]

        def forward(self, views: Views, state: Any = None) -> Tensor:
            assert torch.equal(views.context, state[len(self.seen)])
            return super().forward(views, state)

    method = Stateful(32, 32)
    image = np.random.default_rng(0).integers(256, size=(70, 70, 3), dtype=np.uint8)
    ticks: list[int] = []
    segment(method, image, CLASSES, torch.device("cpu"), batch=2, tick=ticks.append)
    assert Stateful.calls == 1 and sum(ticks) == 9 and len(method.seen) == 5


def test_holds_one_band_of_scores_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    zeros = torch.zeros

    def counting(*shape: int, **options: Any) -> Tensor:
        made.append(int(np.prod(shape)))
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", counting)
    segment(Wild(32, 32), np.zeros((320, 64, 3), dtype=np.uint8), CLASSES, torch.device("cpu"))
    assert made == [CLASSES * 32 * 64]


class AtOnce(Wild):
    """Takes the whole image at test time, in sides that are multiples of 32."""

    def needs_at(self, height: int, width: int) -> Window:
        return Window.whole(height, width, 32)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        self.seen.append((*views.context.shape, *views.place[0].tolist()))
        return self.net(views.context.float() / 255)


@pytest.mark.parametrize(("shape", "sides"), [((96, 64), (96, 64)), ((70, 133), (96, 160)), ((20, 50), (32, 64))])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_whole_image_is_one_window_mirrored_and_cut_back(
    shape: tuple[int, int], sides: tuple[int, int], overlap: float
) -> None:
    torch.manual_seed(0)
    method = AtOnce(32, 32)
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    labels = segment(method, image, CLASSES, torch.device("cpu"), overlap, 4)
    missing = [(0, side - size) for side, size in zip(sides, shape, strict=True)]
    whole = torch.from_numpy(np.pad(image, [*missing, (0, 0)], "reflect")).permute(2, 0, 1).unsqueeze(0)
    with torch.no_grad():
        expected = method.net(whole.float() / 255)[0].argmax(0)[: shape[0], : shape[1]]
    assert (labels != expected.numpy()).mean() < 1e-3
    place = [0.0, 0.0, *(side / size for side, size in zip(sides, shape, strict=True))]
    assert len(method.seen) == 1 and method.seen[0] == pytest.approx((1, 3, *sides, *place))


def test_windows_of_the_whole_image_are_large_enough() -> None:
    assert Window.whole(100, 64, 32) == Window((128, 64), (128, 64))
    assert Window.whole(100, 640, 32, least=200).patch == (224, 640)
    assert Needs(32, 48).window == Window((32, 32), (48, 48))


class Oblong(Wild):
    """Windows whose sides differ, with a margin above and below."""

    def needs_at(self, height: int, width: int) -> Window:
        return Window((32, 48), (40, 48))

    def forward(self, views: Views, state: Any = None) -> Tensor:
        self.seen.append(tuple(views.context.shape))
        return self.net(views.context.float() / 255)[:, :, 4:-4]


def test_windows_may_be_oblong() -> None:
    torch.manual_seed(0)
    method = Oblong(32, 32)
    image = np.random.default_rng(0).integers(256, size=(70, 100, 3), dtype=np.uint8)
    labels = segment(method, image, CLASSES, torch.device("cpu"))
    assert set(method.seen) == {(1, 3, 40, 48)} and len(method.seen) == 3 * 3
    with torch.no_grad():
        inside = method.net(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 255)[0].argmax(0)
    # Windows agree with the whole image but where they see its border, or their own left and right ends.
    assert (labels[4:-4, 4:44] != inside[4:-4, 4:44].numpy()).mean() < 1e-3


def test_a_mapped_result_is_the_same_and_leaves_no_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    method, image = Wild(32, 48), np.random.default_rng(0).integers(256, size=(70, 133, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = segment(method, image, CLASSES, torch.device("cpu"), 0.5)
        out = mapped_labels(tmp_path / "new", 70, 133)
        found = segment(method, image, CLASSES, torch.device("cpu"), 0.5, out=out)
    assert found is out and not out.flags.owndata and not list((tmp_path / "new").iterdir())
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_the_first_of_equal_logits_wins(classes: int) -> None:
    """As with argmax, also where logits are not numbers."""
    scores = torch.randint(0, 3, (classes, 40, 40), generator=torch.Generator().manual_seed(0)).float()
    scores[-1, 5] = torch.nan

    class Stored(Wild):
        def forward(self, views: Views, state: Any = None) -> Tensor:
            return scores[None]

    found = segment(Stored(40, 40), np.zeros((40, 40, 3), np.uint8), classes, torch.device("cpu"))
    rows = np.arange(40) != 5
    assert np.array_equal(found[rows], scores.numpy().argmax(0)[rows])
