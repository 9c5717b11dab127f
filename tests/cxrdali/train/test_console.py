"""What a training run says of itself: the time that is left, and findings that it cannot learn."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest

from cxrdali.data.splits import FoldOptions, train_and_validation
from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.evaluate import evaluate
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.report.training.page import ReportOptions, write_report
from cxrdali.runs.settings import settings_of
from cxrdali.train.console import Pace, span
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from tests.heard import heard

SMALL = {"stage": 1, "size": 48, "batch": 8, "arch": "test_efficientnet", "pretrained": False, "device": "cpu"}


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.2, "1 s"), (45, "45 s"), (119.4, "119 s"), (119.6, "2 min"), (3599, "1 h 0 min"), (11520, "3 h 12 min"),
        (47.9 * 3600, "47 h 54 min"), (52 * 3600, "2 d 4 h"),
    ],
)  # fmt: skip
def test_a_time_in_words(seconds, words):
    assert span(seconds) == words


def test_the_time_left_is_that_of_the_epochs_that_this_start_has_seen(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    pace, given = Pace(), {"epochs": 10, "warmup_epochs": 1}

    def left(epoch, took, train_seconds=100, best=1, **more):
        clock[0] += took
        parts = SimpleNamespace(settings=settings_of(stage=1, **given, **more))
        state = SimpleNamespace(epoch=epoch, best_epoch=best, best_score=0.5)
        return pace.left({"train_seconds": train_seconds, "val_seconds": 20}, parts, state)

    # it continued in the middle of epoch 4, of which the row holds all: 400 + 20 s; then 140 s with saving
    assert left(4, 50, 400) == ", 42 min left"
    assert left(5, 140) == ", 12 min left"  # 5 x 140 s: the first one counts no more
    assert left(6, 180) == ", 11 min left"  # 4 x 160 s
    assert left(7, 160, patience=9) == ", at most 8 min left"
    assert left(8, 160, patience=7) == ""  # ends here, by its patience
    assert left(9, 160) == ", 3 min left"
    assert left(10, 160) == ""


def test_every_epoch_but_the_last_says_how_long_the_rest_takes(dataset, tmp_path):
    said = []
    with heard(said):
        train(settings_of(**SMALL, epochs=2), dataset, tmp_path / "run")
    first, last = [line for line in said if line.startswith("epoch ")]
    assert ", 1 s left" in first.replace(", 2 s left", ", 1 s left") and "left" not in last


def test_a_finding_without_a_training_image_is_named_wherever_map_stands(dataset, tmp_path, monkeypatch):
    labels = dataset.labels("cxr-lt-2023")
    rows, val = train_and_validation(dataset, labels, FoldOptions())
    values, place = labels.values.copy(), labels.findings.index("Mass")
    values[rows, place], values[val[:4], place], values[val[4:], place] = 0, 1, 0
    monkeypatch.setattr(PackedDataset, "labels", lambda self, name=None: dataclasses.replace(labels, values=values))
    said, runs = [], [tmp_path / name for name in ("a", "b")]
    with heard(said):
        for seed, run in enumerate(runs):
            train(settings_of(**SMALL, epochs=1, warmup_epochs=0, seed=seed), dataset, run)
    assert said.count("counted in mAP, but in no training image: Mass") == 2  # Hernia has no image anywhere
    table = runs[0] / "val_predictions.parquet"
    result = evaluate(table, dataset, dataset.labels(), EvaluateOptions(draws=0))
    assert result["without_training"] == ["Mass"] and result["all"]["findings"][place]["AP"] > 0
    assert result["groups"]["train_positives"]["Mass"] == 4  # of the released split, validation included
    compared = compare(runs, dataset, CompareOptions(draws=0, folds=2))
    assert compared["without_training"] == ["Mass"]
    page = write_report(tmp_path / "r.html", runs, options=ReportOptions("r")).read_text()
    assert "In no training image, but counted in mAP: Mass." in page


def test_one_training_image_is_enough_not_to_be_named(dataset, tmp_path):
    from cxrdali.metrics.longtail import without_training

    assert without_training(["A", "B", "C", "D"], np.array([4, 4, 0, 1]), [0, 1, 0, 0]) == ["A", "D"]
