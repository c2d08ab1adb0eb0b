import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from server import Server, cut
from share import BEHIND, PASSWORD, PLACE, Share

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import File, Source
from scpseg.data.acquire import upstream
from scpseg.data.acquire.transfer import Connection
from scpseg.errors import UserError

IMAGES, ERODED, BORDERED = os.urandom(300_000), b"eroded", b"bordered"


def whole() -> bytes:
    """A stored zip of archives, far more of it unwanted than wanted."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        file.writestr("Potsdam/1_DSM.rar", bytes(24 << 20))
        file.writestr("Potsdam/2_Ortho_RGB.zip", IMAGES)
        file.writestr("Potsdam/5_Labels_all_noBoundary.zip", ERODED)
        file.writestr("Potsdam/5_Labels_all.zip", BORDERED)
    return stream.getvalue()


@pytest.fixture
def connection() -> Connection:
    return Connection(tries=2, read=5.0)


def source_of(share: Share, whole: bool = False, password: str = PASSWORD) -> Source:
    source = BENCHMARKS["potsdam"].sources[int(whole)]
    files = (File("Potsdam.zip", len(share.file.content)),) if whole else source.files
    return replace(source, address=share.address, password=password, files=files)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("token_in", ["form", "cookie"])
def test_only_the_wanted_members_are_fetched(
    token_in: str, server: Server, connection: Connection, tmp_path: Path
) -> None:
    share = Share(server, whole(), token_in)
    source = source_of(share)
    upstream.fetch(source, "noBoundary", tmp_path, connection)
    assert held(tmp_path) == {"2_Ortho_RGB.zip": IMAGES, "5_Labels_all_noBoundary.zip": ERODED}
    assert share.opened == 1
    assert server.sent[BEHIND] < len(share.file.content) / 2
    upstream.fetch(source, "bordered", tmp_path, connection)
    assert held(tmp_path)["5_Labels_all.zip"] == BORDERED
    windows = [request.headers.get("range") for request in server.asked(BEHIND)]
    assert len(windows) == len(set(windows)) + 3, "only the zip's table and the header of the images are read twice"


def test_a_session_that_ends_is_opened_again_and_the_transfer_goes_on(
    server: Server, connection: Connection, tmp_path: Path
) -> None:
    share = Share(server, whole())
    server.play(BEHIND, cut(5 << 20))
    share.expire()
    upstream.fetch(source_of(share, whole=True), "", tmp_path, connection)
    assert held(tmp_path) == {"Potsdam.zip": share.file.content}
    assert share.opened == 2
    assert server.sent[BEHIND] < len(share.file.content) + (1 << 20), "nothing was fetched twice"


def test_a_session_that_ends_between_members(server: Server, connection: Connection, tmp_path: Path) -> None:
    share = Share(server, whole())
    share.expire(after=1)
    upstream.fetch(source_of(share), "noBoundary", tmp_path, connection)
    assert held(tmp_path) == {"2_Ortho_RGB.zip": IMAGES, "5_Labels_all_noBoundary.zip": ERODED}
    assert share.opened == 2


def test_sessions_that_always_end_stop_it(server: Server, connection: Connection, tmp_path: Path) -> None:
    share = Share(server, whole())
    server.on("GET", BEHIND, lambda request: (share.sessions.clear(), share._send(request)))
    with pytest.raises(UserError, match="answers with a web page instead of the file"):
        upstream.fetch(source_of(share, whole=True), "", tmp_path, connection)
    assert share.opened == upstream.SESSIONS


def test_refusals_are_sentences(server: Server, connection: Connection, tmp_path: Path) -> None:
    share = Share(server, whole())
    with pytest.raises(UserError, match="does not accept the known password") as caught:
        upstream.fetch(source_of(share, password="wrong"), "noBoundary", tmp_path, connection)
    assert "\n" not in str(caught.value) and "wrong" not in str(caught.value)
    share.token_in = "nowhere"
    with pytest.raises(UserError, match="has no token"):
        upstream.fetch(source_of(share), "noBoundary", tmp_path, Connection(tries=1))
    gone = replace(source_of(share), address=server.url("/f/gone/"))
    with pytest.raises(UserError, match=r"/f/gone/ answers 404 Not Found; check the address"):
        upstream.fetch(gone, "noBoundary", tmp_path, connection)
    assert not list(tmp_path.iterdir())


def test_a_share_without_the_members(server: Server, connection: Connection, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("Potsdam/2_Ortho_RGB.zip", IMAGES)
    share = Share(server, stream.getvalue())
    with pytest.raises(UserError, match="5_Labels_all"):
        upstream.fetch(source_of(share), "noBoundary", tmp_path, connection)
    assert not held(tmp_path)


def test_an_open_share_is_not_asked_for_its_password(server: Server, connection: Connection) -> None:
    Share(server, b"x")
    server.on("GET", PLACE, lambda request: request.answer(200, b"<p>open", {"Content-Type": "text/html"}))
    upstream.open_share(connection, server.url(PLACE), PASSWORD)
    assert {request.method for request in server.requests} == {"GET"}
