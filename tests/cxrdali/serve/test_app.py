"""The server around what reads: who is let in, what an upload may be, and that it lives after whatever came."""

import errno
import hashlib
import json
import resource
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from starlette.exceptions import HTTPException

from cxrdali.serve.app import PLACES
from cxrdali.serve.options import ServeOptions
from cxrdali.serve.server import listening
from shards.errors import UserError
from tests.cxrdali.serve.running import ask, connected, form, heard_back, post, running
from tests.heard import heard


class Reads:
    """Says which bytes it got; some of them are words that it obeys."""

    name, findings = "stage<1>", ("Mass", "Edema")

    def __init__(self):
        self.calls = 0

    def as_json(self, data):
        self.calls += 1
        if data == b"slow":
            time.sleep(1)
        if data == b"fault":
            raise ZeroDivisionError("division by zero")
        if data == b"exit":
            raise SystemExit
        if data == b"no image":
            raise HTTPException(422, "This file cannot be read as an image: truncated.")
        return json.dumps({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}).encode()

    def as_page(self, data):
        return b"<p>" + self.as_json(data)


@pytest.fixture(scope="module")
def server():
    """What reads, and its port: to end one takes 0.2 s."""
    reads = Reads()
    with running(reads, max_mb=2, seconds=0.6) as port:
        yield reads, port


@pytest.fixture
def reads(server):
    server[0].calls = 0
    return server[0]


@pytest.fixture
def port(server, reads):
    return server[1]


def said(answer) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]


def lives(port: int) -> None:
    """The server answers the next request, within a moment."""
    status, _, body = ask(port, "POST", "/predict", b"sound")
    assert (status, json.loads(body)["bytes"]) == (200, 5)


# ---------------------------------------------------------------- uploads


@pytest.mark.parametrize("size", [1, 70_000, 1_999_000])
def test_a_body_and_a_form_give_the_file_and_nothing_of_it_is_on_the_disk(port, monkeypatch, size):
    monkeypatch.setattr(tempfile, "TemporaryFile", None)  # Starlette's files would end there beyond 1 MiB
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    wanted = {"bytes": size, "sha256": hashlib.sha256(data).hexdigest()}
    assert json.loads(ask(port, "POST", "/predict", data)[2]) == wanted
    body, kind = form(data)
    status, _, answer = ask(port, "POST", "/predict", body, content_type=kind)
    assert (status, json.loads(answer)) == (200, wanted)
    status, _, answer = ask(port, "POST", "/read", body, content_type=kind)
    assert (status, answer[:3], json.loads(answer[3:])) == (200, b"<p>", wanted)


def test_a_body_in_chunks_of_any_size_is_the_file(port):
    pieces = [b"a", b"b" * 100_000, b"c" * 3]
    status, _, body = ask(port, "POST", "/predict", iter(pieces))
    assert (status, json.loads(body)["sha256"]) == (200, hashlib.sha256(b"".join(pieces)).hexdigest())


def test_no_file_is_said(port):
    empty = (400, "There is no file in this request: send one as the body, or in a form.")
    assert said(ask(port, "POST", "/predict")) == empty
    body, kind = form(b"", name="")  # as a browser sends a form without a choice
    assert said(ask(port, "POST", "/predict", body, content_type=kind)) == empty
    text = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n'
    assert said(ask(port, "POST", "/predict", text, content_type="multipart/form-data; boundary=x")) == empty


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=other"])
def test_a_broken_form_is_said(port, kind):
    status, words = said(ask(port, "POST", "/predict", form(b"abc")[0], content_type=kind))
    assert status == 400 and words.startswith(("The form cannot be read: ", "There is no file in this request"))
    lives(port)


def test_two_files_are_refused(port):
    one = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n'
    status, words = said(
        ask(port, "POST", "/predict", one + one + b"--x--\r\n", content_type="multipart/form-data; boundary=x")
    )
    assert status == 400 and "Too many files" in words


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("in_a_form", [False, True])
def test_what_is_too_large_is_refused_and_not_kept(port, reads, chunked, in_a_form):
    body, kind = form(bytes(2_000_001)) if in_a_form else (bytes(2_000_001), "image/png")
    whole = iter([body[:1_000_000], body[1_000_000:]]) if chunked else body
    status, words = said(ask(port, "POST", "/predict", whole, content_type=kind))
    assert (status, words) == (413, "The upload is larger than 2 MB (--max-mb can be 256).")
    assert not reads.calls
    assert ask(port, "POST", "/predict", bytes(2_000_000))[0] == 200


