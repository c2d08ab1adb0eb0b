import pytest

from scpseg.tuning import GRID, at_edge, parse


def test_every_choice_of_the_grid_can_be_read() -> None:
    assert len(GRID) == 3 and all(parse(choice) is not None for choice in GRID)


@pytest.mark.parametrize(
    ("optimizer", "rate", "expected"),
    [
        ("sgd", 0.05, False),
        ("sgd", 0.01, True),
        ("sgd", 0.1, True),
        ("sgd", 0.2, True),
        ("sgd", 0.02, False),
        ("adam", 0.001, True),
        ("adamw", 0.001, True),
    ],
)
def test_a_better_rate_may_lie_beyond_the_edge(optimizer: str, rate: float, expected: bool) -> None:
    assert at_edge(optimizer, rate, ("sgd 0.01", "sgd 0.05", "sgd 0.1", "adam 0.001")) is expected
