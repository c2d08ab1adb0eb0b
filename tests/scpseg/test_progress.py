import io
import sys

import pytest

from scpseg import progress
from scpseg.progress import byte_progress, say


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_plain_lines_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with byte_progress("a.7z", done=1 << 30) as show:
        for seconds, mib, total in [
            (5, 1100, 4096),
            (10, 1124, 4096),
            (12, 1130, 4096),
            (20, 0, None),
            (30, 500, 900),
        ]:
            clock.now = seconds
            show(mib << 20, total and total << 20)
    assert capsys.readouterr().err.splitlines() == [
        "a.7z: 1.10GiB of 4.00GiB, 10.0MiB/s, about 297 s left",
        "a.7z: 0.00B, 0.00B/s",  # begun again
        "a.7z: 500MiB of 900MiB, 50.0MiB/s, about 8 s left",
        "a.7z: 606MiB in 30 s, 20.2MiB/s",
    ]


def test_no_last_line_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x"), byte_progress("a"):
        raise ValueError("x")
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with byte_progress("a.7z", done=512) as show:
        say("a line")
        show(1 << 20, 4 << 20)
        show(0, 4 << 20)
        show(3 << 20, 4 << 20)
    assert "a line\n" in screen.getvalue()
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("a.7z:  75%") and "3.00M/4.00M" in last and "B/s]" in last
