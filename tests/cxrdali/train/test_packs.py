"""Training on two packs as one dataset: what is counted, scored, noted and refused."""

import copy
import json
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from cxrdali import predictions
from cxrdali.data.loader import Loader
from cxrdali.data.splits import train_and_validation
from cxrdali.models.loss_module import LossModule, known_targets
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.runs import layout
from cxrdali.runs.between import between_packs
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import as_trained, difference
from cxrdali.runs.settings import settings_of
from cxrdali.train import packs as scoring
from cxrdali.train.hooks import Hooks
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.selection import select_data
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.dataset.synonyms import FindingsMap
from shards.dataset.union import Union, UnionOptions
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.heard import heard

MASS, HERNIA, EFFUSION = "Mass", "Hernia", "Pleural Effusion"


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 3, "arch": "test_byobnet", "pretrained": False}
    return settings_of(**{**given, "device": "cpu", "folds": 3, **changes})


@pytest.fixture(scope="module")
def union(dataset, nih):
    return Union.of({"mimic": dataset, "nih": nih})


@pytest.fixture(scope="module")
def unbroken(union, tmp_path_factory):
    """A finished run on both packs, and what it said."""
    out, said = tmp_path_factory.mktemp("runs") / "both", []
    with heard(said):
        train(settings(), union, out)
    return out, said


def by_hand(dataset, nih):
    """float [160, 15]: 1, 0 and NaN by pandas from both tables of labels, uncertain and blank as 0; and the names."""
    one, other = (pack.labels() for pack in (dataset, nih))
    frames = [pd.DataFrame(each.values, columns=each.findings) for each in (one, other)]
    frames[1] = frames[1].rename(columns={"Effusion": EFFUSION})
    table = pd.concat(frames, ignore_index=True)
    return table.where(table.isna(), table == 1).astype(float).to_numpy(), tuple(table.columns)


# ---------------------------------------------------------------- what is trained on


def test_counts_targets_and_samplers_see_known_labels_alone(union, dataset, nih, tmp_path):
    wanted, names = by_hand(dataset, nih)
    data = select_data(settings(sampler="class-balanced"), union, union.labels(), tmp_path)
    assert data.findings == names
    np.testing.assert_array_equal(data.targets, wanted)
    train_rows, val_rows = train_and_validation(union, union.labels(), settings().data)
    assert data.train_rows.tolist() == train_rows.tolist() and data.val_rows.tolist() == val_rows.tolist()
    assert data.positives.tolist() == (wanted[train_rows] == 1).sum(axis=0).tolist()
    assert data.negatives.tolist() == (wanted[train_rows] == 0).sum(axis=0).tolist()
    assert data.positives[names.index(EFFUSION)] + data.negatives[names.index(EFFUSION)] == (train_rows >= 120).sum()
    rarest = []  # 1 / images that share the rarest finding, or the having none
    for row in wanted[train_rows]:
        counts = [data.positives[place] for place in np.flatnonzero(row == 1)]
        rarest.append(min(counts) if counts else int((~(wanted[train_rows] == 1).any(axis=1)).sum()))
    weights = 1 / np.array(rarest)
    np.testing.assert_allclose(data.sampler.weighted, weights / weights.sum())


@pytest.mark.parametrize("name", ["bce", "asl", "ldam"])
def test_losses_of_two_packs_are_those_of_known_labels_by_numpy(union, dataset, nih, tmp_path, name):
    wanted, _ = by_hand(dataset, nih)
    data = select_data(settings(), union, union.labels(), tmp_path)
    rows, logits = data.train_rows, np.random.default_rng(1).normal(size=(len(data.train_rows), 15)) * 3
    loss = LossModule(settings(loss=name).loss, data.positives, data.negatives)
    found = float(loss(torch.from_numpy(logits), torch.from_numpy(data.targets[rows]), 0))
    positives, shift, total = (wanted[rows] == 1).sum(axis=0), np.zeros(15), 0.0
    if name == "ldam":  # Cao et al. 2019: 0.5 for the rarest, n^(-1/4) times a constant for the others, times 30
        shift[positives > 0] = 30 * 0.5 * positives[positives > 0] ** -0.25 / positives[positives > 0].min() ** -0.25
    for place, row in enumerate(rows):
        for finding in np.flatnonzero(~np.isnan(wanted[row])):
            x, positive = logits[place, finding], wanted[row, finding] == 1
            x = x - shift[finding] * positive
            p = 1 / (1 + np.exp(-x))
            if name == "asl":  # Ridnik et al. 2021: gammas 4 and 1, clip 0.05
                q = max(p - 0.05, 0)
                total -= (1 - p) * np.log(p) if positive else q**4 * np.log(1 - q)
            else:
                total -= np.log(p) if positive else np.log(1 - p)
    assert found == pytest.approx(total, rel=1e-9)
    assert float(known_targets(torch.from_numpy(data.targets[rows]))) == (~np.isnan(wanted[rows])).sum()


