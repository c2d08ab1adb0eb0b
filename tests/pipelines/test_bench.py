import pytest
import torch

from pipelines.bench import DENSE, PAPER, arguments, build, explicit_windows, seconds
from scpseg.errors import UserError
from scpseg.method.lfa import alignment


def test_work_is_run_in_turn_and_the_first_turn_is_not_timed() -> None:
    calls: list[str] = []
    took = seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert took.keys() == {"a", "b"} and all(value >= 0 for value in took.values())


def test_both_sides_of_the_dense_ratio_compute_the_same_loss() -> None:
    features, teacher = torch.randn(2, 16, 12, 11), torch.randn(2, 8, 12, 11)
    torch.testing.assert_close(alignment(features, teacher, DENSE), explicit_windows(features, teacher, DENSE))


def test_the_bench_measures_the_papers_sizes() -> None:
    sizes = build(PAPER[0][0]).describe()
    assert (sizes["patch"], sizes["context"], sizes["squeezed"]) == (256, 512, 192)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--share", "0"), "--share is 0, but it must be at least 1 and at most 16; the nearest valid value is 1"),
        (("--repeats", "0"), "--repeats is 0, but it must be at least 1"),
        (("--threads", "-1"), "--threads is -1, but it must be at least 0 and at most 1024"),
        (("--threads", "1000000"), "--threads is 1000000, but .* the nearest valid value is 1024"),
    ],
)
def test_arguments_out_of_range_are_sentences(
    given: tuple[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *given])
    with pytest.raises(UserError, match=f"^{words}"):
        arguments()


def test_the_usual_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench"])
    assert vars(arguments()) == {"share": 4, "repeats": 3, "threads": 0}
