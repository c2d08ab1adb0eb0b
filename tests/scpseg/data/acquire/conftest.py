"""Stand-ins for servers, importable by name: `from server import Server, cut`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "stand_ins"))

from server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server of this process, asked directly even where a proxy is set."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with Server() as running:
        yield running
