"""Study-level runs: what they train on, what they write, and that a killed one ends with the same bits."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from cxrdali import predictions
from cxrdali.data.splits import train_and_validation
from cxrdali.data.studies import Studies
from cxrdali.data.targets import Targets, targets
from cxrdali.models.fusion_options import PLACE, StudyOptions
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.report.training.page import ReportOptions
from cxrdali.report.training.runs import time_spent
from cxrdali.report.training.sources import read_sources
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train.dry_run import dry_run
from cxrdali.train.hooks import Hooks
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.stopping import Stopped
from cxrdali.train.study import StudyTargets, study_settings
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.cxrdali.train.test_trainer import stopped_at
from tests.faults.ranks import group
from tests.faults.trainers import differences, in_child
from tests.heard import heard

pytestmark = pytest.mark.slow

SMALL = StudyOptions(fusion_width=16, fusion_layers=1)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A finished run of single images."""
    out = tmp_path_factory.mktemp("study") / "images"
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": False}
    train(settings_of(**given, device="cpu", flips="horizontal", cutout="off"), dataset, out)
    return out


def asked(run, dataset, fusion="attention", study=SMALL, **changes):
    return study_settings(run, dataset, replace(study, fusion=fusion), {"epochs": 2, **changes})


@pytest.fixture(scope="module", params=["frozen", "all"])
def unbroken(request, run, dataset):
    """A finished study-level run, and the settings that it had."""
    frozen, out = request.param == "frozen", run.with_name(f"unbroken-{request.param}")
    settings = asked(run, dataset, "transformer" if frozen else "attention", frozen=frozen, batch=4)
    train(settings, dataset, out)
    return out, settings


def validation(dataset, run):
    return train_and_validation(dataset, dataset.labels(), Run.open(run).fold)[1]


# ---------------------------------------------------------------- what a run is


def test_its_table_has_the_images_of_the_run_and_one_value_a_study(unbroken, run, dataset):
    """And prediction gives the same as validation did."""
    out, settings = unbroken
    mine, theirs = (predictions.read(folder / "val_predictions.parquet") for folder in (out, run))
    assert mine.ids.equals(theirs.ids) and mine.provenance.images == theirs.provenance.images
    for _, those in mine.ids.groupby("study_id"):
        assert (mine.values[those.index] == mine.values[those.index[:1]]).all()
    assert len(np.unique(mine.values, axis=0)) == mine.ids["study_id"].nunique() > 5
    again = predict(out, dataset, "val", PredictOptions(device="cpu", batch=3))
    np.testing.assert_allclose(again.values, mine.values, rtol=1e-4, atol=1e-5)
    assert Run.open(out).settings == settings.changed(labels=dataset.labels().name)
    assert Run.open(out).selection == Run.open(run).selection  # the same images, on the same sides


def test_a_finished_one_does_nothing_and_another_fusion_is_refused_there(unbroken, run, dataset):
    out, settings = unbroken
    assert train(settings, dataset, out).already_finished
    assert train(settings.of_studies(replace(settings.study, features="elsewhere")), dataset, out).already_finished
    for change, words in (({"fusion": "max"}, "another fusion: '.*' there, 'max' now"), ({"study_images": 3}, "study")):
        with pytest.raises(UserError, match=words):
            train(settings.of_studies(replace(settings.study, **change)), dataset, out)
    with pytest.raises(UserError, match="another (seed|sampler|mix|init|frozen|lr|epochs|fusion)"):
        train(
            TrainSettings(
                **{each: getattr(settings, each) for each in TrainSettings.__dataclass_fields__ if each != "study"}
            ),
            dataset,
            out,
        )


def test_what_is_trained_are_fusion_and_classifier_or_all(unbroken, run):
    from safetensors.torch import load_file

    out, settings = unbroken
    before, after = (load_file(folder / "best.safetensors") for folder in (run, out))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.partition(".")[0] for key in after.keys() - before.keys()} == {PLACE}
    assert after[f"{PLACE}.of_view"].any()
    if settings.model.frozen:
        assert {key.partition(".")[0] for key in changed} == {"head"}
    else:
        assert "stem.conv.weight" in changed


@pytest.mark.parametrize("at", [5, 9])
def test_a_stopped_one_continues_to_the_same_bits(unbroken, dataset, tmp_path, at):
    out, settings = unbroken
    with pytest.raises(Stopped):
        train(settings, dataset, tmp_path / "run", hooks=stopped_at(at))
    train(settings, dataset, tmp_path / "run")
    assert differences(tmp_path / "run", out) == []


def killed(pack, settings, out):
    """For a child: the run, which kills itself in its second epoch."""
    steps = []

    def kill(step):
        steps.append(step)
        if step.epoch == 1 and len(steps) > 7:
            os.kill(os.getpid(), signal.SIGKILL)

    train(settings, PackedDataset.open(pack), out, hooks=Hooks(on_step=kill))


