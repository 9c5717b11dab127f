"""Cases worked by hand on a catalog of nine images:

image    a  b  c  d    e        f  g      h  i
subject  1  1  1  1    2        3  4      4  5
study    s  s  s  s    s        t  u      u  v
view     F  F  L  odd  L        F  L      F  L        s is a study of two subjects; F frontal, L lateral
"""

import json
from dataclasses import replace
from math import log

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from cxrdali.fitted import Fitted, sketch
from cxrdali.postprocess.options import FitOptions
from cxrdali.postprocess.views import Changed, ViewRule, ViewRules, apply, fit, is_superior, read
from cxrdali.predictions import Predictions, Provenance, mean_logit
from cxrdali.report import published
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.heard import heard
from tests.releases import FINDINGS

CATALOG = pd.DataFrame(
    {
        "image_id": list("abcdefghi"),
        "subject_id": list("111123445"),
        "study_id": list("ssssstuuv"),
        "view": ["frontal", "frontal", "lateral", "other", "lateral", "frontal", "lateral", "frontal", "lateral"],
    }
)
THREE = log(3)  # a probability of 0.75


@pytest.fixture
def tiny(tmp_path):
    made = PackedDataset(tmp_path / "pack", {"id": "d1", "options": {}})
    made.__dict__["catalog"] = CATALOG  # a cached property
    return made


def rules(superior=("A",), inferior=("B",)):
    rows = [ViewRule(name, 0.5, 0.4, 10, 3, 9, 2) for name in superior]
    rows += [ViewRule(name, 0.4, 0.4, 10, 3, 9, 2) for name in inferior]
    return ViewRules(tuple(rows), {"predictions": "model3.val.parquet"})


def table(values, images="abcdefghi", findings=("A", "B")):
    ids = CATALOG.set_index("image_id", drop=False).loc[list(images)][["image_id", "study_id", "view"]]
    values = np.array(values, dtype=np.float32)
    return Predictions(ids.reset_index(drop=True), findings, values, Provenance("logit", "model3", "test"))


# -0.0 and the smallest float must come back as they are
VALUES = np.array(
    [[THREE, 1], [-THREE, 2], [7, -0.0], [-8, 1e-45], [9, -5], [-0.0, 6], [10, 7], [2.5, 8], [1e-45, 9]],
    dtype=np.float32,
)


def applied(tmp_path, tiny, content, by):
    path = tmp_path / "p.parquet"
    content.write(path)
    return apply(path, by, tiny)


def bits(values):
    return np.ascontiguousarray(values).view(np.uint32)


def test_the_paper_s_numbers_give_the_paper_s_superior_findings():
    printed = published.view_ap().drop("Mean")
    superior = {name for name, row in printed.iterrows() if is_superior(row["frontal"], row["lateral"])}
    assert len(superior) == 19 and len(printed) - len(superior) == 7
    assert superior == set(printed.index[printed["difference"] > 0])
    assert set(printed.index) - superior == {
        "Pleural Effusion", "Pneumonia", "No Finding", "Infiltration", "Emphysema", "Hernia", "Lung Lesion",
    }  # fmt: skip


def test_equal_is_not_superior_and_neither_is_unknown():
    assert is_superior(0.5, 0.4)
    assert not any(is_superior(*pair) for pair in ((0.4, 0.4), (0.3, 0.4), (None, 0.4), (0.4, None), (None, None)))


def test_lateral_images_take_over_the_frontal_mean_and_nothing_else_changes(tmp_path, tiny):
    made, changed = applied(tmp_path, tiny, table(VALUES), rules())
    assert made.values[2, 0] == made.values[3, 0] == pytest.approx(0, abs=1e-7)  # 0.75 and 0.25: 0.5
    assert made.values[6, 0] == pytest.approx(2.5)
    expected = VALUES.copy()
    for row in (2, 3, 6):
        expected[row, 0] = made.values[row, 0]
    assert (bits(made.values) == bits(expected)).all()  # e is of another subject, f, i alone; B is not superior
    assert changed == Changed(studies=2, images=3, frontal_only=1, lateral_only=2)
    history = ("view postprocess by model3.val.parquet (1 superior): 3 images",)
    unknown = (Fitted(("view rules",)),)  # to which images, rules of an older version do not say
    assert made.provenance == Provenance("logit", "model3", "test", history=history, fitted=unknown)


def test_without_a_superior_finding_nothing_changes(tmp_path, tiny):
    made, changed = applied(tmp_path, tiny, table(VALUES), rules((), ("A", "B")))
    assert (bits(made.values) == bits(VALUES)).all() and (changed.studies, changed.images) == (0, 0)


