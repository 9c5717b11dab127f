"""What counts as waiting for data: by a given clock, and by the events of a GPU that is not here."""

import csv
import time

import pytest

from cxrdali.runs.folder import load_last
from cxrdali.runs.layout import METRICS
from cxrdali.runs.settings import settings_of
from cxrdali.train.hooks import Hooks
from cxrdali.train.state import State, begin, restore
from cxrdali.train.stopping import Signals, Stopped
from cxrdali.train.trainer import Trainer, train
from cxrdali.train.waiting import MOST, Moment, Waiting, waiting_of

STEP = 100.0  # milliseconds of a step on the GPU


class Gpu:
    """A queue: `now` is when what is queued will be done, `reached` until when it is done."""

    def __init__(self):
        self.now, self.reached, self.waits = 0.0, -1.0, 0

    def record(self):
        return Event(self, self.now)

    def finish(self):
        self.reached = self.now


class Event:
    def __init__(self, gpu, at):
        self.gpu, self.at = gpu, at

    def query(self):
        return self.at <= self.gpu.reached

    def synchronize(self):
        self.gpu.waits += 1
        self.gpu.reached = max(self.gpu.reached, self.at)

    def elapsed_time(self, later):
        assert self.query() and later.query(), "torch raises: one of them has not happened"
        return later.at - self.at


class Idling(Waiting):
    """By events of a GPU that idles so many milliseconds before each step."""

    def __init__(self, gpu, gaps):
        super().__init__(gpu.record)
        self.gpu, self.gaps = gpu, iter(gaps)

    def got(self):
        self.gpu.now += next(self.gaps)
        super().got()
        self.gpu.now += STEP


def test_the_clock_counts_from_asking_to_getting():
    times = iter([10.0, 10.5, 20.0, 20.25, 30.0])
    waiting = Waiting(lambda: Moment(next(times)))
    waiting.ask(), waiting.got()
    assert waiting.take() == 0.5 and waiting.take() == 0
    waiting.ask(), waiting.got(), waiting.ask()
    assert waiting.take() == 0.25, "an unanswered question is no waiting yet"


def test_events_count_once_they_have_happened():
    gpu = Gpu()
    waiting = Idling(gpu, [7.0, 0.0, 30.0])
    for _ in range(2):
        waiting.ask(), waiting.got()
    assert waiting.take() == 0, "nothing has happened yet, and nobody waits for it"
    gpu.reached = 50  # within the first step
    assert waiting.take() == 0.007
    waiting.ask(), waiting.got()
    gpu.reached = 7 + STEP  # the second gap, of nothing, and not the third
    assert waiting.take() == 0
    gpu.finish()
    assert waiting.take() == 0.03 and waiting.take() == 0 and gpu.waits == 0


def test_as_many_events_as_are_kept_and_no_more():
    gpu = Gpu()
    waiting = Idling(gpu, [1.0] * (MOST + 3))
    for number in range(MOST + 3):
        waiting.ask(), waiting.got()
        assert gpu.waits == max(0, number + 1 - MOST)
        waiting.take()
    gpu.finish()
    assert waiting.take() == pytest.approx(MOST / 1000)


def test_on_the_cpu_it_is_the_clock_however_many_are_not_taken():
    waiting, begun = waiting_of("cpu"), time.perf_counter()
    for _ in range(MOST + 1):
        waiting.ask(), time.sleep(1e-4), waiting.got()
    assert 1e-4 * (MOST + 1) <= waiting.take() <= time.perf_counter() - begun and waiting.take() == 0


# ---------------------------------------------------------------- of a run


class Built(Exception):
    pass


def parts_of(dataset, out):
    """Of a run of two epochs with seven steps each."""
    found = []

    def look(parts, loaded):
        found.append(parts)
        raise Built

    given = {"size": 48, "batch": 8, "epochs": 2, "arch": "test_efficientnet", "pretrained": False, "device": "cpu"}
    with pytest.raises(Built):
        train(settings_of(stage=1, **given), dataset, out, hooks=Hooks(on_parts=look))
    return found[0]


def test_what_a_gpu_idled_is_in_the_epochs_also_over_a_stop(dataset, tmp_path, monkeypatch):
    """The GPU is behind until the loop looks at the loss, as it does at a stop and at an epoch's end."""
    gpu, whole = Gpu(), State.total_loss

    def look(*arguments):
        gpu.finish()
        return whole(*arguments)

    monkeypatch.setattr(State, "total_loss", look)
    parts, out = parts_of(dataset, tmp_path / "run"), tmp_path / "run"
    asked = iter([None, None, None, 15])
    first = Trainer(
        parts, begin(parts), out, Hooks(should_stop=lambda: next(asked)), Signals(), Idling(gpu, [40, 0, 5, 2])
    )
    with pytest.raises(Stopped):
        first.run(0.0)
    loaded = load_last(out)
    assert loaded["position"] == 4 * 8 and loaded["wait_seconds"] == pytest.approx(0.047)
    assert first.seconds["waiting"] == pytest.approx(0.047)

    parts.model.backbone.load_state_dict(loaded.pop("model"))
    gaps = [11, 0, 3, *(1, 2, 3, 4, 5, 6, 7)]
    second = Trainer(parts, restore(parts, loaded), out, Hooks(), Signals(), Idling(gpu, gaps))
    second.run(0.0)
    rows = list(csv.DictReader((out / METRICS).open()))
    assert [float(row["wait_seconds"]) for row in rows] == pytest.approx([0.047 + 0.014, 0.028])
    assert second.seconds["waiting"] == pytest.approx(0.014 + 0.028) and gpu.waits == 0
    spent = [float(row["train_seconds"]) for row in rows]
    assert first.seconds["training"] + second.seconds["training"] == pytest.approx(sum(spent) - 0.089, abs=1e-6)