def test_a_killed_one_continues_to_the_same_bits(unbroken, dataset, pack_folder, tmp_path):
    out, settings = unbroken
    assert in_child(killed, pack_folder, settings, tmp_path / "run") == -signal.SIGKILL
    train(settings, dataset, tmp_path / "run")
    assert differences(tmp_path / "run", out) == []


def shared(rank, pack, all_settings):
    """For a child, one of several that train together."""
    for settings, out in all_settings:
        train(settings, PackedDataset.open(pack), out)


def test_two_processes_train_the_same_and_compute_features_together(run, dataset, pack_folder, tmp_path):
    """A backbone that is trained has statistics of each process's own images, so only its epochs are looked at."""
    kept = replace(SMALL, features=str(tmp_path / "kept"))
    frozen, whole = (asked(run, dataset, study=kept, frozen=each, batch=4, epochs=1) for each in (True, False))
    assert group(2, shared, pack_folder, [(frozen, tmp_path / "two"), (whole, tmp_path / "all")]) == [0, 0]
    train(asked(run, dataset, batch=4, epochs=1), dataset, tmp_path / "one")
    one, two = (predictions.read(tmp_path / name / "val_predictions.parquet") for name in ("one", "two"))
    np.testing.assert_allclose(two.values, one.values, rtol=1e-3, atol=1e-4)
    features = [np.load(next(folder.glob("*.npy"))) for folder in (tmp_path / "kept", run / "features")]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)
    assert Run.open(tmp_path / "all").progress.finished


# ---------------------------------------------------------------- what it learns from


def test_a_study_is_positive_where_one_of_its_images_is():
    stored = np.array([[1, 0, 0], [0, 0, 2], [0, 2, 2], [2, 2, 1], [0, 1, 2]], dtype=np.int8)
    meaning = np.full((3, 256), np.nan, dtype=np.float32)
    meaning[:, :2] = 0, 1
    places = np.arange(5)
    studies = Studies(
        np.array([0, 2, 4]), places, np.zeros(5, np.int64), np.array([0, 2, 4, 5]), np.array([0, 0, 1, 1, 2])
    )
    found = StudyTargets(Targets(stored, meaning), studies)
    nan = np.nan
    np.testing.assert_array_equal(found[np.array([4, 0, 2])], [[0, 1, nan], [1, 0, 0], [0, nan, 1]])
    positives, negatives = found.counts()
    assert positives.tolist() == [1, 1, 1] and negatives.tolist() == [2, 1, 1]


