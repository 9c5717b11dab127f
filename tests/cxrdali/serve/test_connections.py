"""Clients that are slow without sending a body: no connection lasts for ever."""

import time

import pytest

from tests.cxrdali.serve.running import connected, heard_back, post, running


class Large:
    """Answers with more than the kernel holds for a client that does not read."""

    name, findings = "stage1", ("Mass",)

    def as_json(self, data):
        return bytes(20_000_000)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /predict HTTP/1.1\r\nHost: loc", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT"]
)
def test_who_connects_and_asks_for_nothing_is_not_waited_for(sent):
    began = time.monotonic()
    with running(Large(), seconds=0.6) as port, connected(port) as connection:
        connection.sendall(sent)
        answer = heard_back(connection)
    assert answer.startswith(b"HTTP/1.1 200 " if b"health" in sent else b"") and answer.count(b"HTTP/1.1") <= 1
    assert 0.5 < time.monotonic() - began < 2.5


def test_a_request_line_letter_by_letter_is_not_waited_for():
    began = time.monotonic()
    with running(Large(), seconds=0.6) as port, connected(port) as connection, pytest.raises(ConnectionError):
        while time.monotonic() - began < 5:
            connection.sendall(b"G")
            time.sleep(0.1)
    assert time.monotonic() - began < 2.5


def test_who_does_not_take_its_answer_is_let_go():
    with running(Large(), seconds=0.4) as port, connected(port) as connection:
        connection.sendall(post("/predict", "Content-Length: 5") + b"sound")
        time.sleep(2.5)
        assert 0 < len(heard_back(connection)) < 19_000_000
