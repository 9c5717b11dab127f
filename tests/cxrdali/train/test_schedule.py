"""One run over two sizes, 48 and 64 pixels: what it trains on, that kills change nothing, which epoch is the best."""

import dataclasses
import json
import math
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from timm.layers import DropPath, resample_abs_pos_embed

from cxrdali import predictions
from cxrdali.data.order import global_order
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.report.training.lineage import Placed
from cxrdali.report.training.models import sizes
from cxrdali.report.training.runs import lines_of
from cxrdali.runs import folder, layout
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import sampling_seed, settings_of
from cxrdali.runs.watching import watched
from cxrdali.train import dry_run as dry
from cxrdali.train.build import build
from cxrdali.train.dry_run import dry_run
from cxrdali.train.hooks import Hooks
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.cli.cli import call
from tests.cxrdali.train.test_trainer import stopped_at
from tests.faults import ranks
from tests.faults.ranks import group
from tests.faults.trainers import differences, in_child
from tests.heard import heard

pytestmark = pytest.mark.slow

SCHEDULE = "48x2@8,64x2@12"  # of 59 images 7 steps an epoch, then 4


def settings(**changes):
    given = {"schedule": SCHEDULE, "arch": "test_efficientnet", "pretrained": False, "device": "cpu"}
    own = {"dropout": 0.5, "drop_path": 0.2, "grow_from": 0.5, "loss": "ldam-drw", "drw_epoch": 3, "micro_batch": 4}
    own |= {"ema": 0.9, "keep_epochs": 1}
    return settings_of({**given, **own, **changes}, stage=1)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A finished run, its steps, the parts of each size, and what it said."""
    out, steps, parts, said = tmp_path_factory.mktemp("whole") / "stage1", [], [], []
    hooks = Hooks(on_step=steps.append, on_parts=lambda made, _: parts.append(made))
    with heard(said):
        summary = train(settings(), dataset, out, hooks=hooks)
    assert summary.epochs == 4 and summary.seconds["training"] > 0
    return out, steps, parts, said


def test_each_size_has_its_pixels_batch_and_steps(whole):
    _, steps, _, said = whole
    assert [len([step for step in steps if step.epoch == epoch]) for epoch in range(4)] == [7, 7, 4, 4]
    shapes = {(step.epoch, tuple(step.images.shape)) for step in steps}
    assert shapes == {(0, (8, 1, 48, 48)), (1, (8, 1, 48, 48)), (2, (12, 1, 64, 64)), (3, (12, 1, 64, 64))}
    assert "schedule 48x2@8,64x2@12: 4 epochs in all" in said
    assert any("48 px, batch 8, 2 epochs of 7 steps, dropout 0.25, drop-path 0.1, fp32" in line for line in said)
    assert "from here on 64 px, batch 12, 2 epochs of 4 steps, dropout 0.5, drop-path 0.2" in said
    assert [line.split(":")[0] for line in said if line.startswith("epoch ") and "loss" in line] == [
        f"epoch {epoch}/4 at {size} px" for epoch, size in ((1, 48), (2, 48), (3, 64), (4, 64))
    ]


def test_samples_go_on_over_the_sizes(whole, dataset):
    """Every epoch has the order of its number, as in a run of one size."""
    _, steps, parts, _ = whole
    rows = parts[0].data.train_rows
    for epoch in range(4):
        seen = np.concatenate([step.rows.numpy() for step in steps if step.epoch == epoch])
        assert seen.tolist() == global_order(rows, sampling_seed(0, 1), epoch)[: len(seen)].tolist()


def test_one_cosine_over_all_steps(whole):
    rates = [step.lr for step in whole[1]]
    after = 7 + 4 + 4
    expected = [1e-3 * (step + 1) / 8 for step in range(7)]
    expected += [0.5e-3 * (1 + math.cos(math.pi * step / after)) for step in range(after)]
    assert rates == pytest.approx(expected)


def test_a_rate_by_epoch_holds_through_epochs_of_any_length(dataset, tmp_path):
    steps = []
    given = settings(lr_schedule="epoch", warmup_epochs=0)
    train(given, dataset, tmp_path / "run", hooks=Hooks(on_step=steps.append))
    rates = [[step.lr for step in steps if step.epoch == epoch] for epoch in range(4)]
    expected = [0.5e-3 * (1 + math.cos(math.pi * first / 22)) for first in (0, 7, 14, 18)]
    assert [each[0] for each in rates] == pytest.approx(expected) and all(len(set(each)) == 1 for each in rates)


def test_regularisation_grows_in_the_network_itself(whole):
    _, _, parts, _ = whole
    assert [[head.input_dropout for head in each.model.heads] for each in parts] == [[0.25], [0.5]]
    paths = [[each.drop_prob for each in made.model.modules() if isinstance(each, DropPath)] for made in parts]
    assert [max(each) for each in paths] == pytest.approx([0.1 * max(paths[1]) / 0.2, max(paths[1])]) and paths[1]


def test_the_best_epoch_is_one_of_the_last_size(whole, dataset):
    out, *_ = whole
    run = Run.open(out)
    metrics = run.metrics
    assert metrics["size"].astype(int).tolist() == [48, 48, 64, 64]
    best = 3 + int(metrics[["mAP", "ema_mAP"]].astype(float).max(axis=1).iloc[2:].argmax())
    assert run.progress.best_epoch == best and run.best["epoch"] == best and run.progress.finished
    assert {path.name for path in (out / "epochs").iterdir()} == {f"{each}.safetensors" for each in (best, 4)}
    found = predict(out, dataset, "val", PredictOptions(device="cpu"))
    kept = predictions.read(run.val_predictions)
    np.testing.assert_allclose(found.values, kept.values, rtol=1e-4, atol=1e-5)
    assert (run.setting("size"), run.setting("batch"), run.setting("schedule")) == (64, 12, SCHEDULE)


def test_an_epoch_of_a_smaller_size_is_never_the_best(whole, dataset, tmp_path):
    """Its score is said to be unbeatable, in the state of the moment between the sizes."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(settings(), dataset, out, hooks=stopped_at(23))  # 2 x (7 steps + 2 x 2 validation batches), and a step
    state = torch.load(out / layout.LAST, weights_only=True)
    assert (state["epoch"], state["position"]) == (2, 12)
    state["best_score"] = 2.0
    for row in state["metrics"]:
        row["mAP"] = row["ema_mAP"] = 2.0
    torch.save(state, out / layout.LAST)
    assert train(settings(), dataset, out).best_epoch > 2
    assert Run.open(out).best_place >= 2