def test_every_step_has_whole_studies_and_their_targets(run, dataset):
    steps = []

    def noted(step):
        steps.append((step.rows.clone(), step.images, step.position))

    train(asked(run, dataset, "mean", epochs=1), dataset, run.with_name("noted"), hooks=Hooks(on_step=noted))
    trained = train_and_validation(dataset, dataset.labels(), Run.open(run).fold)[0]
    whole = Studies.of(dataset, trained)
    assert [position for *_, position in steps] == [8 * step for step in range(len(whole.first) // 8)]
    for rows, batch, _ in steps:
        assert batch.offsets.diff().tolist() == [
            int((whole.study == np.searchsorted(whole.first, row)).sum()) for row in rows
        ]
    assert len(np.unique(torch.cat([rows for rows, *_ in steps]))) == 8 * len(steps)


def test_at_a_rate_of_nothing_the_mean_fusion_is_the_mean_of_the_run_s_logits(run, dataset):
    out = run.with_name("still")
    train(asked(run, dataset, "mean", epochs=1, lr=1e-12, weight_decay=0.0), dataset, out)
    mine, theirs = (predictions.read(folder / "val_predictions.parquet") for folder in (out, run))
    for _, those in theirs.ids.groupby("study_id"):
        places = those.index.to_numpy()
        np.testing.assert_allclose(mine.values[places[0]], theirs.values[places].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_loss_weights_count_studies(run, dataset):
    said = []
    with heard(said):
        train(asked(run, dataset, "mean", epochs=1, loss="cb-focal"), dataset, run.with_name("weighted"))
    trained = train_and_validation(dataset, dataset.labels(), Run.open(run).fold)[0]
    wanted = targets(dataset.labels())[trained]
    study = Studies.of(dataset, trained).study
    positives = [len(np.unique(study[column == 1])) for column in wanted.T]
    line = next(line for line in said if line.startswith("class-balanced weights"))
    assert f"({min(count for count in positives if count)} stud" in line
    assert Run.open(run.with_name("weighted")).train_positives == Run.open(run).train_positives  # of images


# ---------------------------------------------------------------- kept features


def test_features_are_computed_once_and_again_when_damaged(run, dataset, tmp_path):
    kept = replace(SMALL, features=str(tmp_path / "kept"))
    said = []
    with heard(said):
        train(asked(run, dataset, "mean", kept, epochs=1), dataset, tmp_path / "one")
        train(asked(run, dataset, "max", kept, epochs=1), dataset, tmp_path / "two")
    files = sorted((tmp_path / "kept").glob("*.npy"))
    assert len(files) == 1
    assert [line.partition(": ")[2].split()[0] for line in said if line.startswith("features of")] == ["kept", "read"]
    values, rows = np.load(files[0]), np.flatnonzero(dataset.labels().split == "train")
    assert values.shape[0] == len(rows) and values.dtype == np.float32
    first = files[0].read_bytes()
    files[0].write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    said.clear()
    with heard(said):
        train(asked(run, dataset, "max", kept, epochs=1), dataset, tmp_path / "three")
    assert any("is damaged or was changed; the features are computed again" in line for line in said)
    assert files[0].read_bytes() == first and differences(tmp_path / "three", tmp_path / "two") == []


def test_features_are_those_of_the_model(run, dataset, tmp_path):
    """The run's classifier on them gives the run's logits."""
    train(asked(run, dataset, "mean", replace(SMALL, features=str(tmp_path)), epochs=1), dataset, tmp_path / "out")
    from safetensors.torch import load_file

    rows = np.flatnonzero(dataset.labels().split == "train")
    values = np.load(next(tmp_path.glob("*.npy")))[np.searchsorted(rows, validation(dataset, run))]
    weights = load_file(run / "best.safetensors")
    logits = values @ weights["head.fc.weight"].numpy().T + weights["head.fc.bias"].numpy()
    table = predictions.read(run / "val_predictions.parquet")
    np.testing.assert_allclose(logits, table.values, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- what is refused, and what it costs


def test_small_micro_batches_and_unfinished_runs_are_refused(run, dataset, tmp_path):
    with pytest.raises(UserError, match="never divided, and has up to 8 images; give --study-images 4, or a larger"):
        train(asked(run, dataset, frozen=False, micro_batch=4), dataset, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    train(
        asked(run, dataset, study=replace(SMALL, study_images=1), frozen=False, micro_batch=4, epochs=1),
        dataset,
        tmp_path / "one",
    )
    settings = settings_of(stage=1, size=48, batch=8, epochs=2, arch="test_byobnet", pretrained=False, device="cpu")
    with pytest.raises(Stopped):
        train(settings, dataset, tmp_path / "begun", hooks=stopped_at(9))
    with pytest.raises(UserError, match="finish it first"):
        asked(tmp_path / "begun", dataset)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "class-balanced"}, {"mix": "equal"}, {"mixup": 0.2}, {"cutmix": 1.0}, {"schedule": "32x1@8,48x1@8"},
        {"oversample": ("Edema",)}, {"compile": True}, {"compile": "auto"},
    ],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
def test_what_is_of_single_images_is_refused(run, dataset, changes):
    name = next(iter(changes)).replace("_", "-")
    with pytest.raises(UserError, match=rf"^{name} .*: is for runs on single images, .*; leave it out$"):
        asked(run, dataset, **changes)


def test_a_network_that_cannot_train_on_one_image_names_the_micro_batch_that_helps(dataset, tmp_path):
    one = tmp_path / "one-value"
    given = {"stage": 1, "size": 32, "batch": 8, "epochs": 1, "arch": "test_efficientnet", "pretrained": False}
    train(settings_of(**given, device="cpu"), dataset, one)
    of_all = {"frozen": False, "epochs": 1, "batch": 4}
    with pytest.raises(UserError, match="cannot train on 1 image of 32 px .* --micro-batch 32, so that a batch is one"):
        train(asked(one, dataset, **of_all), dataset, tmp_path / "out")
    train(asked(one, dataset, **of_all, micro_batch=32), dataset, tmp_path / "out")
    assert Run.open(tmp_path / "out").settings.runtime.micro_batch == 32


def test_the_average_of_weights_holds_the_fusion_too(run, dataset):
    out = run.with_name("averaged")
    train(asked(run, dataset, ema=0.5, clip_norm=1.0, epochs=1, batch=4), dataset, out)
    assert {"mAP", "ema_mAP"} <= set(Run.open(out).metrics)
    predict(out, dataset, "val", PredictOptions(device="cpu"))


def test_commands_of_single_images_say_so(unbroken, dataset):
    with pytest.raises(UserError, match="retrain-head is for networks that see single images; give the run that it st"):
        retrain_settings(unbroken[0], dataset, {})


def test_its_rate_is_not_called_images_per_second(unbroken, run):
    """metrics.csv counts studies, and a frozen backbone sees no image."""
    sources = read_sources((run, unbroken[0]), None, (), ReportOptions("Studies"))
    rates = [row[2] for row in time_spent(sources)["epochs"].rows]
    assert rates[0] > 0 and rates[1] is None


def test_a_dry_run_writes_nothing(unbroken, dataset, tmp_path):
    _, settings = unbroken
    found = dry_run(settings, dataset, tmp_path / "out")
    assert found.cached == settings.model.frozen and found.steps == 2 * found.steps_per_epoch
    assert not (tmp_path / "out").exists()
