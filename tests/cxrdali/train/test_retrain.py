"""The loss-design paper's training: losses in real runs, the switch, the margin's scale, early stopping, cRT."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models import register_model

from cxrdali import predictions
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.sampler import SAMPLERS
from cxrdali.data.splits import train_and_validation
from cxrdali.data.targets import targets
from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.head import HEADS
from cxrdali.models.loss import LOSSES
from cxrdali.models.weights import load_initial
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.runs import layout as runs
from cxrdali.runs.folder import load_last
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings, sampling_seed, settings_of
from cxrdali.train import build, packs
from cxrdali.train.dry_run import dry_run
from cxrdali.train.features import CachedLoader
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.train.test_trainer import stopped_at
from tests.heard import heard

pytestmark = pytest.mark.slow

ARCH = "test_efficientnet"
PLAIN = {"flips": "none", "cutout": "off"}


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 2, "arch": ARCH, "pretrained": False, "device": "cpu"}
    return settings_of(**{**given, **changes})


def quietly(*arguments, **options):
    return train(*arguments, **options)


def rows_of(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A run with margins and deferred re-weighting after its first epoch, and what it said."""
    out, said = tmp_path_factory.mktemp("runs") / "ldam-drw", []
    with heard(said):
        quietly(settings(loss="ldam-drw", drw_epoch=1, lr=1e-4, **PLAIN), dataset, out)
    return out, said


# ---------------------------------------------------------------- losses in a run


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_validates_with_plain_cross_entropy(dataset, tmp_path, loss):
    changes = {"drw_epoch": 0} if "drw" in loss else {}
    quietly(settings(loss=loss, epochs=1, **changes), dataset, tmp_path / "run")
    (row,) = rows_of(tmp_path / "run" / "metrics.csv")
    assert float(row["train_loss"]) > 0 and row["reweighted"] == str(int(bool(changes)))
    table = predictions.read(tmp_path / "run" / "val_predictions.parquet")
    labels = dataset.labels()
    at = dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
    x, truth = table.values.astype(np.float64), labels.values[at]
    assert float(row["val_loss"]) == pytest.approx(np.mean(np.logaddexp(0, x) - truth * x), rel=1e-6)


def test_metrics_show_when_re_weighting_begins(finished):
    out, said = finished
    assert [row["reweighted"] for row in rows_of(out / "metrics.csv")] == ["0", "1"]
    assert [line for line in said if "re-weighted" in line] == [
        "epoch 2: positive terms are re-weighted from here on (beta 0.9999)"
    ]
    assert any(
        line.startswith("loss ldam-drw (ldam_margin 0.5, ldam_scale 30, cb_beta 0.9999, cb_cap 50, drw_epoch 1)")
        for line in said
    )


def test_training_s_loss_changes_with_the_epoch_of_re_weighting(dataset, tmp_path):
    """At a rate at which no weight moves, an epoch's loss is what its loss function says."""
    losses = {}
    for name, changes in (("plain", {}), ("later", {"drw_epoch": 1}), ("always", {"drw_epoch": 0})):
        still = settings(loss="drw" if changes else "bce", lr=1e-12, micro_batch=4, **changes)
        quietly(still, dataset, tmp_path / name)
        losses[name] = [float(row["train_loss"]) for row in rows_of(tmp_path / name / "metrics.csv")]
    expected = [losses["plain"][0], losses["always"][1]]
    assert losses["later"] == pytest.approx(expected, rel=1e-5)
    assert abs(losses["plain"][1] - expected[1]) > 1e-3 < abs(losses["always"][0] - expected[0])


def test_class_counts_are_those_before_resampling(dataset, tmp_path):
    quietly(settings(sampler="class-balanced", epochs=1), dataset, tmp_path / "drawn")
    quietly(settings(oversample=("Mass",), epochs=1), dataset, tmp_path / "doubled")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("drawn", "doubled")]
    labels = dataset.labels()
    train_rows, _ = train_and_validation(dataset, labels, settings().data)
    expected = (labels.values[train_rows] == 1).sum(axis=0).tolist()
    assert configs[0]["train_positives"] == configs[1]["train_positives"] == expected


