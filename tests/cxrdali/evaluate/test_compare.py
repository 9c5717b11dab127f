"""Runs side by side: against scikit-learn and samples of patients written out; what does not compare is refused."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from cxrdali.data.splits import FoldOptions, train_and_validation
from cxrdali.evaluate.compare import CompareOptions, compare, scored_images, write
from cxrdali.metrics.intervals import holm
from cxrdali.predictions import Kind, Predictions, Provenance, catalog_rows, read
from cxrdali.provenance import Home
from cxrdali.runs.layout import METRICS, VAL_PREDICTIONS
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.cxrdali import by_hand
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
    assert set(row["AP"].values()) == {None} and row["positive_patients"] == 0
    for each in row["differences"].values():
        assert each == {"difference": None, "low": None, "high": None, "p": None, "p_holm": None}


# ---------------------------------------------------------------- differences


def ends(row):
    return row["low"], row["high"], row["p"]


def by_metric(result, run):
    return {row["metric"]: row for row in result["differences"] if row["run"] == run}


def test_differences_are_those_of_samples_of_patients_written_out(result, runs, truth):
    wanted, subjects, _ = truth
    values = [read(run / VAL_PREDICTIONS).values for run in runs[:2]]
    rows, known, counts = by_metric(result, "strong"), defined(wanted), by_hand.patients(wanted, subjects)
    for metric, score in (("mAP", by_hand.less_half), ("macro_AUROC", roc_auc_score)):
        samples = by_hand.sampled(wanted, values, subjects, DRAWS, 4, score)
        statistic = np.array(
            [score(wanted[:, f], values[1][:, f]) - score(wanted[:, f], values[0][:, f]) for f in known]
        )
        samples = (samples[:, 1] - samples[:, 0])[:, known]
        assert ends(rows[metric]) == pytest.approx(by_hand.of_mean(statistic, samples, counts[known])), metric
        if metric == "mAP":
            for place, f in enumerate(known):
                mine = result["findings"][f]
                assert min(mine["positive_patients"], mine["negative_patients"]) == counts[f]
                alone = by_hand.of_finding(statistic[place], samples[:, place], counts[f])
                if counts[f] >= 10:
                    assert ends(mine["differences"]["strong"]) == pytest.approx(alone)
                assert mine["differences"]["strong"]["difference"] == pytest.approx(
                    mine["AP"]["strong"] - mine["AP"]["weak"]
                )
    assert (result["unit"], result["subjects"]) == ("patient", len(set(subjects)))
    assert max(counts) >= 10 and result["studies"] > result["subjects"]
    scores = {row["name"]: row["mAP"] for row in result["runs"]}
    assert rows["mAP"]["difference"] == pytest.approx(scores["strong"] - scores["weak"]) and rows["mAP"]["p"] < 0.01
    asl = by_metric(result, "asl")["mAP"]
    assert asl["low"] < 0 < asl["high"] and asl["p"] > 0.05


def holm_by_hand(values):
    """For each p the largest of (how many are not smaller) x p over all that are not larger, at most 1."""
    return [min(1, max(sum(other >= each for other in values) * each for each in values if each <= p)) for p in values]


def test_p_is_adjusted_for_every_comparison_of_its_family(result):
    means = [row for row in result["differences"] if row["p"] is not None]
    findings = [each for row in result["findings"] for each in row["differences"].values() if each["p"] is not None]
    for name, rows in (("means", means), ("findings", findings)):
        assert result["comparisons"][name] == len(rows) > 4
        wanted = holm_by_hand([row["p"] for row in rows])
        assert [row["p_holm"] for row in rows] == pytest.approx(wanted) and wanted != [row["p"] for row in rows]


def test_the_best_is_separable_from_the_second_or_is_not(result, runs, dataset):
    found, scores = result["best"]["mAP"], {row["name"]: row["mAP"] for row in result["runs"]}
    first, second, _ = sorted(scores, key=scores.get, reverse=True)
    assert (found["run"], found["second"], first) == (first, second, "strong")
    assert (
        found["separable"] and found["low"] > 0 and found["difference"] == pytest.approx(scores[first] - scores[second])
    )
    errors = {row["name"]: row["macro_ECE"] for row in result["runs"]}
    assert result["best"]["macro_ECE"]["run"] == min(errors, key=errors.get), "a low error is the better"
    assert result["best"]["mAP_medium"] is None
    like = compare([runs[0], runs[2]], dataset, CompareOptions(draws=DRAWS))["best"]["mAP"]
    assert not like["separable"] and like["low"] < 0 < like["high"]


def test_what_a_difference_is_without_one_finding_and_which_one_carries_it(result, runs, dataset, tmp_path):
    mean = by_metric(result, "strong")["mAP"]
    parts = {row["finding"]: row["differences"]["strong"]["difference"] for row in result["findings"]}
    parts = {name: value for name, value in parts.items() if value is not None}
    rest = {name: np.mean([value for other, value in parts.items() if other != name]) for name in parts}
    low, high = min(rest, key=rest.get), max(rest, key=rest.get)
    assert mean["without_one"] == {
        "low": pytest.approx(rest[low]), "low_without": low, "high": pytest.approx(rest[high]), "high_without": high,
    }  # fmt: skip
    assert mean["carried_by"] == [] and not [note for note in result["notes"] if "carries" in note]
    weak, strong = (read(runs[place] / VAL_PREDICTIONS) for place in (0, 1))
    values, at = weak.values.copy(), weak.findings.index("Mass")
    values[:, at] = strong.values[:, at] + 2 * (
        dataset.labels(LABELS).values[catalog_rows(strong, runs[1], dataset), at] == 1
    )
    table = tmp_path / "mass.parquet"
    replace(weak, values=values, provenance=Provenance(Kind.LOGIT, "x", "val", LABELS, dataset.id)).write(table)
    for draws in (DRAWS, 0):
        made = compare([runs[0], table], dataset, CompareOptions(draws=draws, baseline="weak"))
        assert by_metric(made, "mass")["mAP"]["carried_by"] == (["Mass"] if draws else [])
        said = [
            note for note in made["notes"] if note.startswith("mass: one finding carries its difference to weak in")
        ]
        assert len(said) == bool(draws) and (not draws or "mAP (Mass)" in said[0])


def test_equal_tables_differ_by_nothing(runs, dataset, tmp_path):
    twin = tmp_path / "twin.parquet"
    replace(read(runs[0] / VAL_PREDICTIONS), provenance=Provenance(Kind.LOGIT, "x", "val", LABELS)).write(twin)
    made = compare([runs[0], twin], dataset, CompareOptions(draws=DRAWS))
    for row in [row for row in made["differences"] if row["difference"] is not None]:
        assert (row["difference"], *ends(row), row["carried_by"]) == (0, None, None, 1, [])
    assert not any(each["separable"] for each in made["best"].values() if each)


def test_images_of_one_patient_have_scores_and_no_interval(test_tables, dataset):
    subjects = dataset.catalog.iloc[catalog_rows(read(test_tables[0]), test_tables[0], dataset)][
        "subject_id"
    ].to_numpy()
    for path in test_tables:
        table = read(path)
        replace(table, ids=table.ids[subjects == subjects[0]], values=table.values[subjects == subjects[0]]).write(path)
    with pytest.raises(UserError, match="images of 1 subject, 5 folds need at least as many"):
        compare(test_tables, dataset, CompareOptions(draws=DRAWS))


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
    assert (back["p"], back["p_holm"] > 0) == (pytest.approx(there["p"]), True)
    assert back["without_one"]["low"] == pytest.approx(-there["without_one"]["high"])
    assert back["without_one"]["low_without"] == there["without_one"]["high_without"]
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


def test_few_patients_have_a_difference_and_no_interval(tmp_path):
    dataset = packed(tmp_path, subjects=25)
    runs = [write_run(tmp_path / name, dataset, skill, seed=seed) for name, skill, seed in (("a", 0, 1), ("b", 1, 2))]
    made = compare(runs, dataset, CompareOptions(draws=DRAWS, folds=3))
    assert made["subjects"] < 20, "so no finding is present in ten and absent in ten"
    rows = [*made["differences"], *(each for row in made["findings"] for each in row["differences"].values())]
    for row in rows:
        assert ends(row) == (None, None, None) and row["p_holm"] is None
    assert made["comparisons"] == {"means": 0, "findings": 0} and made["runs"][0]["mAP_low"] is None
    assert [row["difference"] for row in made["differences"]].count(None) < len(made["differences"])
    (note,) = [note for note in made["notes"] if note.startswith("Too few for an interval, fewer than 10 patients ")]
    assert "Mass (" in note and "Hernia" not in note and not made["best"]["mAP"]["separable"]


def test_without_draws(runs, dataset):
    made = compare(runs, dataset, CompareOptions(draws=0))
    assert all(ends(row) == (None, None, None) for row in made["differences"])
    assert made["runs"][0]["mAP"] is not None and made["runs"][0]["mAP_low"] is None
    assert made["best"]["mAP"]["run"] == "strong" and not made["best"]["mAP"]["separable"]


def test_of_twelve_equal_runs_some_p_is_small_and_the_adjusted_ones_are_not():
    """The difference of two equal tables is normal; all have the same baseline, so they are not independent."""
    generator = np.random.default_rng(0)
    unadjusted, adjusted = 0, 0
    for _ in range(1000):
        scores = generator.normal(size=13)
        p = 2 * norm.sf(np.abs(scores[1:] - scores[0]) / np.sqrt(2))
        unadjusted += p.min() <= 0.05
        adjusted += min(holm(list(p))) <= 0.05
    assert 0.2 < unadjusted / 1000 < 0.5 and adjusted / 1000 <= 0.06
    independent = generator.uniform(size=(2000, 12))
    assert np.mean(independent.min(axis=1) <= 0.05) == pytest.approx(1 - 0.95**12, abs=0.03)
    assert np.mean([min(holm(list(row))) <= 0.05 for row in independent]) == pytest.approx(0.05, abs=0.012)


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
    rule = "fold, folds, group, fold-seed, stratify, fold-rule, view"
    assert f"compare within one of these, or train with the same {rule} and limit-batches" in said


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
    assert found["images"] == 24 and all(note.startswith("Too few") for note in found["notes"][:-1])
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


def test_tables_of_other_findings_are_compared_on_those_in_common(test_tables, dataset, tmp_path):
    """One model calls Edema otherwise and has a finding of its own; the other does not know Pneumonia."""
    weak, strong = map(read, test_tables)
    home = Home(500, (("Mass", 60), ("Pulmonary edema", 2), ("Scoliosis", 1), ("Pneumonia", 7), ("No Finding", 3)))
    given = [*test_tables]
    values = np.concatenate([weak.values[:, [2, 0, 4, 3]], weak.values[:, :1]], axis=1)
    own = ("Mass", "Pulmonary edema", "Pneumonia", "No Finding", "Scoliosis")
    replace(weak, findings=own, values=values, provenance=replace(weak.provenance, home=home)).write(given[0])
    strong.of(["Edema", "Mass", "No Finding", "Hernia"]).write(given[1])
    found = compare(given, dataset, CompareOptions(draws=DRAWS))
    findings = ["Edema", "Mass", "No Finding"]
    assert [row["finding"] for row in found["findings"]] == findings
    labels, wanted = dataset.labels(LABELS), {}
    truth = labels.values[labels.split == "test"] == 1
    for name, table in (("weak", weak), ("strong", strong)):
        places = [labels.findings.index(each) for each in findings]
        scores = [average_precision_score(truth[:, place], table.values[:, place]) for place in places]
        wanted[name] = pytest.approx(np.mean(scores))
    assert {row["name"]: row["mAP"] for row in found["runs"]} == wanted
    assert (found["groups"], found["train_images"]) == (
        {"head": ["Mass"], "medium": [], "tail": ["Edema", "No Finding"]},
        500,
    )
    assert found["common"]["weak"]["only_predictions"] == ("Scoliosis",)
    assert found["common"]["strong"]["only_labels"] == ("Pneumonia",)
    assert found["notes"][:2] == [
        "All scores are of the 3 findings in common: Edema, Mass, No Finding",
        "weak: taken as one finding: Edema: 'Pulmonary edema' of weak.parquet, 'Edema' of cxr-lt-2023",
    ]
    assert "strong: left out, unknown to the predictions: Pneumonia" in found["notes"]
    *_, path = write(found, tmp_path / "c.json")
    left = [(row["run"], row["finding"]) for row in csv.DictReader(path.open()) if row["group"].startswith("left out")]
    assert ("weak", "Scoliosis") in left and ("strong", "Pneumonia") in left
    names = '{"Lump": "Mass", "Pulmonary edema": "Edema"}'  # each of them a finding of one table alone
    renamed = replace(strong.of(["Edema", "Mass", "No Finding"]), findings=("Edema", "Lump", "No Finding"))
    renamed.write(given[1])
    again = compare(given, dataset, CompareOptions(draws=0, findings=names))
    assert {row["name"]: row["mAP"] for row in again["runs"]} == wanted
    strong.of(["Hernia"]).write(given[1])
    assert "none is known to all; compare fewer at a time" in refused(given, dataset)


def test_a_run_stands_beside_an_ensemble_of_its_validation_images(runs, dataset, result, tmp_path):
    pooled = tmp_path / "pooled.parquet"
    replace(read(runs[1] / VAL_PREDICTIONS), provenance=Provenance(Kind.CALIBRATED, "x", "val", LABELS)).write(pooled)
    for order in ([runs[0], pooled], [pooled, runs[0]]):
        made = compare(order, dataset, CompareOptions(baseline="weak", draws=DRAWS, seed=4))
        (mine,) = [row for row in made["differences"] if row["metric"] == "mAP"]
        (its,) = [row for row in result["differences"] if row["metric"] == "mAP" and row["run"] == "strong"]
        assert mine == its | {"run": "pooled", "p_holm": mine["p_holm"]} and made["split"] == "val"
        assert mine["p"] <= mine["p_holm"] <= its["p_holm"], "of fewer comparisons"


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


def test_gaps_of_groups_are_those_of_each_and_their_differences_are_paired(runs, dataset, truth):
    found = compare(runs, dataset, CompareOptions(draws=DRAWS, seed=4, by=("view", "race"), min_group=10))
    block, (target, subject, _) = found["groups_by"], truth
    assert block["missing"] == [
        "race: not measured: no race is known of these images; attach it (`cxrdali subjects PACK --subjects FILE`) and "
        "evaluate again"
    ]
    _, rows = train_and_validation(dataset, dataset.labels(LABELS), FoldOptions(folds=2))
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    row = next(row for row in block["rows"] if (row["group"], row["metric"]) == ("frontal", "macro_AUROC"))
    names = dataset.labels(LABELS).findings
    scored = [place for place in range(len(names)) if min(
        len(np.unique(subject[frontal & (target[:, place] == label)])) for label in (0, 1)) >= 10]  # fmt: skip
    gaps = {}
    for run in runs:
        values = read(run / VAL_PREDICTIONS).values
        own, rest = ([roc_auc_score(target[mask, place], values[mask, place]) for place in scored]
                     for mask in (frontal, ~frontal))  # fmt: skip
        assert row["runs"][run.name]["value"] == pytest.approx(np.mean(own))
        gaps[run.name] = np.mean(own) - np.mean(rest)
        assert row["runs"][run.name]["difference"] == pytest.approx(gaps[run.name])
    for name, each in row["differences"].items():
        assert each["difference"] == pytest.approx(gaps[name] - gaps["weak"])
        assert each["low"] < each["difference"] < each["high"] and each["p"] <= each["p_holm"]
    assert set(row["differences"]) == {"strong", "asl"}
    measured = [each for other in block["rows"] for each in other["differences"].values() if each["p"] is not None]
    assert block["comparisons"]["differences"] == len(measured)


def test_without_groups_there_are_none(result):
    assert result["groups_by"] is None
