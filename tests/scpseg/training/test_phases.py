from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scpseg.contract import Labels, Method, Needs, Phase, Recipe, Views
from scpseg.training.phases import checked, described, enter, factor, lengths, optimizer


class Two(Method):
    needs = Needs(patch=4, context=4)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        return self.second(self.first(views.context.float()))

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        return {"sum": self(views).sum()}


def test_gradients_of_what_stops_learning_are_given_back() -> None:
    """Kept, they would count as memory of a method with several phases, and nothing reads them."""
    module = Two()
    enter(module, Phase("a", ("first", "second")))
    window = torch.ones(2, 3, 4, 4, dtype=torch.uint8)
    module.losses(Views(window, torch.zeros(2, 4)), Labels(window[:, 0]), 0.0)["sum"].backward()
    kept = module.second.weight.grad
    moving = enter(module, Phase("b", ("second",)))
    assert all(parameter.grad is None for parameter in module.first.parameters())
    assert module.second.weight.grad is kept is not None
    assert {id(parameter) for parameter in moving} == {id(parameter) for parameter in module.second.parameters()}


def test_what_optimised_is_told_as_it_ran() -> None:
    sgd = Recipe("sgd", 0.05, 5e-4, 16, momentum=0.9)
    assert described([sgd]) == {
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "power": sgd.power,
        "batch": 16,
    }
    one = Recipe("sgd", 0.05, 5e-4, 1, momentum=0.9)
    assert described([sgd, sgd, one])["batch"] == "16:16:1" and described([sgd, sgd, one])["learning_rate"] == 0.05
    adam = [Recipe("adam", rate, 5e-4, 6, power=0.9) for rate in (5e-5, 2e-5)]
    assert described(adam) == {
        "optimizer": "adam",
        "learning_rate": "5e-05:2e-05",
        "momentum": None,
        "weight_decay": 5e-4,
        "power": 0.9,
        "batch": 6,
    }


def test_authors_count_epochs_or_steps() -> None:
    phases = (
        Phase("a", recipe=Recipe("sgd", 0.1, 0.0, 4, epochs=3)),
        Phase("b", recipe=Recipe("sgd", 0.1, 0.0, 4, steps=7)),
        Phase("c", recipe=Recipe("sgd", 0.1, 0.0, 4, epochs=3, drop_last=True)),
    )
    assert lengths(phases, 1000, 8, images=10, windows=90) == [9, 7, 6]


def test_rates_fall_as_authors_have_it() -> None:
    poly = Recipe("sgd", 0.01, 0.0, 4, power=0.9, end=1e-4)
    assert [0.01 * factor(poly, step, 10) for step in (0, 5, 10)] == pytest.approx(
        [0.01, 0.0099 * 0.5**0.9 + 1e-4, 1e-4]
    )
    # A tenth after 10, 20, 30, 40 and 45 of 50 epochs.
    drops = Recipe("sgd", 1e-3, 0.0, 8, epochs=50, drops=(0.2, 0.4, 0.6, 0.8, 0.9))
    steps = 50 * 57
    found = [factor(drops, epoch * 57 + part, steps) for epoch, part in ((0, 0), (9, 56), (10, 0), (44, 56), (45, 0))]
    assert found == pytest.approx([1, 1, 0.1, 1e-4, 1e-5])


def test_momentum_may_be_nesterovs() -> None:
    moving = [nn.Parameter(torch.ones(1))]
    assert optimizer(Recipe("sgd", 0.1, 0.0, 4, nesterov=True), moving).defaults["nesterov"] is True
    assert optimizer(Recipe("sgd", 0.1, 0.0, 4), moving).defaults["nesterov"] is False


def test_checks_are_spread_evenly_and_the_last_is_at_the_end() -> None:
    assert checked(12, 3) == {4, 8, 12} and checked(10, 3) == {4, 7, 10} and checked(2, 5) == {1, 2}
    assert checked(10, 0) == set()
