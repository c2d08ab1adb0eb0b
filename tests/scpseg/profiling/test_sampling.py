import mmap
import os
import subprocess
import sys
import time

import numpy as np

from scpseg.profiling.sampling import Sampler


def test_samples_follow_this_process() -> None:
    sampler = Sampler(period=0.005)
    sampler.start("rss", os.getpid())
    before = sampler.mark()["rss"]
    # Fresh pages: an array could reuse memory that earlier tests have freed.
    block = np.frombuffer(mmap.mmap(-1, 32 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=np.uint8)
    block[:] = 1
    after = sampler.mark()["rss"]
    time.sleep(0.1)
    samples = sampler.stop()
    assert abs(after - before - block.nbytes) < 2**20
    assert len(samples) >= 8
    times = [at for at, _ in samples]
    assert times == sorted(times)
    assert abs(times[-1] - time.monotonic()) < 1.0  # one clock for both processes
    assert sampler.process.returncode is not None


def test_a_killed_sampler_is_noticed() -> None:
    sampler = Sampler()
    sampler.start("rss", os.getpid())
    sampler.process.kill()
    sampler.process.wait()
    assert sampler.mark() == {} and sampler.stop() == []
    assert "signal 9" in sampler.lost


def test_the_sampler_ends_with_whoever_started_it() -> None:
    code = "import scpseg.profiling.sampling as s; x = s.Sampler(); x.start('rss', 1); print(x.process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("the sampler outlived its master")


def test_the_sampling_process_is_small() -> None:
    code = "import sys, pynvml, scpseg.profiling.sampling; assert not {'torch', 'numpy', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