def test_who_asks_before_sending_is_refused_before_it(port):
    with connected(port) as connection:
        connection.sendall(post("/predict", "Content-Length: 3000000000", "Expect: 100-continue"))
        assert heard_back(connection).startswith(b"HTTP/1.1 413 ")
    lives(port)


def test_a_body_without_end_ends_without_memory(port):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent, piece = 0, b"10000\r\n" + bytes(65_536) + b"\r\n"
    with connected(port) as connection:
        connection.sendall(post("/predict", "Transfer-Encoding: chunked"))
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(piece)
                sent += len(piece)
    assert sent > 10_000_000 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB
    lives(port)


@pytest.mark.parametrize("head", [("Content-Length: 100",), ("Transfer-Encoding: chunked",)])
def test_who_stops_in_the_middle_holds_nobody_up(port, head):
    with connected(port) as connection:
        connection.sendall(post("/predict", *head) + b"3\r\nabc\r\n")
        began = time.monotonic()
        lives(port)
        assert time.monotonic() - began < 0.5
        answer = heard_back(connection)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"did not come within 0.6 seconds" in answer
        assert 0.5 < time.monotonic() - began < 3


def test_who_goes_away_in_the_middle_leaves_its_place(port):
    for _ in range(PLACES + 1):
        with connected(port) as connection:
            connection.sendall(post("/predict", "Content-Length: 100") + b"abc")
    time.sleep(0.1)
    lives(port)


@pytest.mark.parametrize(
    "sent",
    [
        post("/predict", "Content-Length: 3") + b"abcGARBAGE THAT IS NO REQUEST\r\n\r\n",
        post("/predict", "Content-Length: x") + b"abc",
        post("/predict", "Content-Length: -5") + b"abc",
        post("/predict", "Transfer-Encoding: chunked") + b"no chunk\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
    ],
)
def test_what_is_no_http_ends_its_connection_alone(port, sent):
    with connected(port, timeout=2) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        heard_back(connection)
    lives(port)


def test_a_header_without_end_ends_without_memory(port):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with connected(port) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(ConnectionError):
            for _ in range(20_000):  # 2 GB
                connection.sendall(bytes(b"a" * 100_000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000
    lives(port)


# ---------------------------------------------------------------- one reader, and who waits


def test_who_comes_when_all_places_are_taken_is_told_to_come_again(reads):
    with running(reads) as port, ExitStack() as held:
        waiting = [held.enter_context(connected(port)) for _ in range(PLACES)]
        for each in waiting:
            each.sendall(post("/predict", "Content-Length: 4", "Connection: close") + b"ab")
        while (answer := ask(port, "POST", "/predict", b"sound"))[0] == 200:  # the last of them is still on its way
            pass
        assert (answer[0], answer[1]["retry-after"], said(answer)[1][:16]) == (503, "5", "Too many uploads")
        assert ask(port, "GET", "/health")[0] == 200
        for each in waiting:
            each.sendall(b"cd")
        assert [heard_back(each)[:13] for each in waiting] == [b"HTTP/1.1 200 "] * PLACES
        lives(port)


def test_who_waits_too_long_is_told_and_never_read(port, reads):
    with ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(ask, port, "POST", "/predict", b"slow") for _ in range(4)]
        assert {said(each.result()) for each in waiting} == {
            (504, "The image was not read within 0.6 seconds; try again.")
        }
    time.sleep(0.5)
    assert reads.calls == 1
    lives(port)


@pytest.mark.parametrize("word, status", [(b"fault", 500), (b"exit", 500), (b"no image", 422)])
def test_a_fault_is_said_in_a_sentence_and_the_server_lives(port, word, status):
    found, words = said(ask(port, "POST", "/predict", word))
    assert found == status and words.endswith(".") and "Zero" not in words
    found, headers, page = ask(port, "POST", "/read", word)
    assert found == status and words.encode() in page.replace(b"&#39;", b"'") and b'<a href="/">' in page
    assert headers["content-type"].startswith("text/html")
    lives(port)


# ---------------------------------------------------------------- who is let in


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1", "a@b"]
)
@pytest.mark.parametrize("method, path", [("GET", "/"), ("GET", "/health"), ("POST", "/predict"), ("POST", "/read")])
def test_a_name_that_somebody_else_made_point_here_gets_nothing(port, reads, method, path, host):
    answer = ask(port, method, path, b"abc" if method == "POST" else None, host=host)
    assert answer[0] in (400, 403) and b"stage" not in answer[2] and not reads.calls


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9000", "[::1]:80", socket.gethostname()])
def test_own_names_at_any_port_are_answered(port, host):
    assert ask(port, "POST", "/predict", b"abc", host=host, origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"origin": "http://localhost", "sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/read"])
