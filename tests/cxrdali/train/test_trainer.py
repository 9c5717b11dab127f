"""Real stages on the CPU: a model of 100,000 parameters at 48 and 64 pixels, seconds each."""

import csv
import dataclasses
import itertools
import json
import math
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from cxrdali import predictions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import FoldOptions, train_and_validation
from cxrdali.models.classifier import Classifier, ModelOptions, create
from cxrdali.models.loss_module import LossModule, bce_sum, known_targets
from cxrdali.models.weights import load_initial
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.runs import folder, layout
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import STAGES, settings_of
from cxrdali.train import build
from cxrdali.train import trainer as training
from cxrdali.train.hooks import Hooks
from cxrdali.train.rates import Rates
from cxrdali.train.state import State
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.heard import heard
from tests.releases import FINDINGS

ARCH = "test_efficientnet"


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 3, "arch": ARCH, "pretrained": False, "device": "cpu"}
    return settings_of(**{**given, **changes})


def quietly(*arguments, **options):
    return train(*arguments, **options)


def rows_of(path):
    return list(csv.DictReader(path.open()))


def same_weights(one, two):
    left, right = load_file(one / layout.BEST), load_file(two / layout.BEST)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """A finished run of three epochs, and what it said."""
    out, said = tmp_path_factory.mktemp("runs") / "stage1", []
    with heard(said):
        train(settings(), dataset, out)
    return out, said


# ---------------------------------------------------------------- the run folder


def test_the_defaults_are_the_paper_s():
    assert STAGES == {1: (224, 256), 2: (320, 128), 3: (512, 48)}
    made = settings_of(stage=2)
    data, optimizer = made.data, made.optimizer
    assert (data.size, optimizer.batch, optimizer.epochs, optimizer.warmup_epochs) == (320, 128, 30, 1)
    assert (optimizer.lr, optimizer.weight_decay) == (1e-3, 1e-6)
    assert (made.model.arch, made.model.norm) == ("tf_efficientnetv2_s.in21k_ft_in1k", "imagenet")
    assert (data.flips, data.cutout, data.augment) == ("horizontal", "off", ())
    assert (data.uncertain, data.group) == ("negative", "subject")


def test_a_run_holds_what_it_promises(unbroken, dataset):
    out, _ = unbroken
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["data"]["size"] == 48 and config["findings"] == list(FINDINGS)
    assert config["dataset"]["id"] == dataset.id and config["versions"]["torch"] == torch.__version__.split("+")[0]
    assert config["synthetic"] is False
    metrics = rows_of(out / "metrics.csv")
    assert [row["epoch"] for row in metrics] == ["1", "2", "3"]
    for row in metrics:
        assert 0 < float(row["train_loss"]) < 5 and 0 < float(row["val_loss"]) < 5
        assert 0 <= float(row["wait_seconds"]) <= float(row["train_seconds"])
        assert float(row["images_per_second"]) == pytest.approx(int(row["images"]) / float(row["train_seconds"]))
    assert list((out / "tensorboard").iterdir())
    assert not [path for path in out.iterdir() if "new" in path.name or "part" in path.name]


def test_every_epoch_s_metrics_are_those_of_its_predictions(unbroken, dataset):
    out, _ = unbroken
    labels = dataset.labels("cxr-lt-2023")
    _, validation = train_and_validation(dataset, labels, FoldOptions())
    table = predictions.read(out / "val_predictions.parquet")
    assert table.ids["image_id"].tolist() == dataset.catalog["image_id"].iloc[validation].tolist()
    metrics = rows_of(out / "metrics.csv")
    best = max(metrics, key=lambda row: float(row["mAP"]))
    truth = labels.values[validation]
    found = {row["finding"]: row for row in rows_of(out / "findings.csv") if row["epoch"] == best["epoch"]}
    aps = []
    for place, name in enumerate(labels.findings):
        if truth[:, place].any():
            aps.append(average_precision_score(truth[:, place], table.values[:, place]))
            assert float(found[name]["AP"]) == pytest.approx(aps[-1])
        else:
            assert found[name]["AP"] == "" and found[name]["positives"] == "0"
    assert float(best["mAP"]) == pytest.approx(np.mean(aps))
    logits = table.values.astype(np.float64)
    loss = np.mean(np.logaddexp(0, logits) - truth * logits)
    assert float(best["val_loss"]) == pytest.approx(loss)


