import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from baselines import patch
from scpseg.contract import Labels, Needs, Setting, Views
from scpseg.errors import UserError
from scpseg.losses import cross_entropy
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise

VALUES = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))


def params(**inria: Any) -> Params:
    values = copy.deepcopy(VALUES)
    values["segmenter"] = {
        "name": "deeplabv3plus",
        "encoder": "tu-test_resnet.r160_in1k",
        "output_stride": 8,
        "weights": "random",
        "auxiliary": True,
    }
    values["inria"] |= {"patch": 64, "batch": 2} | inria
    return Params(values, Path("params.yaml"))


def test_it_is_the_segmenter_on_the_patch_alone() -> None:
    given = params()
    method = patch.build(Setting(2, 64, given.section("segmenter", SegmenterParams), given)).eval()
    assert isinstance(method, patch.Patch)
    assert method.needs == Needs(patch=64, context=64)
    views = Views(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.zeros(2, 4))
    truth = torch.randint(0, 2, (2, 64, 64), dtype=torch.uint8)
    logits = method.segmenter(normalise(views.context, method.weights))
    assert torch.equal(method(views), logits)
    losses = method.losses(views, Labels(truth), 0.0)
    assert losses.keys() == {"ce"} and torch.equal(losses["ce"], cross_entropy(logits, truth))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"batch": 1}, "inria.batch is 1.*2 or more"), ({"patch": 68}, "inria.patch is 68.*nearest valid value is 72")],
)
def test_impossible_values_are_rejected(change: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        patch.check(params(**change), "inria")


def test_its_section_takes_no_key() -> None:
    given = params()
    with pytest.raises(UserError, match=r"unknown parameter patch\.side"):
        patch.check(Params({**given.values, "patch": {"side": 3}}, given.path), "inria")