def test_a_page_of_another_site_cannot_use_it(port, reads, path, headers):
    answer = ask(port, "POST", path, b"abc", host="localhost", **headers)
    assert said(answer) == (403, "This request comes from a page of another site.") and not reads.calls


def test_no_other_site_may_read_an_answer(port):
    status, headers, _ = ask(
        port, "OPTIONS", "/predict", origin="https://evil.example", access_control_request_method="POST"
    )
    assert status == 403
    for method, path in [("GET", "/"), ("GET", "/openapi.json"), ("POST", "/predict"), ("OPTIONS", "/predict")]:
        _, headers, _ = ask(port, method, path, b"abc" if method == "POST" else None)
        assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "method, path, status",
    [
        *[("GET", path, 200) for path in ("/", "/page.js", "/page.css", "/health", "/openapi.json")],
        *[("HEAD", "/", 200), ("GET", "/nothing", 404), ("GET", "/docs", 404), ("GET", "/predict", 405)],
        *[("POST", "/predict", 200), ("POST", "/read", 200)],
    ],
)
def test_every_answer_is_closed_to_caches_frames_and_foreign_content(port, method, path, status):
    found, headers, body = ask(port, method, path, b"abc" if method == "POST" else None)
    assert found == status and "server" not in headers
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert (headers["referrer-policy"], headers["cross-origin-resource-policy"]) == ("same-origin", "same-origin")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy or path == "/read"
    assert b"http://" not in body and b"https://" not in body  # nothing from elsewhere


def test_a_page_names_the_run_and_the_limits_as_text(port):
    page = ask(port, "GET", "/")[2].decode()
    assert "stage&lt;1&gt;" in page and "<1>" not in page and "up to 2 MB" in page and 'data-most="2000000"' in page


def test_the_log_names_no_file_no_query_and_no_made_up_path(port):
    lines = []
    with heard(lines):
        body, kind = form(b"abc", name="DOE^JANE.dcm")
        ask(port, "POST", "/predict?patient=DOE", body, content_type=kind)
        ask(port, "POST", "/read", b"fault")
        ask(port, "GET", "/DOE%0aJANE.dcm")
        ask(port, "JANE" * 10, "/DOE")
        end = time.monotonic() + 10  # a line is written after its answer, that of an earlier test among these
        while not any(line.startswith("JANEJANE") for line in lines) and time.monotonic() < end:
            time.sleep(0.01)
    fault = next(line for line in lines if line.startswith("Traceback"))
    assert fault.endswith("\nZeroDivisionError: division by zero\n") and not any("DOE" in line for line in lines)
    lines.remove(fault)
    assert [line.partition(", ")[0] for line in lines[-4:]] == [
        "POST /predict: 200",
        "POST /read: 500",
        "GET another path: 404",
        "JANEJANE another path: 404",
    ]


# ---------------------------------------------------------------- its address


def test_a_port_in_use_and_an_address_of_another_machine_are_one_line():
    with listening(ServeOptions(port=0)) as door:
        port = door.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^127.0.0.1 port {port}: Address already in use; another program listens"
        ):
            listening(ServeOptions(port=port))
    for host in ("203.0.113.7", "no such host", "host.invalid"):
        with pytest.raises(UserError, match="give one of this machine's own addresses with --host$"):
            listening(ServeOptions(host=host, port=0))


def test_a_port_of_the_administrators_is_told_from_a_wrong_address(monkeypatch):
    def refused(*_, **__):  # root, as in tests, may listen anywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(UserError, match=r"^127.0.0.1 port 80: Permission denied; .*; give another --port, as 8000$"):
        listening(ServeOptions(port=80))


@pytest.mark.parametrize("wrong", [{"port": 70_000}, {"port": -1}, {"max_mb": 0}, {"max_mb": 257}, {"seconds": 0}])
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong)).replace('_', '-')} "):
        ServeOptions(**wrong)