def test_the_best_weights_are_those_that_predicted(unbroken, dataset):
    out, _ = unbroken
    table = predict(out, dataset, "val", PredictOptions(device="cpu"))
    np.testing.assert_allclose(
        table.values, predictions.read(out / "val_predictions.parquet").values, rtol=1e-4, atol=1e-5
    )
    with safe_open(out / layout.BEST, framework="pt") as file:
        assert file.metadata()["findings"].split("\n") == list(FINDINGS)
        assert set(file.keys()) == set(create(_model_options(), len(FINDINGS)).backbone.state_dict())


def _model_options():
    return ModelOptions(ARCH, 48, pretrained=False)


def test_the_learning_rate_warms_up_linearly_then_falls_to_zero(dataset):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = Rates(optimizer, settings(epochs=5).optimizer, [10] * 5)
    rates = []
    for step in range(50):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    expected = [1e-3 * (step + 1) / 11 for step in range(10)]
    expected += [0.5e-3 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert rates == pytest.approx(expected)


def test_the_rate_falls_by_epoch_as_torch_s_cosine_or_not_at_all():
    given = {"epochs": 15, "warmup_epochs": 0, "lr": 1e-4, "min_lr": 1e-6}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15, eta_min=1e-6)
    expected = []
    for _ in range(15):
        expected += [optimizer.param_groups[0]["lr"]] * 7
        optimizer.step()
        theirs.step()
    assert rates_of(given | {"lr_schedule": "epoch"}, 7) == pytest.approx(expected)
    assert rates_of(given | {"lr_schedule": "constant"}, 7) == pytest.approx([1e-4] * 105)
    # the warm-up is by step
    warm = rates_of(given | {"lr_schedule": "epoch", "warmup_epochs": 2}, 7)
    assert warm[:14] == pytest.approx([1e-4 * (step + 1) / 15 for step in range(14)])
    assert warm[14:21] == pytest.approx([1e-4] * 7) and warm[21] < 1e-4 and warm[21:28] == [warm[21]] * 7


def rates_of(given, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=given["lr"])
    schedule, rates = Rates(optimizer, settings(**given).optimizer, [steps] * given["epochs"]), []
    for step in range(given["epochs"] * steps):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_it_says_what_it_does(unbroken):
    _, said = unbroken
    text = "\n".join(said)
    assert "fp32 on cpu, decode cpu" in text and "0 subjects on both sides" in text
    assert "not in mAP, no positive in validation: Hernia" in text
    assert "% waiting for data" in text and "images/s" in text


def test_training_learns(dataset, tmp_path):
    """The loss of a model that may memorise 58 images falls by a third."""
    out = tmp_path / "run"
    quietly(settings(epochs=12, lr=3e-3, cutout="off"), dataset, out)
    losses = [float(row["train_loss"]) for row in rows_of(out / "metrics.csv")]
    assert losses[-1] < losses[0] * 2 / 3


# ---------------------------------------------------------------- again, and again


def test_a_finished_run_is_left_alone(unbroken, dataset):
    out, _ = unbroken
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.pt")}
    assert quietly(settings(), dataset, out).already_finished
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.pt")} == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": 64}, "another size: 48 there, 64 now"),
        ({"lr": 0.1}, "another lr: 0.001 there, 0.1 now"),
        ({"epochs": 4}, "another epochs: 3 there, 4 now"),
        ({"labels": "chexpert"}, "another labels: 'cxr-lt-2023' there, 'chexpert' now"),
        ({"seed": 1}, "another seed: 0 there, 1 now"),
    ],
)
def test_other_settings_on_the_same_folder_are_named(unbroken, dataset, change, message):
    with pytest.raises(UserError, match=message):
        quietly(settings(**change), dataset, unbroken[0])


