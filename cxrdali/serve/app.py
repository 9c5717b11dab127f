"""The pages and answers of the server: a form, the reading of a file, the same as JSON, and what programs ask for."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cxrdali.report.kit import page
from cxrdali.serve.guard import Guard
from cxrdali.serve.openapi import openapi
from cxrdali.serve.options import ServeOptions
from cxrdali.serve.upload import received
from shards.errors import UserError

if TYPE_CHECKING:
    from cxrdali.serve.reader import Reader

log = logging.getLogger(__name__)

PLACES = 16  # uploads that are received, wait or are read: each may take --max-mb of memory
FOLDERS = [Path(__file__).parent, Path(page.__file__).parent.parent]
_POLICY = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; img-src data:; "
FORM_POLICY = f"{_POLICY}script-src 'self'; style-src 'self'; form-action 'self'"
READING_POLICY = f"{_POLICY}style-src 'unsafe-inline'; form-action 'none'"  # one file, without a script
WORDS = {404: "There is no such page.", 405: "This page does not answer to this method."}


class Application:
    """Answers of one run, which reads one upload after another in a thread of its own."""

    def __init__(self, reader: "Reader", options: ServeOptions):
        self._reader, self._options, self._free = reader, options, PLACES
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cxrdali serve")
        self._templates = Environment(
            loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    def asgi(self) -> Starlette:
        """The application as a server takes it."""
        about = {"status": "ok", "run": self._reader.name}
        routes = [
            Route("/", partial(_still, self._form("page.html.j2"))),
            Route("/page.js", partial(_still, self._form("page.js.j2", "text/javascript"))),
            Route("/page.css", partial(_still, self._form("page.css.j2", "text/css"))),
            Route("/health", partial(_still, JSONResponse(about))),
            Route("/openapi.json", partial(_still, JSONResponse(openapi(self._options)))),
            Route("/predict", self._predict, methods=["POST"]),
            Route("/read", self._read, methods=["POST"]),
        ]
        guard = Middleware(Guard, host=self._options.host, routes=frozenset(route.path for route in routes))
        return Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: self._refused})

    async def _predict(self, request: Request) -> Response:
        return Response(await self._answer(request, self._reader.as_json), media_type="application/json")

    async def _read(self, request: Request) -> Response:
        found = await self._answer(request, self._reader.as_page)
        return Response(found, headers={"content-security-policy": READING_POLICY}, media_type="text/html")

    async def _answer(self, request: Request, read: Callable[[bytes], bytes]) -> bytes:
        """What `read` makes of the upload. Raises HTTPException."""
        if not self._free:
            soon = {"connection": "close", "retry-after": "5"}
            raise HTTPException(503, "Too many uploads at a time; try again in a few seconds.", soon)
        self._free -= 1
        try:
            data = await received(request, self._options)
            async with asyncio.timeout(self._options.seconds):  # an upload that was not begun by then is left out
                return await asyncio.get_running_loop().run_in_executor(self._thread, read, data)
        except HTTPException:
            raise
        except TimeoutError:
            late = f"The image was not read within {self._options.seconds:g} seconds; try again."
            raise HTTPException(504, late) from None
        except UserError as error:
            reason = str(error).removeprefix(": ")
            log.error(f"error: an upload was not read: {reason}")
        except (Exception, SystemExit) as error:
            reason = "a fault of the server's own, which its log names"
            log.error("".join(traceback.format_exception(error)))
        finally:
            self._free += 1
        raise HTTPException(500, f"The image could not be read: {reason}.")

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = WORDS.get(error.status_code, error.detail)
        if request.url.path == "/read":
            answer = self._form("error.html.j2", reason=words)
        else:
            answer = JSONResponse({"error": words})
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer

    def _form(self, template: str, kind: str = "text/html", **more: object) -> Response:
        about = {"run": self._reader.name, "findings": self._reader.findings, "options": self._options}
        text = self._templates.get_template(template).render(**about, **more)
        return Response(text, headers={"content-security-policy": FORM_POLICY}, media_type=kind)


async def _still(answer: Response, request: Request) -> Response:
    return answer
