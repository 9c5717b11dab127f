"""What holds for every request: who may ask, what a browser may do with the answer, and one line in the log."""

import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # not no-referrer: with it, a browser would not say of our own form where it comes from
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Guard:
    """An ASGI application around another one.

    Args:
        application: What is guarded.
        host: The address that is listened on.
        routes: Paths that the log may name; another one may hold what a client made up.
        refuse: The answer to a request that is not let through, by its reason.
    """

    def __init__(self, application: Callable, host: str, routes: frozenset[str], refuse: Callable[[str], Callable]):
        self._application, self._routes, self._refuse = application, routes, refuse
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Callable, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no answer to {scope['type']}")
        began = time.monotonic()
        status = 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [name for name, _ in message["headers"]]
                message["headers"] += [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in given]
            await send(message)

        reason = self._foreign(scope)
        try:
            await (self._refuse(reason) if reason else self._application)(scope, receive, guarded)
        finally:
            path = scope["path"] if scope["path"] in self._routes else "another path"
            log.info(f"{scope['method'][:8]} {path}: {status or 'no answer'}, {time.monotonic() - began:.2f} s")

    def _foreign(self, scope: MutableMapping[str, Any]) -> str:
        """Why a request is not let through; nothing if it is."""
        headers: dict[str, str] = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "This server answers to its address and to localhost only, not to another name."
        if scope["method"] in ("GET", "HEAD"):  # nothing changes, and no other page can read the answer
            return ""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if (origin is not None and origin.partition("://")[2] != host) or site not in ("same-origin", "none"):
            return "This request comes from a page of another site."
        return ""

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header can come from a page of ours: a name that somebody else made point here cannot."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False
