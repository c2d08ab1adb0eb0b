import gc
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipelines.bench import __main__ as command
from pipelines.bench import growth, inference, method, rows, scene, scores, stages, windows
from pipelines.bench.rows import Peer, Row, alone, compared, interleaved, merged, quartiles
from scpseg.data.store import Store
from scpseg.errors import UserError
from scpseg.evaluation.streaming import segment
from scpseg.method.csm import squeeze
from scpseg.method.lfa import alignment

TOOK = {"ours": [2.0, 4.0, 3.0], "theirs": [30.0, 6.0, 9.0]}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between works the bench collects garbage, which takes longer than these small works."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def one(**changes: object) -> Row:
    (row,) = compared("topic", "name", "ms", 1e3, TOOK, [Peer("peer", "numpy", "theirs", 2.0)])
    return rows.replace(row, **changes)


def test_work_is_run_in_turn_and_the_first_turn_is_not_timed() -> None:
    calls: list[str] = []
    took = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, lambda: len(calls))
    assert calls == ["a", "b"] * 4
    assert took == {"a": [1] * 3, "b": [1] * 3}


def test_slow_work_is_run_twice_and_both_count() -> None:
    now, calls = [0.0], {"fast": 0, "slow": 0}

    def take(name: str, seconds: float) -> None:
        calls[name] += 1
        now[0] += seconds

    works = {"fast": lambda: take("fast", 0.5), "slow": lambda: take("slow", rows.SLOW * 2)}
    took = interleaved(works, 4, lambda: now[0])
    assert calls == {"fast": 5, "slow": 2}
    assert took == {"fast": [0.5] * 4, "slow": [rows.SLOW * 2] * 2}


def test_a_ratio_is_the_peers_time_over_ours() -> None:
    row = one()
    assert (row.ours, row.peer, row.ratio, row.met) == (3000.0, 9000.0, 3.0, True)
    assert row.spread == (2.5, 6.5) == quartiles([10.0, 2.0, 3.0])
    assert row.peer_version == np.__version__
    assert one(at_least=3.1).met is False and one(at_least=None).met is None


def test_a_peer_that_is_not_installed_says_how_to_install_it() -> None:
    (row,) = compared("topic", "name", "s", 1.0, {"ours": [1.0]}, [Peer("peer", "no-such-thing", "peer", 2.0)])
    assert row.ratio is None and row.met is None
    assert "no-such-thing is not installed" in row.note and ".[bench]" in row.note
    assert "no-such-thing is not installed" in rows.line(row)


def test_a_row_alone_has_a_highest_value() -> None:
    row = alone("topic", "start", "s", [0.5, 0.7, 0.6], at_most=0.6)
    assert (row.ours, row.met, row.ratio) == (0.6, True, None)
    assert alone("topic", "start", "s", [0.7], at_most=0.6).met is False
    assert rows.line(alone("topic", "start", "s", [0.7], at_most=0.6)) == "start: 0.7 s, at most 0.6: MISSED\n"
    (joined,) = merged(
        merged([row], [alone("topic", "start", "s", [0.9], at_most=0.6)]),
        [alone("topic", "start", "s", [0.5], at_most=0.6)],
    )
    assert joined.ratios == (0.6, 0.9, 0.5) and (joined.value, joined.met, joined.ours) == (0.6, True, 0.5)


def test_runs_are_joined_and_keep_their_place() -> None:
    other = one(name="other")
    again = one(ratios=(5.0,), spread=(4.0, 7.0), ours=2500.0)
    joined = merged([one(), other], [again])
    assert [row.name for row in joined] == ["name", "other"]
    assert joined[0].ratios == (3.0, 5.0) and joined[0].ratio == 4.0
    assert joined[0].spread == (2.5, 7.0) and joined[0].ours == min(one().ours, 2500.0)
    many = one(ratios=tuple(map(float, range(rows.RUNS))))
    assert merged([many], [again])[0].ratios == (*map(float, range(1, rows.RUNS)), 5.0)


def test_another_version_starts_anew_and_a_missing_peer_replaces_nothing() -> None:
    newer = one(peer_version="99", ratios=(5.0,))
    assert merged([one()], [newer]) == [newer]
    missing = one(peer_version="", ratios=(), peer=None)
    assert merged([one()], [missing]) == [one()]
    assert merged([missing], [one()]) == [one()]


def test_the_table_is_read_as_it_was_written(tmp_path) -> None:
    path = tmp_path / "bench.csv"
    table = [one(), one(name="a, b"), alone("other", "start", "s", [0.5, 0.75], at_most=1.0)]
    rows.write(table, path)
    assert rows.read(path) == table
    first = path.read_bytes()
    assert b"\r" not in first and first.startswith(b"topic,name,ours,peer,")
    rows.write([one()], path)
    assert rows.read(path)[0].ratios == (3.0, 3.0)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"bench\.csv is not a table of this bench; delete it"):
        rows.read(path)


def test_sides_that_differ_are_refused() -> None:
    rows.same([1, 2], np.array([1, 2]), "numbers")
    with pytest.raises(UserError, match="numbers: both sides differ"):
        rows.same([1, 2], [1, 3], "numbers")


