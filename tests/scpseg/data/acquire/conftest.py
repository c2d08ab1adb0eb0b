"""Stand-ins for servers, importable by name: `from server import Server, cut`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "stand_ins"))

from server import Server

from scpseg.data.acquire.transfer import Connection


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed requests are repeated at once."""
    monkeypatch.setattr(Connection, "sleep", lambda self, seconds: None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server of this process, asked directly even where a proxy is set."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with Server() as running:
        yield running