def test_another_dataset_on_the_same_folder_is_refused(unbroken, dataset):
    """Its id alone says nothing: the same images may lie in other shards. These are said to be packed otherwise."""
    info = json.loads(json.dumps(dataset.info))
    for shard in info["sizes"]["48"]["shards"]:
        shard["content"] += 1
    info["options"]["quality"] = 50
    assert quietly(settings(), dataclasses.replace(dataset, info=info), unbroken[0]).already_finished
    info["id"] = "0" * 64
    with pytest.raises(UserError, match="with another dataset: .* packed otherwise: quality 95 there, 50 here; give"):
        quietly(settings(), dataclasses.replace(dataset, info=info), unbroken[0])


def test_a_folder_with_other_things_is_refused(dataset, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds 'thesis.tex', which is no run"):
        quietly(settings(), dataset, tmp_path)


def test_a_run_that_could_not_begin_does_not_stand_in_the_way(dataset, tmp_path):
    with pytest.raises(UserError, match="no such weights file"):
        quietly(settings(init=str(tmp_path / "none.pt")), dataset, tmp_path / "run")
    assert quietly(settings(epochs=1), dataset, tmp_path / "run").epochs == 1


def stopped_at(*moments):
    """Hooks that ask a run to stop at these moments, from 1: each is after a step or a validation batch."""
    asked = itertools.count(1)
    return Hooks(should_stop=lambda: 15 if next(asked) in moments else None)


@pytest.mark.parametrize("at", [1, 4, 7, 8, 9, 12, 26])
def test_a_run_stopped_anywhere_continues_to_the_same_weights(unbroken, dataset, tmp_path, at):
    """7 steps and 2 validation batches an epoch: within the first epoch, at its last step, in validation, later."""
    out = tmp_path / "run"
    with pytest.raises(Stopped, match="SIGTERM; saved, the same command continues"):
        quietly(settings(), dataset, out, hooks=stopped_at(at))
    quietly(settings(threads=1), dataset, out)  # threads may differ
    assert same_weights(out, unbroken[0])
    for name in ("metrics.csv", "findings.csv"):
        ignored = ("images_per_second", "train_seconds", "wait_seconds", "val_seconds")
        clean = [
            [{k: v for k, v in row.items() if k not in ignored} for row in rows_of(o / name)]
            for o in (out, unbroken[0])
        ]
        assert clean[0] == clean[1]


def test_a_kill_between_the_two_renames_loses_nothing(unbroken, dataset, tmp_path):
    """last.pt is committed, everything else still has its .new name, and the tables are those of before."""
    out = tmp_path / "run"
    shutil.copytree(unbroken[0], out)
    state = folder.load_last(out)
    with safe_open(out / layout.BEST, framework="pt") as file:
        assert int(file.metadata()["epoch"]) == state["best_epoch"]
    for name, new in folder.NEW.items():
        (out / name).rename(out / new)
    (out / "metrics.csv").write_text("half a li")
    quietly(settings(), dataset, out)
    assert same_weights(out, unbroken[0]) and len(rows_of(out / "metrics.csv")) == 3
    assert (out / layout.PROGRESS).read_bytes() == (unbroken[0] / layout.PROGRESS).read_bytes()
    assert not list(out.glob("*.new.*"))


def test_best_weights_of_an_epoch_that_was_not_committed_are_dropped(unbroken, dataset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken[0], out)
    (out / folder.NEW[layout.BEST]).write_bytes(b"cut off")
    quietly(settings(), dataset, out)
    assert same_weights(out, unbroken[0]) and not list(out.glob("*.new.*"))


def test_a_second_trainer_on_the_folder_stops_at_once(dataset, tmp_path):
    from shards.storage.files import only_one

    with only_one(tmp_path / ".lock", "x"), pytest.raises(UserError, match="another process is training into it"):
        quietly(settings(), dataset, tmp_path)


# ---------------------------------------------------------------- stages


def test_a_stage_starts_from_the_best_weights_of_the_one_before(unbroken, dataset, tmp_path):
    out = tmp_path / "stage2"
    frozen = settings(stage=2, size=64, epochs=1, lr=1e-12, init=str(unbroken[0]))
    quietly(frozen, dataset, out)
    for key, value in load_file(out / layout.BEST).items():
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, load_file(unbroken[0] / layout.BEST)[key], rtol=0, atol=1e-6)


