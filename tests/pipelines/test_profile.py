import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import profile
from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.params import Params
from scpseg.profiling.fresh import ChildKilled
from scpseg.profiling.records import CHANNELS, FIGURES, without_figures

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answering(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Let the fresh process answer so; returns the requests that it got."""
    requests: list[dict[str, Any]] = []

    def run_fresh(arguments: list[str], request: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        requests.append(request)
        return answer

    monkeypatch.setattr(profile, "run_fresh", run_fresh)
    return requests


def written(workspace: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((workspace / "results/profile/inria/patch.json").read_text())
    return record


def with_values(params: Params, section: str, **values: object) -> Params:
    return Params({**params.values, section: {**params.values[section], **values}}, params.path)


def test_the_request_has_real_or_given_sizes_and_random_weights(workspace: Path) -> None:
    params = with_values(Params.load(), "segmenter", weights="imagenet")
    for benchmark, spec in BENCHMARKS.items():
        request = profile.request_of(with_values(params, "profile", side="real", repeats=2), benchmark, "patch")
        assert request["workload"]["height"] == request["workload"]["width"] == spec.side
        assert request["workload"]["classes"] == len(spec.classes)
        assert request["workload"]["repeats"] == 2
        assert request["params"]["segmenter"]["weights"] == "random"
    request = profile.request_of(with_values(params, "profile", side=96), "inria", "patch")
    assert request["workload"]["height"] == request["workload"]["width"] == 96
    assert params.values["segmenter"]["weights"] == "imagenet"  # the caller's are left alone


def test_a_failure_is_on_file_and_ends_the_stage(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, without_figures("failed", "ValueError: no", backend=None))
    with pytest.raises(UserError, match="ValueError: no"):
        profile.work("inria", "patch")
    assert (written(workspace)["status"], written(workspace)["reason"]) == ("failed", "ValueError: no")


def test_running_out_of_memory_is_a_result(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(arguments: list[str], request: dict[str, Any], timeout: float | None) -> None:
        raise ChildKilled(-9, oom=True)

    monkeypatch.setattr(profile, "run_fresh", killed)
    profile.work("inria", "patch")
    assert written(workspace)["status"] == "oom"
    assert written(workspace)["limit"] > 0
    assert "out of memory at 384 x 384 pixels" in capsys.readouterr().out


def test_a_users_mistake_writes_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {"user_error": "machine.device is 'cuda', but there is none"})
    with pytest.raises(UserError, match=r"machine\.device"):
        profile.work("inria", "patch")
    assert not (workspace / "results").exists()


def test_the_childs_answers(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(error: Exception) -> dict[str, Any]:
        def answer(request: dict[str, Any]) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(profile, "answer", answer)
        monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
        profile.child(profile.attempt, workspace / "answer.json")
        told: dict[str, Any] = json.loads((workspace / "answer.json").read_text())
        return told

    assert ask(UserError("so and so")) == {"user_error": "so and so"}
    failed = ask(ValueError("one\ntwo"))
    assert (failed["status"], failed["reason"]) == ("failed", "ValueError: one")


def test_the_stages_own_process_needs_no_torch() -> None:
    code = "import sys, pipelines.profile; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_whole_stage(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A miniature, in a real fresh process, which has the allocator's settings."""
    text = (ROOT / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(
        text.replace("  side: 384\n", "  side: 100\n").replace("device: auto", "device: cpu")
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    profile.work("inria", "patch")
    record = written(workspace)
    assert record["status"] == "ok"
    assert record["backend"] == "rss" and record["memory"]["rss"] > record["parameters"] * 4
    assert record["windows"] == 4 and record["real_size"] is False
    assert record["environment"]["allocator"]["MALLOC_ARENA_MAX"] == "1"
    assert record["environment"]["deterministic"] is False
    assert set(record["memory"]) == set(CHANNELS) and set(FIGURES) <= set(record)
    assert all(len(point) == 2 for point in record["timeline"]) and len(record["timeline"]) <= 200
    assert "peak" in capsys.readouterr().out


@pytest.mark.soak
def test_a_training_step_takes_more_than_inference(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both on the CPU with the tiny encoder, in real fresh processes, one window at a time."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    params = with_values(Params.load(), "segmenter", encoder="tu-test_resnet.r160_in1k")
    params = with_values(with_values(params, "profile", side=128, repeats=1), "machine", device="cpu", threads=1)
    params = with_values(params, "inria", patch=128, batch=2)
    request = profile.request_of(params, "inria", "patch")
    inference = profile.record_of(request, profile.ask(request))
    request = profile.step_request_of(params, "inria", "patch")
    training = profile.record_of(request, profile.ask(request))
    assert inference["status"] == training["status"] == "ok"
    assert (training["workload"], training["batch"], training["phase"]) == ("training step", 2, "all")
    assert set(inference) <= set(training)
    # Gradients and momentum of every parameter alone are two more copies of the weights.
    more = training["memory"]["rss"] - inference["memory"]["rss"]
    assert more > 2 * 4 * training["parameters"]
    assert training["multiply_adds"] > 2 * 2 * inference["multiply_adds"]
    for key in ("seconds_per_step", "megapixels_per_second", "windows", "image_bytes"):
        assert 0 < training[key] < float("inf")
