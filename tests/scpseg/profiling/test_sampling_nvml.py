"""The GPU's meter through the real package pynvml; only the driver's library under it is a stand-in, written in C."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "stand_ins" / "torch_side"))

from fake_gpu import CONTEXT, MIB, DriversGpu, assert_all_channels, assert_torch_channels, run

from scpseg.files import replacing
from scpseg.profiling import sampling
from scpseg.profiling.sampling import Sample, Sampler

HERE = Path(__file__).parent
CARD, OTHER = "GPU-11111111-aaaa", "GPU-22222222-bbbb"
NO_PERMISSION, NOT_SUPPORTED, NO_DRIVER, FUNCTION_NOT_FOUND, LOST, MISMATCH, NEVER = 4, 3, 9, 13, 15, 18, -1
INIT = "nvmlInitWithFlags"
MEMORY, COMPUTE, GRAPHICS = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
)
Says = Callable[..., None]


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a libnvidia-ml.so.1: of a driver of today, of one before 510, and one that cannot be loaded."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc), so that there is no stand-in for NVIDIA's library")
    folders = {name: tmp_path_factory.mktemp(name) for name in ("today", "old", "broken")}
    for name, options in (("today", []), ("old", ["-DOLD"])):
        target = folders[name] / "libnvidia-ml.so.1"
        command = [compiler, "-Wall", "-Werror", "-shared", "-fPIC", *options, "-o", target]
        subprocess.run([*command, HERE / "stand_ins" / "nvml.c"], check=True)
    # An empty folder would let a machine's own library through.
    (folders["broken"] / "libnvidia-ml.so.1").write_bytes(b"no library" * 100)
    return folders


@pytest.fixture
def use(libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Chooses the library that the sampling process loads."""
    return lambda name: monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries[name]))


@pytest.fixture
def state(use: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the library answers from."""
    use("today")
    monkeypatch.setenv("NVML_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "state"


@pytest.fixture
def driver(state: Path) -> Says:
    """Writes, line by line, what the library answers from."""

    def says(*lines: str) -> None:
        with replacing(state) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))

    return says


@contextmanager
def sampling_of(uuid: str, period: float = 10.0) -> Iterator[Sampler]:
    """A real sampling process."""
    sampler = Sampler(period)
    sampler.start("nvml", uuid)
    try:
        yield sampler
    finally:
        sampler.close()


def ask(uuid: str = CARD) -> tuple[Sample, dict[str, Any]]:
    """A sample and the facts."""
    with sampling_of(uuid) as sampler:
        return sampler.mark(), sampler.facts


def lost(uuid: str = CARD) -> str:
    """Why nothing can be sampled."""
    with sampling_of(uuid) as sampler:
        assert sampler.mark() == {}
        return sampler.lost


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Sets CUDA_VISIBLE_DEVICES; not if None."""
    return lambda devices: devices is not None and monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)


def test_used_bytes_without_the_drivers_reserve(driver: Says) -> None:
    driver(f"device {CARD} 5000000000 600000000", f"process {CARD} compute 41 4900000000")
    sample, facts = ask()
    assert sample == {"device": 5_000_000_000, "reserved": 600_000_000, "41": 4_900_000_000}
    assert facts == {"driver": "570.00", "mig": False, "memory": None, "processes": None}


def test_every_kind_of_process_entry(driver: Says) -> None:
    entries = ["compute 1 na", "compute 2 0", "compute 3 7", "graphics 3 7", "compute 4 na", "graphics 4 6"]
    entries += ["compute 5 5", "graphics 5 na", "compute 6 na", "graphics 6 na", "graphics 7 9"]
    driver(f"device {CARD} 8 1", *(f"process {CARD} {entry}" for entry in entries), f"process {OTHER} compute 8 8")
    sample, _ = ask()
    of_processes = {"1": None, "2": 0, "3": 7, "4": 6, "5": 5, "6": None, "7": 9}
    assert sample == {"device": 8, "reserved": 1, **of_processes}


def test_no_graphics_list(driver: Says) -> None:
    driver(f"device {CARD} 8 1", f"process {CARD} compute 3 7", f"error {GRAPHICS} {NOT_SUPPORTED}")
    sample, facts = ask()
    assert sample["3"] == 7
    assert facts["processes"] is None