def test_packs_without_a_common_finding_are_trained_together(dataset, nih, tmp_path):
    apart = json.dumps({"packs": {"nih": {name: f"{name} (nih)" for name in dataset.labels().findings}}})
    union = Union.of({"mimic": dataset, "nih": nih}, UnionOptions(FindingsMap.read(apart)))
    data = select_data(settings(findings=apart), union, union.labels(), tmp_path / "new")
    assert len(data.findings) == 20 and (np.isnan(data.targets[data.train_rows]).sum(axis=1) > 0).all()
    train(settings(findings=apart, epochs=1, loss="ldam-drw", drw_epoch=0), union, tmp_path / "run")
    assert len(Run.open(tmp_path / "run").findings) == 20


def test_oversampling_doubles_the_images_of_every_pack(union, dataset, nih, tmp_path):
    wanted, names = by_hand(dataset, nih)
    data = select_data(settings(oversample=(MASS, EFFUSION)), union, union.labels(), tmp_path)
    has = (wanted[data.train_rows][:, [names.index(MASS), names.index(EFFUSION)]] == 1).any(axis=1)
    assert (
        data.epoch_rows.tolist() == np.repeat(data.train_rows, 1 + has).tolist() and has[data.train_rows >= 120].any()
    )


def test_a_pack_that_cannot_be_trained_on_is_named(dataset, nih, tmp_path, monkeypatch):
    labels = nih.labels()
    monkeypatch.setattr(labels.split, "texts", ["dev" if each == "train" else each for each in labels.split.texts])
    monkeypatch.setattr(PackedDataset, "labels", lambda self, name=None: labels if self is nih else REAL(self, name))
    union = Union.of({"mimic": dataset, "nih": nih})
    with pytest.raises(UserError, match="nih: labels 'chestx-ray14' have no packed image in their training .*--data"):
        train(settings(), union, tmp_path / "run")


REAL = PackedDataset.labels


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_known_labels_by_scikit_learn(union, dataset, nih, tmp_path):
    data = select_data(settings(), union, union.labels(), tmp_path)
    values = np.random.default_rng(0).normal(size=(len(data.val_rows), 15)).astype(np.float32)
    wanted, names = by_hand(dataset, nih)
    truth, lrap, mean = wanted[data.val_rows], [], []
    found, pooled = scoring.by_pack(data, values), scoring.pooled(data, values)
    for name, inside in (("mimic", data.val_rows < 120), ("nih", data.val_rows >= 120)):
        known = ~np.isnan(truth[inside][0])
        own, its = truth[inside][:, known], values[inside][:, known]
        aps = [
            average_precision_score(own[:, place], its[:, place]) if 0 < own[:, place].sum() < len(own) else np.nan
            for place in range(own.shape[1])
        ]
        assert found[name].findings == tuple(np.array(names)[known])
        np.testing.assert_allclose(found[name].ap, aps)
        assert found[name].macro_ap == pytest.approx(np.nanmean(aps))
        lrap += [label_ranking_average_precision_score(own, its)] * len(own)
        assert found[name].lrap == pytest.approx(lrap[-1])
        mean.append(np.nanmean(aps))
    for place, ap in enumerate(pooled.ap):
        rows = ~np.isnan(truth[:, place])
        expected = (
            average_precision_score(truth[rows, place], values[rows, place]) if truth[rows, place].any() else None
        )
        assert ap == pytest.approx(expected) if expected is not None else np.isnan(ap)
    assert pooled.lrap == pytest.approx(np.mean(lrap))  # by image, over the findings that its pack knows
    row = scoring.columns(found)
    assert row["mean_mAP"] == pytest.approx(np.mean(mean)) and row["mAP_nih"] == pytest.approx(mean[1])
    assert scoring.by_pack(select_data(settings(), dataset, dataset.labels(), tmp_path), values) == {}


