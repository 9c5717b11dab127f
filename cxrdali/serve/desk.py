"""One thread that reads uploads, one after another, and how many may wait for it."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from cxrdali.serve.refused import Refused

PLACES = 16  # uploads that are received, wait or are read: each may take --max-mb of memory
RETRY = 5  # seconds


class Desk:
    """Calls functions in a thread of its own, in the order in which they come.

    A thread of `concurrent.futures` would be waited for when the program ends, for as long as an image takes.
    """

    def __init__(self, places: int = PLACES):
        self.free = places
        self._calls: queue.SimpleQueue[tuple[Future, Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="desk").start()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Raises Refused if all places are taken."""
        if not self.free:
            raise Refused(503, "Too many uploads at a time; try again in a few seconds.", close=True, retry=RETRY)
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1

    async def call(self, function: Callable[[], Any], seconds: float) -> Any:
        """What `function` returns, or raises.

        Raises Refused after so many seconds; a call that has not begun by then is left out.
        """
        answer: Future = Future()
        self._calls.put((answer, function))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), seconds)
        except TimeoutError:
            if answer.done() and not answer.cancelled():  # it is the function's own
                raise
            raise Refused(504, f"The image was not read within {seconds:g} seconds; try again.", retry=RETRY) from None

    def _work(self) -> None:
        while True:
            answer, function = self._calls.get()
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(function())
                except BaseException as error:  # it is for who asked; SystemExit, say, would end the server
                    answer.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            del answer, function  # the upload would stay until the next one
