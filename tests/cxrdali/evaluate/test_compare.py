"""Runs side by side: against scikit-learn and a bootstrap written out; what does not compare is refused."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from cxrdali.data.splits import FoldOptions, train_and_validation
from cxrdali.evaluate.compare import CompareOptions, compare, scored_images, write
from cxrdali.predictions import Kind, Predictions, Provenance, catalog_rows, read
from cxrdali.runs.layout import METRICS, VAL_PREDICTIONS
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.cxrdali.comparable_runs import LABELS, change_config, packed, write_progress, write_run
from tests.cxrdali.folds_by_hand import parts_by_hand

DRAWS = 50


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """weak, strong and asl; asl's loss differs, and it has done 2 of 4 epochs."""
    root = tmp_path_factory.mktemp("runs")
    return [
        write_run(root / "weak", dataset, 0.5, seed=1),
        write_run(root / "strong", dataset, 2.0, seed=2),
        write_run(root / "asl", dataset, 0.6, seed=3, loss="asl", epochs=4),
    ]


@pytest.fixture(scope="module")
def result(runs, dataset):
    return compare(runs, dataset, CompareOptions(draws=DRAWS, seed=4))


@pytest.fixture(scope="module")
def truth(dataset):
    """Targets, subject and study of the validation images, in the order of the runs' tables."""
    labels = dataset.labels(LABELS)
    _, rows = train_and_validation(dataset, labels, FoldOptions(folds=2))
    catalog = dataset.catalog.iloc[rows]
    return (labels.values[rows] == 1).astype(float), catalog["subject_id"].to_numpy(), catalog["study_id"].to_numpy()


@pytest.fixture
def copies(runs, tmp_path):
    """The same runs, to be spoilt."""
    return [shutil.copytree(run, tmp_path / run.name) for run in runs]


