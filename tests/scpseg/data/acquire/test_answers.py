import pytest
import requests

from scpseg.data.acquire import answers
from scpseg.data.acquire.answers import Range, Version, address, cause, refuse_markup, refuse_page
from scpseg.errors import UserError


def answer(**headers: str) -> requests.Response:
    made = requests.Response()
    made.url = "https://me:pw@host:8443/a/b.zip?signature=s"
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


def test_versions() -> None:
    old, new = Version('"1"', "Monday"), Version('"2"', "Monday")
    assert Version.of(answer(etag='"1"', last_modified="Monday")) == old
    assert old.agrees(old) and not old.agrees(new)
    assert Version('"1"', "Tuesday").agrees(old)  # the ETag decides
    assert Version(None, "Monday").agrees(old) and not Version(None, "Tuesday").agrees(old)
    assert Version().agrees(old) and old.agrees(Version())
    assert [version.known for version in (old, Version(None, "Monday"), Version())] == [True, True, False]
    assert [version.condition for version in (old, Version('W/"1"', "Monday"), Version())] == ['"1"', "Monday", None]


def test_ranges() -> None:
    assert Range.of(answer(content_range="bytes 5-9/20")) == Range(5, 9, 20)
    assert Range.of(answer(content_range="bytes 5-5/*")) == Range(5, 5, None)
    for value in ("bytes 9-5/20", "5-9/20", "bytes 5-9", "bytes */20"):
        with pytest.raises(UserError, match=f"https://host:8443/a/b.zip .* Content-Range: {value.replace('*', '.')}, "):
            Range.of(answer(content_range=value))
    assert answers.unsatisfied(answer(content_range="bytes */20")) == 20 and answers.unsatisfied(answer()) is None
    assert (
        answers.content_length(answer(content_length="7")) == 7
        and answers.content_length(answer(content_length="?")) is None
    )


def test_pages() -> None:
    for kind in ("text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"):
        with pytest.raises(UserError, match="web page"):
            refuse_page(answer(content_type=kind))
    refuse_page(answer(content_type="application/zip", content_encoding="identity"))
    refuse_page(answer())
    for head in (b"<!DOCTYPE html>", b"\r\n <HTML lang", b"<?xml version", b"<!-- hello"):
        with pytest.raises(UserError, match="web page"):
            refuse_markup(answer(), head)
    for head in (b"<\x00\x01", b"7z\xbc\xaf", b"", b"<htm"):
        refuse_markup(answer(), head)


def test_words() -> None:
    assert address("https://me:pw@host:8443/a/b.zip?signature=s#t") == "https://host:8443/a/b.zip"
    assert address("http://host/") == "http://host/"
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as inner:
            raise requests.ConnectionError("a long story") from inner
    except requests.ConnectionError as error:
        assert cause(error) == "Connection refused"
    assert cause(TimeoutError()) == "TimeoutError"
