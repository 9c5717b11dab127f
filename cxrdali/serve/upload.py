"""The bytes of one uploaded file: bounded before they are in memory, never on the disk, without their name."""

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from cxrdali.serve.options import ServeOptions
from cxrdali.serve.refused import Refused

MULTIPART = "multipart/form-data"


class _InMemory(MultiPartParser):
    """Starlette's parser, whose files stay in memory whatever their size: 0 is Python's word for that."""

    spool_max_size = max_file_size = 0  # the second: Starlette before 0.46


async def received(request: Request, options: ServeOptions) -> bytes:
    """The file of a request: of a form with one file, or the body as it is.

    Raises:
        Refused: It is empty, larger than `options.max_mb`, not here after `options.seconds`, or no form of one file.
    """
    too_large = Refused(
        413, f"The upload is larger than {options.max_mb} MB (raise --max-mb, at most to 256).", close=True
    )
    length = request.headers.get("content-length", "")
    large = length.isdigit() and int(length) > options.most_bytes
    if large and "expect" in request.headers:  # it waits to be asked for the body
        raise too_large
    taken = 0

    async def bounded() -> AsyncIterator[bytes]:
        """The body's pieces. What is too much is read and dropped, since a sender hears no answer while it sends."""
        nonlocal taken
        async for piece in request.stream():
            taken += len(piece)
            if not large and taken <= options.most_bytes:
                yield piece
        if large or taken > options.most_bytes:
            raise too_large

    try:
        async with asyncio.timeout(options.seconds):
            data = await _of_form(request, bounded()) if _is_form(request) else b"".join([x async for x in bounded()])
    except TimeoutError:
        if large or taken > options.most_bytes:
            raise too_large from None
        raise Refused(408, f"The upload did not come within {options.seconds:g} seconds.", close=True) from None
    except ClientDisconnect:
        raise Refused(400, "The upload ended before all of it was here.", close=True) from None
    if not data:
        raise Refused(400, "There is no file in this request: send one as the body, or in a form.")
    return data


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith(MULTIPART)


async def _of_form(request: Request, pieces: AsyncIterator[bytes]) -> bytes:
    try:
        parser = _InMemory(request.headers, pieces, max_files=1, max_fields=8)  # type: ignore[arg-type]
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"The form cannot be read: {error.message.rstrip('.')}.", close=True) from None
    files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
    return await files[0].read() if files else b""
