"""The server's page in a real browser: a file is chosen, dropped, read; pages of other sites get nowhere."""

import asyncio
import contextlib
import http.server
import threading

import pytest

from tests.cxrdali.serve.chromium import PROGRAM, tab
from tests.cxrdali.serve.running import running

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium")]

PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


class Reads:
    name, findings = "stage1", ("Mass", "Edema")

    def __init__(self):
        self.got = []

    def as_json(self, data):
        self.got.append(data)
        return b"{}"

    def as_page(self, data):
        self.got.append(data)
        return (
            f'<title>Reading</title><style>p {{ color: #123456 }}</style><p>{data.decode()}<img src="{PIXEL}">'.encode()
        )


async def with_a_file(page, port: int, path) -> None:
    await page.open(f"http://127.0.0.1:{port}/")
    document = await page.call("DOM.getDocument")
    node = await page.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
    await page.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path)])


async def dropped(page, port: int, *paths) -> None:
    await page.open(f"http://127.0.0.1:{port}/")
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        await page.call("Input.dispatchDragEvent", type=kind, x=200, y=330, data=data)


@pytest.mark.parametrize("give", [with_a_file, dropped])
def test_a_file_that_is_chosen_or_dropped_is_read_on_the_next_page(tmp_path, give):
    (tmp_path / "DOE^JANE.png").write_bytes(b"an image")
    reads = Reads()

    async def story(port):
        async with tab(tmp_path / "profile") as page:
            await give(page, port, tmp_path / "DOE^JANE.png")
            await page.until("document.title == 'Reading' && document.readyState == 'complete'")
            assert await page.evaluate("document.querySelector('p').textContent") == "an image"
            assert await page.evaluate("getComputedStyle(document.querySelector('p')).color") == "rgb(18, 52, 86)"
            assert await page.evaluate("document.querySelector('img').naturalWidth") == 1
            await page.evaluate("history.back()")
            await page.until("location.pathname == '/' && document.readyState == 'complete'")
            assert await page.evaluate("[document.querySelector('#file').files.length, said.textContent]") == [0, ""]
            assert not [each for each in page.events if each["method"] == "Log.entryAdded"]  # no policy was broken

    with running(reads) as port:
        asyncio.run(story(port))
    assert reads.got == [b"an image"]


def test_too_large_a_file_and_two_files_are_said_before_they_are_sent(tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(1_000_001))
    (tmp_path / "small.png").write_bytes(b"small")
    reads = Reads()

    async def story(port):
        async with tab(tmp_path / "profile") as page:
            await with_a_file(page, port, tmp_path / "large.png")
            assert await page.until("said.textContent") == "This file is larger than the server takes."
            await dropped(page, port, tmp_path / "small.png", tmp_path / "large.png")
            assert await page.until("said.textContent") == "One image at a time, please."

    with running(reads, max_mb=1) as port:
        asyncio.run(story(port))
    assert not reads.got


FOREIGN = """<title>foreign</title><form method="post" enctype="multipart/form-data" action="http://127.0.0.1:%(port)d/read">
<input type="file" name="file"><textarea name="x">y</textarea></form><iframe src="http://127.0.0.1:%(port)d/"></iframe>"""
ATTACK = """(async () => {
  const found = [], url = "http://127.0.0.1:%(port)d", tries = [
    () => fetch(url + "/predict", {method: "POST", body: "abc"}).then(each => each.text()),
    () => fetch(url + "/predict", {method: "POST", body: "abc", mode: "no-cors"}).then(each => each.type),
    () => fetch(url + "/predict", {method: "POST", body: "abc", headers: {"x-own": "1"}}).then(each => each.text()),
    () => fetch(url + "/health").then(each => each.text()),
  ];
  for (const each of tries) found.push(await each().catch(error => error.name));
  return found;
})()"""


@contextlib.contextmanager
def foreign(port: int):
    """A page of another site (another port is one), which wants to use the server."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write((FOREIGN % {"port": port}).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://localhost:{site.server_address[1]}/"
        site.shutdown()


def test_a_page_of_another_site_reads_nothing_and_makes_nothing_be_read(tmp_path):
    reads = Reads()

    async def story(port, url):
        async with tab(tmp_path / "profile") as page:
            await page.open(url)
            assert await page.evaluate(ATTACK % {"port": port}) == ["TypeError"] * 4  # not even an opaque answer
            # the frame shows the browser's error page, which this page cannot look into
            blocked = "() => { try { return frames[0].document.title } catch { return 'closed' } }"
            assert await page.evaluate(f"({blocked})()") == "closed"
            await page.evaluate("document.forms[0].submit()")
            await page.until(f"location.href == 'http://127.0.0.1:{port}/read' && document.readyState == 'complete'")
            assert "a page of another site" in await page.evaluate("document.body.textContent")

    with running(reads) as port, foreign(port) as url:
        asyncio.run(story(port, url))
    assert not reads.got
