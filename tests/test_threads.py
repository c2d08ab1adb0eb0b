"""Threads of OpenMP that wait do not take the cores from other processes."""

import os
import re
import subprocess
import sys

import pytest

from scpseg import SPINS

CODE = "import sys, pipelines; assert 'torch' not in sys.modules; import torch"


def settings(**own: str) -> dict[str, str]:
    """What OpenMP read when torch loaded it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**clean, "OMP_DISPLAY_ENV": "VERBOSE", **own},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(re.findall(r"(\w+) = '(\w+)'", done.stderr))
    if "GOMP_SPINCOUNT" not in found:
        pytest.skip("torch does not use GNU OpenMP here")
    return found


def test_threads_sleep_soon_unless_the_user_chose() -> None:
    assert settings()["GOMP_SPINCOUNT"] == SPINS
    assert settings(GOMP_SPINCOUNT="7")["GOMP_SPINCOUNT"] == "7"


@pytest.mark.soak
def test_a_policy_of_the_user_is_kept() -> None:
    assert int(settings(OMP_WAIT_POLICY="active")["GOMP_SPINCOUNT"]) > 1_000_000
