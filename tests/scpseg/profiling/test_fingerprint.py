import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scpseg.profiling.meters import fingerprint

UUID = "11111111-aaaa"
DEVICE = torch.device("cuda")


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for torch.cuda and for pynvml; returns the file that says what NVML knows."""
    state = tmp_path / "nvml.json"
    device = {"used": 1, "reserved": 1, "processes": []}
    state.write_text(json.dumps({"library": "ok", "devices": {f"GPU-{UUID}": device}}))
    monkeypatch.setenv("FAKE_NVML", str(state))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "stand_ins"))
    properties = SimpleNamespace(
        name="Invented GPU", total_memory=80 * 2**30, major=9, minor=0, multi_processor_count=132, uuid=UUID
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: properties.name)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    return state


def test_hardware_versions_and_flags(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
    facts = fingerprint(DEVICE)
    assert (facts["gpu"], facts["driver"], facts["mig"], facts["nvml"]) == ("Invented GPU", "570.00", False, None)
    assert (facts["total_bytes"], facts["capability"], facts["multiprocessors"]) == (80 * 2**30, "9.0", 132)
    assert facts["torch"] == torch.__version__ and facts["cuda"] == torch.version.cuda
    assert facts["allocator"]["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native"
    assert facts["allocator"]["backend"] == "native"
    flags = {"tf32", "deterministic", "cudnn", "cudnn_tf32", "cudnn_benchmark", "cudnn_deterministic", "switches"}
    assert flags <= set(facts)
    assert facts["packages"]["numpy"]
    assert UUID not in json.dumps(facts)  # and it can be written


def test_without_nvml_it_says_why(nvml: Path) -> None:
    nvml.write_text(json.dumps({"library": "missing", "devices": {}}))
    facts = fingerprint(DEVICE)
    assert facts["driver"] is None and "Not Found" in facts["nvml"]
