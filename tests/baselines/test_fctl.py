import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from baselines import fctl
from baselines.fctl import Correlation, FCtL, FCtLParams, Head, Trunk, crop, reduced
from scpseg.contract import Labels, Views
from scpseg.errors import UserError
from scpseg.params import SegmenterParams, TrainParams
from scpseg.segmenters.base import normalise
from scpseg.training.phases import enter, shared
from scpseg.training.step import Stepper

ENCODER, CLASSES, PATCH = "tu-test_resnet.r160_in1k", 3, 64


def settings(weights: str = "random") -> SegmenterParams:
    return SegmenterParams("deeplabv3plus", ENCODER, 8, weights, True)


def make(views: int = 1, recipe: str = "suite") -> FCtL:
    torch.manual_seed(0)
    method = FCtL(FCtLParams(ENCODER, 16, views, recipe), settings(), CLASSES, PATCH)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return method


def batch(count: int = 2) -> tuple[Views, Labels]:
    generator = torch.Generator().manual_seed(1)
    side = 3 * PATCH
    context = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count, side, side), dtype=torch.uint8, generator=generator)
    return Views(context, torch.zeros(count, 4)), Labels(labels)


def point(layer: nn.Conv2d, vector: np.ndarray) -> np.ndarray:
    """A 1x1 convolution of one cell."""
    weight = layer.weight.detach().numpy()[:, :, 0, 0]
    return weight @ vector + (0 if layer.bias is None else layer.bias.detach().numpy())


def test_correlation_equals_the_equations_cell_by_cell() -> None:
    torch.manual_seed(0)
    channels, shapes = 6, ((3, 4), (2, 3), (4, 2))
    module = Correlation(channels).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    own, medium, wide = (torch.randn(1, channels, *shape, dtype=torch.float64) for shape in shapes)
    found = module(own, medium, wide)[0].detach().numpy()
    others = {"medium": medium, "wide": wide, "own": own}
    for row, column in itertools.product(*map(range, shapes[0])):
        here = own[0, :, row, column].numpy()
        read = []
        for name, other in others.items():
            attention = module.attentions[name]
            query = point(attention.query, here)
            cells = [other[0, :, y, x].numpy() for y, x in itertools.product(*map(range, other.shape[-2:]))]
            # No division by the root of the width.
            likeness = [math.exp(query @ point(attention.key, cell)) for cell in cells]
            values = [point(attention.value, cell) for cell in cells]
            mean = sum(part / sum(likeness) * value for part, value in zip(likeness, values, strict=True))
            read.append(float(attention.gain.detach()) * mean)
        mixed = point(module.mix, np.concatenate([point(e, r) for e, r in zip(module.embed, read, strict=True)]))
        gates = [
            1 / (1 + np.exp(-point(weigh, part))) for weigh, part in zip(module.weigh, np.split(mixed, 3), strict=True)
        ]
        shares = np.exp(gates) / np.exp(gates).sum(axis=0)
        expected = here + sum(share * part for share, part in zip(shares, read, strict=True))
        np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-10, atol=1e-12)


def test_a_new_correlation_changes_nothing() -> None:
    module = Correlation(6)
    own = torch.randn(1, 6, 3, 3)
    assert torch.equal(module(own, torch.randn(1, 6, 2, 2), torch.randn(1, 6, 2, 2)), own)


@pytest.mark.parametrize("times", [2, 3])
def test_a_marker_in_the_context_keeps_its_place(times: int) -> None:
    window = torch.zeros(1, 3, 3 * PATCH, 3 * PATCH)
    top, left = 3 * PATCH // 2 + 20, 3 * PATCH // 2 - 31
    window[..., top : top + times, left : left + times] = 1
    small = reduced(window, PATCH, times)
    assert small.shape[-2:] == (PATCH, PATCH)
    margin = (3 - times) * PATCH // 2
    row, column = divmod(int(small[0, 0].argmax()), PATCH)
    assert abs(row - (top - margin) / times) <= 1 and abs(column - (left - margin) / times) <= 1
    assert small.sum() == pytest.approx(3, rel=0.05)


