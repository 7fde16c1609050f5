"""Who may see the explorer, and what its pages may do.

A request needs the token of this viewer, in the address or in the cookie that the first visit leaves, and a ``Host`` that names this machine: a page of
another site that was made to resolve here (DNS rebinding) has another one. Pages may load nothing from elsewhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
TOKEN = "token"
"""The parameter of the address, and the beginning of the cookie's name."""

EXPLORER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self'; connect-src 'self'; "
    "frame-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""``'unsafe-inline'`` for styles alone: plotly puts a style sheet into its page."""

MAP_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src data: blob:; frame-ancestors 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""Of the map, a frame: plotly compiles the code that draws. The frame gets numbers and colours, no text of others."""

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
)
"""Of pages without scripts: the report, and those of `motive explain`."""

STUDY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; media-src 'self' blob:; img-src data: blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)
"""Of the preference page, which brings a stricter one with it: the hash of its own script."""

_HEADERS = {
    "Content-Security-Policy": EXPLORER_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_READING = ("GET", "HEAD")


class Guard:
    """Answers 403 to a request without the token and to a foreign ``Host`` or ``Origin``; adds the headers above to all others."""

    def __init__(self, app: ASGIApp, *, token: str, port: Callable[[], int]) -> None:
        """``port`` is asked at each request: the server knows it once it listens."""
        self._app, self._token, self._port = app, token, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await JSONResponse({"error": refusal}, status_code=403, headers=_HEADERS)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._given(scope):
                    headers.append("Set-Cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        await self._app(scope, receive, guarded)

    @property
    def _cookie(self) -> str:
        return f"motive-view-{TOKEN}-{self._port()}"

    def _refusal(self, scope: Scope) -> str | None:
        """Why the request is refused; None if it is not."""
        headers = Headers(scope=scope)
        hosts = [f"{name}:{self._port()}" for name in HOSTS]
        if headers.get("host") not in hosts:
            return f"this is the viewer of {hosts[0]}; another Host is refused"
        origin = headers.get("origin")
        if scope["method"] not in _READING and (origin is None or urlsplit(origin).netloc not in hosts):
            return "only the viewer's own page may change anything"
        if not (self._given(scope) or self._matches(_cookie_value(headers.getlist("cookie"), self._cookie))):
            return "the token is wrong or missing: open the address that `motive view` printed"
        return None

    def _given(self, scope: Scope) -> bool:
        """Whether the address has the token."""
        return self._matches(parse_qs(scope["query_string"].decode("latin-1")).get(TOKEN, [""])[0])

    def _matches(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode())


def _cookie_value(lines: Sequence[str], name: str) -> str:
    for line in lines:
        try:
            found = SimpleCookie(line).get(name)
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""
