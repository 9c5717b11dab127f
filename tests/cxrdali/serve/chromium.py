"""A real browser without a window, driven by its DevTools protocol."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip


class Tab:
    """A tab: `call("Page.navigate", url=...)`, and the events that came meanwhile."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse):
        self._connection, self._number, self.events = connection, 0, []

    async def call(self, method: str, **parameters: Any) -> dict:
        self._number += 1
        await self._connection.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._connection.receive_json(timeout=20)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, once it has one."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The first true value of an expression; pages come and go meanwhile."""
        for _ in range(400):
            with contextlib.suppress(AssertionError):
                if value := await self.evaluate(expression):
                    return value
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState == 'complete'")


@contextlib.asynccontextmanager
async def tab(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a browser whose profile is in a folder."""
    process = subprocess.Popen(
        [PROGRAM, f"--user-data-dir={folder}", *SWITCHES], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        where = folder / "DevToolsActivePort"
        while not where.exists() or "\n" not in where.read_text():
            assert process.poll() is None
            await asyncio.sleep(0.05)
        address = f"http://127.0.0.1:{where.read_text().splitlines()[0]}/json"
        async with aiohttp.ClientSession() as session:
            async with session.get(address) as answer:
                pages = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=2**28) as connection:
                found = Tab(connection)
                for room in ("Page", "Runtime", "Log", "Network"):
                    await found.call(f"{room}.enable")
                yield found
    finally:
        process.kill()
        process.wait()
