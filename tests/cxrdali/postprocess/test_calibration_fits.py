"""Which map a finding gets, and what is shown of it, on tables with logits and labels of a known kind."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit

from cxrdali.metrics.calibration_error import brier, errors
from cxrdali.postprocess import calibration
from cxrdali.postprocess.calibration import apply, fit, read
from cxrdali.postprocess.calibration_maps import ENOUGH, IDENTITY, Affine, Isotonic, fit_isotonic, fit_platt
from cxrdali.postprocess.crossfit import read_held_out
from cxrdali.postprocess.options import CALIBRATIONS, FitOptions
from cxrdali.predictions import Predictions, sigmoid
from cxrdali.predictions import read as read_table
from cxrdali.report.calibration.page import write_page
from shards.storage.sealed import sealed_json
from tests.releases import FINDINGS

EDEMA = FINDINGS.index("Edema")


def with_labels(dataset, labels, val, finding, wanted):
    """Labels in which `finding` is 1 in these rows of the table `val`, and nowhere else in it."""
    _, rows = np.unique(dataset.catalog["image_id"], return_index=True)
    rows = rows[np.searchsorted(np.sort(dataset.catalog["image_id"]), read_table(val).ids["image_id"])]
    values = labels.values.copy()
    values[rows, finding] = 0
    values[rows[wanted], finding] = 1
    return dataclasses.replace(labels, values=values)


def with_logits(val, finding, logits):
    table = read_table(val)
    values = table.values.copy()
    values[:, finding] = logits
    Predictions(table.ids, table.findings, values, table.provenance).write(val)


def rows_by_part(dataset, labels, val):
    """Rows of the table in each part of the cross-fit."""
    part = read_held_out(val, dataset, labels, FitOptions()).part
    return [np.flatnonzero(part == number) for number in range(5)]


def test_what_no_part_of_the_cross_fit_could_fit_stays_as_it_is(dataset, labels, val, tmp_path):
    """Ten positives, two in each part: enough for all images, not for four parts of five."""
    wanted = np.concatenate([rows[:2] for rows in rows_by_part(dataset, labels, val)])
    labels = with_labels(dataset, labels, val, EDEMA, wanted)
    logits = np.random.default_rng(0).normal(size=len(read_table(val).ids))
    logits[wanted] += 1
    with_logits(val, EDEMA, logits)
    data = read_held_out(val, dataset, labels, FitOptions())
    assert fit_platt(data.truth[:, EDEMA], data.logits[:, EDEMA])[1] == ""
    fitted = fit(val, dataset, labels, "platt")
    rule = fitted.rules[EDEMA]
    assert rule.map == IDENTITY and rule.positives == 10 and rule.parts_kept == 0
    assert rule.kept == "no part of the cross-fit could be fitted (8 positive of at least 10)"
    assert rule.after.brier == rule.before.brier and rule.after.ece == rule.before.ece
    assert (apply(val, fitted).values[:, EDEMA] == read_table(val).values[:, EDEMA]).all()
    assert f"Edema ({rule.kept})" in write_page(fitted, tmp_path / "p.html").read_text()


def test_parts_without_a_fit_are_counted_and_listed(dataset, labels, val, tmp_path):
    """Eleven positives, seven of them in one part: the other four parts are fitted to those seven and more."""
    parts = rows_by_part(dataset, labels, val)
    wanted = np.concatenate([parts[0][:7], *(rows[:1] for rows in parts[1:])])
    labels = with_labels(dataset, labels, val, EDEMA, wanted)
    logits = np.random.default_rng(0).normal(size=len(read_table(val).ids))
    logits[wanted] += 1
    with_logits(val, EDEMA, logits)
    fitted = fit(val, dataset, labels, "platt")
    rule = fitted.rules[EDEMA]
    assert rule.kept == "" and rule.parts_kept == 1 and rule.map != IDENTITY
    data = read_held_out(val, dataset, labels, FitOptions())
    after = data.logits[:, EDEMA].copy()
    for rows in parts[1:]:  # the first part's images stay as they are
        others = ~np.isin(np.arange(len(after)), rows)
        after[rows] = fit_platt(data.truth[others, EDEMA], data.logits[others, EDEMA])[0](data.logits[rows, EDEMA])
    probability = sigmoid(after)[:, None]
    assert rule.after.brier == pytest.approx(brier(data.truth[:, [EDEMA]], probability)[0])
    assert "parts of the cross-fit had no fit" in (html := write_page(fitted, tmp_path / "p.html").read_text())
    assert "Edema (no fit in 1)" in html


def test_what_is_not_calibrated_is_shown_as_it_is(dataset, labels, val):
    """All images together rank by chance, though some parts' fits do not: after is before, as it is applied."""
    parts = rows_by_part(dataset, labels, val)
    positive = np.concatenate([rows[: len(rows) // 2] for rows in parts])
    labels = with_labels(dataset, labels, val, EDEMA, positive)
    truth = read_held_out(val, dataset, labels, FitOptions()).truth[:, EDEMA]
    logits = np.random.default_rng(3).normal(size=len(truth)) + 0.2 * truth
    logits[parts[0]] -= 3 * truth[parts[0]]  # without this part, the ranking is better than chance
    with_logits(val, EDEMA, logits)
    rule = fit(val, dataset, labels, "platt").rules[EDEMA]
    assert "no better than chance" in rule.kept and rule.map == IDENTITY and rule.parts_kept == 0
    others = np.concatenate(parts[1:])
    assert fit_platt(truth[others], logits[others])[1] == ""
    assert rule.after.brier == rule.before.brier and (rule.after.curve.images == rule.before.curve.images).all()


def test_isotonic_of_too_few_positives_is_platt_and_says_so(dataset, labels, val, tmp_path):
    fitted, platt = (fit(val, dataset, labels, method) for method in ("isotonic", "platt"))
    html = write_page(fitted, tmp_path / "p.html").read_text()
    for rule, wanted in zip(fitted.rules, platt.rules, strict=True):
        assert rule.map == wanted.map and rule.after.brier == wanted.after.brier and wanted.remark == ""
        assert rule.remark == ("" if rule.kept else f"Platt, {rule.positives} positive of at least 1000 for isotonic")
        assert rule.kept or f"{rule.finding} ({rule.remark})" in html
    assert ENOUGH == 1000


def test_isotonic_needs_as_many_negatives(dataset, labels, val, monkeypatch):
    data = read_held_out(val, dataset, labels, FitOptions())
    wanted = int(max(min(p, n - p) for p, n in zip(data.positives, data.images, strict=True)))
    monkeypatch.setattr(calibration, "ENOUGH", wanted)
    kinds = []
    for rule in fit(val, dataset, labels, "isotonic").rules:
        enough = min(rule.positives, rule.images - rule.positives) >= wanted
        if not rule.kept:
            assert enough == (rule.remark == "") and isinstance(rule.map, Isotonic if enough else Affine)
        kinds.append(enough)
    assert any(kinds) and not all(kinds)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_errors_are_those_of_what_is_applied(dataset, labels, val, tmp_path, method):
    fitted = fit(val, dataset, labels, method)
    data = read_held_out(val, dataset, labels, FitOptions())
    assert fitted.errors["before"] == errors(data.truth, sigmoid(data.logits))
    assert fitted.errors["after"]["macro_ECE"] == pytest.approx(fitted.macro("ece", "after"))
    assert fitted.brier_difference["difference"] == pytest.approx(
        fitted.macro("brier", "after") - fitted.macro("brier", "before")
    )
    fitted.write(tmp_path / "rules.json")
    again = read(tmp_path / "rules.json")
    assert again.errors == fitted.errors and again.verdict == fitted.verdict
    assert [(rule.remark, rule.parts_kept) for rule in again.rules] == [
        (rule.remark, rule.parts_kept) for rule in fitted.rules
    ]


def test_a_file_of_an_older_version_is_read_and_shown(dataset, labels, val, tmp_path):
    fitted = fit(val, dataset, labels, "platt")
    fitted.write(tmp_path / "rules.json")
    stored = json.loads((tmp_path / "rules.json").read_text())
    for name in ("calibration_error", "Brier_difference"):
        stored.pop(name)
    for row in stored["findings"]:
        row.pop("remark"), row.pop("parts_kept")
    (tmp_path / "rules.json").write_bytes(sealed_json(stored))
    again = read(tmp_path / "rules.json")
    assert (apply(val, again).values == apply(val, fitted).values).all() and again.verdict == ""
    assert "Calibration error" not in write_page(again, tmp_path / "p.html").read_text()


def expected_loss(true, logits):
    return float(np.mean(np.logaddexp(0, logits) - expit(true) * logits))


@pytest.mark.slow
def test_isotonic_is_worse_than_platt_from_few_positives_and_better_from_enough_where_no_line_fits():
    """Of calibrated logits it costs over 3 % of the log loss at 100 positives, under 1.5 % at ENOUGH."""
    rng, bent = np.random.default_rng(0), lambda normal: np.sign(normal) * np.sqrt(np.abs(normal))
    normal, lost = rng.normal(size=20_000), {}
    true = 1.8 * normal - 4  # of which one in twenty is positive
    for positives in (100, ENOUGH):
        for kind, logits in {"calibrated": lambda normal: 1.8 * normal - 4, "bent": bent}.items():
            found = []
            for _ in range(8):
                sampled = rng.normal(size=positives * 20)
                truth = (rng.random(len(sampled)) < expit(1.8 * sampled - 4)).astype(np.float32)
                maps = [make(truth, logits(sampled))[0] for make in (fit_platt, fit_isotonic)]
                found.append([expected_loss(true, each(logits(normal))) for each in maps])
            lost[kind, positives] = 100 * np.mean(found, axis=0) / expected_loss(true, true) - 100
    platt, isotonic = lost["calibrated", 100]
    assert isotonic > 3 > 1 > platt
    assert lost["calibrated", ENOUGH][1] < 1.5
    platt, isotonic = lost["bent", ENOUGH]
    assert isotonic < platt - 1
