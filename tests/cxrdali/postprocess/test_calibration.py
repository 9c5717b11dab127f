import dataclasses
import json
import re

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, brier_score_loss

from cxrdali.fitted import Fitted, sketch
from cxrdali.metrics.calibration_error import ece
from cxrdali.postprocess.calibration import apply, fit, read
from cxrdali.postprocess.calibration_maps import CLIP, IDENTITY, fit_platt, fit_temperature
from cxrdali.postprocess.crossfit import read_held_out
from cxrdali.postprocess.ensemble import ensemble
from cxrdali.postprocess.options import CALIBRATIONS as METHODS
from cxrdali.postprocess.options import FitOptions
from cxrdali.predictions import Kind, Predictions, Provenance
from cxrdali.predictions import read as read_table
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.held_out import written
from tests.heard import heard
from tests.releases import FINDINGS


def held_out(path, dataset, labels):
    return read_held_out(path, dataset, labels, FitOptions())


def test_one_temperature_is_that_of_all_values_together(dataset, labels, val):
    fitted = fit(val, dataset, labels, "temperature")
    data = held_out(val, dataset, labels)
    shared = fit_temperature(data.truth, data.logits)[0]
    assert [rule.map for rule in fitted.rules] == [shared] * 5 and shared.slope < 1
    assert fitted.findings == FINDINGS and fitted.made_from["split"] == "val"


def test_before_is_the_table_and_after_is_cross_fitted(dataset, labels, val):
    """By hand: every part's logits through the line that the other parts give."""
    fitted = fit(val, dataset, labels, "platt")
    data = held_out(val, dataset, labels)
    after = data.logits.copy()
    for number in range(5):
        inside = data.part == number
        for place in range(5):
            line, _ = fit_platt(data.truth[~inside, place], data.logits[~inside, place])
            after[inside, place] = line(data.logits[inside, place])
    for place, rule in enumerate(fitted.rules):
        assert rule.map == fit_platt(data.truth[:, place], data.logits[:, place])[0]
        target = data.truth[:, place]
        for quality, logits in ((rule.before, data.logits[:, place]), (rule.after, after[:, place])):
            probability = expit(logits.astype(np.float64))
            assert quality.brier == pytest.approx(np.mean((probability - target) ** 2))
            assert quality.ece == pytest.approx(ece(target[:, None], probability[:, None])[0])
            if 0 < target.sum() < len(target):
                assert quality.brier == pytest.approx(brier_score_loss(target, probability))
        assert rule.positives == target.sum() and rule.images == len(target)
    assert fitted.macro("brier", "after") == pytest.approx(np.mean([rule.after.brier for rule in fitted.rules]))
    pooled = expit(after.astype(np.float64)).reshape(-1, 1)
    assert fitted.pooled_after.ece == pytest.approx(ece(data.truth.reshape(-1, 1), pooled)[0])
    assert fitted.macro("ece", "after") < fitted.macro("ece", "before")
    # the fit's own images would look better than they are
    own = fit_platt(data.truth[:, 0], data.logits[:, 0])[0](data.logits[:, 0])
    assert brier_score_loss(data.truth[:, 0], expit(own)) < fitted.rules[0].after.brier


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_is_read_and_does_the_same(dataset, labels, val, tmp_path, method):
    fitted = fit(val, dataset, labels, method)
    fitted.write(tmp_path / "a.json")
    again = read(tmp_path / "a.json")
    again.write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (apply(val, fitted).values == apply(val, again).values).all()
    stored = json.loads((tmp_path / "a.json").read_text())
    assert stored["method"] == method and [row["finding"] for row in stored["findings"]] == list(FINDINGS)
    assert stored["macro_ECE_after"] == fitted.macro("ece", "after")


@pytest.mark.parametrize("method", METHODS)
def test_ap_stays_and_a_finding_without_positives_stays_as_it_is(dataset, labels, val, method):
    fitted = fit(val, dataset, labels, method)
    before, after = read_table(val), apply(val, fitted)
    truth = held_out(val, dataset, labels).truth
    for place, rule in enumerate(fitted.rules):
        if rule.finding == "Hernia" and method != "temperature":
            assert rule.kept == "0 positive of at least 10" and rule.map == IDENTITY
            assert (after.values[:, place] == before.values[:, place]).all()
        else:
            assert rule.kept == "" and (after.values[:, place] != before.values[:, place]).all()
        if truth[:, place].any():
            scores = [average_precision_score(truth[:, place], each.values[:, place]) for each in (before, after)]
            assert scores[1] == pytest.approx(scores[0], abs=1e-6)


