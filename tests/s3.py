"""An S3 server of this machine (moto's), and a link to it that can be slow, or cut, as networks are.

Fixtures: `s3_server`, one for all tests; `s3`, with a bucket of its own, to which s3fs and the command line are led by
the environment, credentials with a recognisable secret included; `packed_bucket`, a packed dataset for all tests.
"""

import contextlib
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

KEY, SECRET = "AKIAPOLARBEAR0000000", "wJalr/XUtnFEMIsecretOfThisTest"
_NUMBERS = count()


@dataclass(frozen=True)
class Store:
    """A bucket on the server. address: s3://bucket; environment: what a process needs to reach it."""

    host: str
    port: int
    bucket: str
    environment: dict[str, str] = field(repr=False)

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def url(self) -> str:
        """The same bucket as a web server shows it."""
        return f"http://{self.host}:{self.port}/{self.bucket}"

    def filesystem(self):
        import s3fs

        return s3fs.S3FileSystem(use_listings_cache=False)

    def upload(self, folder: Path, name: str) -> str:
        """Put a folder into the bucket; its address."""
        self.filesystem().put(f"{folder}/", f"{self.bucket}/{name}/", recursive=True)
        return f"{self.address}/{name}"

    @contextlib.contextmanager
    def checking_credentials(self) -> Iterator[None]:
        """Within, the server denies those that it does not know: all."""
        self._ask("reset-auth", b"0")
        try:
            yield
        finally:
            self._ask("reset-auth", b"inf")

    def _ask(self, what: str, data: bytes) -> None:
        address, plain = f"http://{self.host}:{self.port}/moto-api/{what}", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, data, plain), timeout=10).close()


def environment_of(host: str, port: int) -> dict[str, str]:
    """What leads a process to a server and to nothing else of this machine's."""
    return {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def s3_server():
    """(host, port) of a running server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture(scope="session")
def packed_bucket(s3_server, pack_folder) -> str:
    """The address of `pack_folder` in a bucket, to be reached through `s3`; read-only by agreement."""
    import s3fs

    files = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url="http://{}:{}".format(*s3_server))
    files.mkdir("packed")
    files.put(f"{pack_folder}/", "packed/pack/", recursive=True)
    return "s3://packed/pack"


@pytest.fixture
def s3(s3_server, tmp_path, monkeypatch) -> Iterator[Store]:
    environment = environment_of(*s3_server)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    store = Store(*s3_server, f"bucket-{next(_NUMBERS)}", environment)
    lead(monkeypatch, environment)
    store.filesystem().mkdir(store.bucket)
    yield store
    forget_connections()


def lead(monkeypatch, environment: dict[str, str]) -> None:
    """Let this process reach a store; connections that were kept led elsewhere."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_connections()


def forget_connections() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


class Link:
    """A way to a server that passes bytes on: at most so many a second in all, each answer after `latency` seconds.

    cut: how many of the next connections end after `after` bytes of the server's; dead_after: no more bytes than these.
    bytes: what came from the server so far; connections: how often somebody came.
    """

    def __init__(self, host: str, port: int, *, rate: float | None = None, latency: float = 0.0):
        self.target, self.rate, self.latency = (host, port), rate, latency
        self.cut, self.after = 0, 0
        self.dead_after: int | None = None
        self.bytes, self.connections = 0, 0
        self._lock, self._free_at = threading.Lock(), 0.0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def environment(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # else it takes one more connection: `accept` still waits
        self._server.close()

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                server = socket.create_connection(self.target)
            except OSError:
                return
            with self._lock:
                self.connections += 1
                cuts, self.cut = self.cut > 0, max(0, self.cut - 1)
            threading.Thread(target=self._questions, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client, cuts), daemon=True).start()

    def _questions(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(2**16):
                time.sleep(self.latency)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answers(self, server: socket.socket, client: socket.socket, cuts: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError), server, client:
            while data := server.recv(2**16):
                dead = self.dead_after is not None and self.bytes + len(data) > self.dead_after
                if dead or (cuts and passed + len(data) > self.after):
                    client.sendall(data[: max(0, self.dead_after - self.bytes) if dead else self.after - passed])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                self._take_time(len(data))
                client.sendall(data)
                passed += len(data)

    def _take_time(self, size: int) -> None:
        with self._lock:
            self.bytes += size
            now = time.perf_counter()
            self._free_at = max(self._free_at, now) + (size / self.rate if self.rate else 0.0)
            wait = self._free_at - now
        time.sleep(wait)


@pytest.fixture
def address(s3, packed_bucket) -> str:
    """Of a packed dataset in a bucket that can be reached; read-only by agreement."""
    return packed_bucket


@pytest.fixture
def own_address(s3, pack_folder) -> str:
    """Of one whose files may be changed."""
    return s3.upload(pack_folder, "pack")
