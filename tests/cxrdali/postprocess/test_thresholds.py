import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score, precision_score, recall_score

from cxrdali.postprocess import calibration
from cxrdali.postprocess.crossfit import read_held_out
from cxrdali.postprocess.options import FitOptions
from cxrdali.postprocess.thresholds import choose, decide, fit, fixed, operating_points, parse_strategy, read
from cxrdali.predictions import Provenance
from cxrdali.predictions import read as read_table
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.held_out import written
from tests.releases import FINDINGS


def test_an_image_at_the_threshold_is_positive_bit_for_bit():
    third = np.float32(1) / np.float32(3)
    logits = np.array([[third, 0.0], [np.nextafter(third, np.float32(0)), 1.0]], dtype=np.float32)
    assert decide(logits, [float(third), None]).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("strategy", ["f1", "precision=0.7", "recall=0.8", "prevalence"])
def test_what_is_shown_is_cross_fitted_and_what_is_written_is_fitted_on_all(dataset, labels, val, strategy):
    """By hand: every part's images called by the thresholds that the other parts give."""
    fitted = fit(val, dataset, labels, strategy)
    data = read_held_out(val, dataset, labels, FitOptions())
    wanted = parse_strategy(strategy)
    called = np.zeros(data.truth.shape, dtype=bool)
    for number in range(5):
        inside = data.part == number
        for place in range(5):
            points = operating_points(data.truth[~inside, place], data.logits[~inside, place])
            limit = choose(points, wanted)[0]
            called[inside, place] = False if limit is None else data.logits[inside, place] >= limit
    for place, rule in enumerate(fitted.rules):
        target, decided = data.truth[:, place], called[:, place]
        subjects = dataset.catalog["subject_id"].to_numpy()[data.rows]
        for label, count in zip((1, 0), rule.independent, strict=True):
            own = Counter(subjects[target == label]).values()
            assert count == pytest.approx(sum(own) ** 2 / sum(each**2 for each in own) if own else 0)
        if rule.finding == "Hernia":
            assert (rule.threshold, rule.F1, rule.recall, rule.probability) == (None,) * 4 and rule.specificity == 1
            assert rule.remark == "no positive, so no image is called positive"
            continue
        assert rule.threshold == choose(operating_points(target, data.logits[:, place]), wanted)[0]
        assert rule.probability == pytest.approx(expit(rule.threshold))
        assert pytest.approx(f1_score(target, decided)) == rule.F1
        assert rule.precision == pytest.approx(precision_score(target, decided))
        assert rule.recall == pytest.approx(recall_score(target, decided))
        assert rule.specificity == pytest.approx(recall_score(1 - target, ~decided))
        assert rule.F1_half == pytest.approx(f1_score(target, expit(data.logits[:, place]) >= 0.5))
    some = [rule.F1 for rule in fitted.rules if rule.F1 is not None]
    assert fitted.macros["macro_F1"] == pytest.approx(np.mean(some)) and len(some) == 4
    assert fitted.strategy == strategy


def test_the_shown_f1_is_not_the_fit_s_own(dataset, labels, val):
    fitted = fit(val, dataset, labels, "f1")
    data = read_held_out(val, dataset, labels, FitOptions())
    own = decide(data.logits, [rule.threshold for rule in fitted.rules])
    some = [place for place in range(5) if data.truth[:, place].any()]
    own_f1 = np.mean([f1_score(data.truth[:, place], own[:, place]) for place in some])
    assert fitted.macros["macro_F1"] < own_f1


def test_without_known_patients_none_are_counted(dataset, labels, val, monkeypatch):
    monkeypatch.setattr("cxrdali.postprocess.thresholds.subject_is", lambda dataset: "image")
    assert {rule.independent for rule in fit(val, dataset, labels, "f1").rules} == {None}


@pytest.mark.parametrize("counts", [[0, 5], [3], [3, -1], [3, 5, 7]])
def test_counts_that_contradict_the_images_are_refused(dataset, labels, val, tmp_path, counts):
    path = tmp_path / "t.json"
    fit(val, dataset, labels, "f1").write(path)
    stored = json.loads(path.read_text())
    stored["findings"][0]["independent"] = counts
    path.write_bytes(sealed_json(stored))
    with pytest.raises(UserError, match="independent"):
        read(path)
    for row in stored["findings"]:
        del row["independent"]  # as an older version wrote it
    path.write_bytes(sealed_json(stored))
    assert {rule.independent for rule in read(path).rules} == {None}


