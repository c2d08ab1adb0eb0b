import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch._utils import ExceptionWrapper

from pipelines.freshness import UNENDED, error_file
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import write_text

ROOT = Path(__file__).parents[2]
HUGE = 1 << 62
LESS = "lower a.batch"


@pytest.fixture(autouse=True)
def own_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that fails silences what Python tells after it; pytest goes on."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


def said(work: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a stage ends with, its exit status being 1."""
    with pytest.raises(SystemExit) as ended:
        run_stage(lambda: (work(), None)[1], LESS)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def fail(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def loaded(work: Callable[[], object]) -> Callable[[], None]:
    """The error of `work` as torch brings it over from a process that loads data."""

    def again() -> None:
        try:
            work()
        except Exception:
            brought = ExceptionWrapper(where="in DataLoader worker process 0")
        brought.reraise()

    return again


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.empty(HUGE, dtype=torch.uint8),
        lambda: np.empty(HUGE, dtype=np.uint8),
        lambda: bytearray(HUGE),
        fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation")),
        fail(RuntimeError("CUDA error: out of memory")),
        loaded(lambda: np.empty(HUGE, dtype=np.uint8)),
        fail(RuntimeError("DataLoader worker (pid(s) 22710) exited unexpectedly")),
        fail(RuntimeError("DataLoader worker (pid 22710) is killed by signal: Killed. ")),
    ],
)
def test_out_of_memory_is_one_sentence_with_what_to_lower(
    work: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(work, capsys)
    assert line.startswith("error: out of memory (") and line.endswith(f"): {LESS}")


def test_out_of_memory_without_torch_does_not_import_it() -> None:
    code = (
        "import sys\nfrom pipelines.stage import explained\n"
        "assert 'out of memory' in explained(MemoryError(), 'x')\n"
        "assert explained(RuntimeError('x'), 'x') is None\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_mistake_found_by_a_loading_process_keeps_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(loaded(fail(UserError("a.npy is damaged; restore it"))), capsys)
    assert line == "error: a.npy is damaged; restore it"


def test_no_room_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        line = said(lambda: write_text(tmp_path / "a/b.txt", "x" * 2000), capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line.startswith(f"error: {tmp_path / 'a/b.txt'} cannot be written (File too large): free some space")
    assert not list((tmp_path / "a").iterdir())


def test_no_room_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(fail(OSError(errno.ENOSPC, "No space left on device")), capsys)
    assert line.startswith("error: a file cannot be written (No space left on device): free some space")


@pytest.mark.parametrize(("path", "shown"), [("way/c/d.txt", "way"), ("way/d.txt", "way"), ("folder", "folder")])
def test_what_is_in_the_way_is_named(path: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "way").touch()
    (tmp_path / "folder/in").mkdir(parents=True)
    line = said(lambda: write_text(tmp_path / path, "x"), capsys)
    assert line.startswith(f"error: {tmp_path / shown} is in the way (") and line.endswith("move it elsewhere")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "way"]


def test_what_may_not_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(fail(OSError(errno.EROFS, "Read-only file system", "a/b.csv")), capsys)
    assert line.startswith("error: a/b.csv cannot be read or written (Read-only file system): change")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        RuntimeError("size mismatch"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.txt"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ECONNRESET, "Connection reset by peer", "a"),
    ],
)
def test_a_bug_keeps_its_trace(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run_stage(fail(error))
    assert caught.value is error


def test_a_bug_after_a_refused_file_keeps_its_trace() -> None:
    def work() -> None:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "a.txt")
        except PermissionError:
            raise KeyError("bug")  # noqa: B904

    with pytest.raises(KeyError):
        run_stage(work)


def test_ctrl_c_while_libraries_load_is_one_line() -> None:
    code = "import pipelines, signal\nsignal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")
    done = subprocess.run(
        [sys.executable, "-c", "import pipelines\nint('x')"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and "ValueError" in done.stderr


def ended(code: str, folder: Path, *options: str, **environment: str) -> int:
    """Exit status of a stage called train, as DVC would run it in `folder`."""
    (folder / "dvc.yaml").touch()
    (folder / "params.yaml").touch()
    (folder / "train.py").write_text(f"import sys\nfrom pipelines.stage import run_stage\n{code}\nrun_stage(work)\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "train.py", "blu", "patch", "0", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("from scpseg.errors import UserError; raise UserError('a.png is damaged')", "a.png is damaged"),
        ("raise ValueError('a bug\\nof two lines')", "ValueError: a bug"),
        ("raise KeyboardInterrupt", "it was interrupted"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", UNENDED),
    ],
)
def test_how_a_stage_failed_is_kept_until_it_ends_well(line: str, sentence: str, tmp_path: Path) -> None:
    assert ended(f"def work():\n    {line}", tmp_path) != 0
    path = tmp_path / error_file(["train", "blu", "patch", "0"])
    assert json.loads(path.read_text())["error"] == sentence
    assert ended("def work(): pass", tmp_path) == 0
    assert not path.exists()


def test_what_was_given_options_by_hand_leaves_no_record(tmp_path: Path) -> None:
    """`download --source` may be given an address with a secret, or one that is too long for a file name."""
    assert (
        ended("def work():\n    raise ValueError", tmp_path, "--source", f"https://a.b/{'c' * 300}?token=secret") == 1
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of its parent's end")
@pytest.mark.parametrize("last", ["run_stage(work)", "work()  # as long as imports take"], ids=["working", "importing"])
def test_a_stage_that_dvc_started_ends_with_it(last: str, tmp_path: Path) -> None:
    code = "import time\ndef work():\n    print('ready', flush=True)\n    time.sleep(60)"
    (tmp_path / "train.py").write_text(f"from pipelines.stage import run_stage\n{code}\n{last}\n")
    parent = "import subprocess, sys; subprocess.run([sys.executable, 'train.py'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "train"}
    with subprocess.Popen(
        [sys.executable, "-c", parent], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        child.wait(timeout=30)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"),
        RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Read-only file system (30)"),
        OSError(errno.EROFS, "Read-only file system"),
    ],
)
def test_shared_memory_names_what_to_set(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile("raise error", "/usr/lib/python3/multiprocessing/synchronize.py", "exec")
    line = said(lambda: exec(code, {"error": error}), capsys)
    assert "/dev/shm" in line and "--shm-size" in line and "machine.workers to 0" in line


def test_a_home_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(lambda: Path("~nobody-here/x").expanduser(), capsys)
    assert "data.cache" in line and "SCPSEG_CACHE" in line and "data.source" in line


def test_an_ascii_console_gets_another_sign(tmp_path: Path) -> None:
    code = "from pipelines.stage import run_stage; run_stage(lambda: print('2 \u00d7 3'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "2 ? 3\n"


def test_a_system_without_resource_is_told_what_to_use() -> None:
    code = "import sys, pipelines; sys.modules['resource'] = None; import scpseg.data.acquire.unpacker"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "resource" in done.stderr and "Linux or macOS" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_into_a_reader_that_has_ended(unbuffered: str) -> None:
    code = "from pipelines.stage import run_stage\nrun_stage(lambda: print('a line'))"
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_nothing_follows_the_sentence() -> None:
    code = """
from pipelines.stage import run_stage
from scpseg.errors import UserError

class Half:
    def __del__(self):
        self.lacking

def work():
    half = Half()
    raise UserError("the sentence")

run_stage(work)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: the sentence\n")