@pytest.mark.parametrize("function", [COMPUTE, GRAPHICS])
def test_no_permission_for_the_processes(driver: Says, function: str) -> None:
    driver(f"device {CARD} 8 1", f"process {CARD} compute 3 7", f"error {function} {NO_PERMISSION}")
    sample, facts = ask()
    assert sample == {"device": 8, "reserved": 1}
    assert facts["processes"] == "NVML: Insufficient Permissions"
    assert facts["memory"] is None


@pytest.mark.parametrize("how", ["lacks", "refuses"])
def test_old_driver(driver: Says, use: Callable[[str], None], how: str) -> None:
    """Its library lacks functions, or has them for their name only."""
    errors = [f"error {function} {FUNCTION_NOT_FOUND}" for function in (MEMORY, COMPUTE)]
    driver(f"device {CARD} 8 1", *(errors if how == "refuses" else []))
    use("old" if how == "lacks" else "today")
    sample, facts = ask()
    assert sample == {"device": None, "reserved": None}
    assert facts["memory"] == facts["processes"] == "NVML: Function Not Found (driver 570.00 is too old)"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (NO_PERMISSION, "Insufficient Permissions"),
        (MISMATCH, "NVML/RM version mismatch"),
        (NO_DRIVER, "Driver Not Loaded"),
        (25, "Argument version mismatch"),  # pynvml asks the library for the text of this one
    ],
)
def test_library_that_does_not_open(driver: Says, code: int, why: str) -> None:
    driver(f"error {INIT} {code}")
    assert re.match(f"NVML: .*{why}", lost())


def test_library_missing(driver: Says, use: Callable[[str], None]) -> None:
    use("broken")
    assert lost() == "NVML: NVML Shared Library Not Found"


@pytest.mark.parametrize("visible", [None, "1,0", "1", OTHER, "GPU-2222", f"{OTHER},{CARD}"])
def test_two_gpus_in_another_order(driver: Says, seen: Callable[[str | None], None], visible: str | None) -> None:
    """torch's device 0 is NVML's device 1; torch gives the UUID without its prefix."""
    driver(f"device {CARD} 8 1", f"device {OTHER} 9 2", f"process {CARD} compute 3 7", f"process {OTHER} compute 4 6")
    seen(visible)
    sample, facts = ask(OTHER[4:])
    assert sample == {"device": 9, "reserved": 2, "4": 6}
    assert facts["mig"] is False


def test_unknown_device(driver: Says) -> None:
    driver(f"device {OTHER} 8 1")
    assert "knows no device with the UUID that torch names (11111111-aaaa)" in lost()


FIRST, SECOND = "MIG-33333333-cccc", "MIG-33334444-dddd"


def split(*instances: str) -> list[str]:
    """A GPU of these MIG instances beside one that is not split; the n-th instance uses 10 n bytes."""
    lines = [f"device {OTHER} 8 1", f"device {CARD} 99 1"]
    for number, instance in enumerate(instances, 1):
        lines += [f"device {instance} {number}0 1 {CARD}", f"process {instance} compute {number} {number}"]
    return lines