def refused(runs, dataset, **options):
    with pytest.raises(UserError) as caught:
        compare(runs, dataset, CompareOptions(draws=0, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def defined(truth):
    return [place for place in range(truth.shape[1]) if truth[:, place].any()]


# ---------------------------------------------------------------- scores


def test_scores_are_scikit_learns(result, runs, truth):
    wanted, _, _ = truth
    for run, row in zip(runs, result["runs"], strict=True):
        values = read(run / VAL_PREDICTIONS).values.astype(np.float64)
        for name, score, given in (
            ("mAP", average_precision_score, values),
            ("macro_AUROC", roc_auc_score, values),
        ):
            mean = np.mean([score(wanted[:, f], given[:, f]) for f in defined(wanted)])
            assert row[name] == pytest.approx(mean), name
        squares = [brier_score_loss(wanted[:, f], expit(values[:, f])) for f in range(5)]
        assert row["macro_Brier"] == pytest.approx(np.mean(squares))
        errors = []
        for target, chance in zip(wanted.T, expit(values).T, strict=True):
            bins = np.floor(chance * 15)
            parts = [bins == each for each in np.unique(bins)]
            errors.append(sum(abs(target[part].sum() - chance[part].sum()) for part in parts) / len(target))
        assert row["macro_ECE"] == pytest.approx(np.mean(errors))
    assert [row["name"] for row in result["runs"]] == ["weak", "strong", "asl"] and result["baseline"] == "weak"
    assert result["runs"][1]["mAP"] > result["runs"][0]["mAP"] + 0.2


def test_f1_is_at_thresholds_fitted_to_other_subjects(result, runs, truth):
    wanted, subjects, _ = truth
    values = read(runs[1] / VAL_PREDICTIONS).values
    called = np.zeros(wanted.shape, dtype=bool)
    parts = parts_by_hand(subjects, 5)
    for number in range(5):
        others, part = parts != number, parts == number
        for f in defined(wanted[others]):
            target, logits = wanted[others, f], values[others, f]
            limits = np.unique(logits)[::-1]
            f1 = [2 * target[logits >= each].sum() / ((logits >= each).sum() + target.sum()) for each in limits]
            called[part, f] = values[part, f] >= limits[np.argmax(f1)]
    mean = np.mean([f1_score(wanted[:, f], called[:, f]) for f in defined(wanted)])
    assert result["runs"][1]["macro_F1"] == pytest.approx(mean)


def test_groups_are_by_training_images_and_speed_by_the_epochs_together(result, runs, dataset, truth):
    labels = dataset.labels(LABELS)
    rows, _ = train_and_validation(dataset, labels, FoldOptions(folds=2))
    counts = (labels.values[rows] == 1).sum(axis=0)
    head = [name for name, count in zip(labels.findings, counts, strict=True) if count >= len(rows) / 10]
    assert result["groups"] == {"head": head, "medium": [], "tail": ["Hernia"]} and len(head) == 4
    for row in result["runs"]:
        assert row["mAP_head"] == row["mAP"] and row["mAP_medium"] is None and row["mAP_tail"] is None
        assert row["images_per_second"] == pytest.approx(2000 / 8) and row["hours"] == pytest.approx(10 / 3600)
    assert [row["train_positives"] for row in result["findings"]] == counts.tolist()
    assert [row["positives"] for row in result["findings"]] == truth[0].sum(axis=0).tolist()


def test_a_finding_without_positives_is_named_and_never_zero(result):
    assert result["without_positives"] == ["Hernia"]
    (row,) = [row for row in result["findings"] if row["finding"] == "Hernia"]
    assert set(row["AP"].values()) == {None} and row["positive_studies"] == 0
    for each in row["differences"].values():
        assert each == {"difference": None, "low": None, "high": None, "p": None}


# ---------------------------------------------------------------- differences


def sampled_by_hand(wanted, studies, values, score):
    """Scores float [samples, runs, F] on images repeated as often as their study was; NaN with one class."""
    generator, order = np.random.default_rng(4), list(dict.fromkeys(studies))
    found = np.full((DRAWS, len(values), wanted.shape[1]), np.nan)
    for sample in range(DRAWS):
        picked = generator.integers(0, len(order), len(order))
        rows = np.concatenate([np.flatnonzero(studies == order[each]) for each in picked])
        for f in range(wanted.shape[1]):
            if 0 < wanted[rows, f].sum() < len(rows):
                found[sample, :, f] = [score(wanted[rows, f], each[rows, f]) for each in values]
    return found


def check_interval(row, differences):
    place = int((DRAWS + 1) * 0.025)
    assert (row["low"], row["high"]) == pytest.approx((sorted(differences)[place - 1], sorted(differences)[-place]))
    beyond = min(np.sum(differences <= 0), np.sum(differences >= 0)) + 1
    assert row["p"] == pytest.approx(min(1, 2 * beyond / (len(differences) + 1)))


def test_differences_are_those_of_a_paired_bootstrap_written_out(result, runs, truth):
    wanted, _, studies = truth
    values = [read(run / VAL_PREDICTIONS).values for run in runs[:2]]
    rows = {row["metric"]: row for row in result["differences"] if row["run"] == "strong"}
    ap = sampled_by_hand(wanted, studies, values, average_precision_score)
    check_interval(rows["mAP"], np.nanmean(ap[:, 1], axis=1) - np.nanmean(ap[:, 0], axis=1))
    auroc = sampled_by_hand(wanted, studies, values, roc_auc_score)
    check_interval(rows["macro_AUROC"], np.nanmean(auroc[:, 1], axis=1) - np.nanmean(auroc[:, 0], axis=1))
    place, mass = next((place, row) for place, row in enumerate(result["findings"]) if row["finding"] == "Mass")
    check_interval(mass["differences"]["strong"], ap[:, 1, place] - ap[:, 0, place])
    assert mass["differences"]["strong"]["difference"] == pytest.approx(mass["AP"]["strong"] - mass["AP"]["weak"])
    assert len(np.unique(studies)) == result["studies"] and mass["positive_studies"] >= 10
    scores = {row["name"]: row["mAP"] for row in result["runs"]}
    assert rows["mAP"]["difference"] == pytest.approx(scores["strong"] - scores["weak"]) and rows["mAP"]["p"] < 0.05
    (asl,) = [row for row in result["differences"] if row["run"] == "asl" and row["metric"] == "mAP"]
    assert asl["low"] < 0 < asl["high"] and asl["p"] > 0.1


def test_a_sample_without_a_rare_finding_keeps_its_score(tmp_path, monkeypatch):
    dataset = packed(tmp_path, subjects=10)
    runs = [write_run(tmp_path / name, dataset, skill, seed=seed) for name, skill, seed in (("a", 0, 1), ("b", 1, 2))]
    monkeypatch.setattr("cxrdali.evaluate.compare.ENOUGH", 1)
    made = compare(runs, dataset, CompareOptions(draws=DRAWS, seed=4, folds=3))
    table = read(runs[0] / VAL_PREDICTIONS)
    labels = dataset.labels(LABELS)
    wanted = (labels.values[catalog_rows(table, runs[0], dataset)] == 1).astype(float)
    values = [read(run / VAL_PREDICTIONS).values for run in runs]
    sampled = sampled_by_hand(wanted, table.ids["study_id"].to_numpy(), values, average_precision_score)
    rare = [f for f in defined(wanted) if np.isnan(sampled[:, 0, f]).any()]
    assert rare, "the release must have a finding that some samples lack"
    for run, each in enumerate(values):
        for f in defined(wanted):
            whole = average_precision_score(wanted[:, f], each[:, f])
            sampled[:, run, f] = np.where(np.isnan(sampled[:, run, f]), whole, sampled[:, run, f])
    means = np.nanmean(sampled, axis=2)
    check_interval(made["differences"][0], means[:, 1] - means[:, 0])
    assert (made["runs"][0]["mAP_low"], made["runs"][0]["mAP_high"]) == pytest.approx(
        tuple(np.percentile(means[:, 0], [2.5, 97.5]))
    )


def test_the_baseline_may_be_any_run(runs, dataset, result):
    for given in ("strong", str(runs[1])):
        turned = compare(runs, dataset, CompareOptions(baseline=given, draws=DRAWS, seed=4))
        assert turned["baseline"] == "strong" and {row["run"] for row in turned["differences"]} == {"weak", "asl"}
    there, back = (
        next(row for row in each["differences"] if (row["run"], row["metric"]) == (run, "mAP"))
        for each, run in ((result, "strong"), (turned, "weak"))
    )
    assert (back["difference"], back["low"], back["high"]) == pytest.approx(
        (-there["difference"], -there["high"], -there["low"])
    )
    assert back["p"] == there["p"]
    assert "baseline 'x': is none of the runs; choose one of weak, strong, asl" in refused(runs, dataset, baseline="x")


def test_rows_and_columns_of_a_table_may_stand_in_any_order(copies, dataset, result):
    table = read(copies[1] / VAL_PREDICTIONS)
    order = np.random.default_rng(0).permutation(len(table.values))
    columns = [4, 2, 0, 1, 3]
    findings = tuple(table.findings[place] for place in columns)
    shuffled = replace(table, ids=table.ids.iloc[order], values=table.values[order][:, columns], findings=findings)
    shuffled.write(copies[1] / VAL_PREDICTIONS)
    again = compare(copies, dataset, CompareOptions(draws=DRAWS, seed=4))
    assert again["differences"] == result["differences"] and again["findings"] == result["findings"]


def test_few_studies_have_a_difference_and_no_interval(runs, dataset, result, monkeypatch):
    monkeypatch.setattr("cxrdali.evaluate.compare.ENOUGH", 10_000)
    thin = compare(runs[:2], dataset, CompareOptions(draws=DRAWS, seed=4))
    for row in thin["differences"]:
        assert row["low"] is None and row["p"] is None
    values = {row["metric"]: row["difference"] for row in thin["differences"]}
    assert values == {row["metric"]: row["difference"] for row in result["differences"] if row["run"] == "strong"}
    assert "mAP_low" in thin["runs"][0] and thin["runs"][0]["mAP_low"] is None
    (note,) = [note for note in thin["notes"] if note.startswith("Findings in the means with fewer than 10000 ")]
    assert "Mass (" in note and "Hernia" not in note and "too narrow" in note
    assert not [note for note in result["notes"] if "too narrow" in note]


@pytest.mark.parametrize("more", [0, 1])
def test_just_enough_studies_have_an_interval(runs, dataset, result, monkeypatch, more):
    monkeypatch.setattr("cxrdali.evaluate.compare.ENOUGH", result["positive_studies"]["mAP"] + more)
    made = compare(runs[:2], dataset, CompareOptions(draws=5))
    whole = next(row for row in made["differences"] if row["metric"] == "mAP")
    assert (whole["low"] is None) == (made["runs"][0]["mAP_low"] is None) == bool(more)


def test_without_draws(runs, dataset):
    made = compare(runs, dataset, CompareOptions(draws=0))
    assert all(row["low"] is None and row["p"] is None for row in made["differences"])
    assert "mAP_low" not in made["runs"][0]


# ---------------------------------------------------------------- which runs compare


def test_what_is_not_finished_is_said(copies, dataset, tmp_path, result):
    assert result["notes"] == ["asl: 2 of 4 epochs are done; compared by the best of these"]
    assert [row["finished"] for row in result["runs"]] == [True, True, False]
    write_run(tmp_path / "begun", dataset, 1.0, seed=9, done=0)
    change_config(copies[1], settings__patience=1, settings__epochs=9)
    made = compare([tmp_path], dataset, CompareOptions(draws=0))
    assert [row["name"] for row in made["runs"]] == ["asl", "strong", "weak"]
    assert made["notes"] == [
        "begun: left out, no epoch is finished yet",
        "asl: 2 of 4 epochs are done; compared by the best of these",
        "strong: 2 of 9 epochs are done; compared by the best of these",
    ]
    metrics = (copies[1] / METRICS).read_text().splitlines()
    (copies[1] / METRICS).write_text("\n".join([metrics[0], metrics[2].replace("2,", "1,", 1), metrics[1]]) + "\n")
    write_progress(copies[1])
    made = compare([tmp_path], dataset, CompareOptions(draws=0))
    assert not [note for note in made["notes"] if note.startswith("strong")], "ended by its patience"


def test_other_devices_and_choices_are_said(copies, dataset):
    change_config(copies[1], device="an RTX 3090")
    change_config(copies[2], settings__select_by="lrap", settings__epochs=2, processes=2)
    notes = compare(copies, dataset, CompareOptions(draws=0))["notes"]
    assert notes == [
        "The best epoch was not chosen by the same metric (mAP: weak, strong; LRAP: asl)",
        "Speed and hours were measured on different devices (a CPU: weak; an RTX 3090: strong; 2 x a CPU: asl)",
    ]


def test_settings_that_differ_are_listed(result):
    settings = {row["setting"]: row["values"] for row in result["settings"]}
    assert settings["loss"] == {"weak": "bce", "strong": "bce", "asl": "asl"}
    assert settings["asl_gamma_neg"]["asl"] == 4 and settings["asl_gamma_neg"]["weak"] is None
    assert not {"lr", "seed", "arch", "threads"} & set(settings)


def test_one_run_is_refused_with_a_hint(runs, dataset, tmp_path):
    said = refused([runs[0], runs[0]], dataset)
    assert "only weak has a finished epoch, and one run has nothing to be compared with" in said
    assert "`cxrdali report`" in said
    begun = write_run(tmp_path / "begun", dataset, 1.0, seed=9, done=0)
    assert "begun: no run with a finished epoch; train two at least" in refused([begun], dataset)


def test_runs_that_validated_on_different_images_are_named(runs, dataset, tmp_path):
    other = write_run(tmp_path / "fold1", dataset, 1.0, seed=5, fold=1)
    said = refused([runs[0], other, runs[1]], dataset)
    assert "validated on different images, so their scores do not compare: weak, strong against fold1;" in said
    assert "compare within one of these, or train with the same fold, folds, group and limit-batches" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"findings": ["Edema", "Hernia", "Mass", "No Finding", "Fibrosis"]},
         "strong: other findings than {weak}: 'Fibrosis' (and 1 more) is only in strong; compare runs of the same"),
        ({"labels__name": "chexpert"}, "strong: was trained on labels 'chexpert', {weak} on 'cxr-lt-2023'"),
        ({"labels__sha256": "0"}, "strong: labels 'cxr-lt-2023' of {pack} are not those that it was trained on"),
        ({"dataset__id": "d2"}, "strong: was trained on another dataset than {pack}; give the dataset of the runs"),
        ({"settings__uncertain": "positive"},
         "strong: uncertain labels counted as positive in training, as negative in {weak}; say with --uncertain"),
    ],
)  # fmt: skip
def test_what_does_not_compare_is_refused(copies, dataset, changes, said):
    change_config(copies[1], **changes)
    assert said.format(weak=copies[0], pack=dataset.root) in refused(copies, dataset)
    if "settings__uncertain" in changes:
        assert compare(copies, dataset, CompareOptions(draws=0, uncertain="negative"))["runs"]