@pytest.mark.usefixtures("few_are_enough")
def test_isotonic_on_a_table_is_scikit_learn_s(dataset, labels, val):
    fitted = fit(val, dataset, labels, "isotonic")
    data = held_out(val, dataset, labels)
    for place in (0, 2, 3, 4):
        rule, values = fitted.rules[place], data.logits[:, place].astype(np.float64)
        model = IsotonicRegression(y_min=CLIP, y_max=1 - CLIP).fit(values, data.truth[:, place])
        after = apply(val, fitted).values[:, place].astype(np.float64)
        plain = expit(after - rule.map.tilt * (values - rule.map.centre))
        np.testing.assert_allclose(plain, model.predict(values), atol=1e-6)


def test_another_table_keeps_its_order_and_says_what_was_done(dataset, labels, val, tmp_path):
    fitted = fit(val, dataset, labels, "platt")
    written(tmp_path / "test.parquet", dataset, "test", "test", seed=4, findings=FINDINGS[::-1], history=("first",))
    before, after = read_table(tmp_path / "test.parquet"), apply(tmp_path / "test.parquet", fitted)
    assert after.findings == FINDINGS[::-1] and after.ids.equals(before.ids) and after.values.dtype == np.float32
    for place, name in enumerate(after.findings):
        line = fitted.rules[FINDINGS.index(name)].map
        wanted = line.slope * before.values[:, place].astype(np.float64) + line.offset
        np.testing.assert_allclose(after.values[:, place], wanted, rtol=1e-6)
    done = "calibrated: platt, fitted on val.parquet"
    assert after.provenance == dataclasses.replace(
        before.provenance, kind=Kind.CALIBRATED, history=("first", done), calibrated=(done,),
        fitted=(Fitted(("calibration",), sketch(read_table(val).ids), "val"),),
    )  # fmt: skip
    after.write(tmp_path / "after.parquet")
    assert read_table(tmp_path / "after.parquet").provenance == after.provenance


def test_tables_that_the_rules_do_not_fit_are_named(dataset, labels, val, tmp_path):
    fitted = fit(val, dataset, labels, "temperature")
    path = tmp_path / "p.parquet"
    other = dataclasses.replace(fitted, rules=tuple(dataclasses.replace(each, finding="X") for each in fitted.rules))
    with pytest.raises(UserError, match=r"val.parquet: finding 'Edema' \(and 4 more\) is unknown to the calibration"):
        apply(val, other)
    written(path, dataset, "test", "test", kind="probability")
    with pytest.raises(UserError, match="p.parquet: holds probabilities, which saturate"):
        apply(path, fitted)
    apply(val, fitted).write(path)
    ids = read_table(val).ids
    huge = np.full((len(ids), 5), 3e38, dtype=np.float32)
    Predictions(ids, FINDINGS, huge, Provenance("logit", "m", "val")).write(path)
    steep = dataclasses.replace(fitted.rules[0], map=dataclasses.replace(fitted.rules[0].map, slope=2.0))
    with pytest.raises(UserError, match=r"finding 'Edema' of image .* would leave the range of numbers \(its logit is"):
        apply(path, dataclasses.replace(fitted, rules=(steep, *fitted.rules[1:])))