@pytest.mark.parametrize(
    ("instances", "uuid", "visible", "used"),
    [
        ([FIRST], CARD, None, 10),
        ([FIRST], CARD, "0", 10),
        ([FIRST, SECOND], CARD, SECOND, 20),
        ([FIRST, SECOND], CARD, f"{SECOND},{FIRST}", 20),
        ([FIRST, SECOND], CARD, "MIG-33334", 20),
        ([FIRST, SECOND], SECOND[4:], None, 20),
        ([FIRST, SECOND], SECOND, "0", 20),
        ([FIRST, SECOND], CARD, f"MIG-{CARD}/3/0", 20),  # the older form, which CUDA and NVML still take
    ],
)
def test_mig_instance(
    driver: Says,
    seen: Callable[[str | None], None],
    instances: list[str],
    uuid: str,
    visible: str | None,
    used: int,
) -> None:
    """Whether torch names the GPU or the instance, which depends on the CUDA that it was built for."""
    driver(*split(*instances))
    seen(visible)
    sample, facts = ask(uuid)
    assert sample == {"device": used, "reserved": 1, str(used // 10): used // 10}
    assert facts["mig"] is True


@pytest.mark.parametrize(("visible", "fits"), [(None, ""), ("0", ""), ("MIG-3333", " 2 of"), ("MIG-5", " 0 of")])
def test_mig_instance_that_cannot_be_told(
    driver: Says, seen: Callable[[str | None], None], visible: str | None, fits: str
) -> None:
    driver(*split(FIRST, SECOND))
    seen(visible)
    assert re.search(f"split into 2 MIG instances .*{fits}.*CUDA_VISIBLE_DEVICES to the UUID", lost())


@pytest.mark.parametrize(
    ("code", "why"), [(NOT_SUPPORTED, "Not Supported"), (NO_PERMISSION, "Insufficient Permissions")]
)
def test_mig_instance_without_processes(driver: Says, code: int, why: str) -> None:
    driver(*split(FIRST), f"error {COMPUTE} {code}")
    sample, facts = ask()
    assert sample == {"device": 10, "reserved": 1}
    assert facts["processes"] == f"NVML: {why}"


def test_gpu_that_cannot_be_split(driver: Says) -> None:
    driver(f"device {CARD} 8 1", f"error nvmlDeviceGetMigMode {NOT_SUPPORTED}")
    sample, facts = ask()
    assert (sample["device"], facts["mig"]) == (8, False)


def test_processes_and_errors_come_and_go(driver: Says) -> None:
    driver(f"device {CARD} 8 1", f"process {CARD} compute 3 7", f"process {CARD} compute 4 6")
    with sampling_of(CARD, period=0.005) as sampler:
        assert sampler.mark() == {"device": 8, "reserved": 1, "3": 7, "4": 6}
        driver(f"device {CARD} 8 1", f"process {CARD} compute 3 7")
        assert sampler.mark() == {"device": 8, "reserved": 1, "3": 7}
        driver(f"device {CARD} 8 1", *(f"error {function} {LOST}" for function in (MEMORY, COMPUTE)))
        assert sampler.mark() == {"device": None, "reserved": None}
        assert sampler.facts["memory"] == sampler.facts["processes"] == "NVML: GPU is lost"
        driver(f"device {CARD} 8 1", f"process {CARD} compute 3 7")
        assert sampler.mark() == {"device": 8, "reserved": 1, "3": 7}
        assert sampler.facts["memory"] is sampler.facts["processes"] is None


@pytest.mark.parametrize("function", [INIT, MEMORY])
def test_driver_that_never_answers(driver: Says, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PATIENCE", 0.5)
    driver(f"device {CARD} 8 1", f"error {function} {NEVER}")
    began = time.monotonic()
    assert "did not answer within" in lost()
    assert time.monotonic() - began < 5


def test_every_channel_reads_what_was_allocated(state: Path) -> None:
    reading = run(DriversGpu(state))
    assert_all_channels(reading)
    assert (reading.details["driver"], reading.details["mig"], reading.details["lag_ms"]) == ("570.00", False, 0.0)


@pytest.mark.parametrize(
    ("function", "lost", "kept"), [(MEMORY, "nvml_device", "nvml_process"), (COMPUTE, "nvml_process", "nvml_device")]
)
def test_half_of_it_too_old(state: Path, function: str, lost: str, kept: str) -> None:
    gpu = DriversGpu(state)
    gpu.fail(FUNCTION_NOT_FOUND, function)
    reading = run(gpu)
    assert "driver 570.00 is too old" in reading.unavailable[lost]
    assert reading.memory[kept] == CONTEXT + 450 * MIB
    assert_torch_channels(reading)


def test_gpu_lost_midway(state: Path) -> None:
    gpu = DriversGpu(state)
    reading = run(gpu, lambda meter: gpu.fail(LOST, MEMORY, COMPUTE))
    for channel in ("nvml_process", "nvml_above_context", "nvml_device"):
        assert reading.unavailable[channel] == "NVML: GPU is lost"
        assert channel not in reading.memory
    assert reading.timeline == []
    assert_torch_channels(reading)


def test_error_that_passes(state: Path) -> None:
    gpu = DriversGpu(state)

    def stumble(meter: Any) -> None:
        gpu.fail(LOST, MEMORY, COMPUTE)
        time.sleep(0.1)
        gpu.fail(LOST)

    reading = run(gpu, stumble)
    assert_all_channels(reading)
    assert reading.details["foreign_changed"] is False
