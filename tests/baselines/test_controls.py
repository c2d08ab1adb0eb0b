"""The two controls of SCPSeg: its window resized as a whole, and plain patches as large as its window."""

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from baselines import large, resize
from scpseg.contract import Labels, Method, Needs, Setting, Views
from scpseg.errors import UserError
from scpseg.losses import cross_entropy
from scpseg.method.csm import Sizes, squeeze
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise

VALUES = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))


def params(**changes: Any) -> Params:
    values = copy.deepcopy(VALUES)
    values["segmenter"] |= {"name": "deeplabv3plus", "encoder": "tu-test_resnet.r160_in1k", "weights": "random"}
    values["inria"] |= {"patch": 64, "batch": 2}
    for section, entries in changes.items():
        values[section] |= entries
    return Params(values, Path("params.yaml"))


def made(module: ModuleType, given: Params) -> Method:
    torch.manual_seed(0)
    module.check(given, "inria")
    method: Method = module.build(Setting(2, 64, given.section("segmenter", SegmenterParams), given))
    return method.eval()


def windows(side: int) -> Views:
    return Views(torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8), torch.zeros(2, 4))


def test_resize_labels_the_centre_of_the_reduced_window() -> None:
    method = made(resize, params())
    assert method.needs == Needs(patch=64, context=128) and method.describe()["squeezed"] == 32
    views = windows(128)
    with torch.no_grad():
        small = F.interpolate(views.context.float(), size=(64, 64), mode="bilinear", antialias=True)
        logits = method.segmenter(normalise(small, method.weights))
        found = method(views)
    # Inside, away from the crop's border, where one may look beyond it and the other does not.
    expected = F.interpolate(logits[..., 16:48, 16:48], size=(64, 64), mode="bilinear")
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-5)
    labels = torch.randint(0, 2, (2, 128, 128), dtype=torch.uint8)
    losses = method.losses(views, Labels(labels), 0.0)
    assert torch.equal(losses["ce"], cross_entropy(logits, labels[:, 1::2, 1::2]))


def test_resize_sees_nearly_what_a_squeeze_without_a_kept_centre_sees() -> None:
    """`csm.ratio` = L / G shrinks every tile alike; only the filter at the borders of tiles differs."""
    method = made(resize, params())
    views = windows(128)
    views = Views(F.avg_pool2d(views.context.float(), 9, 1, 4).to(torch.uint8), views.place)
    squeezed = squeeze(views.context, Sizes(patch=64, context=128, squeezed=32), "antialias")
    assert isinstance(method, resize.Resize)
    difference = (method._reduced(views.context) - normalise(squeezed, method.weights)).abs()
    assert difference.median() < 1e-4 and difference.max() < 0.1


@pytest.mark.parametrize(("context", "side"), [(1.0, 64), (1.3359375, 86), (3.0, 192)])
def test_the_window_of_resize_keeps_the_patch_in_its_centre(context: float, side: int) -> None:
    assert made(resize, params(resize={"context": context})).needs == Needs(patch=64, context=side)


def test_large_patches_are_plain_patches_of_the_windows_side() -> None:
    method = made(large, params())
    assert method.needs == Needs(patch=128, context=128)
    views = windows(128)
    with torch.no_grad():
        assert torch.equal(method(views), method.segmenter(normalise(views.context, method.weights)))


@pytest.mark.parametrize(
    ("module", "section", "change", "words"),
    [
        (resize, "resize", {"context": 0.5}, r"resize\.context is 0\.5.*at least 1"),
        (large, "large", {"scale": 0.5}, r"large\.scale is 0\.5.*at least 1"),
        (large, "large", {"scale": 1.3}, r"large\.scale is 1\.3.*patches of 83 pixels.*nearest valid value is 80"),
    ],
)
def test_impossible_values_are_rejected(module: ModuleType, section: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        module.check(params(**{section: change}), "inria")