def test_what_is_written_is_read(dataset, labels, val, tmp_path):
    fitted, path = fit(val, dataset, labels, "recall=0.9"), tmp_path / "t.json"
    fitted.write(path)
    assert read(path) == fitted
    stored = json.loads(path.read_text())
    assert stored["strategy"] == "recall=0.9" and stored["findings"][1]["threshold"] is None
    assert stored["findings"][0]["probability"] == pytest.approx(expit(stored["findings"][0]["threshold"]))


def test_decisions_of_a_table_are_in_its_own_order(dataset, labels, val, tmp_path):
    fitted, path = fit(val, dataset, labels, "f1"), tmp_path / "test.parquet"
    written(path, dataset, "test", "test", findings=FINDINGS[::-1])
    table = read_table(path)
    called = fitted.decide(path, table)
    for place, name in enumerate(table.findings):
        limit = fitted.rules[FINDINGS.index(name)].threshold
        wanted = np.zeros(len(called), bool) if limit is None else table.values[:, place] >= np.float32(limit)
        assert (called[:, place] == wanted).all()
    part = replace(fitted, rules=tuple(rule for rule in fitted.rules if rule.finding != "Edema"))
    without = part.decide(path, table)  # as of thresholds that were fitted on another hospital's labels
    edema = table.findings.index("Edema")
    assert np.isnan(without[:, edema]).all()
    np.testing.assert_array_equal(np.delete(without, edema, axis=1), np.delete(called, edema, axis=1))
    none = replace(fitted, rules=tuple(replace(rule, finding=f"other {rule.finding}") for rule in fitted.rules))
    with pytest.raises(UserError, match="test.parquet: finding .* is unknown to the thresholds; fit to predictions of"):
        none.decide(path, table)


def test_thresholds_of_calibrated_logits_are_not_for_others(dataset, labels, val, tmp_path):
    calibration.apply(val, calibration.fit(val, dataset, labels, "platt")).write(tmp_path / "c.parquet")
    fitted = fit(tmp_path / "c.parquet", dataset, labels, "f1")
    assert fitted.made_from["calibrated"] == ["calibrated: platt, fitted on val.parquet"]
    assert fitted.decide(tmp_path / "c.parquet", read_table(tmp_path / "c.parquet")).any()
    plain = read_table(val)
    ensemble = replace(plain, provenance=Provenance("logit", None, "val", history=("mean of two",)))
    for table in (plain, ensemble):
        with pytest.raises(
            UserError, match="val.parquet: its logits are not calibrated, those of c.parquet, used to fit"
        ):
            fitted.decide(val, table)
    from_csv = replace(plain, provenance=Provenance("logit"))  # does not say what was done to it
    assert fitted.decide(val, from_csv).any()


def test_a_rising_calibration_changes_no_best_f1(dataset, labels, val, tmp_path):
    calibration.apply(val, calibration.fit(val, dataset, labels, "platt")).write(tmp_path / "c.parquet")
    plain, calibrated = (fit(path, dataset, labels, "f1") for path in (val, tmp_path / "c.parquet"))
    assert calibrated.macros["macro_F1"] == pytest.approx(plain.macros["macro_F1"], abs=1e-9)
    assert [rule.threshold for rule in plain.rules] != [rule.threshold for rule in calibrated.rules]


def test_one_threshold_for_all():
    even = fixed(("A", "B"))
    assert [rule.threshold for rule in even.rules] == [0, 0] and even.strategy == "fixed=0.5"
    assert fixed(("A",), 0.9).rules[0].probability == pytest.approx(0.9)
    for wrong in (0.0, 1.0, 50.0, float("nan")):
        with pytest.raises(UserError, match="a probability between 0 and 1, or a file of `cxrdali thresholds`"):
            fixed(("A",), wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(format=9), "format 9, this cxrdali reads 1"),
        (lambda s: s.pop("strategy"), "strategy is missing"),
        (lambda s: s["findings"][0].update(threshold="high"), r"findings\[0\].threshold is 'high', not a number"),
        (lambda s: s["findings"][0].update(threshold=float("inf")), "Infinity is no finite number"),
        (lambda s: s["findings"][0].update(probability=0.5), "Edema: probability is 0.5, but its threshold says"),
        (lambda s: s["findings"][0].pop("F1"), r"findings\[0\].F1 is missing"),
    ],
)
def test_a_damaged_file_is_named(dataset, labels, val, tmp_path, change, message):
    path = tmp_path / "t.json"
    fit(val, dataset, labels, "f1").write(path)
    stored = json.loads(path.read_text())
    change(stored)
    path.write_bytes(sealed_json(stored))
    with pytest.raises(UserError, match=rf"t.json: no thresholds \({message}.*\); fit them again with"):
        read(path)
