import errno
import hashlib
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from server import Server, cut, page, status

from pipelines.stage import explained
from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Benchmark, File, Source
from scpseg.data.acquire import upstream as module
from scpseg.data.acquire.sources import chosen
from scpseg.data.acquire.transfer import Connection
from scpseg.errors import UserError
from scpseg.params import DataParams, UpstreamParams

INRIA = BENCHMARKS["inria"]
PARTS = {f"set.7z.{number:03d}": bytes([number]) * (50_000 + number) for number in (1, 2, 3)}
DATA = DataParams("upstream", False, "unused")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No waiting, and the cache below the test's folder."""
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.fixture
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[Source, Source]:
    """Two sources of Inria, three files with checksums below /first and /second."""
    for place in ("first", "second"):
        for name, content in PARTS.items():
            server.put(f"/{place}/{name}", content)
    files = tuple(File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in PARTS.items())
    first, second = (
        replace(BENCHMARKS["inria"].sources[0], name=name, folder=name, address=server.url(f"/{name}"), files=files)
        for name in ("first", "second")
    )
    monkeypatch.setitem(BENCHMARKS, "inria", replace(BENCHMARKS["inria"], sources=(first, second)))
    return first, second


def acquire(spec: Benchmark, variant: str, data: DataParams, upstream: UpstreamParams) -> Path:
    connection = Connection(upstream.unverified_hosts, tries=2, read=5.0)
    return module.acquire(spec, variant, data, chosen(BENCHMARKS[spec.name], data, upstream), connection)


def sources(*inria: str, hosts: tuple[str, ...] = (), **others: tuple[str, ...]) -> UpstreamParams:
    return UpstreamParams({"inria": inria, **others}, hosts)


