"""What the pages say about probabilities and decisions, and evaluations from before they were measured."""

import re
from dataclasses import replace

import numpy as np
import pytest

from cxrdali.evaluate.evaluate import EvaluateOptions, evaluate, write
from cxrdali.postprocess import calibration, thresholds
from cxrdali.report.calibration.page import write_page
from cxrdali.report.training.page import SECTIONS
from cxrdali.report.training.sources import ReportOptions, read_sources
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.held_out import written
from tests.cxrdali.report.pages import Page, check_figures, check_numbers, section_html
from tests.releases import FINDINGS

pytestmark = pytest.mark.slow


@pytest.fixture
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


def cells(html: str, first: str, table: str = "") -> list[str]:
    """The cells beside the row's name `first`, of the table with that caption (else of the first that has the row)."""
    html = html[html.index(f'aria-label="{table}') :]
    row = re.search(rf'<th scope="row">{re.escape(first)}</th>(.*?)</tr>', html, re.DOTALL).group(1)
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def columns(html: str, name: str) -> list[str]:
    head = re.search(rf'aria-label="{re.escape(name)}">.*?<thead>(.*?)</thead>', html, re.DOTALL).group(1)
    return re.findall(r"<th[^>]*>(.*?)</th>", head)


# ------------------------------------------------------------ calibration


