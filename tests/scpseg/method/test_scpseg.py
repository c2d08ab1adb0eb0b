import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from baselines import patch as plain
from scpseg.contract import Labels, Setting, Views, drop_training_parts
from scpseg.errors import UserError
from scpseg.losses import cross_entropy
from scpseg.method import scpseg
from scpseg.method.csm import Sizes, squeeze, squeeze_labels
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise

TINY = "tu-test_resnet.r160_in1k"
VALUES = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))


def params(**changes: Any) -> Params:
    """`section__key=value` over the paper's settings on 64 pixel patches."""
    values = copy.deepcopy(VALUES)
    values["segmenter"] = {
        "name": "deeplabv3plus",
        "encoder": TINY,
        "output_stride": 8,
        "weights": "random",
        "auxiliary": True,
    }
    values["csm"] = {"ratio": 0.75, "context": 2.0, "kernel": "antialias", "supervise": "frame"}
    values["srd"] = {"weight": 0.5}
    values["lfa"] = {"weight": 0.5, "window": 5, "stride": "k", "detach": True}
    values["inria"] |= {"patch": 64, "batch": 2}
    for name, value in changes.items():
        section, key = name.split("__")
        values[section][key] = value
    return Params(values, Path("params.yaml"))


def build(**changes: Any) -> scpseg.SCPSeg:
    given = params(**changes)
    scpseg.check(given, "inria")
    torch.manual_seed(0)
    method = scpseg.build(Setting(3, 64, given.section("segmenter", SegmenterParams), given))
    assert isinstance(method, scpseg.SCPSeg)
    return method


def batch(side: int = 128, seed: int = 0) -> tuple[Views, Labels]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 3, (2, side, side), dtype=torch.uint8, generator=generator)
    return Views(image, torch.zeros(2, 4)), Labels(label)


