"""What a training run says of itself: the time that is left, and findings that it cannot learn."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest

from cxrdali.data.sampler import SAMPLERS
from cxrdali.data.splits import FoldOptions, fold_positives, train_and_validation
from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.evaluate import evaluate
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.models.loss import LOSSES
from cxrdali.report.training.page import ReportOptions, write_report
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.console import Pace, span, weight_words
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
        settings = settings_of(stage=1, **given, **more)
        parts = SimpleNamespace(settings=settings, segment=settings.segments[0])
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


# ---------------------------------------------------------------- weights of findings

FINDINGS = ("Lung Opacity", "Edema", "Mass", "Hernia", "Gout")
MORE = ", more than all other findings together"
# of 200,000 training images, by each paper's formula
TOLD = [
    (
        LOSSES["drw"](), (60_000, 30_000, 4_000, 400, 0), "balance",
        "class-balanced weights, beta 0.9999 (392 to 9,975 effective images): head 0.13, medium 0.4, tail 3.3; largest "
        f"3.3, Hernia (400 images){MORE}",
    ),
    (
        LOSSES["cb-focal"](), (60_000, 30_000, 4_000, 1, 1), "balance",
        "class-balanced weights, beta 0.9999 (1 to 9,975 effective images): head 0.017, medium 0.049, tail 2.5; "
        f"largest 2.5, Hernia (1 image), Gout (1 image), held at 50 times the median{MORE}",
    ),
    (
        LOSSES["bce"](pos_weight="ratio"), (60_000, 30_000, 4_000, 1, 0), "pos_weight",
        f"weights of positives: head 4, medium 49, tail 199,999; largest 199,999, Hernia (1 image){MORE}",
    ),
    (
        LOSSES["ldam"](), (60_000, 30_000, 4_000, 1, 0), "shift",
        "margins: head 0.035, medium 0.063, tail 0.5; largest 0.5, Hernia (1 image)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "positives", "name", "words"), TOLD)
def test_weights_are_told_for_head_medium_and_tail(loss, positives, name, words):
    positives = np.array(positives)
    data = SimpleNamespace(positives=positives, findings=FINDINGS, train_rows=np.arange(200_000), of_studies=None)
    (values,) = loss.per_finding(positives, 200_000 - positives).values()
    assert weight_words(name, values, loss, data) == words


def test_a_run_tells_its_weights_its_beta_and_who_is_sampled_most(dataset, tmp_path):
    said, changes = [], {"loss": "ldam-drw", "drw_epoch": 0, "cb_beta": "auto", "sampler": "class-balanced"}
    asked = settings_of(**SMALL, epochs=1, warmup_epochs=0, **changes)
    with heard(said):
        train(asked, dataset, tmp_path / "run")
    lines, run = "\n".join(said), Run.open(tmp_path / "run")
    images, counts = run.selection["train_images"], run.train_positives
    assert run.settings.loss.cb_beta == (images - 1) / images
    assert (
        f"loss ldam-drw (ldam_margin 0.5, ldam_scale 30, cb_beta {1 - 1 / images:g}, cb_cap 50, drw_epoch 0)" in lines
    )
    rarest = min((name for name in counts if counts[name]), key=counts.get)
    assert f"\nclass-balanced weights, beta {1 - 1 / images:g} (" in lines and "\nmargins: head " in lines
    assert lines.count(f", {rarest} ({counts[rarest]} images)\n") == 2
    labels = dataset.labels()
    rows, _ = train_and_validation(dataset, labels, FoldOptions())
    positive = labels.values[rows] == 1
    without = (~positive.any(axis=1)).sum()  # a class of its own, here the rarest
    classes = [min((positive[:, f].sum() for f in np.flatnonzero(row)), default=without) for row in positive]
    times = max(1 / np.array(classes)) * images / sum(1 / np.array(classes))
    assert without < counts[rarest]
    assert f"one more class; images without any finding come most often, {times:,.1f} times an epoch\n" in lines
    assert train(asked, dataset, tmp_path / "run").already_finished  # auto means the same number


def test_who_is_sampled_most_is_named_with_the_images_that_it_has(dataset, tmp_path, monkeypatch):
    labels, said = dataset.labels(), []
    rows, _ = train_and_validation(dataset, labels, FoldOptions())
    values = labels.values.copy()
    values[rows, labels.findings.index("Hernia")] = np.arange(len(rows)) == 7
    monkeypatch.setattr(PackedDataset, "labels", lambda self, name=None: dataclasses.replace(labels, values=values))
    with heard(said):
        train(settings_of(**SMALL, epochs=2, sampler="progressive"), dataset, tmp_path / "run")
    (line,) = [line for line in said if line.startswith("sampler progressive")]
    times = float(line.removesuffix(" times in the last epoch").split("images of Hernia (1) come most often, ")[1])
    weights = SAMPLERS["class-balanced"]().weights((values[rows] == 1).astype(float))
    assert times == pytest.approx(weights[7] / weights.mean(), abs=0.05) and times > 10


def test_stratified_folds_are_counted_and_uneven_ones_are_said(dataset, tmp_path):
    said = []
    with heard(said):
        train(settings_of(**SMALL, epochs=1, stratify=True, fold_seed=2), dataset, tmp_path / "even")
        train(settings_of(**SMALL, epochs=1, fold=4), dataset, tmp_path / "uneven")
    found = fold_positives(dataset, dataset.labels(), FoldOptions(stratify=True, fold_seed=2))
    assert Run.open(tmp_path / "even").selection["fold_positives"] == found
    assert "(fold 0 of 5, by subject, stratified, seed 2); 0 subjects on both sides" in said[1]
    counts = ", ".join(f"{name} {' '.join(map(str, each))}" for name, each in found.items())
    assert f"images of each finding in folds 0 to 4: {counts}" in said
    rows, validation = train_and_validation(dataset, dataset.labels(), FoldOptions(4))
    share = len(validation) / (len(rows) + len(validation))
    note = f"note: {share:.0%} of the images validate, not 20%: ids alone decide, which is uneven where they are few"
    assert [line for line in said if line.startswith("note: ")] == [f"{note}; --stratify evens it out"]
