"""The study mean and normal gating, by hand on a catalog of eleven images, and on a planted case.

image    a  b  c  d    e        f  g      h  i    j    k
subject  1  1  1  1    2        3  4      4  5    6    6
study    s  s  s  s    s        t  u      u  v    w    w
view     F  F  L  odd  L        F  L      L  odd  odd  odd    s is a study of two subjects; F frontal, L lateral
"""

from dataclasses import replace
from decimal import Decimal, getcontext

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score

from cxrdali.evaluate.evaluate import evaluate
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.postprocess import gate, study_mean
from cxrdali.postprocess.study_mean import Averaged
from cxrdali.predictions import Predictions, Provenance, read
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.reader import read_study
from shards.dataset.packed import PackedDataset
from shards.dataset.union import Union
from shards.errors import UserError
from tests.cli.cli import done as went_well
from tests.cli.cli import refused
from tests.cxrdali.held_out import written

CATALOG = pd.DataFrame(
    {
        "image_id": list("abcdefghijk"),
        "subject_id": list("11112344566"),
        "study_id": list("ssssstuuvww"),
        "view": ["frontal"] * 2 + ["lateral", "other", "lateral", "frontal"] + ["lateral"] * 2 + ["other"] * 3,
    }
)
P = np.array(
    [[0.1, 0.2], [0.3, 0.9], [0.8, 0.4], [0.9, 0.9], [0.05, 0.6], [0.5, 0.7], [0.2, 0.3], [0.6, 0.1], [0.35, 0.65],
     [0.4, 0.5], [0.8, 0.7]]
)  # fmt: skip
STUDY = [(np.array([0.1, 0.2]) + [0.3, 0.9]) / 4 + np.array([0.8, 0.4]) / 2]  # (F + F) / 2 and L, halved
MEANS = [*STUDY * 4, P[4], P[5], *[(P[6] + P[7]) / 2] * 2, P[8], *[(P[9] + P[10]) / 2] * 2]


@pytest.fixture
def tiny(tmp_path):
    made = PackedDataset(tmp_path / "pack", {"id": "d1", "options": {}})
    made.__dict__["catalog"] = CATALOG  # a cached property
    return made


def wrote(path, places=range(11), kind="logit", values=None):
    ids = CATALOG.iloc[[*places]][["image_id", "study_id", "view"]].reset_index(drop=True)
    values = logit(P)[[*places]] if values is None else values
    Predictions(ids, ("A", "B"), values.astype(np.float32), Provenance(kind, "m", "test")).write(path)
    return path


def test_every_image_gets_the_mean_of_both_means_of_its_study(tiny, tmp_path):
    table, done = study_mean.apply(wrote(tmp_path / "p.parquet"), tiny)
    np.testing.assert_allclose(expit(table.values.astype(float)), MEANS, rtol=1e-6)
    assert done == Averaged(both=1, frontal_only=1, lateral_only=2, neither=2, taking=1)
    assert table.provenance.history == ("study mean of frontal and lateral mean probabilities: 6 studies",)
    assert table.provenance.kind == "logit" and table.fitted == ()
    same, _ = study_mean.apply(wrote(tmp_path / "q.parquet", range(10, -1, -1)), tiny)
    np.testing.assert_array_equal(same.values, table.values[::-1])


def test_only_the_images_of_the_table_count(tiny, tmp_path):
    table, done = study_mean.apply(wrote(tmp_path / "p.parquet", [0, 3, 7]), tiny)  # a, d, h
    np.testing.assert_allclose(expit(table.values.astype(float)), [P[0], P[0], P[7]], rtol=1e-6)
    assert done == Averaged(both=0, frontal_only=1, lateral_only=1, neither=0, taking=1)