def test_metrics_have_every_pack_and_the_mean_chooses_the_best_epoch(unbroken):
    out, said = unbroken
    run = Run.open(out)
    table = run.metrics
    assert list(table.columns) == [
        *layout.METRIC_COLUMNS, "mAP_mimic", "LRAP_mimic", "macro_AUROC_mimic", "mAP_nih", "LRAP_nih",
        "macro_AUROC_nih", "mean_mAP", "mean_LRAP",
    ]  # fmt: skip
    np.testing.assert_allclose(table["mean_mAP"], (table["mAP_mimic"] + table["mAP_nih"]) / 2)
    assert run.chosen_by == run.progress.metric == "mean_mAP"
    assert run.progress.best_epoch == table["mean_mAP"].argmax() + 1 == run.best["epoch"]
    assert run.progress.best_score == pytest.approx(table["mean_mAP"].max())
    assert "mimic: 43 images to train, 29 to validate, 5 findings of labels cxr-lt-2023" in said
    assert "the same finding: Pleural Effusion: 'Effusion' of nih" in said
    assert any(f"(mimic {table['mAP_mimic'][0]:.4f}, nih {table['mAP_nih'][0]:.4f})" in line for line in said)


def test_a_named_pack_chooses_the_best_epoch(union, unbroken, tmp_path):
    train(settings(select_pack="nih", select_by="lrap"), union, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.chosen_by == run.progress.metric == "LRAP_nih"
    assert run.progress.best_epoch == run.metrics["LRAP_nih"].argmax() + 1
    np.testing.assert_allclose(run.metrics["mAP_nih"], Run.open(unbroken[0]).metrics["mAP_nih"])  # nothing else changed


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"select_pack": "nhi"}, "select-pack 'nhi': no such pack; did you mean nih.  *there are mimic, nih"),
        ({"same_patients": "mimic,nih", "stratify": True}, "same-patients: only ids put a patient of two packs into"),
        ({"same_patients": "mimic"}, "same-patients 'mimic': two names of packs or more"),
    ],
)
def test_settings_that_do_not_fit_the_packs_are_refused(union, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        train(settings(**changes), union, tmp_path / "run")


@pytest.mark.parametrize("changes", [{"select_pack": "a"}, {"findings": '{"A": "B"}'}, {"same_patients": "a,b"}])
def test_settings_of_several_packs_say_nothing_of_one(dataset, tmp_path, changes):
    with pytest.raises(UserError, match="is about several packs, and this is one; leave it out, or give more --data"):
        train(settings(**changes), dataset, tmp_path / "run")


# ---------------------------------------------------------------- which run it is


def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(union, unbroken, tmp_path):
    steps = []
    hooks = Hooks(on_step=steps.append, should_stop=lambda: 15 if len(steps) == 11 else None)
    with pytest.raises(Stopped):
        train(settings(), union, tmp_path / "run", hooks=hooks)
    train(settings(), union, tmp_path / "run")
    one, two = load_file(unbroken[0] / layout.BEST), load_file(tmp_path / "run" / layout.BEST)
    assert all(torch.equal(one[name], two[name]) for name in one)
    columns = ["train_loss", "mAP_nih", "mean_mAP"]
    pd.testing.assert_frame_equal(Run.open(unbroken[0]).metrics[columns], Run.open(tmp_path / "run").metrics[columns])


def test_config_describes_every_pack_as_it_would_alone(unbroken, union, dataset, tmp_path):
    packs = Run.open(unbroken[0]).packs
    assert [each["name"] for each in packs] == ["mimic", "nih"] and packs[0]["root"] == "pack"
    train(settings(epochs=1), dataset, tmp_path / "alone")
    alone = Run.open(tmp_path / "alone").config
    assert "packs" not in alone["dataset"]
    assert {name: packs[0][name] for name in alone["dataset"]} == alone["dataset"]
    assert packs[0]["labels"] == alone["labels"] and packs[0]["findings"] == alone["findings"]
    assert packs[0]["selection"].items() <= alone["selection"].items()
    assert packs[0]["train_positives"] == alone["train_positives"]
    own = Run.open(unbroken[0]).of_pack(packs[0])
    assert own.train_positives == Run.open(tmp_path / "alone").train_positives


def test_other_packs_do_not_continue_it(unbroken, dataset, nih, tmp_path):
    out = shutil.copytree(unbroken[0], tmp_path / "run")
    for packs, words in (
        ({"nih": nih, "mimic": dataset}, "packs mimic, nih there, nih, mimic here"),
        ({"mimic": nih, "nih": dataset}, "another labels: 'mimic=cxr-lt-2023,nih=chestx-ray14' there"),
        ({"mimic": dataset, "nih2": nih}, "packs mimic, nih there, mimic, nih2 here"),
    ):
        with pytest.raises(UserError, match=words):
            train(settings(), Union.of(packs), out)
    with pytest.raises(UserError, match="packs mimic, nih there, one without a name here"):
        train(settings(), dataset, out)
    names = '{"packs": {"nih": {"Mass": "Mass (nih)"}}}'
    with pytest.raises(UserError, match="holds a run with another findings: None there"):
        train(
            settings(findings=names),
            Union.of({"mimic": dataset, "nih": nih}, UnionOptions(FindingsMap.read(names))),
            out,
        )
    assert train(settings(), Union.of({"mimic": dataset, "nih": nih}), out).already_finished


def test_a_run_finds_its_packs_under_other_names_and_in_another_order(unbroken, dataset, nih):
    run = Run.open(unbroken[0])
    found = as_trained(run, {"elsewhere": nih, "mimic": dataset})
    assert [part.name for part in found.parts] == ["mimic", "nih"]
    assert as_trained(run, {"elsewhere": nih}) is nih
    assert difference(run.config["dataset"], run.config["dataset"]) is None


# ---------------------------------------------------------------- predicting


def test_it_predicts_on_all_of_its_packs_and_on_one(unbroken, union, dataset, nih):
    whole = predict(unbroken[0], union, "val", PredictOptions(device="cpu"))
    kept = predictions.read(unbroken[0] / layout.VAL_PREDICTIONS)
    assert whole.ids["image_id"].tolist() == kept.ids["image_id"].tolist()
    np.testing.assert_allclose(whole.values, kept.values, atol=1e-5)
    assert whole.provenance.labels == "mimic=cxr-lt-2023,nih=chestx-ray14"
    for name, pack in (("mimic", dataset), ("nih", nih)):
        alone = predict(unbroken[0], pack, "val", PredictOptions(device="cpu"))
        of = whole.ids["image_id"].str.startswith(f"{name}:").to_numpy()
        assert (f"{name}:" + alone.ids["image_id"]).tolist() == whole.ids["image_id"][of].tolist()
        np.testing.assert_allclose(alone.values, whole.values[of], atol=1e-5)
        assert alone.findings == whole.findings and alone.provenance.labels == pack.labels().name
        assert predict(unbroken[0], pack, "test", PredictOptions(device="cpu")).provenance.seen == ()


def test_what_it_trained_on_is_known_pack_by_pack(unbroken, union, dataset, nih, tmp_path):
    trained = len(train_and_validation(nih, nih.labels(), settings().data)[0])
    seen = predict(unbroken[0], nih, "all", PredictOptions(device="cpu")).provenance.seen
    assert seen == (f"{trained} of 40 images were trained on by both (fold 0 of 3)",)
    both = predict(unbroken[0], union, "all", PredictOptions(device="cpu")).provenance.seen
    assert both == (f"{trained + 43} of 160 images were trained on by both (fold 0 of 3)",)
    train(settings(epochs=1, fold=1), dataset, tmp_path / "alone")
    with pytest.raises(UserError, match=r"trained on by alone \(fold 1 of 3\)"):
        select_data(settings(init=str(tmp_path / "alone")), union, union.labels(), tmp_path / "new")
    with pytest.raises(UserError, match=r"trained on by both"):
        select_data(settings(init=str(unbroken[0]), fold=2), nih, nih.labels(), tmp_path / "new")
    select_data(settings(init=str(unbroken[0])), union, union.labels(), tmp_path / "new")  # the same fold


def test_a_run_of_one_pack_has_no_validation_split_of_another(dataset, nih, union, tmp_path):
    train(settings(epochs=1), dataset, tmp_path / "alone")
    with pytest.raises(UserError, match="was trained on one pack, not on several, so its val split is not"):
        predict(tmp_path / "alone", union, "val", PredictOptions(device="cpu"))
    found = predict(tmp_path / "alone", union, "test", PredictOptions(device="cpu"))
    assert set(found.ids["image_id"].str.split(":").str[0]) == {"mimic", "nih"}


def test_equal_images_of_two_packs_are_no_training_and_validation_images(dataset, tmp_path):
    union = Union.of({"a": dataset, "b": dataset})  # its patients are not said to be the same, but of one fold
    assert select_data(settings(), union, union.labels(), tmp_path).leak == ()
    labels = union.labels()
    train_rows, val_rows = train_and_validation(union, labels, settings().data)
    moved = np.sort([*train_rows[train_rows < 120], *(val_rows[val_rows >= 120])])
    own = val_rows[val_rows < 120]
    count = f"{len(own)} of {len(own)} validation images of a are training images of b"
    assert list(between_packs(union, moved, {"validation": own})) == [count]


def test_the_command_that_lists_equal_images_can_be_pasted(dataset, tmp_path):
    (tmp_path / "my pack").symlink_to(dataset.root)
    union = Union.of({"a": PackedDataset.open(tmp_path / "my pack"), "b": dataset})
    (command,) = between_packs(union, np.arange(120), {"test": np.arange(120, 240)}).values()
    assert shlex.split(command) == ["cxrdali", "overlap", f"a={tmp_path}/my pack", f"b={dataset.root}"]


def test_some_packs_of_a_run_have_what_its_map_and_its_patients_say_of_them(unbroken, union, dataset, nih):
    found = Run.open(unbroken[0])
    config = copy.deepcopy(found.config)
    config["dataset"]["packs"].append({**config["dataset"]["packs"][1], "name": "c", "id": "c", "findings": ["Cyst"]})
    names = {"Cyst": "Mass", "Hernia": "Hiatal Hernia", "packs": {"c": {"Cyst": "Other"}, "nih": {"Mass": "Lump"}}}
    config["settings"]["data"] |= {"findings": json.dumps(names), "same_patients": "mimic,c; c,nih,mimic"}
    some = as_trained(Run(found.path, config, "three"), {"nih": nih, "x": dataset})
    assert [part.name for part in some.parts] == ["mimic", "nih"]
    assert some.options.same_patients == (("nih", "mimic"),)
    labels = some.labels()
    assert {"Mass", "Lump", "Hiatal Hernia"} <= set(labels.findings) and "Hernia" not in labels.findings
    assert (labels.values[120:, labels.findings.index("Mass")] == 8).all()


def test_a_damaged_entry_of_a_pack_is_named(unbroken, tmp_path):
    config = json.loads((unbroken[0] / layout.CONFIG).read_text())
    del config["dataset"]["packs"][1]["places"]
    (tmp_path / layout.CONFIG).write_bytes(sealed_json(config))
    with pytest.raises(UserError, match=r"dataset.packs\[1\].places"):
        Run.open(tmp_path)


# ---------------------------------------------------------------- other ways to begin


def test_the_head_is_retrained_on_both_packs(unbroken, union, tmp_path):
    made = retrain_settings(unbroken[0], union, {"epochs": 1})
    train(made, union, tmp_path / "crt")
    run = Run.open(tmp_path / "crt")
    assert run.findings == Run.open(unbroken[0]).findings and run.config["seen"] == []
    with pytest.raises(UserError, match="was not trained on other"):
        retrain_settings(unbroken[0], Union.of({"mimic": union.parts[0].dataset, "other": union.parts[1].dataset}), {})


def test_a_trial_validates_on_every_pack(union, tmp_path):
    data = select_data(settings(limit_batches=1), union, union.labels(), tmp_path)
    assert [int((data.val_rows < 120).sum()), int((data.val_rows >= 120).sum())] == [8, min(8, 40)]


def test_samples_of_an_epoch_are_those_of_both_packs(union, tmp_path):
    data = select_data(settings(), union, union.labels(), tmp_path)
    loader = Loader(union, data.epoch_rows, settings().loader_options("cpu"), shuffle=True)
    rows = np.concatenate([batch.rows.numpy() for batch in loader])
    assert sorted(rows.tolist()) == data.train_rows.tolist()
    assert 0 < (rows[:16] >= 120).sum() < 16  # mixed, not one pack after the other


def test_nothing_of_several_packs_is_kept_of_one(dataset, tmp_path):
    train(settings(epochs=1), dataset, tmp_path / "run")
    config = json.loads((tmp_path / "run" / layout.CONFIG).read_text())
    data, optimizer = config["settings"]["data"], config["settings"]["optimizer"]
    assert data["findings"] is data["same_patients"] is optimizer["select_pack"] is None
    assert Run.open(tmp_path / "run").metrics.columns.tolist() == list(layout.METRIC_COLUMNS)