def test_the_margin_s_scale_is_the_model_s(finished, dataset):
    """What predict writes is what training saw: the classifier's output times the scale."""
    out, _ = finished
    weights = load_file(out / runs.BEST)
    bare = create(ModelOptions(ARCH, 48, pretrained=False), 5)
    bare.backbone.load_state_dict(weights)
    bare.eval()
    scaled = create(
        TrainSettings.from_json(json.loads((out / "config.json").read_text())["settings"]).model_options(), 5
    ).eval()
    scaled.backbone.load_state_dict(weights)
    images = torch.randint(0, 256, (3, 1, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(scaled(images), 30 * bare(images))
    table = predict(out, dataset, "val", PredictOptions(device="cpu"))
    stored = predictions.read(out / runs.VAL_PREDICTIONS)
    np.testing.assert_allclose(table.values, stored.values, rtol=1e-4, atol=1e-4)


def test_a_run_that_starts_from_another_scale_keeps_its_logits(finished):
    out, _ = finished
    images = torch.randint(0, 256, (3, 1, 48, 48), dtype=torch.uint8)
    findings = tuple(json.loads((out / "config.json").read_text())["findings"])
    for path, state in (
        (out / runs.BEST, load_file(out / runs.BEST)),
        (out / runs.LAST, load_last(out)["model"]),
    ):
        made = create(ModelOptions(ARCH, 48, pretrained=False, logit_scale=30.0), 5).eval()
        made.backbone.load_state_dict(state)
        with torch.inference_mode():
            expected = made(images)
        for scale in (30.0, 1.0, 10.0):
            model = create(ModelOptions(ARCH, 48, pretrained=False, logit_scale=scale), 5).eval()
            load_initial(model, path, findings)
            with torch.inference_mode():
                torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_the_classifier_is_exact_under_autocast():
    """1,000 images through a bf16 classifier share a few dozen logits, which AP sees as ties."""
    model = create(ModelOptions(ARCH, 32, pretrained=False), 2).eval()
    images = torch.randint(0, 256, (1000, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        values = model(images)
        narrow = model.backbone.get_classifier().weight.bfloat16() @ model.features(images).T.bfloat16()
    assert values.dtype == torch.float32
    assert len(values[:, 0].unique()) > 990 > len(narrow[0].unique())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss": "drw", "drw_epoch": 2},
            "drw-epoch 2: re-weighting would begin after the last of 2 epochs; give 0 to 1",
        ),
        ({"loss": "ldam-drw"}, "drw-epoch 10: re-weighting would begin after the last of 2 epochs"),
        (
            {"sampler": "balanced"},
            r"sampler 'balanced': did you mean class-balanced\? choose one of class-balanced, nat",
        ),
        ({"sampler": "sqrt", "oversample": ("Mass",)}, "sampler sqrt: oversampling too changes how often"),
        ({"min_lr": 1e-3}, "min-lr 0.001: 0 or more, below lr, 0.001"),
        ({"patience": 0}, "patience 0: at least 1"),
        ({"flips": "vertical"}, "flips 'vertical': choose one of both, horizontal, none"),
        ({"new_head": True}, "new-head: only weights of --init"),
        ({"frozen": True}, "frozen: a backbone from scratch would stay random"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        settings(**change)


def test_a_killed_run_continues_across_the_switch_to_the_same_weights(finished, dataset, tmp_path):
    out, _ = finished
    same, hooks = settings(loss="ldam-drw", drw_epoch=1, lr=1e-4, **PLAIN), stopped_at(4, 9)
    for _ in range(2):
        with pytest.raises(Stopped):
            quietly(same, dataset, tmp_path / "run", hooks=hooks)
    quietly(same, dataset, tmp_path / "run", hooks=hooks)
    left, right = load_file(out / runs.BEST), load_file(tmp_path / "run" / runs.BEST)
    assert all(torch.equal(left[key], right[key]) for key in left)


def scored_as(monkeypatch, *values):
    """Every epoch has another mAP than its logits."""
    given, scored = iter(values), packs.score

    def score(*arguments):
        return dataclasses.replace(scored(*arguments), ap=np.full(5, next(given)))

    monkeypatch.setattr(packs, "score", score)


def test_a_run_ends_early_and_counts_as_finished(dataset, tmp_path, monkeypatch):
    scored_as(monkeypatch, 0.5, 0.6, 0.4, 0.6, 0.7)
    said, patient = [], settings(epochs=5, patience=2)
    with heard(said):
        summary = quietly(patient, dataset, tmp_path / "run")
    assert (summary.epochs, summary.best_epoch) == (4, 2)
    assert said[-1] == "ended after epoch 4: none better in 2 epochs"
    assert quietly(patient, dataset, tmp_path / "run").already_finished
    progress = Run.open(tmp_path / "run").progress
    assert progress.finished and (progress.epoch, progress.epochs, progress.best_epoch) == (4, 5, 2)


@pytest.mark.parametrize(("drw_epoch", "epochs"), [(3, 5), (1, 4)])
def test_epochs_before_re_weighting_do_not_count_against_the_patience(
    dataset, tmp_path, monkeypatch, drw_epoch, epochs
):
    """The best epoch is the second: without re-weighting, or with it from then on, the run ends after the fourth."""
    scored_as(monkeypatch, 0.5, 0.6, 0.4, 0.6, 0.4)
    said = []
    patient = settings(epochs=6, patience=2, loss="drw", drw_epoch=drw_epoch, limit_batches=1)
    with heard(said):
        quietly(patient, dataset, tmp_path / "run")
    ended = [line for line in said if line.startswith("ended")]
    assert ended == [f"ended after epoch {epochs}: none better in 2 epochs"]
    assert [row["reweighted"] for row in rows_of(tmp_path / "run" / "metrics.csv")][-1] == "1"
    before = "the best epoch, 2, is one before re-weighting: its weights are kept"
    assert (said[-1] == before) == (drw_epoch == 3)


def test_the_rate_goes_by_cosine_to_min_lr(dataset, tmp_path):
    quietly(settings(lr=1e-3, min_lr=4e-4, warmup_epochs=0), dataset, tmp_path / "run")
    rates = [float(row["lr"]) for row in rows_of(tmp_path / "run" / "metrics.csv")]
    # of the last of seven steps an epoch, of 14 in all
    expected = [4e-4 + 6e-4 * (1 + np.cos(np.pi * step / 14)) / 2 for step in (6, 13)]
    assert rates == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("flips", "cutout", "expected"),
    [
        ("both", "fixed", AugmentOptions()),
        ("horizontal", "off", AugmentOptions(hflip=0.5, vflip=0.0, cutout="off")),
        ("none", "random", AugmentOptions(hflip=0.0, vflip=0.0, cutout="random")),
        ("none", "off", None),
    ],
)
def test_settings_decide_the_augmentation_and_the_model_s_form(dataset, tmp_path, monkeypatch, flips, cutout, expected):
    seen = []

    class Watched(Loader):
        def __init__(self, *arguments, **options):
            seen.append(options.get("augment", "validation"))
            super().__init__(*arguments, **options)

    made = build.create
    monkeypatch.setattr(build, "create", lambda options, *more: seen.append(options) or made(options, *more))
    changes = {"flips": flips, "cutout": cutout, "channels_last": False, "checkpointing": True, "loss": "ldam"}
    asked = settings(**changes, ldam_scale=7.0, epochs=1, limit_batches=1)
    quietly(asked, dataset, tmp_path / "run", loader=Watched)
    form = ModelOptions(ARCH, 48, pretrained=False, logit_scale=7.0, channels_last=False, checkpointing=True)
    assert seen == [form, expected, "validation"]


def test_a_progressive_run_ends_balanced(dataset, tmp_path):
    seen = []

    class Watched(Loader):
        def __init__(self, *arguments, **options):
            seen.append(options.get("sampler"))
            super().__init__(*arguments, **options)

    asked = settings(sampler="progressive", epochs=3, limit_batches=1, seed=2)
    quietly(asked, dataset, tmp_path / "run", loader=Watched)
    labels = dataset.labels()
    rows, _ = train_and_validation(dataset, labels, asked.data)
    wanted = SAMPLERS["progressive"]().over(rows, targets(labels, "negative"), sampling_seed(2, 1), 3)
    assert seen[1] is None and seen[0].chances(2) == pytest.approx(wanted.weighted)
    assert all(np.array_equal(seen[0](epoch), wanted(epoch)) for epoch in range(3))


# ---------------------------------------------------------------- cRT


def crt(run, dataset, **changes):
    return retrain_settings(run, dataset, {"epochs": 2, "batch": 8, "device": "cpu", **changes})


def head_keys(run):
    model = create(ModelOptions(ARCH, 48, pretrained=False), 5)
    return {f"classifier.{key}" for key in model.backbone.get_classifier().state_dict()} & set(
        load_file(run / runs.BEST)
    )


def test_the_first_training_s_schedule_is_not_the_classifier_s(finished, dataset, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["settings"]["optimizer"] |= {"patience": 3, "min_lr": 5e-5, "weight_decay": 0.25}
    config["settings"]["runtime"]["checkpointing"] = True
    (run / "config.json").write_bytes(sealed_json(config))
    made = retrain_settings(run, dataset, {})
    kept = made.optimizer
    assert (kept.patience, made.runtime.checkpointing, kept.min_lr, kept.weight_decay) == (None, False, 0.0, 0.25)
    assert (kept.epochs, kept.lr, kept.warmup_epochs) == (10, 1e-3, 1)


@pytest.mark.parametrize("changes", [{}, {"cache_features": False}, {"flips": "both", "cutout": "fixed"}])
def test_only_the_classifier_changes_and_not_even_batch_norm_s_statistics(finished, dataset, tmp_path, changes):
    out, _ = finished
    quietly(crt(out, dataset, **changes), dataset, tmp_path / "crt")
    before, after = load_file(out / runs.BEST), load_file(tmp_path / "crt" / runs.BEST)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == head_keys(out) and len(changed) == 2
    config = json.loads((tmp_path / "crt" / "config.json").read_text())
    assert (
        config["settings"]["data"]["sampler"]["name"] == "class-balanced"
        and config["settings"]["loss"]["name"] == "bce"
    )
    assert config["selection"] == json.loads((out / "config.json").read_text())["selection"]


def test_cached_features_train_what_the_backbone_would(finished, dataset, tmp_path):
    out, _ = finished
    for name, cached in (("cached", True), ("through", False)):
        quietly(crt(out, dataset, cache_features=cached), dataset, tmp_path / name)
    one, other = (load_file(tmp_path / name / runs.BEST) for name in ("cached", "through"))
    for key in head_keys(out):
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)
    tables = [predictions.read(tmp_path / name / runs.VAL_PREDICTIONS).values for name in ("cached", "through")]
    np.testing.assert_allclose(*tables, rtol=1e-3, atol=1e-4)
    seen = predict(tmp_path / "cached", dataset, "val", PredictOptions(device="cpu"))
    np.testing.assert_allclose(seen.values, tables[0], rtol=1e-3, atol=1e-4)


def test_dropout_of_kept_features_is_that_of_the_way_through_the_backbone(finished, dataset, tmp_path):
    """The classifier's inputs are the same, and so are the generator's numbers."""
    out, _ = finished
    for name, cached in (("cached", True), ("through", False)):
        quietly(crt(out, dataset, cache_features=cached, dropout=0.5), dataset, tmp_path / name)
    quietly(crt(out, dataset), dataset, tmp_path / "without")
    one, other, without = (load_file(tmp_path / name / runs.BEST) for name in ("cached", "through", "without"))
    for key in head_keys(out):
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(one[key], without[key], rtol=1e-3, atol=1e-4)


def test_margins_on_cosines_train_predict_and_are_retrained_with_a_plain_classifier(dataset, tmp_path):
    run = tmp_path / "cosine"
    quietly(settings(**PLAIN, loss="ldam-drw", drw_epoch=1, head="cosine"), dataset, run)
    table = predictions.read(run / runs.VAL_PREDICTIONS).values
    assert np.abs(table).max() <= 30, "30 times a cosine"
    again = predict(run, dataset, "val", PredictOptions(device="cpu"))
    np.testing.assert_allclose(again.values, table, rtol=1e-3, atol=1e-3)
    assert retrain_settings(run, dataset, {}).model.head.name == "linear"
    with pytest.raises(UserError, match="head cosine: .* loss bce has no scale"):
        retrain_settings(run, dataset, {"new_head": False})
    kept = retrain_settings(run, dataset, {"new_head": False, "loss": "ldam", "epochs": 1, "device": "cpu"})
    quietly(kept, dataset, tmp_path / "kept")
    quietly(crt(run, dataset, epochs=1), dataset, tmp_path / "crt")
    assert Run.open(tmp_path / "crt").settings.model_options().logit_scale == 1


def test_a_killed_run_continues_with_the_features_of_its_own_backbone(finished, dataset, tmp_path):
    out, _ = finished
    same = crt(out, dataset, lr=1e-2)
    quietly(same, dataset, tmp_path / "whole")
    hooks = stopped_at(3, 8)
    for position in (24, 56):  # after the third of seven steps, then in the validation that follows them
        with pytest.raises(Stopped):
            quietly(same, dataset, tmp_path / "killed", hooks=hooks)
        state = load_last(tmp_path / "killed")
        assert (state["epoch"], state["position"]) == (0, position)
    quietly(same, dataset, tmp_path / "killed", hooks=hooks)
    left, right = (load_last(tmp_path / name)["model"] for name in ("whole", "killed"))
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_kept_classifier_starts_where_the_run_ended(finished, dataset, tmp_path):
    out, _ = finished
    kept = crt(out, dataset, new_head=False, lr=1e-9, epochs=1)
    quietly(kept, dataset, tmp_path / "kept")
    before, after = (predictions.read(run / runs.VAL_PREDICTIONS).values for run in (out, tmp_path / "kept"))
    # the same logits, although the run's classifier was scaled by 30 and this one is not
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3)
    quietly(crt(out, dataset, lr=1e-9, epochs=1), dataset, tmp_path / "new")
    assert np.abs(predictions.read(tmp_path / "new" / runs.VAL_PREDICTIONS).values - before).max() > 0.1


def test_a_kept_classifier_is_that_of_the_run_s_own_head(finished, dataset):
    message = "head kept: .* has the head linear, whose classifier fits no head csra .*; give --head new"
    with pytest.raises(UserError, match=message):
        retrain_settings(finished[0], dataset, {"new_head": False, "head": "csra"})
    made = retrain_settings(finished[0], dataset, {"new_head": True, "head": "csra", "csra_lambda": 0.3})
    assert made.model.head == HEADS["csra"](csra_lambda=0.3)


def test_the_draws_are_balanced(finished, dataset, tmp_path, monkeypatch):
    seen = []
    whole = CachedLoader.__iter__

    def watch(self):
        for batch in whole(self):
            if self._loader.sampler:
                seen.extend(batch.rows.tolist())
            yield batch

    monkeypatch.setattr(CachedLoader, "__iter__", watch)
    out, _ = finished
    quietly(crt(out, dataset, epochs=20), dataset, tmp_path / "crt")
    labels = dataset.labels()
    train_rows, _ = train_and_validation(dataset, labels, settings().data)
    sampler = SAMPLERS["class-balanced"]().over(train_rows, (labels.values == 1).astype(np.float32), 0, 1)
    positive = labels.values[train_rows] == 1
    expected, natural = sampler.weighted @ positive, positive.mean(axis=0)
    assert (labels.values[seen] == 1).mean(axis=0) == pytest.approx(expected, abs=0.05)
    assert abs(expected - natural).max() > 0.02


def test_cached_loaders_continue_anywhere(finished, dataset):
    from cxrdali.data.loader import Loader
    from cxrdali.data.options import LoaderOptions

    rows = np.flatnonzero(dataset.packed)
    features = torch.arange(len(rows), dtype=torch.float32)[:, None]
    options = LoaderOptions(48, 4, threads=1)
    loader = Loader(dataset, rows, options, seed=1, shuffle=True, drop_last=True)
    cached = CachedLoader(loader, rows, features)
    whole, following = ([batch.rows.tolist() for batch in cached] for _ in range(2))
    assert len(whole) == len(cached)
    for epoch, batches in enumerate((whole, following)):
        assert np.concatenate(batches).tolist() == loader.epoch_rows(epoch)[: 4 * len(cached)].tolist()
    assert [batch.images[:, 0].tolist() for batch in _again(cached, 0)] == [
        np.searchsorted(rows, batch).tolist() for batch in whole
    ]
    assert [batch.rows.tolist() for batch in _again(cached, 8)] == whole[2:]


def _again(loader, position):
    loader.load_state_dict({"epoch": 0, "position": position})
    return loader


@register_model
def cxrdali_test_headless(pretrained=False, num_classes=10, **_):
    class Headless(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, num_classes)

        def get_classifier(self):
            return self.head

        def forward(self, images):
            return self.head(images.mean(dim=(2, 3)))

    return Headless()


@register_model
def cxrdali_test_convolution_last(pretrained=False, num_classes=10, **_):
    class ConvolutionLast(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = torch.nn.Conv2d(3, 4, 3, 2), torch.nn.Conv2d(4, num_classes, 1)

        def get_classifier(self):
            return self.head

        def forward(self, images):
            return self.head(self.stem(images)).mean(dim=(2, 3))

    return ConvolutionLast()


def test_a_gpu_too_small_for_the_features_names_the_way_out(finished, dataset, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("cxrdali.train.features.logits", full)
    out, _ = finished
    with pytest.raises(UserError, match=r"no room for features of \d+ images, .* each; use --no-cache-features"):
        quietly(crt(out, dataset), dataset, tmp_path / "crt")


def test_features_that_are_no_vector_are_not_kept(dataset, tmp_path):
    """The classifier is retrained through the backbone, as without keeping features."""
    run, said = tmp_path / "run", []
    quietly(settings(arch="cxrdali_test_convolution_last", epochs=1), dataset, run)
    assert not dry_run(crt(run, dataset, epochs=1), dataset, tmp_path / "crt").cached
    with heard(said):
        quietly(crt(run, dataset, epochs=1), dataset, tmp_path / "crt")
    assert [line for line in said if line.startswith("features")] == [
        "features are computed anew in every epoch: a classifier of 'cxrdali_test_convolution_last' sees [4, 23, 23] "
        "of an image, not a vector"
    ]
    quietly(crt(run, dataset, epochs=1, cache_features=False), dataset, tmp_path / "through")
    one, other = (load_file(tmp_path / name / runs.BEST) for name in ("crt", "through"))
    assert all(torch.equal(one[key], other[key]) for key in one | other)


def test_a_run_without_a_backbone_has_nothing_to_freeze(dataset, tmp_path):
    quietly(settings(arch="cxrdali_test_headless", epochs=1), dataset, tmp_path / "run")
    with pytest.raises(UserError, match="'cxrdali_test_headless' has no backbone beside its classifier"):
        quietly(crt(tmp_path / "run", dataset), dataset, tmp_path / "crt")


def test_runs_that_cannot_be_retrained_are_named(finished, dataset, tmp_path):
    with pytest.raises(UserError, match="nothing: no run"):
        crt(tmp_path / "nothing", dataset)
    out, _ = finished
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_bytes((out / "config.json").read_bytes())
    with pytest.raises(UserError, match="this run has finished 0 of 2 epochs; finish it first"):
        crt(half, dataset)
    (half / "progress.json").write_bytes((out / "progress.json").read_bytes())
    with pytest.raises(UserError, match=r"best.safetensors: is missing, the weights of epoch \d; restore it"):
        crt(half, dataset)
    config = json.loads((out / "config.json").read_text())
    (half / "config.json").write_bytes(sealed_json(config | {"dataset": {"id": "other"}}))
    with pytest.raises(UserError, match="half: was trained on another dataset than .*; give the dataset of the run"):
        crt(half, dataset)


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "efficientformerv2_s0", "densenet121", "test_vit"])
def test_classifier_of_features_is_the_whole_model(arch):
    model = create(ModelOptions(arch, 64, pretrained=False), 4).eval()
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(model.classify(model.features(images)), model(images))
