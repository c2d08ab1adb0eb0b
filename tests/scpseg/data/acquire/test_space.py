from pathlib import Path

import pytest

from scpseg.data.acquire import space
from scpseg.data.acquire.space import check_space, free_bytes, size_text
from scpseg.errors import UserError


def test_words_for_sizes() -> None:
    assert [size_text(n) for n in (7, 1536, 3 << 20, 5 << 30, 2 << 40)] == [
        "7 bytes", "1.5 KiB", "3.0 MiB", "5.0 GiB", "2.0 TiB",
    ]  # fmt: skip


def test_the_message_counts_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda folder: 1 << 20)
    with pytest.raises(UserError, match=r"^it needs 16778216 bytes \(16.0 MiB\), but .*; free some space"):
        check_space(Path(), 1000, "it")
    with pytest.raises(UserError, match="; delete old and older, which killed runs left, or move"):
        check_space(Path(), 1000, "it", ["old", "older"])


def test_free_space_of_a_folder_to_be() -> None:
    assert free_bytes(Path("not/there/yet")) > 0