def test_an_unfinished_run_is_no_start_unless_its_file_is_named(dataset, tmp_path):
    half = tmp_path / "stage1"
    with pytest.raises(Stopped):
        quietly(settings(), dataset, half, hooks=stopped_at(12))
    with pytest.raises(UserError, match=r"has finished 1 of 3 epochs; finish it first, or .*best.safetensors"):
        quietly(settings(stage=2, size=64, init=str(half)), dataset, tmp_path / "stage2")
    shutil.rmtree(tmp_path / "stage2")
    quietly(settings(stage=2, size=64, epochs=1, init=str(half / layout.BEST)), dataset, tmp_path / "stage2")


def test_a_run_on_other_findings_is_no_start(unbroken, dataset, tmp_path):
    other = settings(stage=2, size=64, labels="chexpert", init=str(unbroken[0]))
    with pytest.raises(UserError, match=r"finding 'Hernia' \(and 1 more\) is only in these weights"):
        quietly(other, dataset, tmp_path / "stage2")


# ---------------------------------------------------------------- batches and losses


def test_micro_batches_give_the_batch_s_gradient():
    """In float64, with ignored targets spread unevenly over the micro-batches."""
    torch.manual_seed(0)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    inputs, targets = torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 2, (8, 3)).double()
    targets[0, :] = targets[5, 1] = float("nan")

    def gradient(size):
        weight.grad = None
        known = known_targets(targets)
        for chunk, part in zip(inputs.split(size), targets.split(size), strict=True):
            (bce_sum(chunk @ weight, part) / known).backward()
        return weight.grad

    known = ~torch.isnan(targets)
    weight.grad = None
    torch.nn.functional.binary_cross_entropy_with_logits(
        (inputs @ weight)[known].float(), targets[known].float()
    ).backward()
    expected = weight.grad.clone()
    for size in (8, 4, 1):
        torch.testing.assert_close(gradient(size), expected, rtol=1e-5, atol=1e-7)


