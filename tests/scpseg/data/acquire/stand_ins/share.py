"""A Seafile share with a password, as far as its flow is reported: form token, Referer, session cookie, ?dl=1."""

from server import Request, Server, page

TOKEN = "c0ffee"
PASSWORD = "open sesame"
PLACE = "/f/share-1/"
BEHIND = "/seafhttp/files/one/Potsdam.zip"
HTML = {"Content-Type": "text/html; charset=utf-8"}


class Share:
    """Serves `content` behind the password; `expire` ends every session that is open."""

    def __init__(self, server: Server, content: bytes, token_in: str = "form") -> None:
        self.server, self.token_in = server, token_in
        self.sessions: set[str] = set()
        self.opened = 0
        self.after: int | None = None
        self.file = server.put(BEHIND, content)
        server.on("GET", PLACE, self._look)
        server.on("POST", PLACE, self._open)
        server.on("GET", BEHIND, self._send)

    @property
    def address(self) -> str:
        return self.server.url(PLACE)

    def expire(self, after: int = 0) -> None:
        """End the session after so many further answers with the file."""
        self.after = after

    def _inside(self, request: Request) -> bool:
        return request.cookies.get("sessionid") in self.sessions

    def _form(self, request: Request) -> None:
        hidden = (
            f"<input type='hidden' value='{TOKEN}' name='csrfmiddlewaretoken' />" if self.token_in == "form" else ""
        )
        body = f'<!DOCTYPE html><form method="post">{hidden}<input id="pw" type="password" name="password"></form>'
        cookie = {"Set-Cookie": f"sfcsrftoken={TOKEN}; Path=/"} if self.token_in == "cookie" else {}
        request.answer(200, body.encode(), HTML | cookie)

    def _look(self, request: Request) -> None:
        if not self._inside(request):
            self._form(request)
        elif request.query.get("dl") == ["1"]:
            request.answer(302, b"", {"Location": BEHIND})
        else:
            request.answer(200, b"<!DOCTYPE html><p>Potsdam.zip", HTML)

    def _open(self, request: Request) -> None:
        form = request.form
        if form.get("csrfmiddlewaretoken") != TOKEN or request.headers.get("referer") != self.address:
            request.answer(403, b"CSRF verification failed")
        elif form.get("password") != PASSWORD or form.get("token") != "share-1":
            self._form(request)
        else:
            self.opened += 1
            self.sessions = {f"s{self.opened}"}
            request.answer(302, b"", {"Location": PLACE, "Set-Cookie": f"sessionid=s{self.opened}; Path=/"})

    def _send(self, request: Request) -> None:
        if self.after == 0:
            self.sessions, self.after = set(), None
        if not self._inside(request):
            page()(request, None)
            return
        if self.after is not None:
            self.after -= 1
        request.file(self.file)