def test_each_trunk_sees_its_own_window(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make().eval()
    seen: list[tuple[str, Tensor]] = []
    for name, trunk in method.named_children():
        if isinstance(trunk, Trunk):
            trunk.register_forward_pre_hook(lambda _, inputs, name=name: seen.append((name, inputs[0])))
    views, _ = batch(1)
    with torch.no_grad():
        method(views)
    window = normalise(views.context, method.weights)
    expected = {
        "trunk": window[..., PATCH : 2 * PATCH, PATCH : 2 * PATCH],
        "medium_trunk": reduced(window, PATCH, 2),
        "wide_trunk": reduced(window, PATCH, 3),
    }
    assert sorted(name for name, _ in seen) == sorted(expected)
    assert all(torch.equal(pixels, expected[name]) for name, pixels in seen)


def test_vgg_maps_are_those_after_pooling() -> None:
    with torch.device("meta"):
        trunk = Trunk(settings(), "vgg16")
        maps = trunk(torch.empty(1, 3, 512, 512))
        method = FCtL(FCtLParams("vgg16", 8, 1, "suite"), settings(), CLASSES, PATCH)
    assert [tuple(map_.shape[1:]) for map_ in maps] == [(256, 64, 64), (512, 32, 32), (512, 16, 16)]
    assert trunk.channels == [256, 512, 512] and method.head.scales == (1e-4, 1e-2)
    # Maps that a norm brought to unit scale need no factor.
    assert make().head.scales == make().wide_head.scales == (1.0, 1.0)


def test_the_head_adds_scaled_skips() -> None:
    torch.manual_seed(0)
    head = Head([4, 5, 6], 8, 3, (1e-4, 1e-2)).double().eval()
    maps = [torch.randn(1, count, side, side, dtype=torch.float64) for count, side in ((4, 8), (5, 4), (6, 2))]
    hidden = F.relu(F.conv2d(maps[2], head.wide.weight, head.wide.bias, padding=3))
    hidden = F.relu(F.conv2d(hidden, head.deep.weight, head.deep.bias))
    scores = F.conv2d(hidden, head.score.weight, head.score.bias)
    scores = F.interpolate(scores, scale_factor=2, mode="bilinear") + head.skips[1](maps[1] / 100)
    scores = F.interpolate(scores, scale_factor=2, mode="bilinear") + head.skips[0](maps[0] / 10000)
    torch.testing.assert_close(head(maps, 64), F.interpolate(scores, scale_factor=8, mode="bilinear"))


def test_bilinear_enlargement_is_the_authors_transposed_convolution_inside() -> None:
    """Kernel 4, stride 2, weights 1 3 3 1 / 4 along both axes; borders differ, where theirs sees zeros."""
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    weights = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 4
    theirs = F.conv_transpose2d(x, weights.outer(weights)[None, None], stride=2, padding=1)
    ours = F.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1])


def test_weights_of_the_classifier_become_those_of_the_head() -> None:
    torch.manual_seed(0)
    head = Head([2, 2, 3], 5, 2, (1.0, 1.0))
    first, second = nn.Linear(3 * 7 * 7, 5), nn.Linear(5, 5)
    state = {f"{name}.{key}": value for name, layer in (("0", first), ("3", second)) for key, value in
             layer.state_dict().items()}  # fmt: skip
    head.load_classifier(state)
    x = torch.randn(1, 3, 7, 7)
    torch.testing.assert_close(head.wide(x)[0, :, 3, 3], first(x.flatten()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.deep.weight[:, :, 0, 0], second.weight)


def test_weights_that_cannot_be_fetched_end_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "vgg16", offline)
    with pytest.raises(UserError, match=r"vgg16.*no route to host.*segmenter\.weights=random"):
        fctl.vgg_classifier()
    known = {"0.weight": torch.zeros(1)}
    network = SimpleNamespace(classifier=SimpleNamespace(state_dict=lambda: known))
    monkeypatch.setattr(torchvision.models, "vgg16", lambda **_: network)
    assert fctl.vgg_classifier() is known


def test_eight_views_are_the_mean_over_flips_and_turns() -> None:
    one, eight = make(1).eval(), make(8).eval()
    views, _ = batch(1)

    def logits(method: FCtL, context: Tensor) -> Tensor:
        with torch.no_grad():
            return method(Views(context, views.place))

    total = torch.zeros(1, CLASSES, PATCH, PATCH)
    for flip, turns in itertools.product((False, True), range(4)):
        context = torch.rot90(views.context.flip(-1) if flip else views.context, turns, (-2, -1))
        back = torch.rot90(logits(one, context), -turns, (-2, -1))
        total += back.flip(-1) if flip else back
    torch.testing.assert_close(logits(eight, views.context), total / 8, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(one, views.context), total / 8, rtol=1e-3, atol=1e-4)


