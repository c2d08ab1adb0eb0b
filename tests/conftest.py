"""Shared by all tests."""

import gc
import os
import signal
from collections.abc import Iterator

# Tests are many small operations: with several threads on a busy machine they crawl. Child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell ignores Ctrl-C for what it runs in the background, and children inherit that; tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections, which take a fifth of the time otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def kept_imports() -> Iterator[None]:
    """What the tests of a file imported is left out as well."""
    yield
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let extension modules free what they hold, or they report it as leaked."""
    gc.unfreeze()


@pytest.fixture
def samples() -> Path:
    """Folder of real images; tests that ask for it are skipped where there is none."""
    folder = Path(os.environ.get("SCPSEG_SAMPLES") or ROOT.parent / "shared" / "samples")
    if not folder.is_dir():
        pytest.skip("no real samples here: name their folder in SCPSEG_SAMPLES")
    return folder.resolve()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Figures of named groups without content, but where a test looks at them (`drawn`): drawing takes most of the time
    of a report.
    """
    from matplotlib.figure import Figure  # most tests need none

    def savefig(figure: Figure, path: Path, **_: object) -> None:
        groups = (f'<g id="{part.get_gid()}"></g>' for part in figure.findobj(lambda part: part.get_gid() is not None))
        path.write_text(f'<svg width="1pt">{"".join(groups)}</svg>')

    if not request.node.get_closest_marker("drawn"):
        monkeypatch.setattr(Figure, "draw_without_rendering", lambda self: None)
        monkeypatch.setattr(Figure, "savefig", savefig)
