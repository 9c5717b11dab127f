"""Losses, repeat factors and smoothed labels in real runs of a small network: trained, continued, and said."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cxrdali.models.loss import LOSSES
from cxrdali.runs import layout
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.dry_run import dry_run
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from tests.heard import heard

PARTS = {"loss": "db", "sampler": "repeat-factor", "repeat_threshold": 1.0, "label_smoothing": 0.1,
         "uncertain": "negative; Edema=smooth; Pneumonia=smooth-zeros", "labels": "chexpert"}  # fmt: skip


def settings(**changes):
    small = {"stage": 1, "size": 48, "batch": 8, "epochs": 2, "arch": "test_byobnet", "pretrained": False,
             "device": "cpu", "threads": 1}  # fmt: skip
    return settings_of(**{**small, **changes})


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A run with all of it, what it said, and its parts."""
    out, said, made = tmp_path_factory.mktemp("parts") / "run", [], []
    with heard(said):
        train(settings(**PARTS), dataset, out, hooks=Hooks(on_parts=lambda parts, loaded: made.append(parts)))
    return out, "\n".join(said), made[0]


def test_a_run_says_what_it_does_and_keeps_it(whole, dataset):
    out, said, parts = whole
    kept = json.loads((out / layout.CONFIG).read_bytes())["settings"]
    assert kept["data"]["label_smoothing"] == 0.1 and kept["data"]["uncertain"] == PARTS["uncertain"]
    assert kept["data"]["sampler"]["name"] == "repeat-factor" and kept["loss"]["name"] == "db"
    assert "label-smoothing 0.1 and uncertain smooth and uncertain smooth-zeros" in said
    samples = len(parts.data.sampler)
    assert f"sampler repeat-factor: {samples} samples an epoch of {len(parts.data.train_rows)} images" in said
    assert parts.steps_per_epoch == samples // 8 > len(parts.data.train_rows) // 8
    assert f"2 epochs of {parts.steps_per_epoch} steps" in said


def test_the_loss_sees_soft_targets_and_scores_and_counts_hard_ones(whole, dataset):
    _, _, parts = whole
    values, findings = dataset.labels("chexpert").values, dataset.labels("chexpert").findings
    edema, pneumonia = findings.index("Edema"), findings.index("Pneumonia")
    soft = parts.targets(torch.arange(len(values))).numpy()
    for place, (smoothed, hard) in {edema: (0.7, 1), pneumonia: (0.15, 0)}.items():
        uncertain = values[:, place] == -1
        assert uncertain.any() and (soft[uncertain, place] == np.float32(smoothed)).all()
        assert (parts.data.targets[:][uncertain, place] == hard).all()
    train_rows = values[parts.data.train_rows]
    assert parts.data.positives[edema] == ((train_rows == 1) | (train_rows == -1))[:, edema].sum()
    assert parts.step.loss.smoothing == 0.1


def test_a_killed_run_continues_bit_for_bit_behind_its_number_of_images(whole, dataset, tmp_path):
    out, _, parts = whole
    last = parts.steps_per_epoch - 1
    assert last * 8 >= len(parts.data.train_rows)
    asked = count(1)
    hooks = Hooks(should_stop=lambda: 15 if next(asked) == last else None)
    with pytest.raises(Stopped):
        train(settings(**PARTS), dataset, tmp_path / "run", hooks=hooks)
    train(settings(**PARTS), dataset, tmp_path / "run")
    one, two = (load_file(each / layout.BEST) for each in (out, tmp_path / "run"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_dry_run_counts_the_samples(whole, dataset, tmp_path):
    found = dry_run(settings(**PARTS), dataset, tmp_path / "run")
    assert found.steps_per_epoch == whole[2].steps_per_epoch and found.steps == 2 * found.steps_per_epoch


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["db-reduced", "logit-adjustment", "apl", "two-way"])
def test_each_loss_trains_and_continues_bit_for_bit(dataset, tmp_path, loss):
    given = {"loss": loss, "limit_batches": 4, "sampler": "repeat-factor", "repeat_rounding": "fixed"}
    train(settings(**given), dataset, tmp_path / "whole")
    asked = count(1)
    with pytest.raises(Stopped):
        stop = Hooks(should_stop=lambda: 15 if next(asked) == 3 else None)
        train(settings(**given), dataset, tmp_path / "broken", hooks=stop)
    train(settings(**given), dataset, tmp_path / "broken")
    one, two = (load_file(tmp_path / each / layout.BEST) for each in ("whole", "broken"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert Run.open(tmp_path / "whole").settings.loss == LOSSES[loss]()


def test_a_loss_that_compares_images_says_how_many_it_sees(dataset, tmp_path):
    said = []
    with heard(said), pytest.raises(Stopped):
        train(settings(loss="two-way", micro_batch=4), dataset, tmp_path / "run", hooks=Hooks(should_stop=lambda: 15))
    assert "note: the loss two-way compares 4 images at a time, not the batch's" in said