# 7 steps an epoch of 48 px, 4 of 64 px; 2 validation batches, for the weights and for their average
@pytest.mark.parametrize("at", [18, 22, 23, 33])
def test_stopped_anywhere_it_continues_to_the_same_run(whole, dataset, tmp_path, at):
    """At the last step of the first size; in its last validation; after one step of the next; later."""
    out = tmp_path / "stage1"
    with pytest.raises(Stopped):
        train(settings(), dataset, out, hooks=stopped_at(at))
    train(settings(threads=1), dataset, out)
    assert differences(out, whole[0]) == []


def killed(pack, out, epoch, position):
    """For a child: a run that is killed after a step; or, without a position, when the parts of a size are made."""

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def on_step(step):
        if (step.epoch, step.position) == (epoch, position):
            die()

    def on_parts(parts, loaded):
        if position is None and loaded and loaded["epoch"] == epoch:
            die()

    train(settings(), PackedDataset.open(pack), out, hooks=Hooks(on_step=on_step, on_parts=on_parts))


@pytest.mark.parametrize("epoch, position", [(1, 24), (2, None), (2, 0)])
def test_killed_anywhere_it_continues_to_the_same_run(whole, dataset, pack_folder, tmp_path, epoch, position):
    """In the first size; after it was saved and before anything of the second was; after the second's first step."""
    out = tmp_path / "stage1"
    assert in_child(killed, pack_folder, out, epoch, position) == -signal.SIGKILL
    train(settings(), dataset, out)
    assert differences(out, whole[0]) == []


