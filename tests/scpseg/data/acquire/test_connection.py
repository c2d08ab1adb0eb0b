import datetime
import email.utils
import gc
import ipaddress
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Request, Server, headers, redirect, status

from scpseg.data.acquire import space
from scpseg.data.acquire import transfer as downloads
from scpseg.data.acquire.transfer import LONGEST_PAUSE, USER_AGENT, Connection, Remote, transfer
from scpseg.errors import UserError


class Patient(Connection):
    """A connection that notes its pauses instead of making them."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.pauses: list[float] = []
        super().__init__(*arguments, **options)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def connection() -> Patient:
    return Patient(tries=4)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with its key, signed by itself, for localhost and 127.0.0.1."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(key.private_bytes(*plain) + built.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secure(server: Server, certificate: Path) -> Iterator[Server]:
    with Server(certificate) as running:
        running.put("/a", b"secret")
        yield running


def test_the_suite_names_itself_and_keeps_cookies(server: Server, connection: Connection) -> None:
    server.on(
        "GET", "/page", lambda request: request.answer(200, b"hi", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    )
    assert connection.body(server.url("/page"))[1] == b"hi"
    connection.body(server.url("/page"), {"X-More": "y"})
    first, second = server.requests
    assert first.headers["user-agent"] == USER_AGENT
    assert first.cookies == {} and second.cookies == {"a": "1", "b": "2"}
    assert second.headers["x-more"] == "y"


def test_a_form_and_where_it_leads(server: Server, connection: Connection) -> None:
    server.on("POST", "/form", lambda request: request.answer(302, b"", {"Location": "/in", "Set-Cookie": "session=s"}))
    server.put("/in", b"welcome")
    assert connection.text(server.url("/form"), {"Referer": "here"}, data={"password": "p q"}) == "welcome"
    form, inside = server.requests
    assert form.form == {"password": "p q"} and form.headers["referer"] == "here"
    assert (inside.method, inside.form, inside.cookies) == ("GET", {}, {"session": "s"})


def test_head_sends_no_body(server: Server, connection: Connection) -> None:
    server.put("/a", b"12345")
    server.play("/b", redirect("/a"))
    assert connection.open(server.url("/b"), method="HEAD").headers["Content-Length"] == "5"
    assert server.sent["/a"] == 0
    assert connection.open(server.url("/none"), allowed=(404,), method="HEAD").status_code == 404


def test_pauses_as_the_server_asks_or_longer_each_time(
    server: Server, connection: Patient, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("/a", b"x")
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.play("/a", status(429, "7"), status(503, later), status(500))
    assert connection.body(server.url("/a?key=secret"))[1] == b"x"
    seven, date, own = connection.pauses
    assert (seven, own) == (7, 4) and 27 < date <= 30
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "127.0.0.1: 429 Too Many Requests; try 2 of 4 in 7 s"
    assert len(lines) == 3 and "secret" not in "".join(lines)
    past = email.utils.formatdate(time.time() - 99, usegmt=True)
    server.play("/a", status(503, "86400"), status(503, "soon"), status(503, past))
    connection.body(server.url("/a"))
    assert connection.pauses[3:] == [LONGEST_PAUSE, 2, 0]


def test_gives_up_with_a_sentence(server: Server, connection: Patient) -> None:
    server.play("/a", *[status(502)] * 9)
    with pytest.raises(
        UserError, match=r"127.0.0.1 failed 4 times to send http://127.0.0.1:\d+/a \(502 Bad Gateway\); "
    ):
        connection.body(server.url("/a"))
    assert len(server.requests) == 4 and connection.pauses == [1, 2, 4]
    server.server_close()
    with pytest.raises(UserError, match=r"\(Connection refused\)"):
        Patient(tries=2).body(server.url("/a"))


def test_a_silent_server_is_asked_again(server: Server) -> None:
    connection = Patient(read=0.2)
    server.put("/a", b"x")
    server.play("/a", lambda request, file: time.sleep(0.5))
    assert connection.body(server.url("/a"))[1] == b"x"
    assert connection.pauses == [1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (401, "answers 401 Unauthorized; log in"),
        (403, "answers 403 Forbidden; log in"),
        (404, "answers 404 Not Found; check the address, or use another source"),
        (410, "answers 410 Gone"),
        (418, "I'm"),
    ],
)
def test_a_refusal_ends_at_once(server: Server, connection: Patient, code: int, words: str) -> None:
    server.play("/a", status(code), status(code))
    with pytest.raises(UserError, match=words):
        connection.body(server.url("/a"))
    assert len(server.requests) == 1 and not connection.pauses
    assert connection.body(server.url("/a"), allowed=(code,))[0].status_code == code


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/a", "127.0.0.1/a", "http://", "http://[::1/a", "http://a:99999/x", "http://\udce4/x"]
)
def test_an_address_that_is_none(connection: Connection, url: str) -> None:
    with pytest.raises(UserError, match="check the address"):
        connection.body(url)


def test_redirects_to_another_host(server: Server, connection: Connection) -> None:
    server.put("/a", b"0123456789")
    server.play("/r", redirect(server.url("/a", "localhost")), redirect("/a"))
    sent = {"Authorization": "Bearer key", "Range": "bytes=2-3"}
    assert connection.body(server.url("/r"), sent)[1] == b"23"
    assert server.requests[1].headers["host"].startswith("localhost:")
    assert "authorization" not in server.requests[1].headers
    connection.body(server.url("/r"), sent)
    assert server.requests[3].headers["authorization"] == "Bearer key"
    server.play("/a", *[redirect("/a")] * 40)
    with pytest.raises(UserError, match="Exceeded 30 redirects"):
        connection.body(server.url("/a"))


def test_an_unknown_certificate_is_rejected_at_once(secure: Server, connection: Patient) -> None:
    with pytest.raises(UserError, match=r"certificate of 127.0.0.1 cannot .*add it to upstream.unverified_hosts"):
        connection.body(secure.url("/a"))
    assert not secure.requests and not connection.pauses


def test_a_known_certificate_is_accepted(
    secure: Server, connection: Connection, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert connection.body(secure.url("/a", "localhost"))[1] == b"secret"


def test_only_the_named_host_goes_unchecked(
    secure: Server, certificate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = Patient(["127.0.0.1"])
    for _ in range(2):
        assert connection.body(secure.url("/a"))[1] == b"secret"
    said = capsys.readouterr().err
    assert said == "the certificate of 127.0.0.1 is not checked, because of upstream.unverified_hosts\n"
    secure.play("/r", redirect(secure.url("/a", "localhost")), redirect("/a"))
    with pytest.raises(UserError, match="certificate of localhost cannot"):
        connection.body(secure.url("/r"))
    assert connection.body(secure.url("/r"))[1] == b"secret"
    with pytest.raises(UserError, match="certificate of localhost cannot"):
        connection.body(secure.url("/a", "localhost"))
    # The same host asked first by someone who does not trust it, then by someone who does.
    with pytest.raises(UserError, match=r"certificate of 127.0.0.1 cannot"):
        Patient().body(secure.url("/a"))


def test_encryption_may_begin_but_not_end(server: Server, secure: Server) -> None:
    connection = Patient(["127.0.0.1"])
    server.put("/plain", b"x")
    server.play("/up", redirect(secure.url("/a")))
    assert connection.body(server.url("/up"))[1] == b"secret"
    secure.play("/down", redirect(server.url("/plain")))
    with pytest.raises(UserError, match=r"redirects to http://127.0.0.1:\d+/plain, which is not encrypted"):
        connection.body(secure.url("/down"))
    assert not server.asked("/plain")


def test_a_page_is_read_up_to_a_limit(server: Server, connection: Connection) -> None:
    server.put("/b", b"12345678")
    server.play("/b", headers(Content_Length="100"))
    assert connection.text(server.url("/b")) == "12345678"  # asked again after the short body
    with pytest.raises(UserError, match="more than the expected 7 bytes"):
        connection.body(server.url("/b"), most=7)
    server.put("/huge", bytes(5 << 20))
    with pytest.raises(UserError, match=f"more than the expected {4 << 20} bytes"):
        connection.text(server.url("/huge"))


LONG = "9" * 5000
HOSTILE = {
    **{
        f"Location {value[:12]!r}": (302, {"Location": value})
        for value in ("http://[", "//a:9999999", "\xff\xfe", LONG)
    },
    "Location empty": (302, {"Location": ""}),
    "Location file": (302, {"Location": "file:///etc/passwd"}),
    **{f"Retry-After {value[:9]}": (503, {"Retry-After": value}) for value in (LONG, "-1", "soon", "\xb2", "1e999")},
    "Retry-After date": (503, {"Retry-After": "Wed, 01 Jan 99999 00:00:00 GMT"}),
    **{f"Content-Length {value[:9]}": (200, {"Content-Length": value}) for value in (LONG, "-1", "\xb2", "1, 2", "x")},
    "Set-Cookie": (200, {"Set-Cookie": "\x01=;;;=\xff; expires=never", "Content-Length": "-5"}),
}
"""Headers that no honest server sends."""


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of urllib3
def test_hostile_headers_end_in_a_sentence(name: str, server: Server, connection: Patient, tmp_path: Path) -> None:
    code, pairs = HOSTILE[name]
    server.play("/a.zip", *[lambda request, file: raw_answer(request, code, pairs)] * 20)
    with pytest.raises(UserError) as caught:
        transfer(Remote(server.url("/a.zip?key=secret"), "a.zip"), tmp_path, connection)
    assert str(caught.value).isprintable() and "secret" not in str(caught.value)
    assert all(0 <= pause <= LONGEST_PAUSE for pause in connection.pauses)
    del caught
    gc.collect()


def raw_answer(request: Request, code: int, pairs: dict[str, str]) -> None:
    """Headers as they are, in Latin-1, and no body."""
    lines = [f"HTTP/1.1 {code} \x1b[31mno", *(f"{name}: {value}" for name, value in pairs.items()), "", ""]
    request.handler.wfile.write("\r\n".join(lines).encode("latin-1"))
    request.handler.close_connection = True


def test_a_body_that_drips(server: Server, tmp_path: Path) -> None:
    def drip(request: Request, file: object) -> None:
        request.handler.head(200, [("Content-Length", "100000")])
        for _ in range(400):
            request.handler.wfile.write(b"x")
            time.sleep(0.01)

    server.play("/a", *[drip] * 2)
    connection = Patient(read=0.2, tries=2)
    with pytest.raises(UserError, match=r"failed 2 times .*it sent \d+ bytes in"):
        transfer(Remote(server.url("/a"), "a"), tmp_path, connection)


def test_a_body_that_never_ends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flood(request: Request, file: object) -> None:
        request.handler.head(200, [("Transfer-Encoding", "chunked")])
        while True:
            request.handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    server.play("/a", flood, flood)
    monkeypatch.setattr(downloads, "UNKNOWN_LENGTH", 3 << 20)
    with pytest.raises(UserError, match=f"more than the expected {3 << 20} bytes"):
        transfer(Remote(server.url("/a"), "a"), tmp_path, Patient())
    monkeypatch.setattr(downloads, "UNKNOWN_LENGTH", 1 << 40)
    monkeypatch.setattr(space, "free_bytes", lambda folder: space.MARGIN)
    with pytest.raises(UserError, match="whose length is unknown"):
        transfer(Remote(server.url("/a"), "b"), tmp_path, Patient())
