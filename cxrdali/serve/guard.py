"""What holds for every request: how long it may take, who may ask, what a browser may do with the answer, its log."""

import asyncio
import ipaddress
import logging
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

log = logging.getLogger(__name__)

HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # with no-referrer, a browser would not say of our own form where it comes from
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
ANSWERED = 3  # times --seconds: a request comes, is read, and its answer is taken


class Connection(H11Protocol):
    """A connection that ends: uvicorn alone waits for a request for ever, and for who does not take its answer."""

    def __init__(self, seconds: float, **given: Any):
        super().__init__(**given)
        self._seconds = seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self._seconds, self._look, None, False, 0)

    def _look(self, last: RequestResponseCycle | None, busy: bool, times: int) -> None:
        """Called every so many seconds. last, busy: the request before, and whether it was open; times: in a row."""
        now = self.cycle, self.cycle is not None and not self.cycle.response_complete
        times = times + 1 if now == (last, busy) else 0
        if times == (ANSWERED if now[1] else 1):
            self.transport.abort()
        elif not self.transport.is_closing():
            self.loop.call_later(self._seconds, self._look, *now, times)


class Guard:
    """An ASGI application around another one.

    Args:
        app: What is guarded.
        host: The address that is listened on.
        routes: Paths that the log may name; another one may hold what a client made up.
    """

    def __init__(self, app: ASGIApp, host: str, routes: frozenset[str]):
        self._app, self._routes = app, routes
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        reason = self._foreign(scope["method"], Headers(scope=scope))
        app = JSONResponse({"error": reason}, 403, {"connection": "close"}) if reason else self._app
        try:
            await app(scope, receive, guarded)
        finally:
            path = scope["path"] if scope["path"] in self._routes else "another path"
            log.info(f"{scope['method'][:8]} {path}: {status or 'no answer'}, {time.monotonic() - began:.2f} s")

    def _foreign(self, method: str, headers: Headers) -> str:
        """Why a request is not let through; nothing if it is."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "This server answers to its address and to localhost only, not to another name."
        if method in ("GET", "HEAD"):  # nothing is done, and no other page can read the answer
            return ""
        elsewhere = headers.get("origin", host).rpartition("//")[2] != host
        if elsewhere or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "This request comes from a page of another site."
        return ""

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header can come from a page of ours: a name that somebody else made point here cannot."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False
