"""What repeats to the last bit: the same seed on the same machine with the same number of threads.

Weights do depend on the number of threads and on the instruction set for which oneDNN and MKL choose their kernels:
sums then have another order. torch's own kernels (norms, interpolation, the norm of the gradient) do not tell AVX2 from
AVX-512.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipelines.methods import METHODS, build_method
from scpseg.data.overviews import overviews
from scpseg.data.sampling import WindowDataset
from scpseg.params import Params, TrainParams
from scpseg.training import checkpoint
from scpseg.training.loop import train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.soak


class Noise:
    """Two images of 128 x 128 pixels with two classes."""

    def ids(self, split: str) -> tuple[str, ...]:
        return ("a", "b")

    def label(self, split: str, name: str) -> np.ndarray:
        return np.repeat(np.arange(128)[:, None] // 64, 128, axis=1).astype(np.uint8)

    def image(self, split: str, name: str) -> np.ndarray:
        noise = np.random.default_rng(ord(name)).integers(0, 128, size=(128, 128, 3))
        return (noise + 100 * self.label(split, name)[..., None]).astype(np.uint8)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def weights(name: str, threads: int = 1) -> dict[str, torch.Tensor]:
    """After two steps of every phase."""
    torch.set_num_threads(threads)
    values = copy.deepcopy(yaml.safe_load((ROOT / "profiles/sample.yaml").read_text(encoding="utf-8")))
    values["inria"] |= {"patch": 64, "batch": 2}
    params, store = Params(values, Path("params.yaml")), Noise()
    torch.manual_seed(0)
    method = build_method(params, "inria", name)
    whole = None if method.needs.overview is None else overviews(store, "train", method.needs.overview)
    data = WindowDataset(store, "train", method.needs, seed=0, batch=2, flips=True, turns=True, overviews=whole)
    short = TrainParams(2, 0.9, 5e-4, "fp32", True, True, 2, "sgd", 0.05)
    with tempfile.TemporaryDirectory() as folder:
        train(method, data, short, torch.device("cpu"), Path(folder))
    return method.state_dict()


def digest(name: str) -> str:
    """Of the weights on one thread."""
    return checkpoint.digest(weights(name))


def elsewhere(name: str, **environment: str) -> str:
    """The same in a process of its own."""
    code = f"import runpy; print('digest', runpy.run_path({str(Path(__file__))!r})['digest']({name!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("digest"))


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    assert digest(name) == digest(name)


@pytest.mark.parametrize("name", METHODS)
def test_two_threads_add_in_another_order_and_no_more(name: str) -> None:
    torch.testing.assert_close(weights(name), weights(name, threads=2), rtol=0, atol=0.05 if name == "isdnet" else 1e-3)


@pytest.mark.parametrize("name", ["scpseg", "glnet"])
def test_torchs_own_kernels_do_not_tell_avx2_from_avx512(name: str) -> None:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("a processor without AVX2")
    assert elsewhere(name) == elsewhere(name, ATEN_CPU_CAPABILITY="avx2")