def test_a_calibration_of_some_of_the_findings_gives_a_table_of_these(dataset, labels, val, tmp_path):
    """As one that was fitted on another hospital's labels: never calibrated and raw logits side by side."""
    written(tmp_path / "val4.parquet", dataset, findings=FINDINGS[:4])
    part, whole, lines = (
        fit(tmp_path / "val4.parquet", dataset, labels, "platt"),
        fit(val, dataset, labels, "platt"),
        [],
    )
    assert part.findings == FINDINGS[:4]
    with heard(lines):
        made = apply(val, part)
    np.testing.assert_array_equal(made.values, apply(val, whole).values[:, :4])
    assert made.findings == FINDINGS[:4] and lines == [f"note: {val}: unknown to the calibration: Pneumonia"]
    lines.clear()
    with heard(lines):
        again = apply(tmp_path / "val4.parquet", whole)
    np.testing.assert_array_equal(again.values, made.values)
    assert lines == [f"note: in the calibration, but not in {tmp_path / 'val4.parquet'}: Pneumonia"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_calibrated_table_is_not_calibrated_again(dataset, labels, val, tmp_path, suffix):
    first, once = fit(val, dataset, labels, "temperature"), tmp_path / f"once{suffix}"
    apply(val, first).write(once)
    said = f"once{suffix}: was calibrated before (calibrated: temperature, fitted on val.parquet); give the table from"
    for again in (lambda: apply(once, first), lambda: fit(once, dataset, labels, "platt")):
        with pytest.raises(UserError, match=re.escape(said)):
            again()


def test_an_ensemble_of_calibrated_tables_is_calibrated_as_such(dataset, labels, tmp_path):
    """The mean of calibrated probabilities is not calibrated. Its rules are not for an ensemble of raw ones."""
    for name, split in (("val", "train"), ("test", "test")):
        for run in "ab":
            written(tmp_path / f"{run}.{name}.parquet", dataset, name, split, seed=ord(run), run=run)
            made = fit(tmp_path / f"{run}.val.parquet", dataset, labels, "platt")
            apply(tmp_path / f"{run}.{name}.parquet", made).write(tmp_path / f"{run}.{name}.c.parquet")
        for kind in ("", ".c"):
            members = [tmp_path / f"{run}.{name}{kind}.parquet" for run in "ab"]
            ensemble(members).write(tmp_path / f"{name}{kind}.parquet")
    fitted = fit(tmp_path / "val.c.parquet", dataset, labels, "temperature")
    assert apply(tmp_path / "test.c.parquet", fitted).provenance.kind == Kind.CALIBRATED
    said = "test.parquet: its logits are not calibrated, those of val.c.parquet, used to fit the calibration, are table"
    with pytest.raises(UserError, match=said):
        apply(tmp_path / "test.parquet", fitted)


def test_another_method_is_named(dataset, labels, val):
    with pytest.raises(UserError, match="method 'beta': choose one of temperature, per-finding-temperature, platt"):
        fit(val, dataset, labels, "beta")


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("platt", lambda s: s.update(format=2), "format 2, this cxrdali reads 1"),
        ("platt", lambda s: s.pop("method"), "method is missing"),
        ("platt", lambda s: s.update(method="beta"), "method 'beta' is not one of"),
        ("platt", lambda s: s["findings"].clear(), "no finding, or one that is duplicated"),
        ("platt", lambda s: s["findings"].append(s["findings"][0]), "no finding, or one that is duplicated"),
        ("platt", lambda s: s["made_from"].pop("calibrated"), "'calibrated' is missing"),
        ("platt", lambda s: s["made_from"].update(calibrated="x"), "made_from.calibrated is 'x', not a list"),
        ("platt", lambda s: s["findings"][0]["map"].update(kind="spline"), "Edema: map 'spline' is not one of"),
        ("platt", lambda s: s["findings"][0]["map"].update(slope=-1), "Edema: slope -1, offset"),
        ("platt", lambda s: s["findings"][0]["map"].update(curve=1), "Edema: .*unexpected keyword"),
        ("platt", lambda s: s["findings"][0]["after"].update(share=[1.0]), "bins differ in number"),
        ("platt", lambda s: s["pooled"].pop("after"), "pooled.after is missing"),
        ("platt", lambda s: s["calibration_error"]["after"].update(macro_ECE="x"), "macro_ECE is 'x', not a number"),
        ("platt", lambda s: s["Brier_difference"].update(low="x"), "Brier_difference.low is 'x', not a number"),
        ("platt", lambda s: s["findings"][0].update(parts_kept="x"), r"findings\[0\].parts_kept is 'x', not"),
        ("isotonic", lambda s: s["findings"][0]["map"]["logits"].reverse(), "Edema: isotonic knots"),
        ("isotonic", lambda s: s["findings"][0]["map"]["probabilities"].reverse(), "none below the one before"),
    ],
)
@pytest.mark.usefixtures("few_are_enough")
def test_a_damaged_file_is_named(dataset, labels, val, tmp_path, method, change, message):
    path = tmp_path / "rules.json"
    fit(val, dataset, labels, method).write(path)
    stored = json.loads(path.read_text())
    change(stored)
    path.write_bytes(sealed_json(stored))
    with pytest.raises(UserError, match=rf"rules.json: no calibration \(.*{message}.*\); fit it again with"):
        read(path)


def test_no_file_or_no_json(tmp_path):
    with pytest.raises(UserError, match="rules.json: no such file; fit it again with `cxrdali calibrate --fit`"):
        read(tmp_path / "rules.json")
    for text in ("", "[]", "3", '{"format": 1, "made_from": {}, "findings": [3]}'):
        (tmp_path / "rules.json").write_text(text)
        with pytest.raises(UserError, match="no calibration"):
            read(tmp_path / "rules.json")
