from pathlib import Path

from scpseg.data.acquire.space import free_bytes, size_text


def test_words_for_sizes() -> None:
    assert [size_text(n) for n in (7, 1536, 3 << 20, 5 << 30, 2 << 40)] == [
        "7 bytes", "1.5 KiB", "3.0 MiB", "5.0 GiB", "2.0 TiB",
    ]  # fmt: skip


def test_free_space_of_a_folder_to_be() -> None:
    assert free_bytes(Path("not/there/yet")) > 0