def test_the_page_has_the_calibration_s_numbers(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    fitted = calibration.fit(tmp_path / "val.parquet", dataset, labels, "platt")
    html = write_page(fitted, tmp_path / "page.html").read_text()
    assert "<h1>Calibration of m: Platt scaling per finding</h1>" in html
    for rule in fitted.rules:
        before, after = rule.before, rule.after
        numbers = [f"{value:.4f}" for value in (before.ece, after.ece, before.brier, after.brier)]
        assert cells(html, rule.finding)[:5] == [f"{rule.positives}", *numbers]
    assert cells(html, "Hernia")[5] == "as it is" and "Hernia (0 positive of at least 10)" in html
    edema = fitted.rules[0].map
    assert cells(html, "Edema")[5].startswith(f"{edema.slope:.2f} · logit ")
    assert cells(html, "All findings, pooled")[1:3] == [
        f"{each.ece:.4f}" for each in (fitted.pooled_before, fitted.pooled_after)
    ]
    assert f"Mean ECE over findings {fitted.macro('ece', 'before'):.4f} before" in html
    assert html.count("<svg") == check_figures(Page(tmp_path / "page.html")) == 2
    assert "http" not in re.sub(r"http://www.w3.org/\S+", "", html)
    diagrams = html.split("A diagram per finding")[1]
    assert "Pneumonia" in diagrams and "Hernia" not in diagrams


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_every_number_is_one_of_the_rules_json(dataset, labels, tmp_path, method):
    written(tmp_path / "val.parquet", dataset)
    found = calibration.fit(tmp_path / "val.parquet", dataset, labels, method)
    found.write(tmp_path / "page.json")
    assert check_numbers(Page(write_page(found, tmp_path / "page.html"))) > 40


def test_a_temperature_is_shown_as_what_logits_are_divided_by(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    fitted = calibration.fit(tmp_path / "val.parquet", dataset, labels, "temperature")
    logits = np.array([-3.0, 2.0])
    (temperature,) = {round(float(value), 3) for value in logits / fitted.rules[0].map(logits)}
    assert temperature != 1
    html = write_page(fitted, tmp_path / "page.html").read_text()
    assert {cells(html, name)[5] for name in FINDINGS} == {f"T = {temperature:.3f}"}


def test_the_same_calibration_makes_the_same_page(dataset, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "ENOUGH", 10)
    written(tmp_path / "val.parquet", dataset)
    fitted = calibration.fit(tmp_path / "val.parquet", dataset, labels, "isotonic")
    fitted.write(tmp_path / "rules.json")
    pages = [
        write_page(each, tmp_path / "p.html").read_bytes()
        for each in (fitted, calibration.read(tmp_path / "rules.json"))
    ]
    assert pages[0] == pages[1] and b" knots</td>" in pages[0]


def test_findings_that_all_stay_as_they_are_make_a_page_too(dataset, labels, tmp_path):
    written(tmp_path / "dev.parquet", dataset, "dev", "dev")  # few images
    fitted = calibration.fit(tmp_path / "dev.parquet", dataset, labels, "per-finding-temperature")
    few = [rule.finding for rule in fitted.rules if rule.kept]
    html = write_page(fitted, tmp_path / "p.html").read_text()
    assert few and all(f"{name} (" in html for name in few)


# ------------------------------------------------------------ evaluation


def shown(paths):
    (section,) = (each for each in SECTIONS if each.template == "training/evaluation")
    return section_html(section, read_sources([], None, paths, ReportOptions("t")))


def judged(tmp_path, dataset, labels, name, limits=None):
    written(tmp_path / f"{name}.parquet", dataset, "test", "test", run=name)
    result = evaluate(tmp_path / f"{name}.parquet", dataset, labels, EvaluateOptions(draws=0), thresholds=limits)
    return write(result, tmp_path / name)[0], result


def test_validation_predictions_and_calibrated_ones_say_what_they_are(dataset, labels, tmp_path):
    """A table's split, and what was done to it, stand before its numbers."""
    written(tmp_path / "val.parquet", dataset, run="new")
    fitted = calibration.fit(tmp_path / "val.parquet", dataset, labels, "platt")
    pages = {}
    for split in ("val", "test"):
        written(tmp_path / f"{split}.parquet", dataset, *((split, split) if split == "test" else ()), run="new")
        table = calibration.apply(tmp_path / f"{split}.parquet", fitted)
        table.write(tmp_path / "platt.parquet")
        result = evaluate(tmp_path / "platt.parquet", dataset, labels, EvaluateOptions(draws=0))
        pages[split] = shown([write(result, tmp_path / split)[0]]).split("Metrics by view")[0]
    for split, html in pages.items():
        assert f"<h3>new, {split} split</h3>" in html
        assert "Made from predictions: calibrated: platt, fitted on val.parquet." in html
        assert ("These are no test scores" in html) == (split == "val")


def test_a_calibration_that_makes_it_worse_says_so(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    fitted = calibration.fit(tmp_path / "val.parquet", dataset, labels, "platt")
    worse, unclear = "the Brier score is higher than before", "whether it lowers the Brier score cannot be told"
    found = fitted.brier_difference
    assert found["high"] < 0
    for ends, said in (
        ((found["low"], found["high"]), []),
        ((0.001, 0.002), [worse]),
        ((-0.001, 0.002), [unclear]),
        ((None, None), []),
    ):
        changed = replace(fitted, brier_difference={**found, "low": ends[0], "high": ends[1]})
        html = write_page(changed, tmp_path / "p.html").read_text()
        assert [text for text in (worse, unclear) if text in html] == said and bool(changed.verdict) == bool(said)


def test_the_page_shows_what_perfect_probabilities_would_show(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    fitted = calibration.fit(tmp_path / "val.parquet", dataset, labels, "platt")
    html = write_page(fitted, tmp_path / "page.html").read_text()
    for when, found in fitted.errors.items():
        shown = cells(html, when, "Calibration error")
        for cell, (key, floor) in zip(shown, found["ECE_floor"].items(), strict=True):
            numbers = [f"{number:.4f}".replace("-", "\u2212") for number in (found[key], floor["mean"], floor["p95"])]
            assert cell == "{} ({}, to {})".format(*numbers)
    assert fitted.errors["after"]["macro_ECE"] == pytest.approx(fitted.macro("ece", "after"))
    assert fitted.errors["after"]["pooled_ECE"] == pytest.approx(fitted.pooled_after.ece)


def test_an_evaluation_with_thresholds_is_shown_with_its_decisions(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset, run="new")
    limits = thresholds.fit(tmp_path / "val.parquet", dataset, labels, "f1")
    path, result = judged(tmp_path, dataset, labels, "new", limits)
    html = shown([path])
    names = ("F1", "precision", "recall", "specificity")
    titles = ["ECE", "Brier", "F1", "Precision", "Recall", "Specificity"]
    means, by_finding = "Probabilities and decisions by view", "Probabilities and decisions per finding"
    assert columns(html, means) == ["Predictions", *titles]
    for view, row in (("all", "All views"), ("lateral", "Lateral")):
        part = result[view]
        assert cells(html, row, means) == [
            f"{part['macro_ECE']:.4f}", f"{part['macro_Brier']:.4f}",
            *("–" if part[f"macro_{name}"] is None else f"{part[f'macro_{name}']:.3f}" for name in names),
        ]  # fmt: skip
    more = ["ECE, equal mass", "ECE, debiased"]
    assert columns(html, by_finding) == ["Finding", titles[0], *more, *titles[1:], "Threshold, logit", "Positives"]
    edema = result["all"]["findings"][FINDINGS.index("Edema")]
    assert cells(html, "Edema", by_finding) == [
        *(f"{edema[name]:.4f}" for name in ("ECE", "ECE_equal_mass", "ECE_debiased", "Brier")),
        *(f"{edema[name]:.3f}" for name in (*names, "threshold")), f"{edema['positives']}",
    ]  # fmt: skip
    assert cells(html, "Hernia", by_finding)[4:9] == ["–", "–", "–", "1.000", "–"]
    assert "Decisions: thresholds f1, fitted on val.parquet." in html
    assert "Without a threshold, never called positive: Hernia." in html


def test_without_thresholds_there_is_no_column_of_f1(dataset, labels, tmp_path):
    html = shown([judged(tmp_path, dataset, labels, "new")[0]])
    assert columns(html, "Probabilities and decisions by view") == ["Predictions", "ECE", "Brier"]
    more = ["ECE, equal mass", "ECE, debiased"]
    assert columns(html, "Probabilities and decisions per finding") == ["Finding", "ECE", *more, "Brier", "Positives"]
    assert columns(html, "Calibration error by view")[1:3] == ["Macro, equal width", "Macro, equal mass"]
    assert "what these very probabilities would show" in html
    html = re.sub(r"base64,[^\"]*", "", html)
    assert "F1" not in html and "Decisions:" not in html


def old(tmp_path, dataset, labels):
    """An evaluation as it was written before ECE, Brier and F1."""
    path, result = judged(tmp_path, dataset, labels, "old")
    for part in (result["all"], result["frontal"], result["lateral"]):
        for name in [key for key in part if "ECE" in key or key == "macro_Brier"]:
            part.pop(name)
        for means in part["groups"].values():
            for name in [key for key in means if "ECE" in key]:
                means.pop(name)
        for row in part["findings"]:
            for name in (
                "ECE",
                "ECE_equal_mass",
                "ECE_debiased",
                "Brier",
                "threshold",
                "F1",
                "precision",
                "recall",
                "specificity",
            ):
                row.pop(name)
    for name in ("values", "thresholds"):
        result.pop(name)
    path.write_bytes(sealed_json(result))
    return path


def test_an_older_evaluation_is_shown_as_it_was(dataset, labels, tmp_path):
    html = shown([old(tmp_path, dataset, labels)])
    assert columns(html, "Metrics by view") == ["Predictions", "mAP", "Macro AUROC", "LRAP", "Images", "Studies"]
    assert "ECE" not in html and "Probabilities" not in html


def test_an_older_one_beside_a_newer_one_has_gaps(dataset, labels, tmp_path):
    html = shown(
        [old(tmp_path, dataset, labels), judged(tmp_path, dataset, labels, "new", thresholds.fixed(FINDINGS))[0]]
    )
    means = "Probabilities and decisions by view"
    assert cells(html, "old, test split: all views", means) == ["–"] * 6
    assert "–" not in cells(html, "new, test split: all views", means)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["all"].update(macro_ECE="low"), "all.macro_ECE is 'low', not a number"),
        (lambda r: r["all"].update(ECE_floor={"macro_ECE": 3}), "all.ECE_floor.*macro_ECE.* is 3, not"),
        (lambda r: r["all"]["findings"][0].update(F1="high"), r"all.findings\[0\].F1 is 'high', not a number"),
        (lambda r: r.update(thresholds={"strategy": 3}), "thresholds.strategy is 3, not text"),
        (lambda r: r.update(thresholds={}), "thresholds.strategy is missing"),
    ],
)
def test_a_damaged_evaluation_is_named(dataset, labels, tmp_path, change, message):
    path, result = judged(tmp_path, dataset, labels, "new")
    change(result)
    path.write_bytes(sealed_json(result))
    with pytest.raises(UserError, match=f"new.json: not an evaluation .*{message}"):
        shown([path])