def test_a_table_of_other_images_or_another_epoch_is_refused(copies, dataset, tmp_path):
    table = read(copies[1] / VAL_PREDICTIONS)
    replace(table, ids=table.ids[1:], values=table.values[1:]).write(copies[1] / VAL_PREDICTIONS)
    assert f"{copies[1]}/val_predictions.parquet: holds other images than its run validated on" in refused(
        copies, dataset
    )
    replace(table, values=table.values[:, ::-1]).write(copies[1] / VAL_PREDICTIONS)
    said = refused(copies, dataset)
    assert "strong/val_predictions.parquet: has a mAP of 0." in said and "for epoch 2; if the run is training" in said
    (copies[1] / VAL_PREDICTIONS).unlink()
    assert "val_predictions.parquet: no such file" in refused(copies, dataset)


def test_runs_of_one_name_are_told_apart(runs, dataset, tmp_path):
    other = shutil.copytree(runs[1], tmp_path / "weak")
    made = compare([runs[0], other], dataset, CompareOptions(draws=0))
    assert [row["name"] for row in made["runs"]] == [str(runs[0]), str(other)]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"draws": -1}, "draws -1: 0 or more"), ({"level": 1}, "level 1: between 0 and 1"), ({"seed": -1}, "seed -1"),
     ({"folds": 1}, "folds 1: at least 2"), ({"uncertain": "x"}, "uncertain 'x': choose one of negative, ")],
)  # fmt: skip
def test_options_check_themselves(options, said):
    with pytest.raises(UserError, match=f"^{said}"):
        CompareOptions(**options)