def zipped(name: str) -> bytes:
    """A zip with a member of this name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, name)
    return stream.getvalue()


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_the_first_source_that_has_it_all(
    server: Server, served: tuple[Source, Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = acquire(INRIA, "gt", DATA, sources("first", "second"))
    assert folder == tmp_path / "cache/inria/upstream/first"
    assert held(folder) == PARTS
    said = capsys.readouterr().err
    assert INRIA.terms in said and INRIA.citation in said
    assert "inria: source 1 of 2: first (https://project.inria.fr/aerialimagelabeling), 19.5 GiB to fetch" in said
    assert not [request for request in server.requests if request.path.startswith("/second")]


def test_what_is_complete_needs_no_network(
    server: Server, served: tuple[Source, Source], capsys: pytest.CaptureFixture[str]
) -> None:
    acquire(INRIA, "gt", DATA, sources("second"))
    capsys.readouterr()
    asked = len(server.requests)
    folder = acquire(INRIA, "gt", DATA, sources("first", "second"))
    assert (folder.name, len(server.requests)) == ("second", asked)
    said = capsys.readouterr().err
    assert "inria: second is complete" in said and INRIA.terms not in said


def test_two_processes_fetch_once(server: Server, served: tuple[Source, Source], tmp_path: Path) -> None:
    server.files["/first/set.7z.001"].rate = 200_000
    with ThreadPoolExecutor(2) as pool:  # locks are per open file, so threads are like processes
        folders = list(pool.map(lambda _: acquire(INRIA, "gt", DATA, sources("first")), range(2)))
    assert folders[0] == folders[1] and held(folders[0]) == PARTS
    assert len(server.requests) == len(PARTS)


def test_what_was_lost_is_fetched_again_and_only_that(server: Server, served: tuple[Source, Source]) -> None:
    folder = acquire(INRIA, "gt", DATA, sources("first"))
    (folder / "set.7z.002").unlink()
    server.requests.clear()
    assert held(acquire(INRIA, "gt", DATA, sources("first"))) == PARTS
    assert [request.path for request in server.requests] == ["/first/set.7z.002"]


def test_the_next_source_takes_over_and_the_log_says_why(
    server: Server, served: tuple[Source, Source], capsys: pytest.CaptureFixture[str]
) -> None:
    del server.files["/first/set.7z.003"]
    assert acquire(INRIA, "gt", DATA, sources("first", "second")).name == "second"
    said = capsys.readouterr().err
    assert "inria: first failed: http://" in said and "answers 404 Not Found" in said
    assert "source 2 of 2: second" in said


def test_the_next_run_goes_on(server: Server, served: tuple[Source, Source]) -> None:
    server.play("/first/set.7z.002", cut(20_000), status(503), status(503))
    with pytest.raises(UserError):
        acquire(INRIA, "gt", DATA, sources("first"))
    acquire(INRIA, "gt", DATA, sources("first"))
    assert server.sent["/first/set.7z.001"] == len(PARTS["set.7z.001"])
    assert server.requests[-2].headers["range"] == "bytes=20000-"


def test_all_failed_is_one_sentence(server: Server, served: tuple[Source, Source], tmp_path: Path) -> None:
    server.play("/first/set.7z.001", page())
    server.put("/second/set.7z.001", b"x" * len(PARTS["set.7z.001"]))
    with pytest.raises(UserError) as caught:
        acquire(INRIA, "gt", DATA, sources("first", "second"))
    said = str(caught.value)
    assert "\n" not in said
    assert "inria cannot be fetched (first: http" in said and "a web page instead of the file" in said
    assert "; second: set.7z.001 from http" in said and " is damaged or another file: sha256" in said
    assert f"into {tmp_path}/cache/inria/upstream/by-hand, or into a folder and set data.source to it" in said


def test_no_source_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        acquire(BENCHMARKS["blu"], "label", DATA, sources())
    said = str(caught.value)
    assert "blu cannot be fetched (upstream.blu names no source)" in said
    assert "https://rslab.disi.unitn.it/dataset/BLU/" in said and f"{tmp_path}/cache/blu/upstream/by-hand" in said


def test_what_a_person_brought_goes_first(server: Server, served: tuple[Source, Source], tmp_path: Path) -> None:
    place = tmp_path / "cache/inria/upstream/by-hand"
    place.mkdir(parents=True)
    (place / ".DS_Store").touch()
    assert acquire(INRIA, "gt", DATA, sources("first")).name == "first"
    (place / "mine.zip").touch()
    assert acquire(INRIA, "gt", DATA, sources("first")) == place


def test_another_kind_of_labels_is_not_complete(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(BENCHMARKS["potsdam"].sources[0], how="files", address=server.url("/p"))
    monkeypatch.setitem(BENCHMARKS, "potsdam", replace(BENCHMARKS["potsdam"], sources=(source,)))
    for file in source.files:
        server.put(f"/p/{file.name}", zipped(file.name))
    upstream = sources(potsdam=("isprs",))
    assert len(held(acquire(BENCHMARKS["potsdam"], "noBoundary", DATA, upstream))) == 2
    assert len(held(acquire(BENCHMARKS["potsdam"], "bordered", DATA, upstream))) == 3
    server.requests.clear()
    folder = acquire(BENCHMARKS["potsdam"], "noBoundary", DATA, upstream)
    assert not server.requests
    (folder / "5_Labels_all_noBoundary.zip").unlink()
    acquire(BENCHMARKS["potsdam"], "bordered", DATA, upstream)
    acquire(BENCHMARKS["potsdam"], "noBoundary", DATA, upstream)
    assert len(held(folder)) == 3


def test_a_mirror_with_its_list(server: Server) -> None:
    entries = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in PARTS.items()
    ]
    for name, content in PARTS.items():
        server.put(f"/sets/inria/{name}", content)
    server.put("/sets/inria/archives.json", json.dumps({"archives": entries}).encode())
    data = replace(DATA, source=server.url("/sets"))
    folder = acquire(INRIA, "gt", data, sources())
    assert held(folder) == PARTS and folder.name.startswith("127.0.0.1-")
    server.requests.clear()
    acquire(INRIA, "gt", data, sources())
    assert not server.requests
    entry = {"name": "a.zip", "size": 1, "sha256": "0"}
    for wrong in (
        *(b"[]", b"{", b'{"archives": [{"name": "x"}]}', b'{"archives": 7}', b'{"archives": []}', b"[" * 100_000),
        *(
            json.dumps({"archives": [entry]}).replace("1,", f"{size},").encode()
            for size in ("Infinity", "null", '"x"', "9" * 5000)
        ),
    ):
        server.put("/else/inria/archives.json", wrong)
        with pytest.raises(UserError, match=r"archives\.json sends an answer that cannot be parsed"):
            acquire(INRIA, "gt", DATA, sources(server.url("/else")))
    server.put("/else/inria/a.zip", b"1")
    server.put("/else/inria/archives.json", json.dumps({"archives": [entry | {"size": -1}]}).encode())
    with pytest.raises(UserError, match=r"a.zip has 1 bytes instead of -1 bytes; check the address"):
        acquire(INRIA, "gt", DATA, sources(server.url("/else")))
    entries[0]["name"] = "../outside.zip"
    server.put("/else/inria/archives.json", json.dumps({"archives": entries}).encode())
    with pytest.raises(UserError, match="not a safe file name"):
        acquire(INRIA, "gt", DATA, sources(server.url("/else")))


def test_a_mirror_without_list_and_a_single_archive(server: Server) -> None:
    blu, first, second = BENCHMARKS["blu"], zipped("first"), zipped("second")
    server.put("/sets/blu/BLU.zip", first)
    assert held(acquire(blu, "label", DATA, sources(blu=(server.url("/sets"),)))) == {"BLU.zip": first}
    server.put("/my%20sets/other.zip", second)
    address = server.url("/my%20sets/other.zip?key=1")
    assert held(acquire(blu, "label", DATA, sources(blu=(address,)))) == {"other.zip": second}


def test_the_query_of_an_address_goes_with_each_file(server: Server) -> None:
    content = zipped("x")
    server.put("/sets/blu/BLU.zip", content)
    folder = acquire(BENCHMARKS["blu"], "label", DATA, sources(blu=(server.url("/sets/?token=a"),)))
    assert held(folder) == {"BLU.zip": content}
    asked = [(request.path, request.query) for request in server.requests]
    assert asked == [(f"/sets/blu/{name}", {"token": ["a"]}) for name in ("archives.json", "BLU.zip")]
    server.requests.clear()
    assert acquire(BENCHMARKS["blu"], "label", DATA, sources(blu=(server.url("/sets/?token=b"),))) == folder
    assert not server.requests


def test_a_source_that_sends_no_archive_gives_way_to_the_next(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("/busy/blu/BLU.zip", b"too many requests")
    server.put("/sets/blu/BLU.zip", content := zipped("x"))
    upstream = sources(blu=(server.url("/busy"), server.url("/sets")))
    assert held(acquire(BENCHMARKS["blu"], "label", DATA, upstream)) == {"BLU.zip": content}
    assert "failed: BLU.zip from http://" in (said := capsys.readouterr().err) and "it is not a whole archive" in said


def test_an_unverified_host_needs_checksums(server: Server, served: tuple[Source, Source]) -> None:
    address = server.url("/first/set.7z.001/a.zip")
    with pytest.raises(UserError, match=r"the SHA-256 of a\.zip is unknown, so it cannot be verified"):
        acquire(INRIA, "gt", DATA, sources(address, hosts=("127.0.0.1",)))
    assert not server.requests
    assert acquire(INRIA, "gt", DATA, sources("first", hosts=("127.0.0.1",))).name == "first"


def test_too_little_disk(served: tuple[Source, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scpseg.data.acquire.space.free_bytes", lambda folder: 100)
    with pytest.raises(UserError, match=r"fetching 3 files from first needs 16927222 bytes .*but 100 bytes"):
        acquire(INRIA, "gt", DATA, sources("first"))


def test_a_cache_that_cannot_be_made(
    served: tuple[Source, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError) as caught:
        acquire(INRIA, "gt", DATA, sources("first"))
    said = str(explained(caught.value, ""))
    assert f"{tmp_path}/cache/inria/upstream/first cannot be read or written (Read-only" in said


def test_a_damaged_note_of_what_is_complete(served: tuple[Source, Source], tmp_path: Path) -> None:
    acquire(INRIA, "gt", DATA, sources("first"))
    note = tmp_path / "cache/inria/upstream/first-gt.json"
    for text, why in (("", "is not valid JSON"), ("[]", r"has \[\] where a mapping belongs")):
        note.write_text(text)
        with pytest.raises(UserError, match=f"first-gt.json {why}; delete it"):
            acquire(INRIA, "gt", DATA, sources("first"))