def test_micro_batches_see_the_same_samples(dataset, tmp_path):
    """Without batch normalisation the whole run is the same, up to the rounding of sums."""
    common = {"arch": "test_vit", "size": 64, "epochs": 2}
    quietly(settings(**common), dataset, tmp_path / "whole")
    quietly(settings(**common, micro_batch=2), dataset, tmp_path / "parts")
    whole, parts = (rows_of(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    for one, two in zip(whole, parts, strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(two["train_loss"]), rel=1e-3)


def test_bf16_trains_on_the_cpu(dataset, tmp_path):
    quietly(settings(precision="bf16", epochs=1), dataset, tmp_path / "run")
    assert math.isfinite(float(rows_of(tmp_path / "run" / "metrics.csv")[0]["train_loss"]))


def test_limit_batches_limits_training_and_validation(dataset, tmp_path):
    quietly(settings(limit_batches=1, epochs=1), dataset, tmp_path / "run")
    assert rows_of(tmp_path / "run" / "metrics.csv")[0]["images"] == "8"
    assert len(predictions.read(tmp_path / "run" / "val_predictions.parquet").values) == 8


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_way_out(unbroken, dataset, tmp_path):
    weights = load_file(unbroken[0] / layout.BEST)
    weights["classifier.bias"][0] = 3e38  # finite: NaN would not be read
    torch.save(weights, tmp_path / "bad.pt")
    with pytest.raises(
        UserError, match=r"the loss became inf in epoch 1, by step 7; lower --lr, with another --out. .* is of epoch 0"
    ):
        quietly(settings(init=str(tmp_path / "bad.pt")), dataset, tmp_path / "run")
    assert not (tmp_path / "run" / layout.LAST).exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stage": 4}, "stage 4: choose 1, 2 or 3"),
        ({"batch": 8, "micro_batch": 3}, "micro-batch 3: must divide the batch, 8"),
        ({"epochs": 0}, "epochs 0: at least 1"),
        ({"lr": 0}, "lr 0: above 0"),
        ({"precision": "int8"}, "precision 'int8': choose one of auto, bf16, fp16, fp32"),
        ({"fold": 9}, "fold 9: 0 to 4"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        settings(**change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_gpu_that_is_not_there_is_named(dataset, tmp_path):
    with pytest.raises(UserError, match="device 'cuda': torch sees no GPU here; use --device cpu"):
        quietly(settings(device="cuda"), dataset, tmp_path / "run")


def test_a_full_gpu_names_the_way_out(dataset, tmp_path, monkeypatch):
    """Raised by hand: there is no GPU to fill here. The type is the one that torch raises."""

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LossModule, "forward", full)
    with pytest.raises(UserError, match=r"the GPU is full at 48 px with 8 images at a time; use --micro-batch 4"):
        quietly(settings(), dataset, tmp_path / "run")


# ---------------------------------------------------------------- prediction


def test_predictions_cover_a_split_once_in_catalog_order(unbroken, dataset):
    labels = dataset.labels("cxr-lt-2023")
    for split, rows in (("test", np.flatnonzero(labels.split == "test")), ("all", np.arange(120))):
        table = predict(unbroken[0], dataset, split, PredictOptions(device="cpu", batch=7))
        assert table.ids["image_id"].tolist() == dataset.catalog["image_id"].iloc[rows].tolist()
        assert table.findings == FINDINGS and table.provenance.split == split


def test_predicting_val_on_other_labels_is_refused(unbroken, dataset):
    with pytest.raises(UserError, match="so its val split is not there; choose dev, test or all"):
        predict(unbroken[0], dataset, "val", PredictOptions(labels="chexpert", device="cpu"))


def test_a_folder_that_is_no_run_is_named(dataset, tmp_path):
    with pytest.raises(UserError, match="no run .no config.json in it"):
        predict(tmp_path, dataset, "test", PredictOptions(device="cpu"))


def test_stages_and_seeds_draw_their_own_orders():
    from cxrdali.runs.settings import sampling_seed

    assert len({sampling_seed(seed, stage) for seed in range(50) for stage in (1, 2, 3)}) == 150


# ---------------------------------------------------------------- what a run does with its settings


def built(monkeypatch, dataset, tmp_path, **changes):
    """The parts of a run of one epoch, after it."""
    made = []
    original = training.build
    monkeypatch.setattr(training, "build", lambda *given: made.append(original(*given)) or made[0])
    quietly(settings(epochs=1, **changes), dataset, tmp_path / "run")
    return made[0]


def test_training_augments_with_the_stage_s_own_seed_and_validation_does_not(monkeypatch, dataset, tmp_path):
    parts = built(monkeypatch, dataset, tmp_path, stage=2, seed=5, cutout="random")
    assert parts.loader.augment.cutout == "random" and parts.loader.augment.hflip == 0.5
    assert parts.loader.seed == 4 * 5 + 2 and parts.loader.shuffle and parts.loader.drop_last
    assert parts.val_loader.augment is None and not parts.val_loader.shuffle


def test_the_choice_for_uncertain_labels_reaches_the_loss(monkeypatch, dataset, tmp_path):
    parts = built(monkeypatch, dataset, tmp_path, labels="chexpert", uncertain="ignore-all")
    values = dataset.labels("chexpert").values
    assert np.isnan(parts.data.targets).sum() == ((values == -1) | (values == 9)).sum() > 0
    assert torch.equal(
        torch.isnan(parts.targets(torch.arange(len(values)))), torch.from_numpy(np.isnan(parts.data.targets))
    )


def test_weight_decay_and_order_are_the_settings(monkeypatch, dataset, tmp_path):
    parts = built(monkeypatch, dataset, tmp_path, order="windowed")
    assert parts.step.optimizer.param_groups[0]["weight_decay"] == 1e-6
    assert parts.loader.options.order == "windowed"


def test_the_best_epoch_follows_select_by(dataset, tmp_path):
    for select_by, column in (("map", "mAP"), ("lrap", "LRAP")):
        out = tmp_path / select_by
        summary = quietly(settings(select_by=select_by, epochs=4, seed=3), dataset, out)
        scores = [float(row[column]) for row in rows_of(out / "metrics.csv")]
        assert summary.best_epoch == int(np.argmax(scores)) + 1 and summary.best_score == max(scores)


@pytest.mark.parametrize("group", ["selection", "labels", "init_sha256", "precision"])
def test_a_run_whose_inputs_changed_is_refused(unbroken, dataset, tmp_path, group):
    out, init = tmp_path / "run", {"init": str(unbroken[0])} if group == "init_sha256" else {}
    quietly(settings(epochs=1, **init), dataset, out)
    config = json.loads((out / "config.json").read_text())
    config[group] = {"train_images": 1} if group == "selection" else "changed"
    (out / "config.json").write_bytes(
        sealed_json(config | {"labels": {"name": "x", "sha256": ""}} if group == "labels" else config)
    )
    other = "other labels" if group == "labels" else f"another {group}"
    with pytest.raises(UserError, match=f"holds a run with {other}"):
        quietly(settings(epochs=1, **init), dataset, out)


def test_a_last_pt_with_code_or_of_something_else_is_refused(unbroken, dataset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken[0], out)
    for content in (torch.zeros(2), {"epoch": dataclasses}):
        (out / layout.LAST).unlink()
        try:
            torch.save(content, out / layout.LAST)
        except (TypeError, AttributeError):
            (out / layout.LAST).write_bytes(b"no checkpoint")
        with pytest.raises(UserError, match="last.pt: no state to continue from"):
            quietly(settings(), dataset, out)


def test_dropout_is_continued_exactly(dataset, tmp_path):
    """torch's generator is part of the state."""
    quietly(settings(epochs=2, dropout=0.5), dataset, tmp_path / "whole")
    with pytest.raises(Stopped):
        quietly(settings(epochs=2, dropout=0.5), dataset, tmp_path / "parts", hooks=stopped_at(3))
    torch.manual_seed(99)
    quietly(settings(epochs=2, dropout=0.5), dataset, tmp_path / "parts")
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_kill_between_renames_is_finished_by_the_trainer_before_stage_2_starts(unbroken, dataset, tmp_path):
    """progress.json is the last to get its name: until then the run counts as unfinished."""
    run = tmp_path / "stage1"
    shutil.copytree(unbroken[0], run)
    (run / layout.BEST).rename(run / folder.NEW[layout.BEST])
    before = json.loads((run / layout.PROGRESS).read_bytes())
    (run / layout.PROGRESS).write_bytes(sealed_json({**before, "epoch": 2, "finished": False}))
    with pytest.raises(UserError, match="stage1: this run has finished 2 of 3 epochs; finish it first"):
        build.initial_weights(str(run))
    assert quietly(settings(), dataset, run).already_finished
    assert build.initial_weights(str(run)) == run / layout.BEST
    assert same_weights(run, unbroken[0])
    (run / layout.BEST).unlink()
    with pytest.raises(UserError, match=r"best.safetensors: is missing, the weights of epoch \d; restore it"):
        build.initial_weights(str(run))


def test_a_run_continues_after_its_initial_weights_are_gone(unbroken, dataset, tmp_path):
    before, out = tmp_path / "stage1", tmp_path / "stage2"
    shutil.copytree(unbroken[0], before)
    second = settings(stage=2, size=64, epochs=2, init=str(before))
    with pytest.raises(Stopped):
        quietly(second, dataset, out, hooks=stopped_at(9))
    shutil.rmtree(before)
    assert quietly(second, dataset, out).epochs == 2


def test_a_fold_that_comes_out_differently_is_not_predicted(unbroken, dataset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken[0], out)
    config = json.loads((out / "config.json").read_text())
    config["settings"]["data"]["fold"] = 1
    (out / "config.json").write_bytes(sealed_json(config))
    with pytest.raises(UserError, match="fold 1 comes out differently here"):
        predict(out, dataset, "val", PredictOptions(device="cpu"))


def test_fp16_on_the_cpu_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="precision 'fp16' needs a GPU"):
        quietly(settings(precision="fp16"), dataset, tmp_path / "run")


# ---------------------------------------------------------------- oversampling


def test_oversampling_doubles_the_images_and_says_so(unbroken, dataset, tmp_path):
    """By AP under the unbroken run: every finding with an AP, so that what is expected can be counted by hand."""
    labels = dataset.labels()
    given = {"oversample_below": 1.0, "oversample_from": str(unbroken[0]), "epochs": 1}
    said, loaded = [], []

    class Noted(Loader):
        def __init__(self, dataset, rows, options, **more):
            loaded.append(list(rows))
            super().__init__(dataset, rows, options, **more)

    with heard(said):
        train(settings(**given), dataset, tmp_path / "run", loader=Noted)
    config = Run.open(tmp_path / "run").config
    record = config["oversampling"]
    best = folder.load_last(unbroken[0])
    ap = {row["finding"]: row["AP"] for row in best["findings"] if row["epoch"] == best["best_epoch"]}
    assert record["findings"] == [name for name in labels.findings if ap[name] < 1]
    assert record["without_ap"] == [name for name in labels.findings if ap[name] != ap[name]] != []
    train_rows, _ = train_and_validation(dataset, labels, FoldOptions())
    chosen = [labels.findings.index(name) for name in record["findings"]]
    twice = [row for row in train_rows if (labels.values[row, chosen] == 1).any()]
    assert record["images_doubled"] == len(twice) > 0
    assert record["epoch_images"] == len(train_rows) + len(twice)
    assert config["selection"]["train_images"] == len(train_rows)
    assert sorted(loaded[0]) == sorted([*train_rows, *twice])
    text = " ".join(said)
    assert f"oversampling {', '.join(record['findings'])}: {len(twice):,} images twice" in text
    assert f"not chosen, without an AP there: {', '.join(record['without_ap'])}" in text
    first = rows_of(tmp_path / "run" / layout.METRICS)[0]
    assert int(first["images"]) == record["epoch_images"] // 8 * 8


def test_an_oversampled_run_continues_after_its_source_is_gone_and_refuses_another_list(unbroken, dataset, tmp_path):
    source = tmp_path / "ap.csv"
    names = dataset.labels().findings
    source.write_text("finding,AP\n" + "".join(f"{name},{0.05 if name == 'Mass' else 0.5}\n" for name in names))
    given = {"oversample_below": 0.1, "oversample_from": str(source), "epochs": 2}
    out = tmp_path / "run"
    quietly(settings(**given), dataset, out)
    assert Run.open(out).oversampling["findings"] == ["Mass"]
    again = quietly(settings(**given), dataset, out)
    assert again.already_finished
    source.write_text(source.read_text().replace("Edema,0.5", "Edema,0.01"))
    with pytest.raises(UserError, match="holds a run with another oversampling"):
        quietly(settings(**given), dataset, out)
    source.unlink()
    assert quietly(settings(**given), dataset, out).already_finished


def test_oversampling_from_an_unfinished_run_is_refused(dataset, tmp_path):
    with pytest.raises(Stopped):
        quietly(settings(), dataset, tmp_path / "half", hooks=stopped_at(3))
    with pytest.raises(UserError, match="half: this run has finished 0 of 3 epochs; finish it first, or oversample"):
        quietly(settings(oversample_below=0.1, oversample_from=str(tmp_path / "half")), dataset, tmp_path / "run")


def test_the_seconds_of_a_call_add_up(dataset, tmp_path):
    summary = quietly(settings(), dataset, tmp_path / "run")
    parts = {name: value for name, value in summary.seconds.items() if name != "total"}
    assert set(parts) == {"setup", "training", "waiting", "validation", "compiling", "saving"}
    assert parts["compiling"] == 0
    assert all(value > 0 for name, value in parts.items() if name != "compiling")
    assert sum(parts.values()) == pytest.approx(summary.seconds["total"], rel=0.05)
    assert sum(parts.values()) <= summary.seconds["total"]


def test_compiling_and_waiting_for_the_last_step_are_told_apart(dataset, tmp_path, monkeypatch):
    """Sleeps instead of a compiler: 0.3 s when first trained and when first validated, 0.2 s at an epoch's end."""
    zeros = []

    class Compiled(torch.nn.Module):
        def __init__(self, model, dynamic):
            super().__init__()
            self.model, self.seen = model, set()

        def forward(self, images):
            zeros.append(not images.any())
            if self.model.training not in self.seen:
                self.seen.add(self.model.training)
                time.sleep(0.3)
            return self.model(images)

    whole = State.total_loss

    def total_loss(*arguments):
        time.sleep(0.2)  # at the end of an epoch's training, and once more when it is saved
        return whole(*arguments)

    monkeypatch.setattr(torch, "compile", Compiled)
    monkeypatch.setattr(State, "total_loss", total_loss)
    summary = quietly(settings(compile=True, epochs=2), dataset, tmp_path / "run")
    parts = {name: value for name, value in summary.seconds.items() if name != "total"}
    assert parts["compiling"] >= 0.6
    assert parts["training"] >= 0.4
    assert sum(parts.values()) == pytest.approx(summary.seconds["total"], rel=0.05)
    assert sum(parts.values()) <= summary.seconds["total"], "nothing counts twice"
    assert sum(zeros) == 1, "compiled for validation once"


# ---------------------------------------------------------------- hooks


def test_hooks_see_every_step_and_epoch(unbroken, dataset, tmp_path):
    steps, epochs, asked = [], [], []
    hooks = Hooks(steps.append, epochs.append, lambda: asked.append(None))
    quietly(settings(), dataset, tmp_path / "run", hooks=hooks)
    assert same_weights(tmp_path / "run", unbroken[0])
    assert [(step.epoch, step.position) for step in steps] == [(e, 8 * n) for e in range(3) for n in range(7)]
    assert all(step.images.shape == (8, 1, 48, 48) and step.images.dtype == torch.uint8 for step in steps)
    assert all(len(set(np.concatenate([s.rows for s in steps if s.epoch == e]))) == 56 for e in range(3))
    assert len(asked) == 3 * (7 + 2)
    rows = rows_of(tmp_path / "run" / "metrics.csv")
    assert [str(row["epoch"]) for row in epochs] == [row["epoch"] for row in rows] == ["1", "2", "3"]
    for number, row in enumerate(rows):
        mine = steps[7 * number : 7 * number + 7]
        assert float(row["train_loss"]) == epochs[number]["train_loss"]
        assert float(row["train_loss"]) == pytest.approx(np.mean([float(step.loss) for step in mine]), rel=1e-12)
        assert float(row["lr"]) == mine[-1].lr


# ---------------------------------------------------------------- test-time augmentation


def test_tta_is_the_logit_of_the_mean_probability_over_flipped_images(unbroken, dataset):
    """Against the model fed with images flipped here by NumPy, and probabilities averaged as such."""
    run = unbroken[0]
    plain = predict(run, dataset, "val")
    rows = dataset.catalog.set_index("image_id").index.get_indexer(plain.ids["image_id"])
    loader = Loader(dataset, rows, LoaderOptions(48, len(rows)))
    images = next(iter(loader)).images.numpy()
    model = create(ModelOptions(ARCH, 48, pretrained=False), len(plain.findings))
    load_initial(model, run / layout.BEST, plain.findings)
    model.eval()
    flipped = {"hflip": [images, images[..., ::-1]]}
    flipped["flips"] = [*flipped["hflip"], images[..., ::-1, :], images[..., ::-1, ::-1]]
    for tta, passes in flipped.items():
        with torch.inference_mode():
            each = [torch.sigmoid(model(torch.from_numpy(part.copy()))).double().numpy() for part in passes]
        mean = np.mean(each, axis=0)
        table = predict(run, dataset, "val", PredictOptions(tta=tta))
        np.testing.assert_allclose(table.values, np.log(mean / (1 - mean)), atol=2e-5)
        assert np.abs(table.values - plain.values).max() > 1e-4
        assert table.provenance.tta == tta


@pytest.mark.parametrize(("tta", "passes"), [("none", 1), ("hflip", 2), ("flips", 4)])
def test_tta_decodes_once_and_costs_a_forward_per_pass(unbroken, dataset, monkeypatch, tta, passes):
    seen, loaded = [], []
    forward, batches = Classifier.forward, Loader.__iter__
    monkeypatch.setattr(Classifier, "forward", lambda self, images: seen.append(len(images)) or forward(self, images))
    monkeypatch.setattr(Loader, "__iter__", lambda self: loaded.append(1) or batches(self))
    table = predict(unbroken[0], dataset, "val", PredictOptions(tta=tta))
    assert seen.pop(0) == 2  # black images through the new network
    assert sum(seen) == passes * len(table.values)
    assert len(loaded) == 1


def test_an_unknown_tta_is_named(unbroken, dataset):
    with pytest.raises(UserError, match="tta 'rotate': choose one of none, hflip, flips"):
        predict(unbroken[0], dataset, "val", PredictOptions(tta="rotate"))