# ---------------------------------------------------------------- files, and runs that were trained


def test_what_is_written_is_what_was_found(result, tmp_path):
    paths = write(result, tmp_path / "found.json")
    assert [path.name for path in paths] == ["found.json", "found.csv", "found.findings.csv"]
    assert read_json(paths[0]) == result
    rows = {row["name"]: row for row in csv.DictReader(paths[1].open())}
    assert list(rows) == ["weak", "strong", "asl"] and rows["weak"]["mAP_difference_p"] == ""
    strong = next(row for row in result["runs"] if row["name"] == "strong")
    difference = next(row for row in result["differences"] if (row["run"], row["metric"]) == ("strong", "mAP"))
    assert float(rows["strong"]["mAP_low"]) == strong["mAP_low"]
    assert float(rows["strong"]["mAP_difference_low"]) == difference["low"]
    lines = list(csv.DictReader(paths[2].open()))
    assert len(lines) == 3 * 5
    (mass,) = [line for line in lines if (line["finding"], line["run"]) == ("Mass", "strong")]
    row = next(row for row in result["findings"] if row["finding"] == "Mass")
    assert float(mass["AP"]) == row["AP"]["strong"] and float(mass["p"]) == row["differences"]["strong"]["p"]


def test_runs_that_were_trained(dataset, tmp_path):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": False}
    for name, settings in (("bce", {}), ("ldam", {"loss": "ldam"})):
        made = settings_of(**given, device="cpu", folds=2, limit_batches=3, **settings)
        train(made, dataset, tmp_path / name)
    found = compare([tmp_path / "bce", tmp_path / "ldam"], dataset, CompareOptions(draws=20))
    for row in found["runs"]:
        (metrics,) = csv.DictReader((tmp_path / row["name"] / METRICS).open())
        assert row["mAP"] == pytest.approx(float(metrics["mAP"])) and row["finished"]
        assert row["macro_AUROC"] == pytest.approx(float(metrics["macro_AUROC"]))
    assert found["images"] == 24 and found["notes"][:-1] == []
    assert {row["setting"] for row in found["settings"]} >= {"loss", "ldam_scale"}


