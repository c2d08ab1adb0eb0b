"""A web server in this process that plays upstreams, with every fault that they and the net can have.

    with Server() as server:
        server.put("/a.bin", content)                     ranges, ETag, Last-Modified
        server.play("/a.bin", cut(1000), None, status(503, retry_after="2"))
        server.on("GET", "/f/token/", function)           anything else: function(request) calls request.answer(...)

`play` lists what goes wrong with the next requests for a path, one each, None for nothing; then all goes well.
`server.sent[path]` counts the bytes of bodies that were sent; `server.requests` keeps all requests, each with its own.
"""

import hashlib
import re
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

LAST_MODIFIED = "Wed, 01 Jan 2025 00:00:00 GMT"
PIECE = 16384


@dataclass
class File:
    """What stands at a path, and how the server deals with it."""

    content: bytes
    etag: str | None
    last_modified: str | None
    ranges: bool = True
    kind: str = "application/octet-stream"
    rate: float | None = None  # bytes a second


@dataclass
class Request:
    """What was asked, kept for tests; `answer` is for functions given to Server.on."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    form: dict[str, str]
    handler: "Handler" = field(repr=False)
    sent: int = 0  # bytes of the answer's body so far

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (pair.strip().partition("=") for pair in self.headers.get("cookie", "").split(";"))
        return {name: value for name, _, value in pairs if name}

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | list[tuple[str, str]] = ()) -> None:
        """Send a whole answer; give headers as a list of pairs to repeat one, such as Set-Cookie."""
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        if not any(name.lower() == "content-length" for name, _ in pairs):
            pairs.append(("Content-Length", str(len(body))))
        # Counted before the head: a client may be content with the status and look at the count at once.
        self.handler.count(self.path, body)
        self.handler.head(status, pairs)
        if self.handler.command != "HEAD":
            self.handler.wfile.write(body)

    def file(self, served: File) -> None:
        """Answer as a plain file server does: ranges, conditions, 416."""
        self.handler.file(self.path, served)


Fault = Callable[["Request", File | None], None]


def status(code: int, retry_after: str | None = None) -> Fault:
    """An answer without the file."""
    return lambda request, file: request.answer(code, b"sorry", {"Retry-After": retry_after} if retry_after else {})


def redirect(location: str, code: int = 302) -> Fault:
    return lambda request, file: request.answer(code, b"", {"Location": location})


def page(kind: str = "text/html; charset=utf-8", body: bytes = b"<!DOCTYPE html><p>Please log in") -> Fault:
    """A page to log in, with status 200."""
    return lambda request, file: request.answer(200, body, {"Content-Type": kind})


def cut(after: int) -> Fault:
    """The connection breaks off after that many bytes of the body."""
    return lambda request, file: request.handler.file(request.path, file, cut=after)


def headers(**changes: str) -> Fault:
    """Headers of the right answer replaced: headers(Content_Range="bytes 5-9/10"); an empty value removes one."""
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    return lambda request, file: request.handler.file(request.path, file, changes=named)


def chunked(content: bytes, whole: bool = True) -> Fault:
    """A body without a length, and without its end unless `whole`; no ETag."""

    def send(request: Request, file: File | None) -> None:
        request.handler.head(200, [("Transfer-Encoding", "chunked")])
        end = b"\r\n0\r\n\r\n" if whole else b""
        request.handler.raw(request.path, f"{len(content):x}\r\n".encode() + content + end)
        request.handler.close_connection = True

    return send


def swap(content: bytes, etag: str, then: Fault | None = None) -> Fault:
    """The file is replaced before this request is answered, which may go wrong too."""

    def send(request: Request, file: File | None) -> None:
        file.content, file.etag = content, etag
        (then or (lambda request, file: request.file(file)))(request, file)

    return send


class Server(ThreadingHTTPServer):
    """Listens on 127.0.0.1, which is also `localhost`; `certificate` (PEM with key) makes it https."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, File] = {}
        self.functions: dict[tuple[str, str], Callable[[Request], None]] = {}
        self.plays: dict[str, deque[Fault | None]] = {}
        self.sent: Counter[str] = Counter()
        self.requests: list[Request] = []
        self.scheme = "https" if certificate else "http"
        self.context = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def put(self, path: str, content: bytes, **changes: object) -> File:
        """Serve `content` at `path`; changes are fields of File."""
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        self.files[path] = File(**{"content": content, "etag": etag, "last_modified": LAST_MODIFIED} | changes)
        return self.files[path]

    def play(self, path: str, *faults: Fault | None) -> None:
        self.plays.setdefault(path, deque()).extend(faults)

    def on(self, method: str, path: str, function: Callable[[Request], None]) -> None:
        self.functions[method, path] = function

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away, killed or content, are part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: Server

    def setup(self) -> None:
        # The handshake belongs here, in the connection's own thread: a client that refuses ours must not stop others.
        if self.server.context:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.request.close()  # the wrapped one, which the server does not know

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        given = {name.lower(): value for name, value in self.headers.items()}
        form = parse_qs(self.rfile.read(int(given.get("content-length", 0))).decode())
        request = Request(
            self.command, parts.path, parse_qs(parts.query), given, {name: v[0] for name, v in form.items()}, self
        )
        self.current = request
        self.server.requests.append(request)
        plays = self.server.plays.get(parts.path)
        fault = plays.popleft() if plays else None
        function = self.server.functions.get((self.command, parts.path))
        served = self.server.files.get(parts.path)
        if fault:
            fault(request, served)
        elif function:
            function(request)
        elif served:
            request.file(served)
        else:
            request.answer(404, b"no such file")

    do_POST = do_HEAD = do_GET

    def head(self, code: int, pairs: list[tuple[str, str]]) -> None:
        self.send_response(code)
        for name, value in pairs:
            self.send_header(name, value)
        self.end_headers()

    def body(self, path: str, content: bytes, rate: float | None = None) -> None:
        if self.command == "HEAD":
            return
        for start in range(0, len(content), PIECE):
            self.raw(path, content[start : start + PIECE])
            if rate:
                time.sleep(PIECE / rate)

    def raw(self, path: str, content: bytes) -> None:
        # Counted first: what the client has got is counted by then, whatever the threads do.
        self.count(path, content)
        self.wfile.write(content)

    def count(self, path: str, content: bytes) -> None:
        if self.command != "HEAD":
            self.server.sent[path] += len(content)
            self.current.sent += len(content)

    def file(self, path: str, file: File, cut: int | None = None, changes: dict[str, str] | None = None) -> None:
        """Answer for a file; may break off, or lie in its headers."""
        content, code, size = file.content, 200, len(file.content)
        pairs = {"Content-Type": file.kind}
        pairs |= {"ETag": file.etag} if file.etag else {}
        pairs |= {"Last-Modified": file.last_modified} if file.last_modified else {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if file.ranges else None
        condition = self.headers.get("If-Range")
        if asked and condition in (None, file.etag, file.last_modified):
            first, last = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
            code, content = (206, content[first : last + 1]) if first < size else (416, b"")
            pairs["Content-Range"] = f"bytes {first}-{last}/{size}" if code == 206 else f"bytes */{size}"
        pairs |= {"Content-Length": str(len(content))} | (changes or {})
        self.head(code, [(name, value) for name, value in pairs.items() if value])
        self.body(path, content if cut is None else content[:cut], file.rate)
        if cut is not None or int(pairs["Content-Length"] or 0) != len(content):
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""