def test_rows_and_columns_may_stand_in_any_order(tmp_path, tiny):
    order, names = [8, 3, 1, 6, 0, 7, 2, 5, 4], "".join(CATALOG["image_id"].iloc[[8, 3, 1, 6, 0, 7, 2, 5, 4]])
    straight, _ = applied(tmp_path, tiny, table(VALUES), rules())
    shuffled = table(VALUES[order][:, ::-1], names, ("B", "A"))
    made, _ = applied(tmp_path, tiny, shuffled, rules())
    np.testing.assert_allclose(made.values, straight.values[order][:, ::-1], atol=1e-7)
    assert made.ids["image_id"].tolist() == list(names)


def test_only_images_of_the_table_count(tmp_path, tiny):
    made, changed = applied(tmp_path, tiny, table(VALUES[[0, 2, 6]], "acg"), rules())
    assert made.values[:, 0] == pytest.approx([THREE, THREE, 10]) and changed == Changed(1, 1, 0, 1)


def test_on_a_real_dataset_as_a_loop_over_studies_does_it(tmp_path, dataset):
    rows = np.flatnonzero(dataset.packed)
    values = np.random.default_rng(0).normal(0, 5, (len(rows), len(FINDINGS))).astype(np.float32)
    catalog = dataset.catalog.iloc[rows].reset_index(drop=True)
    path = tmp_path / "p.parquet"
    Predictions(catalog[["image_id", "study_id", "view"]], FINDINGS, values, Provenance("logit")).write(path)
    made, changed = apply(path, rules(FINDINGS[1:4], FINDINGS[:1] + FINDINGS[4:]), dataset)
    expected, studies = values.copy(), 0
    for _, study in catalog.groupby(["subject_id", "study_id"]):
        frontal, lateral = study.index[study["view"] == "frontal"], study.index[study["view"] != "frontal"]
        if len(frontal) and len(lateral):
            studies += 1
            expected[lateral, 1:4] = mean_logit(values[frontal, 1:4])
    assert studies > 5 and changed.studies == studies
    np.testing.assert_allclose(made.values, expected, rtol=1e-6)
    assert (bits(made.values[:, [0, 4]]) == bits(values[:, [0, 4]])).all()


