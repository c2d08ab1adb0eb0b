import ctypes
import subprocess
import sys

import pytest
import torch
from torch import distributed

from scpseg.environment import configure
from scpseg.params import MachineParams

CODE = """
import resource, sys
import torch
from scpseg.environment import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for size in (48, 100):
    torch.ones(size << 18)
before = faults()
for _ in range(5):
    for size in (48, 100):
        torch.ones(size << 18)
print(faults() - before, torch.ones(3).data_ptr() % 64)
"""


@pytest.mark.parametrize(("processes", "share"), [(None, 5), (2, 2), (8, 1)])
def test_processes_that_train_together_share_the_threads(
    processes: int | None, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(distributed, "is_initialized", lambda: processes is not None)
    monkeypatch.setattr(distributed, "get_world_size", lambda: processes)
    configure(MachineParams("cpu", deterministic=False, tf32=False, threads=5, workers=0))
    assert asked == [share]


@pytest.mark.soak
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_blocks_that_are_freed_are_used_again() -> None:
    """Blocks of 48 and 100 MiB, five times: new pages cost a fault for each 4 KiB; of kept ones few are new."""
    found = {}
    for how in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True)
        found[how], alignment = map(int, done.stdout.split())
        assert alignment == 0
    assert 10 * found["keep"] < found["default"]