def test_logits_that_saturate_keep_their_order(tiny, tmp_path):
    values = np.zeros((11, 2))
    values[0], values[1], values[2] = (60, -90), (70, -80), (65, -85)
    table, _ = study_mean.apply(wrote(tmp_path / "p.parquet", values=values), tiny)
    getcontext().prec = 60
    for column in (0, 1):
        p = [1 / (1 + (-Decimal(float(x))).exp()) for x in values[:3, column]]
        mean = ((p[0] + p[1]) / 2 + p[2]) / 2
        assert table.values[0, column] == pytest.approx(float((mean / (1 - mean)).ln()), rel=1e-6)


def test_probabilities_are_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="holds probabilities, which saturate"):
        study_mean.apply(wrote(tmp_path / "p.parquet", kind="probability", values=P), tiny)


def test_studies_of_equal_ids_in_two_packs_stay_apart(dataset, nih, tmp_path):
    packs = {"one": dataset, "other": PackedDataset.open(dataset.root)}
    union = Union.of(packs)
    ids = union.catalog[["image_id", "study_id", "view"]]
    values = np.random.default_rng(0).normal(size=(len(ids), 1)).astype(np.float32)
    Predictions(ids, ("A",), values, Provenance("logit")).write(tmp_path / "both.parquet")
    found, _ = study_mean.apply(tmp_path / "both.parquet", union)
    half, parts = len(ids) // 2, []
    for place in (0, 1):
        own = dataset.catalog[["image_id", "study_id", "view"]]
        Predictions(own, ("A",), values[place * half :][:half], Provenance("logit")).write(tmp_path / "one.parquet")
        parts.append(study_mean.apply(tmp_path / "one.parquet", dataset)[0].values)
    np.testing.assert_array_equal(found.values, np.concatenate(parts))


def test_what_both_views_see_in_part_is_seen_better_by_the_mean(dataset, tmp_path):
    """Planted: each image shows the study's finding with noise of its own."""
    labels, rng = dataset.labels("cxr-lt-2023"), np.random.default_rng(1)
    codes, studies = pd.factorize(dataset.catalog["subject_id"] + dataset.catalog["study_id"])
    planted = (rng.random((len(studies), len(labels.findings))) < 0.3).astype(np.int8)[codes]
    labels = replace(labels, values=planted)
    rows, _ = written(tmp_path / "val.parquet", dataset, "test", of="test")
    ids, truth = read(tmp_path / "val.parquet").ids, planted[rows]
    noise = rng.normal(size=truth.shape)
    about = Provenance("logit", "m", "test", labels.name)
    Predictions(ids, labels.findings, (truth == 1) + noise.astype(np.float32), about).write(tmp_path / "val.parquet")
    table, _ = study_mean.apply(tmp_path / "val.parquet", dataset)
    table.write(tmp_path / "mean.parquet")
    before, after = (
        evaluate(tmp_path / name, dataset, labels, EvaluateOptions(draws=0)) for name in ("val.parquet", "mean.parquet")
    )
    assert after["all"]["mAP"] > before["all"]["mAP"] + 0.02 and "study mean" in after["history"][0]
    place = labels.findings.index("Edema")
    by_hand = average_precision_score(truth[:, place] == 1, table.values[:, place])
    row = next(row for row in after["all"]["findings"] if row["finding"] == "Edema")
    assert row["AP"] == pytest.approx(by_hand)


def test_gating_by_hand(tmp_path):
    table = gate.apply(wrote(tmp_path / "p.parquet"), "B")
    np.testing.assert_allclose(expit(table.values.astype(float))[:, 0], P[:, 0] * np.sqrt(1 - P[:, 1]), rtol=1e-5)
    np.testing.assert_array_equal(table.values[:, 1], read(tmp_path / "p.parquet").values[:, 1])
    assert table.provenance.history == ("gated by B: p * (1 - p of B)^0.5",)
    cubed = gate.apply(tmp_path / "p.parquet", "B", 3)
    np.testing.assert_allclose(expit(cubed.values.astype(float))[:, 0], P[:, 0] * (1 - P[:, 1]) ** 3, rtol=1e-5)


