"""A real server in a thread, on a free port, and clients: well-behaved ones, and bytes as they are."""

import contextlib
import http.client
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from cxrdali.serve.app import Application
from cxrdali.serve.options import ServeOptions
from cxrdali.serve.server import listening, server_of


@contextlib.contextmanager
def running(reader, **options) -> Iterator[int]:
    """Its port."""
    options = ServeOptions(port=0, **options)
    with listening(options) as door:
        server = server_of(Application(reader, options), options.seconds)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield door.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def ask(port: int, method: str, path: str, body=None, **headers) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body; `sec_fetch_site="none"` is a header Sec-Fetch-Site."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def form(data: bytes, name: str = "image.png", field: str = "file") -> tuple[bytes, str]:
    """A form with one file as a browser sends it, and its content type."""
    line = uuid.uuid4().hex
    head = f'--{line}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + f"\r\n--{line}--\r\n".encode()
    return body, f"multipart/form-data; boundary={line}"


@contextlib.contextmanager
def connected(port: int, timeout: float = 20) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        yield connection


def post(path: str, *headers: str) -> bytes:
    """The beginning of a request, until its body."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def heard_back(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection, or resets it."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            found += piece
    return found
