"""What a page claims: which score leads, of which images, from which data, and when and how the page was made."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali import predictions
from cxrdali.evaluate.compare import CompareOptions, compare
from cxrdali.evaluate.evaluate import EvaluateOptions, evaluate, write
from cxrdali.metrics.ranking import score as all_scores
from cxrdali.postprocess import calibration
from cxrdali.report.calibration.page import write_page
from cxrdali.report.comparison.page import write_comparison
from cxrdali.report.dataset.facts import read_facts
from cxrdali.report.dataset.page import write_page as write_dataset
from cxrdali.report.dataset.text import render as as_text
from cxrdali.report.kit.numbers import score
from cxrdali.report.kit.page import Figure, made
from cxrdali.report.kit.svg import new_figure
from cxrdali.report.training.page import ReportOptions, write_report
from cxrdali.report.training.roc import of_validation
from cxrdali.runs.layout import FINDING_COLUMNS
from cxrdali.runs.reader import Run
from shards import __version__
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from shards.storage.sealed import sealed_json
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release
from tests.cxrdali.comparable_runs import change_config, write_run
from tests.cxrdali.held_out import written
from tests.cxrdali.report.pages import Page, check_axes, check_figures, check_numbers

pytestmark = pytest.mark.slow
COUNTS = ("AP", "AUROC", "positives", "negatives")


@pytest.fixture
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


@pytest.fixture
def run(dataset, tmp_path):
    """Of two epochs, with its scores per finding."""
    folder = write_run(tmp_path / "runs" / "stage1", dataset, 2.0, seed=1)
    opened = Run.open(folder)
    table = predictions.read(opened.val_predictions)
    labels = dataset.labels(opened.labels)
    rows, places = predictions.match(opened.val_predictions, table, dataset, labels)
    found = all_scores(labels.findings, (labels.values[rows] == 1).astype(float), table.values[:, places])
    rows = zip(found.findings, found.ap, found.auroc, found.positives, found.negatives, strict=True)
    pd.DataFrame([(2, *row) for row in rows], columns=FINDING_COLUMNS).to_csv(folder / "findings.csv", index=False)
    return folder


@pytest.fixture
def evaluated(dataset, labels, tmp_path):
    def evaluated(split="test", run="stage1", name="held"):
        written(tmp_path / f"{name}.parquet", dataset, split, "train" if split == "val" else split, run=run)
        result = evaluate(tmp_path / f"{name}.parquet", dataset, labels, EvaluateOptions(draws=20))
        return write(result, tmp_path / name)[0], result

    return evaluated


@pytest.fixture
def page(tmp_path):
    def page(runs, evaluations=(), **more) -> Page:
        options = ReportOptions("Report")
        return Page(write_report(tmp_path / "page.html", runs, evaluations=evaluations, options=options, **more))

    return page


# ------------------------------------------------------------ which score leads


def lead(page: Page) -> str:
    return page.text[page.text.rindex("At a glance") :][:1200]


def test_the_test_score_leads_and_the_validation_score_says_that_it_flatters(run, evaluated, page):
    path, result = evaluated()
    whole = result["all"]
    of = f"{result['images']} images of {result['studies']} studies, labels cxr-lt-2023"
    reached = f"On the test split ({of}), Stage 1 reaches a mAP of {score(whole['mAP'])} "
    assert whole["mAP_low"] is None, "of six patients"
    assert f"{reached}(too few patients for an interval), the mean" in lead(page([run], [path]))
    whole |= {"mAP_low": whole["mAP"] / 2, "mAP_high": whole["mAP"] * 1.1}
    write(result, path.with_suffix(""))
    shown = page([run], [path])
    said = lead(shown)
    mean, low, high = (score(whole[key]) for key in ("mAP", "mAP_low", "mAP_high"))
    assert mean == score(whole["mAP"]) and f"{reached}(95 % interval {low} to {high})" in said
    best = score(Run.open(run).best["mAP"])
    after = (
        "On the validation images, on which the best epoch was chosen, so that the score flatters, the highest mAP is "
    )
    assert said.index("On the test split") < said.index(after + best)
    assert "The highest <strong>validation" not in shown.source and "no test score" not in said and check_numbers(shown)
    (held,) = shown.numbers["sections"]["summary"]["data"]["held_out"]
    assert held["mAP"] == [whole[key] for key in ("mAP", "mAP_low", "mAP_high")]


@pytest.mark.parametrize("split", [None, "val"])
def test_without_held_out_images_the_page_says_that_its_score_is_no_test_score(run, evaluated, page, split):
    shown = page([run], [evaluated(split)[0]] if split else [])
    said = lead(shown)
    best = score(Run.open(run).best["mAP"])
    assert (
        f"The highest validation mAP, the mean of the findings' average precision, is {best} (Stage 1, epoch 2" in said
    )
    assert "This is no test score: the best epoch was chosen on these same images, so that it flatters." in said
    assert "On the test split" not in said and shown.numbers["sections"]["summary"]["data"]["held_out"] == []


def test_several_held_out_scores_are_a_table_in_which_none_is_picked(run, evaluated, page):
    paths = [evaluated("dev", "stage1", "a")[0], evaluated("test", "other", "b")[0], evaluated("test", name="c")[0]]
    shown = page([run], paths)
    table = shown.table("Scores on held-out images")
    assert table.index.tolist() == ["other", "Stage 1", "Stage 1"]
    assert table["Split"].tolist() == ["test split", "test split", "development split"]
    assert not [caption for caption, _, _ in shown.bold if caption == "Scores on held-out images"]
    assert "The predictions of other (test split) are of none of the runs on this page." in shown.text
    shown = page([run], [evaluated(run="ensemble of other, stage1")[0]])
    assert "ensemble of other, stage1 reaches a mAP" in shown.text and "none of the runs on this page" not in shown.text
    assert check_numbers(shown)


# ------------------------------------------------------------ synthetic data


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    write_release(root / "release", SyntheticOptions(studies=60, size=48))
    pack(open_release(root / "release"), root / "pack", PackOptions(sizes=(Size(48),)))
    return PackedDataset.open(root / "pack")


def test_a_dataset_knows_whether_it_is_synthetic(synthetic, dataset):
    assert synthetic.synthetic is True and synthetic.info["options"]["synthetic"] is True
    assert dataset.synthetic is False and "synthetic" not in dataset.info["options"]


def test_every_page_on_a_synthetic_dataset_says_so_and_no_other_does(synthetic, dataset, tmp_path):
    for data, said in ((synthetic, True), (dataset, False)):
        root = tmp_path / str(said)
        runs = [write_run(root / name, data, 1.0, seed=seed) for seed, name in enumerate("ab")]
        fitted = calibration.fit(runs[0] / "val_predictions.parquet", data, data.labels("cxr-lt-2023"), "temperature")
        fitted.write(root / "rules.json")
        facts = read_facts(data)
        pages = [
            write_report(root / "report.html", runs, pack=data, options=ReportOptions("r")),
            write_comparison(compare(runs, data, CompareOptions(draws=0)), root / "compare.html", "c"),
            write_page(calibration.read(root / "rules.json"), root / "calibration.html"),
            write_dataset(root / "dataset.html", data, facts),
        ]
        for path in pages:
            shown = Page(path)
            assert ("Synthetic data." in shown.text) is said, path
            assert check_figures(shown) and all((b"Synthetic data" in each.file) is said for each in shown.figures)
        assert ("mimic-cxr-jpg, synthetic" in as_text(facts)) is said


def test_a_report_without_the_dataset_knows_it_from_the_run_or_the_evaluation(run, evaluated, page):
    path, result = evaluated()
    assert "ynthetic" not in page([run], [path]).text
    path.write_bytes(sealed_json(result | {"synthetic": True}))
    assert "Synthetic data." in page([run], [path]).text
    change_config(run, synthetic=True)
    assert "Synthetic data." in page([run]).text


# ------------------------------------------------------------ curves


def panels(shown: Page, section: str, kind: str) -> list[dict]:
    data = shown.numbers["sections"][section]["data"]
    return (data["evaluations"][0] if section == "evaluation" else data)["curves"][kind]["curves"]


def test_an_evaluation_s_curves_are_on_the_page_by_frequency_with_their_scores(run, evaluated, page):
    path, result = evaluated()
    shown = page([run], [path])
    rows = {row["finding"]: row for row in result["all"]["findings"]}
    drawn = panels(shown, "evaluation", "precision_recall")
    assert drawn == panels(shown, "evaluation", "roc")
    assert {each["finding"] for each in drawn} == {name for name, curve in result["curves"].items() if curve}
    assert [each["positives"] for each in drawn] == sorted((each["positives"] for each in drawn), reverse=True)
    for each in drawn:
        row, stored = rows[each["finding"]], result["curves"][each["finding"]]
        assert {key: each[key] for key in (*COUNTS, *stored)} == {key: row[key] for key in COUNTS} | stored
        true, false = np.array(each["true_positives"]), np.array(each["false_positives"])
        assert np.trapezoid(true / true[-1], false / false[-1]) == pytest.approx(row["AUROC"], abs=0.01)
    assert result["curves"]["Hernia"] is None
    assert re.search(r"so without curves: [^.]*Hernia", shown.text)
    (file,) = [each.file for each in shown.figures if each.name == "evaluation-0-precision-recall.svg"]
    for each in drawn:
        assert f"AP {score(each['AP'])}, n = {each['positives']}".encode() in file


def test_a_run_s_validation_curves_need_the_dataset(run, page, dataset):
    opened = Run.open(run)
    assert "ROC curves need the labels; give the dataset with --data" in page([run]).text
    shown = page([run], pack=dataset)
    table, labels = predictions.read(opened.val_predictions), dataset.labels(opened.labels)
    rows, places = predictions.match(opened.val_predictions, table, dataset, labels)
    values, truth = table.values[:, places], labels.values[rows] == 1
    drawn = panels(shown, "findings", "roc")
    assert drawn
    for each in drawn:
        place = labels.findings.index(each["finding"])
        assert each["AP"] == pytest.approx(average_precision_score(truth[:, place], values[:, place]))
        assert each["AUROC"] == pytest.approx(roc_auc_score(truth[:, place], values[:, place]))
        ends = each["true_positives"][-1], each["false_positives"][-1]
        assert ends == (truth[:, place].sum(), (~truth[:, place]).sum())
    assert f"ROC curves of Stage 1, validation ({len(rows)} images)" in shown.text
    opened.val_predictions.unlink()
    assert "No precision-recall and ROC curves: " in of_validation(opened, dataset)["missing"]


def test_an_evaluation_of_before_has_no_curves_and_a_damaged_curve_is_named(run, evaluated, page):
    path, result = evaluated()
    path.write_bytes(sealed_json({key: value for key, value in result.items() if key != "curves"}))
    assert "ROC curves per finding, stage1" not in page([run], [path]).text
    right = result["curves"]["Edema"]
    for change in (
        {"true_positives": right["true_positives"][:-1]},
        {"true_positives": right["true_positives"][::-1]},
        {"false_positives": [0, *right["false_positives"]]},
        {"false_positives": [0, right["false_positives"][-1] + 1]},
        {"false_positives": []},
    ):
        damaged = result["curves"] | {"Edema": right | change}
        path.write_bytes(sealed_json(result | {"curves": damaged}))
        with pytest.raises(UserError, match=r"held.json: not an evaluation \(curves.'Edema' "):
            page([run], [path])


# ------------------------------------------------------------ when and how


def test_a_page_says_when_and_by_which_command_it_was_made(run, page, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225660")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cxrdali", "report", "a run", "--out", "x.html"])
    said = f"Made on 2026-01-01 at 00:01 UTC by cxrdali {__version__} with `cxrdali report 'a run' --out x.html`."
    assert made() == said
    shown = page([run])
    assert said.replace("`", "") in shown.text and shown.numbers["made"] == said
    assert all(b"2026-01-01 at 00:01 UTC" in each.file for each in shown.figures)
    monkeypatch.setattr(sys, "argv", ["/tmp/script.py", "--secret"])
    assert made() == f"Made on 2026-01-01 at 00:01 UTC by cxrdali {__version__}."
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    now = pd.Timestamp.now("UTC")
    assert abs(pd.Timestamp(re.sub(r"Made on (.*) at (.*) UTC.*", r"\1T\2Z", made())) - now) < pd.Timedelta("2min")
    for wrong in ("today", "1e9", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(UserError, match=f"SOURCE_DATE_EPOCH is '{wrong}'; give seconds since 1970"):
            made()


def test_provenance_says_when_a_run_began_how_and_where_it_went_on(run, page):
    table = page([run]).table("Where the numbers come from")
    assert table.loc[["Began (UTC)", "Command", "Continued"]].iloc[:, 0].tolist() == ["–"] * 3
    assert table.loc["Device"].iloc[0] == "a CPU"
    later = {"epoch": 1, "date": "2026-02-03T04:05:06Z", "device": "NVIDIA H200", "processes": 1, "versions": {}}
    change_config(run, began="2026-01-02T03:04:05Z", command="cxrdali train --stage 1", continued=[later])
    table = page([run]).table("Where the numbers come from")
    assert table.loc[["Began (UTC)", "Command", "Continued"]].iloc[:, 0].tolist() == [
        "2026-01-02T03:04:05Z", "cxrdali train --stage 1", "after epoch 1, 2026-02-03T04:05:06Z, NVIDIA H200",
    ]  # fmt: skip


# ------------------------------------------------------------ the walk over figures itself


def test_a_figure_without_a_title_at_an_axis_is_found():
    def bare():
        drawing = new_figure(200)
        drawing.subplots().set_xlabel("images")
        return drawing

    with pytest.raises(AssertionError, match="a y axis without a title"):
        check_axes(bare())
    with pytest.raises(AssertionError, match="a y axis without a title"):
        Figure("bare", bare, ()).svg()