def test_gating_loses_no_digit_where_probabilities_saturate(tmp_path):
    values = np.array([[80, -90], [80, 90], [-80, 90], [30, -5], [700, -700], [-700, 700], [5, 0], [0, 40], [1, 1],
                       [2, -60], [-3, 60]])  # fmt: skip
    table = gate.apply(wrote(tmp_path / "p.parquet", values=values), "B")
    getcontext().prec = 900
    for (x, n), found in zip(values.tolist(), table.values[:, 0], strict=True):
        p, rest = 1 / (1 + (-Decimal(x)).exp()), 1 / (1 + Decimal(n).exp())
        gated = p * rest.sqrt()
        assert found == pytest.approx(float((gated / (1 - gated)).ln()), rel=1e-5)


@pytest.mark.parametrize(
    "normal, strength, message",
    [("C", 0.5, "no finding 'C'; it has A, B"), ("B", 0.0, "strength 0.0: a number above 0"),
     ("B", float("nan"), "strength nan: a number above 0")],
)  # fmt: skip
def test_what_cannot_gate_is_named(tmp_path, normal, strength, message):
    with pytest.raises(UserError, match=message):
        gate.apply(wrote(tmp_path / "p.parquet"), normal, strength)


def test_on_the_command_line(dataset, tmp_path):
    written(tmp_path / "p.parquet", dataset, "test", of="test")
    asked = ["postprocess", "p.parquet", "--data", dataset.root, "--out", "mean.parquet"]
    out = went_well(tmp_path, *asked, "--study-mean").stdout
    table, done = study_mean.apply(tmp_path / "p.parquet", dataset)
    assert f"{done.both} studies with frontal and lateral images, {done.frontal_only} with frontal" in out
    np.testing.assert_array_equal(read(tmp_path / "mean.parquet").values, table.values)
    went_well(tmp_path, "postprocess", "p.parquet", "--gate", "Edema", "--out", "gated.parquet")
    assert "gated by Edema" in read(tmp_path / "gated.parquet").provenance.history[0]
    for wrong, words in (
        (["--study-mean", "--gate", "Edema"], "are two steps"),
        (["--study-mean", "--fit", "p.parquet"], "--fit belongs to rules for views; --study-mean has none"),
        (["--gate", "Edema", "--allow-same-images"], "--allow-same-images belongs to rules for views; --gate has none"),
        (["--strength", "1", "--rules", "p.json"], "--strength belongs to --gate FINDING"),
    ):
        refused(*asked, *wrong, cwd=tmp_path, code=2, said=words)


def test_in_a_study(dataset, tmp_path):
    text = """
[settings]
model = { arch = "test_efficientnet", pretrained = false }
optimizer = { epochs = 2, batch = 8 }
data = { size = 48, folds = 3, labels = "cxr-lt-2023" }
[runs.a]
stage = 1
grid = { seed = [0, 1] }
[[predict]]
splits = ["val", "test"]
[study_mean]
of = ["a"]
[[comparisons]]
name = "views"
tables = ["a-seed0", "a-seed0-study"]
"""
    (tmp_path / "study.toml").write_text(text)
    found = make_plan(tmp_path / "out", {"": dataset}, read_study(tmp_path / "study.toml"), {}, StudyOptions())
    steps = {step.name: step for step in found.steps}
    for seed in (0, 1):
        assert steps[f"study mean a-seed{seed} test"].needs == (f"predict a-seed{seed} test",)
    assert steps["evaluate a-seed0-study test"].needs[0] == "study mean a-seed0 test"
    (tmp_path / "out" / "predictions").mkdir(parents=True)
    written(tmp_path / "out" / "predictions" / "a-seed0.test.parquet", dataset, "test", of="test")
    steps["study mean a-seed0 test"].do()
    made = read(tmp_path / "out" / "predictions" / "a-seed0-study.test.parquet")
    assert made.provenance.history[0].startswith("study mean")
