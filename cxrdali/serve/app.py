"""The pages and answers of the server: a form, its reading, the same as JSON, and what other programs ask for."""

import logging
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from cxrdali.report.kit import page
from cxrdali.serve.desk import Desk
from cxrdali.serve.guard import Guard
from cxrdali.serve.openapi import openapi
from cxrdali.serve.options import ServeOptions
from cxrdali.serve.refused import Refused
from cxrdali.serve.upload import received
from shards.errors import UserError

log = logging.getLogger(__name__)

FOLDERS = [Path(__file__).parent, Path(page.__file__).parent.parent]
OWN = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
POLICY = f"{OWN}script-src 'self'; style-src 'self'; img-src data:; form-action 'self'"
READING_POLICY = f"{OWN}style-src 'unsafe-inline'; img-src data:; form-action 'none'"  # one file, without a script


class Reads(Protocol):
    """What reads uploads (`cxrdali.serve.reader.Reader`)."""

    @property
    def name(self) -> str: ...

    @property
    def findings(self) -> tuple[str, ...]: ...

    def as_json(self, data: bytes) -> bytes: ...

    def as_page(self, data: bytes) -> bytes: ...


class Application:
    """Answers of one run.

    Args:
        reader: Reads uploads, in the desk's thread.
        options: Limits, and the address for the check of names.
    """

    def __init__(self, reader: Reads, options: ServeOptions):
        self._reader, self._options, self._desk = reader, options, Desk()
        self._templates = Environment(
            loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    def asgi(self) -> Starlette:
        """The application as a server takes it."""
        still = {
            "/": (self._page("page.html.j2"), "text/html", {"content-security-policy": POLICY}),
            "/page.js": (self._page("page.js.j2"), "text/javascript", {}),
            "/page.css": (self._page("page.css.j2"), "text/css", {}),
        }
        routes = [
            *(Route(path, partial(_still, *what), methods=["GET"]) for path, what in still.items()),
            Route("/read", self._read, methods=["POST"]),
            Route("/predict", self._predict, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
        ]
        guard = Middleware(
            Guard,
            host=self._options.host,
            routes=frozenset(route.path for route in routes),
            refuse=lambda reason: _error(Refused(403, reason, close=True)),
        )
        return Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: _http_error})

    async def _predict(self, request: Request) -> Response:
        try:
            data = await self._answer(request, self._reader.as_json)
        except Refused as error:
            return _error(error)
        return Response(data, media_type="application/json")

    async def _read(self, request: Request) -> Response:
        try:
            data = await self._answer(request, self._reader.as_page)
        except Refused as error:
            text = self._page("error.html.j2", reason=error.reason)
            policy = {"content-security-policy": POLICY}
            return HTMLResponse(text, error.status, error.headers | policy)
        return HTMLResponse(data, headers={"content-security-policy": READING_POLICY})

    async def _answer(self, request: Request, read: Callable[[bytes], bytes]) -> bytes:
        with self._desk.place():
            data = await received(request, self._options)
            try:
                return await self._desk.call(partial(read, data), self._options.seconds)
            except Refused:
                raise
            except UserError as error:
                reason = str(error).removeprefix(": ")
                log.error(f"error: an upload was not read: {reason}")
            except Exception as error:
                reason = "a fault of the server's own, which its log names"
                log.error("".join(traceback.format_exception(error)))
            raise Refused(500, f"The image could not be read: {reason}.")

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "run": self._reader.name})

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi(self._options))

    def _page(self, template: str, **more: object) -> str:
        about = {"run": self._reader.name, "findings": self._reader.findings, "options": self._options}
        return self._templates.get_template(template).render(**about, **more)


async def _still(content: str, media_type: str, headers: dict[str, str], request: Request) -> Response:
    return Response(content, headers=headers, media_type=media_type)


def _error(error: Refused) -> Response:
    return JSONResponse({"error": error.reason}, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "There is no such page.", 405: "This page does not answer to this method."}
    return JSONResponse({"error": words.get(error.status_code, error.detail)}, error.status_code, error.headers)