@pytest.mark.parametrize(
    ("content", "by", "message"),
    [
        (table(VALUES), rules(("C",), ("D",)), "finding 'A' (and 1 more) is unknown to the rules"),
        (table(VALUES).as_probabilities(), rules(), "holds probabilities, which saturate"),
        (replace(table(VALUES), ids=table(VALUES).ids.assign(image_id=list("abcdefxyz"))), rules(),
         "image 'x' (and 2 more) is not in {tmp}/pack; give the dataset it was predicted on"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_named(tmp_path, tiny, content, by, message):
    with pytest.raises(UserError) as caught:
        applied(tmp_path, tiny, content, by)
    assert f"{tmp_path}/p.parquet: " in str(caught.value) and message.format(tmp=tmp_path) in str(caught.value)


def test_findings_without_a_rule_stay_as_they_are_and_are_said(tmp_path, tiny):
    """Rules fitted on another hospital's labels are of fewer findings, or of some that this table does not have."""
    whole, lines = applied(tmp_path, tiny, table(VALUES), rules())[0], []
    with heard(lines):
        part = applied(tmp_path, tiny, table(VALUES), rules(("A",), ("Z",)))[0]
    assert (bits(part.values[:, 0]) == bits(whole.values[:, 0])).all()
    assert (bits(part.values[:, 1]) == bits(VALUES[:, 1])).all()
    path = tmp_path / "p.parquet"
    assert lines[:2] == [f"note: {path}: unknown to the rules: B", f"note: in the rules, but not in {path}: Z"]


# ------------------------------------------------------------ fitting

# frontal a, b, f, h; lateral c, d, e, g, i. Per finding the labels and scores of the frontal, then the lateral ones:
#   A  frontal 1 0 1 0 by 4 3 2 1: (1 + 2/3) / 2 = 5/6;  lateral 0 1 0 0 0 by 5 4 3 2 1: 1/2    superior
#   B  frontal 1/2, lateral 1/2                                                                  equal
#   C  no lateral positive                                                                       no difference
TRUTH = {"a": (1, 0, 1), "b": (0, 1, 0), "f": (1, 0, 0), "h": (0, 0, 0),
         "c": (0, 0, 0), "d": (1, 1, 0), "e": (0, 0, 0), "g": (0, 0, 0), "i": (0, 0, 0)}  # fmt: skip
SCORES = {"a": 4, "b": 3, "f": 2, "h": 1, "c": 5, "d": 4, "e": 3, "g": 2, "i": 1}


def labels(truth=TRUTH):
    values = np.array([truth[image] for image in CATALOG["image_id"]], dtype=np.int8)
    return Labels("mine", ("A", "B", "C"), np.array(["train"] * 9, dtype=object), values, "sha")


def predicted(tmp_path, images="abcdefghi", findings=("A", "B", "C")):
    path = tmp_path / "val.parquet"
    table([[SCORES[image]] * 3 for image in images], images, findings).write(path)
    return path


def test_fitted_as_worked_by_hand(tmp_path, tiny):
    fitted = fit(predicted(tmp_path), tiny, labels())
    assert fitted.rules == (
        ViewRule("A", pytest.approx(5 / 6), 0.5, 4, 2, 5, 1, 2, 1),
        ViewRule("B", 0.5, 0.5, 4, 1, 5, 1, 1, 1),
        ViewRule("C", 1.0, None, 4, 1, 5, 0, 1, 0),
    )
    assert fitted.superior == ()  # of so few patients, not even A
    assert [rule.difference for rule in fitted.rules] == [pytest.approx(1 / 3), 0, None]
    assert [rule.without_rule for rule in fitted.rules] == [
        "A: no rule, positive patients: 2 frontal, 1 lateral; fewer than 10",
        "B: no rule, positive patients: 1 frontal, 1 lateral; fewer than 10",
        "C: no rule, positive patients: 1 frontal, 0 lateral; fewer than 10",
    ]
    assert fitted.made_from == {
        "predictions": "val.parquet", "run": "model3", "split": "test", "tta": None, "labels": "mine", "dataset": "d1",
        "uncertain": "negative", "calibrated": [], "seen": None, "hashes": sketch(CATALOG), "images": 9, "folds": 5,
        "synthetic": False,
    }  # fmt: skip


def test_a_side_without_a_negative_has_no_ap(tmp_path, tiny):
    """Frontal images are a, b, f, h. A: all of them positive, whatever the lateral ones are; C: no lateral positive."""
    truth = {image: (int(image in "abfhc"), 1, int(image in "abfh")) for image in "abcdefghi"}
    fitted = fit(predicted(tmp_path), tiny, labels(truth))
    assert [(rule.frontal_ap, rule.superior) for rule in fitted.rules] == [(None, False)] * 3
    assert fitted.rules[0].lateral_ap is not None
    assert all(rule.without_rule.startswith(f"{rule.finding}: no rule, ") for rule in fitted.rules)


def test_ten_positive_patients_in_either_view_make_a_rule():
    assert ViewRule("A", 0.5, 0.4, 90, 30, 90, 30, 10, 10).superior
    for patients in ((9, 10), (10, 9)):
        assert not ViewRule("A", 0.5, 0.4, 90, 30, 90, 30, *patients).superior
    assert ViewRule("A", 0.5, 0.4, 10, 3, 9, 2).superior  # of an older version, which did not count them
    assert ViewRule("A", 0.5, None, 90, 30, 90, 90, 30, 30).without_rule == (
        "A: no rule, without a positive or a negative image of one view there is no AP"
    )


def test_uncertain_labels_count_as_they_are_told_to(tmp_path, tiny):
    unsure = {**TRUTH, "d": (-1, -1, -1), "c": (Labels.BLANK, 0, 0)}
    path = predicted(tmp_path)
    assert fit(path, tiny, labels(unsure)).rules[0] == ViewRule("A", pytest.approx(5 / 6), None, 4, 2, 5, 0, 2, 0)
    assert fit(path, tiny, labels(unsure), FitOptions("positive")).rules[2].lateral_ap == 0.5
    assert fit(path, tiny, labels(unsure), FitOptions("ignore")).rules[0].lateral_images == 4
    assert fit(path, tiny, labels(unsure), FitOptions("ignore-all")).rules[0].lateral_images == 3
    mixed = fit(path, tiny, labels(unsure), FitOptions("negative;C=positive ;A=ignore-all"))
    assert [rule.lateral_images for rule in mixed.rules] == [3, 5, 5] and mixed.rules[2].lateral_positives == 1
    assert mixed.made_from["uncertain"] == "negative; A=ignore-all; C=positive"


def test_fitted_to_a_real_dataset_as_scikit_learn_has_it(tmp_path, dataset):
    real = dataset.labels("cxr-lt-2023")
    rows = np.flatnonzero((real.split == "train") & dataset.packed)
    values = np.random.default_rng(0).normal(size=(len(rows), len(FINDINGS))).astype(np.float32)
    path = tmp_path / "p.parquet"
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
    Predictions(ids, FINDINGS[::-1], values[:, ::-1], Provenance("logit")).write(path)
    fitted = fit(path, dataset, real)
    frontal = (ids["view"] == "frontal").to_numpy()
    for place, rule in enumerate(fitted.rules):
        truth = real.values[rows, place] == 1
        patients = [dataset.catalog.iloc[rows[mask & truth]]["subject_id"].nunique() for mask in (frontal, ~frontal)]
        assert [rule.frontal_patients, rule.lateral_patients] == patients
        assert rule.superior == (min(patients) >= 10 and rule.frontal_ap > rule.lateral_ap)
        for mask, ap in ((frontal, rule.frontal_ap), (~frontal, rule.lateral_ap)):
            if truth[mask].any():
                assert ap == pytest.approx(average_precision_score(truth[mask], values[mask, place]))
            else:
                assert ap is None and rule.finding == "Hernia"
    assert fitted.findings == FINDINGS and any(rule.without_rule for rule in fitted.rules)


@pytest.mark.parametrize(("images", "missing"), [("abfh", "lateral"), ("cdegi", "frontal")])
def test_both_kinds_of_view_are_needed(tmp_path, tiny, images, missing):
    with pytest.raises(UserError, match=rf"val.parquet: no {missing} image among {len(images)}; fit to"):
        fit(predicted(tmp_path, images), tiny, labels())


def test_rules_are_of_the_findings_that_predictions_and_labels_have_in_common(tmp_path, tiny):
    whole = fit(predicted(tmp_path), tiny, labels())
    part = fit(predicted_without_c(tmp_path), tiny, labels())
    assert part.findings == ("A", "B") and whole.findings == ("A", "B", "C")


def test_labels_of_other_findings_or_none_are_named(tmp_path, tiny):
    with pytest.raises(
        UserError, match=r"val.parquet: none of its findings is in labels 'mine' \(the labels have A, B"
    ):
        path = tmp_path / "val.parquet"
        table([[1, 2]] * 9, findings=("X", "Y")).write(path)
        fit(path, tiny, labels())
    with pytest.raises(UserError, match="have no findings for .*val.parquet"):
        fit(predicted(tmp_path), tiny, labels(dict.fromkeys(TRUTH, (Labels.BLANK,) * 3)))


def predicted_without_c(tmp_path):
    path = tmp_path / "val.parquet"
    table([[1, 2]] * 9).write(path)
    return path


# ------------------------------------------------------------ the file


def test_what_is_written_is_read(tmp_path, tiny):
    fitted, path = fit(predicted(tmp_path), tiny, labels()), tmp_path / "views.json"
    fitted.write(path)
    assert read(path) == fitted
    stored = json.loads(path.read_bytes())
    assert stored["format"] == 1 and stored["findings"][0] == {
        "finding": "A", "frontal_ap": pytest.approx(5 / 6), "lateral_ap": 0.5, "difference": pytest.approx(1 / 3),
        "frontal_images": 4, "frontal_positives": 2, "lateral_images": 5, "lateral_positives": 1, "superior": False,
        "frontal_patients": 2, "lateral_patients": 1,
    }  # fmt: skip
    assert stored["findings"][2]["difference"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(format=2), "format 2, this cxrdali reads 1"),
        (lambda s: s.pop("findings"), "findings is missing"),
        (lambda s: s["findings"].clear(), "no finding, or one that is duplicated"),
        (lambda s: s["findings"].append(s["findings"][0]), "no finding, or one that is duplicated"),
        (lambda s: s["findings"][1].pop("lateral_ap"), "findings[1].lateral_ap is missing"),
        (lambda s: s["findings"][0].update(frontal_ap="high"), "findings[0].frontal_ap is 'high', not a number"),
        (lambda s: s["findings"][0].update(frontal_ap=float("nan")), "NaN is no finite number"),
        (lambda s: s["findings"][0].update(frontal_ap=1.5), "A: frontal_ap 1.5 is neither null nor within 0..1"),
        (lambda s: s["findings"][1].update(superior=True), "B: superior is True, but its AP say False"),
        (lambda s: s["findings"][0].update(difference=0.2), "A: difference is 0.2, but its AP say 0.09"),
        (
            lambda s: s["findings"][0].update(frontal_images=1.5),
            "frontal_images is 1.5, not a whole number",
        ),
        (lambda s: s.update(made_from="x"), "made_from is 'x', not an object"),
        (
            lambda s: s["findings"][0].update(frontal_positives=10),
            "A: frontal_ap 0.5 is of images of which none is",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, message):
    path = tmp_path / "views.json"
    rules().write(path)
    stored = json.loads(path.read_bytes())
    change(stored)
    path.write_bytes(sealed_json(stored))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: no view rules (") and message in str(caught.value)
    assert str(caught.value).endswith("; fit the rules again with `cxrdali postprocess --fit`")


def test_no_file_or_no_json(tmp_path):
    with pytest.raises(UserError, match="views.json: no such file; fit the rules again"):
        read(tmp_path / "views.json")
    for text in ("", "[]", "3", '{"format": 1, "made_from": {}, "findings": [3]}'):
        (tmp_path / "views.json").write_text(text)
        with pytest.raises(UserError, match="no view rules"):
            read(tmp_path / "views.json")
