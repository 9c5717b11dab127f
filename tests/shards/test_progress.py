"""Long work in a log: a line now and then, and never a frame of a bar."""

import io
import re
import sys
import time

from shards import progress
from tests.heard import heard


def worked(monkeypatch, seconds, hidden=False, steps=20):
    lines, stream = [], io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS", seconds)
    with heard(lines), progress.progress_bar("epoch 3/30", 2 * steps, " images", hidden=hidden, initial=2) as bar:
        for step in range(steps - 1):
            time.sleep(0.01)
            bar.update(2)
            if step == 3:
                bar.set_postfix(loss="0.5", refresh=False)
    assert stream.getvalue() == ""
    return lines


def test_a_log_gets_a_line_now_and_then(monkeypatch):
    begun = time.monotonic()
    lines = worked(monkeypatch, 0.05)
    assert 1 <= len(lines) <= (time.monotonic() - begun) / 0.05
    assert all(
        re.fullmatch(r"epoch 3/30: \d+ %, [\d.]+ images/s(, loss=0\.5)?, \d\d:\d\d left", line) for line in lines
    ), lines
    shares = [int(re.search(r"(\d+) %", line)[1]) for line in lines]
    assert shares == sorted(shares) and 10 < shares[0] < 100


def test_short_work_and_hidden_work_get_none(monkeypatch):
    assert worked(monkeypatch, 60) == [] and worked(monkeypatch, 0.01, hidden=True) == []