def test_each_phase_starts_from_the_right_one_and_frozen_trunks_stay() -> None:
    method = make()
    train = TrainParams(4, 0.9, 5e-4, "fp32", True, True, 5, "sgd", 0.05)
    stepper = Stepper(method, train, torch.device("cpu"))
    ends: dict[str, dict[str, Tensor]] = {}
    for phase in method.phases():
        before = {key: value.clone() for key, value in method.state_dict().items()}
        stepper.begin(phase, shared(train, 2))
        begun = {key: value.clone() for key, value in method.state_dict().items()}
        starts = {"wide": {"wide_trunk": "trunk", "wide_head": "head"}, "medium": {"medium_trunk": "trunk"}}
        starts["all"] = {"trunk": "medium_trunk"}
        for key, value in begun.items():
            part, _, rest = key.partition(".")
            source = starts.get(phase.name, {}).get(part)
            assert torch.equal(value, before[f"{source}.{rest}" if source else key]), key
        stepper([(*batch(), 1.0)], 0.0)
        ends[phase.name] = {key: value.clone() for key, value in method.state_dict().items()}
        for key, value in begun.items():
            learns = any(key == part or key.startswith(f"{part}.") for part in phase.learns or ())
            assert learns or torch.equal(value, ends[phase.name][key]), key
    # The last phase starts from the medium context's head and attention, and keeps both context trunks.
    assert list(ends) == ["patch", "wide", "medium", "all"]
    for key, value in ends["all"].items():
        if key.startswith(("medium_trunk.", "wide_trunk.")):
            origin = "wide" if key.startswith("wide") else "medium"
            assert torch.equal(value, ends[origin][key])


def test_each_phase_learns_what_its_view_shows() -> None:
    """Phase 'patch' is blind to the surroundings, 'medium' sees twice the patch, 'wide' and 'all' everything."""
    method = make()
    views, labels = batch()
    for phase in method.phases():
        enter(method, phase, fresh=False)
        method.eval()
        found = []
        for reach in (0, PATCH // 2):
            context = views.context.clone()
            kept = crop(context, PATCH + 2 * reach).clone()
            context.zero_()
            crop(context, PATCH + 2 * reach).copy_(kept)
            loss = method.losses(Views(context, views.place), labels, 0.0)["focal"]
            full = method.losses(views, labels, 0.0)["focal"]
            found.append(torch.equal(loss, full))
        # Antialiasing reaches over the edge of the medium window by nothing: it is cut before.
        assert found == {"patch": [True, True], "medium": [False, True]}.get(phase.name, [False, False])
        assert phase.side == {"patch": PATCH, "medium": 2 * PATCH}.get(phase.name)  # what the record counts


def test_the_authors_show_all_windows_of_an_image() -> None:
    phases = make(recipe="author").phases()
    assert [(phase.unit, phase.windows, phase.summed) for phase in phases] == [("image", 6, True)] + 3 * [
        ("image", 4, True)
    ]


def test_each_context_has_its_own_attention() -> None:
    """The correlation gets the patch's, the medium and the wide context's deepest map, in this order."""
    method = make().eval()
    deepest: dict[str, Tensor] = {}
    given: list[Tensor] = []
    for name, trunk in method.named_children():
        if isinstance(trunk, Trunk):
            trunk.register_forward_hook(lambda _, inputs, maps, name=name: deepest.update({name: maps[-1]}))
    method.correlation.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    with torch.no_grad():
        method(batch(1)[0])
    expected = [deepest[name] for name in ("trunk", "medium_trunk", "wide_trunk")]
    assert len(given) == 3 and all(one is other for one, other in zip(given, expected, strict=True))
    assert not torch.equal(given[1], given[2])


def test_the_loss_is_focal_with_exponent_three() -> None:
    method = make().eval()
    method.begin_phase("all", fresh=False)
    views, labels = batch()
    truth = labels.context[:, PATCH : 2 * PATCH, PATCH : 2 * PATCH].long()
    with torch.no_grad():
        chance = method(views).softmax(dim=1).gather(1, truth[:, None])
        found = method.losses(views, labels, 0.0)
    expected = {"focal": ((1 - chance) ** 3 * -chance.log()).mean()}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_dropout_and_initial_weights_of_the_authors() -> None:
    method = FCtL(FCtLParams(ENCODER, 16, 1, "suite"), settings(), CLASSES, PATCH)
    assert [module.p for module in method.modules() if isinstance(module, nn.Dropout2d)] == [0.5, 0.5]
    head = method.head.train()
    head.dropout.p = 1.0
    seen: dict[str, Tensor] = {}
    for name in ("deep", "score"):
        getattr(head, name).register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    head([torch.rand(1, count, side, side) for count, side in zip(method.trunk.channels, (8, 4, 2), strict=True)], 64)
    assert len(seen) == 2 and not any(features.any() for features in seen.values())
    layers = [module for module in method.correlation.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 3 * 3 + 3 + 3 + 1
    for layer in (*layers, *(part for part in method.wide_attention.children() if isinstance(part, nn.Conv2d))):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1) and layer.weight.abs().max() > 0.025
        assert layer.bias is None or not layer.bias.any()
    gains = [attention.gain for attention in (*method.correlation.attentions.values(), method.wide_attention)]
    assert all(not gain.any() for gain in gains)
