"""Two views that are equally good: what rules seem to gain on the images that they were fitted to, and on others."""

import numpy as np
import pandas as pd
import pytest

from cxrdali.fitted import here
from cxrdali.metrics.ranking import score
from cxrdali.postprocess.views import apply, fit, read
from cxrdali.predictions import Predictions, Provenance
from cxrdali.predictions import read as read_table
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

STUDIES, ROUNDS = 1500, 12
SHARES = (0.012, 0.015, 0.02, 0.02, 0.03, 0.05, 0.1, 0.2)  # of patients with a finding
FINDINGS = tuple("ABCDEFGH")


@pytest.fixture
def dataset(tmp_path):
    """Of every patient one study: a frontal and a lateral image. The first half is fitted to."""
    number = np.arange(4 * STUDIES)
    subject = (number // 2).astype(str)
    made = PackedDataset(tmp_path / "pack", {"id": "d1", "options": {}})
    view = np.where(number % 2 == 0, "frontal", "lateral")
    columns = {"image_id": number.astype(str), "subject_id": subject, "study_id": subject, "view": view}
    made.__dict__["catalog"] = pd.DataFrame(columns)  # a cached property
    return made


def drawn(dataset, seed, shift=0.0):
    """Labels, and logits that tell frontal images better by `shift`."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.random((2 * STUDIES, len(SHARES))) < SHARES, 2, axis=0)
    split = np.repeat(np.array(["train", "test"], dtype=object), 2 * STUDIES)
    skill = 1.5 + shift * (dataset.catalog["view"] == "frontal").to_numpy()[:, None]
    logits = (rng.normal(size=truth.shape) + skill * truth - 2).astype(np.float32)
    return Labels("mine", FINDINGS, split, truth.astype(np.int8), "sha"), logits


def written(path, dataset, logits, rows, split):
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]].reset_index(drop=True)
    Predictions(ids, FINDINGS, logits[rows], Provenance("logit", "m", split)).write(path)
    return path


def mean_ap(labels, values, rows):
    return score(FINDINGS, labels.values[rows].astype(np.float32), values).macro_ap


@pytest.mark.slow
def test_the_cross_fitted_gain_is_that_on_other_images(dataset, tmp_path):
    rows, others = np.split(np.arange(4 * STUDIES), 2)
    gains = []
    for seed in range(ROUNDS):
        labels, logits = drawn(dataset, seed)
        val = written(tmp_path / "val.parquet", dataset, logits, rows, "val")
        test = written(tmp_path / "test.parquet", dataset, logits, others, "test")
        rules = fit(val, dataset, labels)
        own, _ = apply(val, rules, dataset, allow_same_images=True)
        crossed, _ = apply(val, rules, dataset)
        other, _ = apply(test, rules, dataset)
        before = mean_ap(labels, logits[rows], rows)
        assert rules.map_before == pytest.approx(before)
        assert rules.map_after == pytest.approx(mean_ap(labels, crossed.values, rows))
        gain = mean_ap(labels, other.values, others) - mean_ap(labels, logits[others], others)
        gains.append((mean_ap(labels, own.values, rows) - before, rules.map_after - before, gain))
    own, crossed, other = np.array(gains).T
    error = np.std(crossed - other, ddof=1) / np.sqrt(ROUNDS)
    assert abs(np.mean(crossed - other)) < 2 * error
    assert np.mean(own - other) > 3 * np.std(own - other, ddof=1) / np.sqrt(ROUNDS)


def test_each_part_takes_over_values_by_the_rules_of_the_others(dataset, tmp_path):
    rows = np.arange(2 * STUDIES)
    labels, logits = drawn(dataset, 0)
    val = written(tmp_path / "val.parquet", dataset, logits, rows, "val")
    rules = fit(val, dataset, labels)
    table, changed = apply(val, rules, dataset)
    part = rules.crossed.part.to_numpy()
    subjects = dataset.catalog["subject_id"].to_numpy()[rows]
    assert pd.Series(part).groupby(subjects).nunique().max() == 1 and set(part) == set(range(5))
    for number in range(5):
        others = written(tmp_path / "others.parquet", dataset, logits, rows[part != number], "val")
        superior = np.isin(FINDINGS, fit(others, dataset, labels).superior)
        frontal, lateral = rows[part == number][::2], rows[part == number][1::2]
        assert np.array_equal(table.values[frontal], logits[frontal])
        assert np.allclose(table.values[lateral], np.where(superior, logits[frontal], logits[lateral]), atol=1e-5)
    assert "cross-fitted over 5 parts by subject" in table.provenance.history[-1]
    assert changed.images == (table.values != logits[rows])[1::2].any(axis=1).sum()


def test_what_is_fitted_on_its_own_images_says_so(dataset, tmp_path):
    """Validation tables are written, cross-fitted in the command that fits; of others the rules are refused."""
    rows, others = np.split(np.arange(4 * STUDIES), 2)
    labels, logits = drawn(dataset, 0, shift=0.5)
    rules = fit(written(tmp_path / "val.parquet", dataset, logits, rows, "val"), dataset, labels)
    rules.write(tmp_path / "views.json")
    again, val = read(tmp_path / "views.json"), tmp_path / "val.parquet"
    assert again == rules and again.superior
    for table, words in (
        (apply(val, rules, dataset)[0], ["best epoch"]),
        (apply(val, rules, dataset, allow_same_images=True)[0], ["best epoch", "view rules"]),
        (apply(val, again, dataset)[0], ["best epoch", "view rules"]),
    ):
        table.write(tmp_path / "t.parquet")
        assert [*here(read_table(tmp_path / "t.parquet").fitted, table.ids, "val").words] == words
    test = written(tmp_path / "test.parquet", dataset, logits, others, "test")
    on_test = fit(test, dataset, labels)
    with pytest.raises(UserError, match="test.parquet: view rules fitted on these very images, which are there to be"):
        apply(test, on_test, dataset)
    assert apply(val, on_test, dataset)[0].fitted[-1].split == "test"
    assert here(apply(test, on_test, dataset, allow_same_images=True)[0].fitted, table.ids, "val").words == ()
