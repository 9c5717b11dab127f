"""The bytes of one uploaded file: bounded before they are in memory, never on the disk, without their name."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from cxrdali.serve.options import MOST_MB, ServeOptions

CLOSE = {"connection": "close"}  # more of the request may come


class _InMemory(MultiPartParser):
    """Starlette's parser, whose files stay in memory whatever their size: 0 is Python's word for that."""

    spool_max_size = max_file_size = 0  # the second: Starlette before 0.46


async def received(request: Request, options: ServeOptions) -> bytes:
    """The file of a request: of a form with one file, or the body as it is.

    Raises HTTPException: it is empty, larger than `options.max_mb`, not here after `options.seconds`, or no form.
    """
    fix = f" (--max-mb can be {MOST_MB})" if options.max_mb < MOST_MB else ""
    too_large = HTTPException(413, f"The upload is larger than {options.max_mb} MB{fix}.", CLOSE)
    length = request.headers.get("content-length", "")
    taken = int(length) if length.isdigit() else 0
    if taken > options.most_bytes and "expect" in request.headers:  # it waits to be asked for the body
        raise too_large
    taken = 0 if taken <= options.most_bytes else taken

    async def pieces() -> AsyncGenerator[bytes, None]:
        """Of the body. What is too much is read and dropped, since a sender hears no answer while it sends."""
        nonlocal taken
        async for piece in request.stream():
            taken += len(piece)
            if taken <= options.most_bytes:
                yield piece
        if taken > options.most_bytes:
            raise too_large

    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        async with asyncio.timeout(options.seconds):
            data = await _of_form(request, pieces()) if is_form else b"".join([piece async for piece in pieces()])
    except TimeoutError:
        if taken > options.most_bytes:
            raise too_large from None
        raise HTTPException(408, f"The upload did not come within {options.seconds:g} seconds.", CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "The upload ended before all of it was here.", CLOSE) from None
    if not data:
        raise HTTPException(400, "There is no file in this request: send one as the body, or in a form.")
    return data


async def _of_form(request: Request, pieces: AsyncGenerator[bytes, None]) -> bytes:
    try:
        form = await _InMemory(request.headers, pieces, max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, f"The form cannot be read: {error.message.rstrip('.')}.", CLOSE) from None
    files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
    return await files[0].read() if files else b""