def test_its_config_says_at_which_size_it_is(whole, dataset, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(settings(), dataset, out, hooks=stopped_at(3))
    assert Run.open(out).config["at_size"] == 48 and Run.open(out).settings.data.size == 64
    train(settings(), dataset, out)
    config = Run.open(out).config
    assert config["at_size"] == 64 and len(config["continued"]) == 1  # a switch is no interruption
    assert "continued" not in Run.open(whole[0]).config


def test_its_patience_waits_for_the_last_size(dataset, tmp_path):
    """With a rate that changes nothing, the first epoch of each size is its best."""
    out = tmp_path / "run"
    plain = {"arch": "test_resnet", "pretrained": False, "device": "cpu", "track": ("none",)}
    given = settings_of({"schedule": "48x3@8,64x4@12", "patience": 1, "lr": 1e-12, **plain}, stage=1)
    assert train(given, dataset, out).epochs in (5, 6)
    assert Run.open(out).progress.best_epoch in (4, 5)


def test_positions_of_a_vision_transformer_are_resampled(dataset, tmp_path):
    out, kept = tmp_path / "run", {}

    def look(parts, loaded):
        if loaded:
            before = kept["before"]
            now = parts.model.backbone.state_dict()
            places = (now["pos_embed"].shape[1] - 1, before["pos_embed"].shape[1] - 1)
            assert places == ((64 // 16) ** 2, (48 // 16) ** 2)
            theirs = resample_abs_pos_embed(before["pos_embed"], (4, 4), (3, 3), num_prefix_tokens=1)
            torch.testing.assert_close(now["pos_embed"], theirs)
            assert all(torch.equal(now[name], before[name]) for name in now if name != "pos_embed")

    def keep(row):
        state = torch.load(out / layout.LAST, weights_only=True)
        kept["before"], kept["optimizer"] = state["model"], state["optimizer"]["state"]

    given = settings(arch="test_vit", schedule="48x1@8,64x1@8", drw_epoch=1)
    train(given, dataset, out, hooks=Hooks(on_parts=look, on_epoch=keep))
    steps = {int(each["step"]) for each in kept["optimizer"].values()}
    assert steps == {7, 14}  # moments of the positions began anew
    again = tmp_path / "again" / "run"
    with pytest.raises(Stopped):
        train(given, dataset, again, hooks=stopped_at(13))
    train(given, dataset, again)
    assert differences(again, out) == []


def test_a_network_that_cannot_change_its_size_is_refused_before_it_trains(dataset, tmp_path):
    with pytest.raises(UserError, match=r"schedule: 56x1@8: 'test_vit' cannot take 56 px .*; use another --size"):
        train(settings(arch="test_vit", schedule="48x1@8,56x1@8", drw_epoch=1), dataset, tmp_path / "run")
    assert not (tmp_path / "run" / layout.CONFIG).exists()


@pytest.mark.parametrize(
    "schedule, message",
    [
        ("48x1@8,96x1@8", "schedule: 96x1@8: .*no rendition of 96 pixels or more is stored"),
        ("48x1@64,64x1@8", "schedule: 48x1@64: 59 training images make no batch of 64"),
        ("48x1@8,64x1@72", "schedule: 64x1@72: 59 training images make no batch of 72"),
    ],
)
def test_a_later_size_that_could_not_be_trained_is_refused_before_the_first(dataset, tmp_path, schedule, message):
    with pytest.raises(UserError, match=message):
        train(settings(schedule=schedule, drw_epoch=1), dataset, tmp_path / "run")
    assert not (tmp_path / "run" / layout.CONFIG).exists()


def test_a_size_that_is_not_stored_is_resized(dataset, tmp_path):
    said = []
    with heard(said):
        train(settings(schedule="40x1@8,64x1@8", drw_epoch=1), dataset, tmp_path / "run")
    assert any(line.startswith("size 40 is not stored: 48 px renditions are resized") for line in said)


def test_another_schedule_on_the_same_folder_is_named(whole, dataset):
    with pytest.raises(UserError, match="another schedule: '48x2@8,64x2@12' there, '48x1@8,64x3@12' now"):
        train(settings(schedule="48x1@8,64x3@12"), dataset, whole[0])


def test_its_classifier_is_retrained_at_the_last_size(whole, dataset, tmp_path):
    changes = {"device": "cpu", "epochs": 1, "warmup_epochs": 0}
    given = retrain_settings(whole[0], dataset, changes)
    assert (given.data.schedule, given.data.size, given.model.frozen) == (None, 64, True)
    summary = train(given, dataset, tmp_path / "run")
    weights = [folder.load_last(out)["model"]["conv_stem.weight"] for out in (whole[0], tmp_path / "run")]
    assert summary.epochs == 1 and weights[0].shape == weights[1].shape


def test_a_frozen_backbone_s_features_are_computed_for_each_size(whole, dataset, tmp_path):
    said = []
    given = settings(init=str(whole[0]), frozen=True, new_head=True, flips="none", cutout="off", drop_path=0.0)
    with heard(said):
        train(given, dataset, tmp_path / "run")
    assert len([line for line in said if line.startswith("features of 59 training images")]) == 2


def test_a_dry_run_measures_every_size_that_is_left(whole, dataset, tmp_path, pack_folder, monkeypatch):
    later = []
    monkeypatch.setattr(dry, "build", lambda given, *rest: later.append(given) or build(given, *rest))
    found = dry_run(settings(), dataset, tmp_path / "new" / "run")
    grown = [(each.data.size, each.model.dropout, each.model.drop_path) for each in later]
    assert grown == [(64, 0.5, 0.2)], "all of what the first size has half of"
    assert not list(tmp_path.iterdir())
    assert [(each.segment.size, each.epochs, each.steps, each.steps_per_epoch) for each in found.sizes] == [
        (48, 2, 14, 7),
        (64, 2, 8, 4),
    ]
    assert all(each.training_seconds > 0 and each.validation_seconds > 0 for each in found.sizes)
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(settings(), dataset, out, hooks=stopped_at(23))
    left = dry_run(settings(), dataset, out)
    assert [(each.segment.size, each.epochs, each.steps) for each in left.sizes] == [(64, 2, 7)]
    line = ("train", "--stage", 1, "--data", pack_folder, "--out", tmp_path / "other", "--schedule", SCHEDULE)
    said = call(
        *line, "--arch", "test_efficientnet", "--no-pretrained", "--device", "cpu", "--dry-run", cwd=tmp_path
    ).stdout
    assert "48 px, batch 8: 2 epochs of 7 steps, 14 steps in all: about" in said
    assert "64 px, batch 12: 2 epochs of 4 steps, 8 steps in all: about" in said and "2 sizes in all: about" in said


def test_a_run_between_its_sizes_has_readers(whole, dataset, tmp_path):
    """Between the sizes the best weights are those of the first one, and whoever predicts is told so."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(settings(), dataset, out, hooks=stopped_at(12))
    run = Run.open(out)
    assert run.best["epoch"] == 1 and run.progress.best_epoch == 1
    shutil.copytree(out, tmp_path / "copy")
    with pytest.raises(UserError, match="was trained at 48 px, this run at 64"):
        predict(tmp_path / "copy", dataset, "val", PredictOptions(device="cpu"))


def test_metrics_without_a_schedule_have_no_size(dataset, tmp_path):
    given = settings(schedule=None, grow_from=1.0, size=48, batch=8, epochs=1, drw_epoch=0)
    train(given, dataset, tmp_path / "run")
    assert "size" not in pd.read_csv(tmp_path / "run" / layout.METRICS)


def test_its_page_has_a_curve_for_each_size(whole):
    run = Run.open(whole[0])
    lines = lines_of(Placed(run, None, 0))
    assert [(line.size, line.before, len(line.metrics)) for line in lines] == [(48, 0, 2), (64, 2, 2)]
    tops = [int(run.reached["mAP"].iloc[part].argmax()) for part in (slice(2), slice(2, 4))]
    assert [line.best for line in lines] == tops and sizes(run) == "48, 64 px"


def test_two_processes_stop_and_continue_over_the_switch(pack_folder, tmp_path):
    given = {"schedule": "48x1@12,64x1@6", "size": 64, "batch": 6, "epochs": 2}
    whole, out = tmp_path / "whole" / "stage1", tmp_path / "stopped" / "stage1"
    assert group(2, ranks.train_with, pack_folder, whole, given) == [0, 0]
    # a SIGTERM after each process's 4 steps, one validation batch, and a step of the next size; all stop a step later
    assert group(2, ranks.train_with, pack_folder, out, {**given, "stop": (1, 6)}) == [ranks.STOPPED] * 2
    state = torch.load(out / layout.LAST, weights_only=True)
    assert (state["epoch"], state["position"]) == (1, 12)
    assert group(2, ranks.train_with, pack_folder, out, given) == [0, 0]
    assert differences(out, whole) == []


def test_other_pixels_of_an_earlier_size_are_other_data(whole, dataset):
    info = json.loads(json.dumps(dataset.info))
    info["id"] = "0" * 64
    assert train(settings(), dataclasses.replace(dataset, info=info), whole[0]).already_finished
    info["sizes"]["48"]["encoding"] = "raw"
    for shard in info["sizes"]["48"]["shards"]:
        shard["content"] += 1
    with pytest.raises(UserError, match="another dataset: .* packed otherwise: encoding 'jpeg' there, 'raw' here"):
        train(settings(), dataclasses.replace(dataset, info=info), whole[0])


def test_watch_says_the_size(whole):
    found = watched(whole[0])
    assert (found.size, found.state, found.seconds_left) == (64, "finished", 0.0)
    assert dataclasses.replace(found, progress=dataclasses.replace(found.progress, epoch=2)).size == 48
    assert call("watch", whole[0], cwd=whole[0]).stdout.splitlines()[1] == "epoch  4 of 4 at 64 px"