def test_a_failing_command_is_named() -> None:
    with pytest.raises(UserError, match=r"python -c .* failed"):
        rows.run("-c", "raise SystemExit(3)")


def test_the_peak_is_that_of_a_fresh_process() -> None:
    # Truth and prediction are there before the work, whose codes and copies come on top.
    peak = rows.peak("pipelines.bench.scores:ready", "numpy")
    assert 190 < peak < 700


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--repeats", "0"), "--repeats is 0, but it must be at least 1"),
        (("--repeats", "101"), "--repeats is 101, but .* the nearest valid value is 100"),
        (("window",), "'window' is not a topic of the bench.*windows"),
    ],
)
def test_arguments_out_of_range_are_sentences(
    given: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *given])
    with pytest.raises(UserError, match=f"^{words}"):
        command.main()


def test_both_sides_of_the_dense_ratio_compute_the_same_loss() -> None:
    features, teacher = torch.randn(2, 16, 12, 11), torch.randn(2, 8, 12, 11)
    found = method.explicit_windows(features, teacher, method.DENSE)
    torch.testing.assert_close(alignment(features, teacher, method.DENSE), found)


def test_nine_interpolations_squeeze_as_ours() -> None:
    built = method.build(method.PAPER[0][0])
    described = built.describe()
    assert (described["patch"], described["context"], described["squeezed"]) == (256, 512, 192)
    pixels = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8)
    torch.testing.assert_close(squeeze(pixels, built.sizes, "antialias"), method.nine(pixels, built.sizes))
    assert built.sizes.squeezed // built.segmenter.feature_stride == method.CELLS[256]


def test_every_form_of_inference_gives_the_same_labels() -> None:
    inference.check()
    assert "slide" in inference.forms(64)


def test_a_mapped_result_is_that_of_an_array(tmp_path) -> None:
    network = inference.Pixelwise(32)
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    out = np.memmap(tmp_path / "out", dtype=np.uint8, mode="w+", shape=(70, 50))
    assert segment(network, image, inference.CLASSES, inference.CPU, out=out) is out
    assert np.array_equal(out, segment(network, image, inference.CLASSES, inference.CPU))


def test_every_form_of_the_matrix_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "SIDE", 200)
    truth, prediction = scores.labels()
    assert (truth == 255).mean() == 0.01
    assert np.array_equal(scores.ours(truth, prediction), scores.masked(truth, prediction))


def test_the_scene_is_stored_as_a_benchmark(tmp_path) -> None:
    image, label = scene.scene(80)
    assert image.shape == (80, 80, 3) and set(np.unique(label)) <= {*range(scene.CLASSES), 255}
    assert image.std() > 10 and len(np.unique(image)) > 100
    scene.write_store(tmp_path, image, label, copies=2)
    store = Store(tmp_path)
    store.check("train")
    assert store.ids("train") == ("0", "1") and np.array_equal(store.image("train", "1"), image)


def test_windows_are_read_in_every_format_that_is_installed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIDE": 160, "WINDOW": 64, "PATCH": 32, "MANY": 3, "COLD": 2, "BATCH": 2, "STEPS": 1}.items():
        monkeypatch.setattr(windows, name, value)
    found = list(windows.rows(tmp_path, 1))
    assert {row.topic for row in found} == {"windows"}
    assert len([row for row in found if row.peer_name.startswith("Pillow") and row.ratio]) == 2
    assert all(row.ours > 0 for row in found)


def test_a_pair_is_prepared_as_by_pillow(tmp_path) -> None:
    found = stages.decoding(tmp_path, 1, {"inria": 90, "deepglobe": 80})
    assert [row.name.split(",")[0] for row in found] == ["prepare one pair of 90 x 90", "prepare one pair of 80 x 80"]


def test_every_command_is_started() -> None:
    assert {"pipelines.train", "pipelines.report", "pipelines.bench"} <= set(stages.commands())
    assert "pipelines.paths" not in stages.commands()


HELP = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    heavy = {"torch", "pandas", "matplotlib", "scipy"} & set(sys.modules)
    if "usage: " not in printed.getvalue() or heavy:
        sys.exit(f"{name} imports {heavy} or prints no help")
"""


def test_no_command_imports_a_heavy_package_before_its_arguments_are_known() -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *stages.commands()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_growth_is_measured_and_drawn(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "BATCHES", (2, 3))
    monkeypatch.setattr(growth, "IMAGES", (1, 2))
    monkeypatch.setattr(growth, "SMALL_SIDE", 60)
    monkeypatch.setattr(growth, "peak", lambda function, x: 10.0 * x)
    points = growth.measured(tmp_path, 1, (600, 1100))
    assert [(what, x) for what, x, _, _ in points] == [
        *(("inference", side) for side in (600, 1100)),
        *(("step", batch) for batch in (2, 3)),
        *(("prepare", images) for images in (1, 2)),
    ]
    path = tmp_path / "growth.csv"
    path.write_text(growth.text(points))
    drawn = growth.draw_growth(path, tmp_path / "growth")
    assert all(file.is_file() for file in drawn.files)
    first = [file.read_bytes() for file in drawn.files]
    assert [file.read_bytes() for file in growth.draw_growth(path, tmp_path / "growth").files] == first
