from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from baselines.downscale import Downscale, check
from scpseg.contract import Labels, Views
from scpseg.data.overviews import reduce_image
from scpseg.errors import UserError
from scpseg.evaluation.streaming import TestImage, segment
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.build import build_segmenter

CPU = torch.device("cpu")
CLASSES = 4


def make(name: str = "deeplabv3plus") -> Downscale:
    torch.manual_seed(0)
    segmenter = build_segmenter(SegmenterParams(name, "tu-test_resnet.r160_in1k", 8, "random", True), CLASSES)
    return Downscale(segmenter, 64, 48)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["deeplabv3plus", "fcn8s"])
@pytest.mark.parametrize("shape", [(150, 130), (128, 128), (200, 40)])
def test_labels_are_those_of_the_reduced_image_enlarged_at_once(name: str, shape: tuple[int, int]) -> None:
    method = make(name).eval()
    image = noise(*shape)
    with torch.no_grad():
        small = normalise(torch.from_numpy(reduce_image(image, 64))[None], method.weights)
        features = method.segmenter.decode(method.segmenter.encode(small))
        size = (features.shape[-2], features.shape[-1])
        # An untrained network finds one class everywhere.
        method.segmenter.classifier.bias.sub_(method.segmenter.classify(features, size).mean((0, 2, 3)))
        logits = method.segmenter.classify(features, size)
        whole = F.interpolate(logits, shape, mode="bilinear")[0]
    labels = segment(method, image, CLASSES, CPU, overlap=0.3, batch=2)
    expected = whole.argmax(0).numpy()
    # A near-tie may be decided differently.
    assert (labels != expected).mean() < 2e-3
    assert len(np.unique(expected)) > 1


def test_the_state_is_small_and_the_window_is_not_looked_at() -> None:
    method = make().eval()
    image = TestImage(noise(150, 150), method.needs.window, CPU)
    with torch.no_grad():
        state = method.begin_image(image)
        assert state.shape == (1, CLASSES, 16, 16)
        views = next(image.windows())
        black = Views(torch.zeros_like(views.context), views.place)
        assert torch.equal(method(views, state), method(black, state))


def test_the_loss_is_that_of_whole_overviews() -> None:
    method = make().eval()
    overview = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    truth = torch.randint(CLASSES, (2, 64, 64), dtype=torch.uint8)
    truth[0, :9] = 255
    context = torch.zeros(2, 3, 48, 48, dtype=torch.uint8)
    loss = method.losses(
        Views(context, torch.zeros(2, 4), overview), Labels(torch.zeros(2, 48, 48, dtype=torch.uint8), truth), 0.0
    )
    expected = F.cross_entropy(method.segmenter(normalise(overview, method.weights)), truth.long(), ignore_index=255)
    torch.testing.assert_close(loss, {"ce": expected})


def test_an_impossible_side_is_a_sentence() -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    values["downscale"] = {"side": 96}
    check(Params(values, Path("params.yaml")), "inria")
    values["downscale"] = {"side": 99}
    with pytest.raises(UserError, match=r"downscale\.side is 99.*multiple of .*8; the nearest valid value is 96"):
        check(Params(values, Path("params.yaml")), "inria")