def stir(module: torch.nn.Module) -> None:
    """Move every parameter off its start: residual branches that start at weight 0 pass no gradient back."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def test_ratio_one_without_training_parts_is_the_plain_patch_bit_for_bit() -> None:
    method = build(csm__ratio=1.0, srd__weight=0.0, lfa__weight=0.0)
    given = params()
    patch = plain.build(Setting(3, 64, given.section("segmenter", SegmenterParams), given))
    assert method.needs == patch.needs
    patch.load_state_dict(method.state_dict())
    views, labels = batch(64)
    for mode in (False, True):
        method.train(mode), patch.train(mode)
        torch.manual_seed(1)
        one, one_losses = method(views), method.losses(views, labels, 0.0)
        torch.manual_seed(1)
        other, other_losses = patch(views), patch.losses(views, labels, 0.0)
        assert torch.equal(one, other)
        assert one_losses.keys() == other_losses.keys() and torch.equal(one_losses["ce"], other_losses["ce"])


def test_forward_is_squeeze_segment_cut_enlarge() -> None:
    method = build().eval()
    views, _ = batch()
    size = Sizes(128, 64, 48)
    logits = method.segmenter(normalise(squeeze(views.context, size, "antialias"), method.weights))
    expected = F.interpolate(logits[:, :, 8:56, 8:56], size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(method(views), expected)


@pytest.mark.parametrize("supervise", ["frame", "centre"])
def test_cross_entropy_is_taken_where_it_is_asked_for(supervise: str) -> None:
    method = build(csm__supervise=supervise, srd__weight=0.0, lfa__weight=0.0).eval()
    views, labels = batch()
    logits = method.segmenter(normalise(squeeze(views.context, method.sizes, "antialias"), method.weights))
    truth = squeeze_labels(labels.context, method.sizes)
    if supervise == "centre":
        logits, truth = logits[:, :, 8:56, 8:56], truth[:, 8:56, 8:56]
    losses = method.losses(views, labels, 0.0)
    torch.testing.assert_close(losses["ce"], cross_entropy(logits, truth))
    assert set(losses) == {"ce"}


def test_weights_scale_their_losses_and_zero_leaves_the_part_out() -> None:
    views, labels = batch()
    full, double = build(), build(srd__weight=1.0, lfa__weight=1.0)
    double.load_state_dict(full.state_dict())
    values = []
    for method in (full, double):
        torch.manual_seed(2)
        values.append(method.losses(views, labels, 0.5))
    for name in ("srd", "lfa"):
        torch.testing.assert_close(2 * values[0][name], values[1][name])
    without = build(srd__weight=0.0, lfa__weight=0.0)
    assert all(name.startswith("segmenter.") for name, _ in without.named_parameters())
    assert set(build(lfa__weight=0.0).losses(views, labels, 0.0)) == {"ce", "srd"}


def test_srd_is_the_mean_error_against_the_normalised_patch() -> None:
    method = build(lfa__weight=0.0).eval()
    assert method.srd is not None
    views, labels = batch()
    encoded = method.segmenter.encode(normalise(squeeze(views.context, method.sizes, "antialias"), method.weights))
    picture = method.srd(method.srd.features(encoded[-1], encoded[2], method.sizes))
    truth = normalise(views.context[:, :, 32:96, 32:96], method.weights)
    torch.testing.assert_close(method.losses(views, labels, 0.0)["srd"], 0.5 * (picture - truth).abs().mean())


@pytest.mark.parametrize(
    ("change", "stride"),
    [({}, 4), ({"segmenter__output_stride": 16}, 4), ({"segmenter__name": "fcn8s"}, 8), ({"lfa__stride": 1}, 4)],
)
def test_gradients_reach_everything_that_learns(change: dict[str, Any], stride: int) -> None:
    method = build(**change)
    assert method.segmenter.feature_stride == stride
    stir(method)
    losses = method.losses(*batch(), 0.0)
    assert set(losses) == {"ce", "srd", "lfa"}
    torch.autograd.backward(list(losses.values()))
    dead = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert dead == []


@pytest.mark.parametrize("detach", [True, False])
def test_lfa_teaches_the_super_resolution_side_only_without_detach(detach: bool) -> None:
    method = build(lfa__detach=detach)
    method.losses(*batch(), 0.0)["lfa"].backward()
    assert method.srd is not None
    reached = [p.grad is not None and bool(p.grad.abs().sum()) for p in method.srd.last.parameters()]
    assert any(reached) is not detach
    assert all(p.grad is None for p in method.srd.rgb.parameters())
    assert all(p.grad is None for p in method.segmenter.classifier.parameters())
    assert next(method.segmenter.encoder.parameters()).grad is not None


def test_test_time_holds_no_training_part() -> None:
    given = params()
    patch = plain.build(Setting(3, 64, given.section("segmenter", SegmenterParams), given))
    method = build()
    views, _ = batch()
    expected = method.eval()(views)
    dropped = drop_training_parts(method)
    assert {name.split(".")[0] for name in dropped.state_dict()} == {"segmenter"}
    count = [sum(p.numel() for p in module.parameters()) for module in (dropped, patch)]
    assert count[0] == count[1]
    assert torch.equal(dropped(views), expected)


def test_describe_gives_effective_sizes() -> None:
    described = build(csm__ratio=0.7, csm__context=1.6).describe()
    assert described["patch"] == 64 and described["squeezed"] == 48 and described["context"] == 102
    assert described["csm_ratio"] == 0.75 and described["csm_context"] == 102 / 64
    assert {"csm_kernel", "supervise", "srd_weight", "lfa_weight", "lfa_window", "lfa_stride"} <= set(described)
    assert build(csm__ratio=1.0).describe()["csm_context"] == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"csm__ratio": 1.7}, "csm.ratio is 1.7.*nearest valid value is 1"),
        ({"csm__context": 1.0}, "csm.context is 1.0"),
        ({"csm__kernel": "bicubic"}, "csm.kernel is 'bicubic'.*antialias, bilinear"),
        ({"srd__weight": 0.0}, "srd.weight is 0.0.*lfa.weight"),
        ({"lfa__window": 13}, "lfa.window is 13.*12 x 12.*nearest valid value is 12"),
        ({"segmenter__name": "fcn8s", "lfa__window": 7}, "lfa.window is 7.*nearest valid value is 6"),
        ({"lfa__stride": 2}, "lfa.stride is 2"),
        ({"inria__batch": 1}, "inria.batch is 1"),
        ({"inria__patch": 60}, "inria.patch is 60.*nearest valid value is 64"),
    ],
)
def test_impossible_values_are_rejected(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        scpseg.check(params(**change), "inria")