# ---------------------------------------------------------------- tables of predictions


@pytest.fixture
def test_tables(dataset, tmp_path):
    """Two tables of the test split, weak and strong, as predict, ensemble and calibrate write them."""
    labels = dataset.labels(LABELS)
    rows = np.flatnonzero(labels.split == "test")
    truth = (labels.values[rows] == 1).astype(float)
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
    made = []
    for name, skill in (("weak", 0.3), ("strong", 3.0)):
        noise = np.random.default_rng(len(made)).normal(0, 1, truth.shape)
        about = Provenance(Kind.LOGIT, name, "test", LABELS, dataset.id)
        made.append(tmp_path / f"{name}.parquet")
        Predictions(ids, labels.findings, (noise + skill * truth).astype(np.float32), about).write(made[-1])
    return made


def test_tables_of_the_test_split_are_scored_on_its_images(test_tables, dataset):
    result = compare(test_tables, dataset, CompareOptions(draws=DRAWS))
    labels = dataset.labels(LABELS)
    rows = np.flatnonzero(labels.split == "test")
    assert (result["split"], result["images"], result["labels"]) == ("test", len(rows), LABELS)
    wanted = (labels.values[rows] == 1).astype(float)
    for path, row in zip(test_tables, result["runs"], strict=True):
        values = read(path).values
        mean = np.mean([average_precision_score(wanted[:, f], values[:, f]) for f in defined(wanted)])
        squares = [brier_score_loss(wanted[:, f], expit(values[:, f].astype(float))) for f in range(5)]
        assert (row["mAP"], row["macro_Brier"]) == (pytest.approx(mean), pytest.approx(np.mean(squares)))
        assert (row["name"], row["folder"], row["epochs"], row["hours"]) == (path.stem, str(path), None, None)
    (whole,) = [row for row in result["differences"] if row["metric"] == "mAP"]
    assert (whole["run"], whole["low"] > 0) == ("strong", True)
    train = np.flatnonzero(labels.split == "train")
    assert result["train_images"] == len(train)
    assert [row["train_positives"] for row in result["findings"]] == (labels.values[train] == 1).sum(axis=0).tolist()
    assert scored_images(result) == "test images" and result["settings"] == []


