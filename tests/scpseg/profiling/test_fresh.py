import os
import sys
import time
from pathlib import Path

import pytest

from scpseg.profiling import fresh
from scpseg.profiling.fresh import ChildKilled, allocator, memory_limit, oom_kills, run_fresh

CHILD = """
import json, os, signal, sys, time
request = json.load(sys.stdin)
if request == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if request == "sleep":
    time.sleep(60)
if request == "quit":
    sys.exit(3)
with open(sys.argv[1], "w") as stream:
    json.dump({"request": request, "arenas": os.environ["MALLOC_ARENA_MAX"], "pid": os.getpid()}, stream)
"""


@pytest.fixture(autouse=True)
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lonely_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_question_and_answer() -> None:
    answer = run_fresh(["lonely_child"], {"x": [1, 2]})
    assert answer["request"] == {"x": [1, 2]}
    assert answer["arenas"] == "1"
    assert answer["pid"] != os.getpid()


def test_a_killed_child(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChildKilled, match="signal 9") as caught:
        run_fresh(["lonely_child"], "die")
    assert caught.value.status == "failed"
    counts = iter([5, 6])
    monkeypatch.setattr(fresh, "oom_kills", lambda: next(counts))
    with pytest.raises(ChildKilled, match="ran out of memory") as caught:
        run_fresh(["lonely_child"], "die")
    assert caught.value.status == "oom"


def test_a_child_without_an_answer() -> None:
    with pytest.raises(ChildKilled, match="exit status 3"):
        run_fresh(["lonely_child"], "quit")


def test_a_child_whose_time_is_up() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="did not end within"):
        run_fresh(["lonely_child"], "sleep", timeout=0.5)
    assert time.monotonic() - start < 30
    assert run_fresh(["lonely_child"], "quick", timeout=60)["request"] == "quick"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_what_the_system_says() -> None:
    assert oom_kills() >= 0
    assert 2**26 < memory_limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert "MALLOC_ARENA_MAX" in allocator()