def test_a_run_stands_beside_an_ensemble_of_its_validation_images(runs, dataset, result, tmp_path):
    pooled = tmp_path / "pooled.parquet"
    replace(read(runs[1] / VAL_PREDICTIONS), provenance=Provenance(Kind.CALIBRATED, "x", "val", LABELS)).write(pooled)
    for order in ([runs[0], pooled], [pooled, runs[0]]):
        made = compare(order, dataset, CompareOptions(baseline="weak", draws=DRAWS, seed=4))
        (mine,) = [row for row in made["differences"] if row["metric"] == "mAP"]
        (its,) = [row for row in result["differences"] if row["metric"] == "mAP" and row["run"] == "strong"]
        assert mine == its | {"run": "pooled"} and made["split"] == "val"


def test_mean_ranks_have_no_calibration_error(test_tables, dataset):
    table = read(test_tables[1])
    replace(table, provenance=replace(table.provenance, kind=Kind.RANK)).write(test_tables[1])
    weak, strong = compare(test_tables, dataset, CompareOptions(draws=0))["runs"]
    assert strong["macro_ECE"] is strong["macro_Brier"] is None and weak["macro_ECE"] is not None
    assert strong["mAP"] > weak["mAP"]


def test_without_training_images_no_finding_is_in_a_group(test_tables, dataset, monkeypatch):
    monkeypatch.setattr("cxrdali.evaluate.compare.released_rows", lambda *_: np.array([], dtype=int))
    result = compare(test_tables, dataset, CompareOptions(draws=0))
    assert result["groups"] == {"head": [], "medium": [], "tail": []} and result["train_images"] == 0
    assert all(row["mAP"] > 0 and row["mAP_head"] is None for row in result["runs"])


def test_tables_that_do_not_compare_are_refused(test_tables, runs, dataset, tmp_path):
    weak, strong = test_tables
    assert f"{weak}: one table has nothing to be compared with" in refused([weak], dataset)
    assert f"{weak}: is of split 'test', {runs[0]} of 'val', and a run is compared by its validation images" in refused(
        [runs[0], weak], dataset
    )
    table = read(strong)

    def changed(**fields):
        replace(table, provenance=replace(table.provenance, **fields)).write(strong)
        return refused([weak, strong], dataset)

    assert f"{strong}: is of split 'dev', {weak} of 'test', and these do not compare" in changed(split="dev")
    said = changed(labels="chexpert")
    assert f"{strong}: is of labels 'chexpert', {weak} of '{LABELS}'; compare those of the same labels" in said
    assert compare([weak, strong], dataset, CompareOptions(draws=0), LABELS)["labels"] == LABELS
    assert "was predicted on split 'train', whose images were trained on" in changed(split="train")
    assert "holds probabilities, which saturate; give the table of logits" in changed(kind=Kind.PROBABILITY)
    replace(table, ids=table.ids[1:], values=table.values[1:]).write(strong)
    count = len(table.values)
    said = f"{strong}: its {count - 1:,} images are not the {count:,} of {weak} ({count - 1:,} are in both)"
    assert said in refused([weak, strong], dataset)
    with pytest.raises(UserError, match="labels 'other': .*weak was trained on 'cxr-lt-2023'; leave --labels out"):
        compare(runs, dataset, CompareOptions(draws=0), "other")
    absent = tmp_path / "absent.csv"
    assert f"{absent}: no such file; `cxrdali predict` writes one" in refused([weak, absent], dataset)
