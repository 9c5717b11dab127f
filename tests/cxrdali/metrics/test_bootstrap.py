"""Scores on samples of the patients, against the same scores of images that are really repeated."""

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, recall_score, roc_auc_score

from cxrdali.metrics.bootstrap import Images, resample
from cxrdali.metrics.ranking import reweighted_ap, score

COUNT = 25


def ap_without_self(target, values):
    """Mean over positives of the precision at their rank, in which half of the positive itself does not count."""
    found = []
    for value in values[target == 1]:
        hits = (values[target == 1] >= value).sum() - 0.5
        found.append(hits / (hits + (values[target == 0] >= value).sum()))
    return np.mean(found)


def ece_by_hand(target, chances):
    bins = np.floor(chances * 15)
    return sum(abs((target - chances)[bins == each].sum()) for each in np.unique(bins)) / len(target)


def images_of(findings=3, patients=60, seed=0):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    truth = (rng.random((len(patient), findings)) < [0.4, 0.2, 0.1][:findings]).astype(float)
    truth[::7, 1 % findings] = np.nan
    values = np.round(rng.normal(size=truth.shape) + np.nan_to_num(truth), 1)
    return Images(truth, values, patient, expit(values), values > 0.5)


def names(images):
    return tuple(map(str, range(images.truth.shape[1])))


def sampled_of(images, count=COUNT, seed=4):
    return resample(images, score(names(images), images.truth, images.values), count, seed)


def test_a_sample_equals_the_scores_of_the_repeated_images():
    """Each sample is redone by really repeating the images of the patients taken."""
    images = images_of()
    sampled = sampled_of(images, 20)
    assert set(sampled) == {"AP", "AUROC", "ECE", "Brier", "F1"}
    picked = np.random.default_rng(4).integers(0, 60, (20, 60))  # the first chunk of samples
    for sample in range(20):
        rows = np.concatenate([np.flatnonzero(images.patient == one) for one in picked[sample]])
        for place in range(3):
            kept = rows[~np.isnan(images.truth[rows, place])]
            y, s, p = (each[kept, place] for each in (images.truth, images.values, images.probabilities))
            wanted = {
                "AP": ap_without_self(y, s),
                "AUROC": roc_auc_score(y, s),
                "ECE": ece_by_hand(y, p),
                "Brier": brier_score_loss(y, p),
                "F1": f1_score(y, images.called[kept, place]),
            }
            for name, value in wanted.items():
                assert sampled[name].samples[sample, place] == pytest.approx(value, abs=1e-6), name


def ap_reweighted_without_self(target, values, weight):
    """As `ap_without_self`, where a negative image counts `weight` times."""
    found = []
    for value in values[target == 1]:
        hits = (values[target == 1] >= value).sum() - 0.5
        found.append(hits / (hits + weight * (values[target == 0] >= value).sum()))
    return np.mean(found)


def test_what_is_asked_for_besides_equals_that_of_the_repeated_images():
    """Sensitivity, specificity, prevalence, and AP at another prevalence; the third finding has no threshold."""
    images = images_of()
    called = images.called.astype(float)
    called[:, 2] = np.nan
    images = replace(images, called=called, negative=np.array([0.5, 3.0, np.nan]))
    scores = score(names(images), images.truth, images.values)
    sampled = resample(images, scores, 20, 4, also=("recall", "specificity", "prevalence"))
    picked = np.random.default_rng(4).integers(0, 60, (20, 60))
    for sample in range(20):
        rows = np.concatenate([np.flatnonzero(images.patient == one) for one in picked[sample]])
        for place in range(3):
            kept = rows[~np.isnan(images.truth[rows, place])]
            y, s = images.truth[kept, place], images.values[kept, place]
            there = {name: each.samples[sample, place] for name, each in sampled.items()}
            assert there["prevalence"] == pytest.approx(y.mean(), abs=1e-6)
            if place == 2:
                assert all(np.isnan(there[name]) for name in ("recall", "specificity", "F1", "AP_reweighted"))
                continue
            yes = images.called[kept, place] == 1
            assert there["recall"] == pytest.approx(recall_score(y, yes), abs=1e-6)
            assert there["specificity"] == pytest.approx(recall_score(y, yes, pos_label=0), abs=1e-6)
            wanted = ap_reweighted_without_self(y, s, images.negative[place])
            assert there["AP_reweighted"] == pytest.approx(wanted, abs=1e-6)
            assert there["AUROC"] == pytest.approx(roc_auc_score(y, s), abs=1e-6)
    np.testing.assert_array_equal(sampled["recall"].patients, images.patients(1))
    np.testing.assert_array_equal(sampled["specificity"].patients, images.patients(0))
    kept = ~np.isnan(images.truth[:, 1])
    y, s = images.truth[kept, 1], images.values[kept, 1]
    wanted = average_precision_score(y, s, sample_weight=np.where(y == 1, 1, 3))
    assert sampled["AP_reweighted"].value[1] == pytest.approx(wanted)
    assert np.isnan(sampled["AP_reweighted"].value[2]) and np.isnan(sampled["recall"].value[2])


def test_ap_at_another_prevalence_is_that_of_a_population_with_it():
    """Positives of a finding in 5 % of the images, repeated until 1 in 2 has it, are ranked as well by AUROC, and have
    the AP that the weights say."""
    rng = np.random.default_rng(0)
    target = (rng.random(4000) < 0.05).astype(float)
    values = rng.normal(size=4000) + target
    times = int(round((target == 0).sum() / target.sum()))
    more = np.concatenate([np.arange(4000), *[np.flatnonzero(target == 1)] * (times - 1)])
    found = reweighted_ap(target[:, None], values[:, None], np.array([1 / times]))
    assert found[0] == pytest.approx(average_precision_score(target[more], values[more]))
    assert roc_auc_score(target, values) == pytest.approx(roc_auc_score(target[more], values[more]))


def test_what_is_reported_is_scikit_learns_and_what_is_resampled_is_said():
    images = images_of()
    scores, sampled = score(names(images), images.truth, images.values), sampled_of(images)
    np.testing.assert_array_equal(sampled["AP"].value, scores.ap)
    np.testing.assert_allclose(sampled["AUROC"].statistic, scores.auroc, atol=1e-6)
    known = ~np.isnan(images.truth)
    wanted = [ap_without_self(images.truth[known[:, f], f], images.values[known[:, f], f]) for f in range(3)]
    np.testing.assert_allclose(sampled["AP"].statistic, wanted, rtol=1e-6)
    assert (sampled["AP"].statistic < sampled["AP"].value).all()
    for name in ("Brier", "F1"):
        np.testing.assert_array_equal(sampled[name].statistic, sampled[name].value)
    assert (sampled["ECE"].statistic < sampled["ECE"].value).all()


def test_patients_are_those_with_the_finding_or_those_without_whichever_are_fewer():
    images = images_of()
    rare = images.truth.copy()
    rare[:, 2] = 1
    rare[images.patient == 7, 2] = 0
    counts = sampled_of(Images(rare, images.values, images.patient), 1)["AP"].patients
    wanted = [min(len(np.unique(images.patient[rare[:, place] == label])) for label in (1, 0)) for place in range(3)]
    assert counts.tolist() == wanted and wanted[2] == 1


def test_images_of_a_patient_are_taken_together():
    """Ten copies of each patient's image are no more evidence than one: the interval must not shrink."""
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 1)) < 0.4).astype(float)
    values = rng.normal(size=(80, 1)) + truth
    widths = []
    for copies in (1, 10):
        images = Images(np.repeat(truth, copies, 0), np.repeat(values, copies, 0), np.repeat(np.arange(80), copies))
        found = sampled_of(images, 400)["AUROC"].finding(0)
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


@pytest.mark.parametrize("label", [1, 0])
def test_a_sample_without_a_positive_or_a_negative_is_undefined(label):
    truth = np.full((30, 2), 1.0 - label)
    truth[0, 0] = label
    images = Images(truth, np.random.default_rng(0).normal(size=(30, 2)), np.arange(30))
    sampled = sampled_of(images, 100, 0)
    for name in ("AP", "AUROC"):
        missing = np.isnan(sampled[name].samples[:, 0]).mean()
        assert 0.2 < missing < 0.55  # (1 - 1/30)^30 = 0.36
        assert np.isnan(sampled[name].samples[:, 1]).all()


def test_equal_seeds_and_patients_pair_models():
    one, other = images_of(), images_of()
    other.values[:] = np.random.default_rng(9).normal(size=other.values.shape)
    first, second, same = (sampled_of(each) for each in (one, other, one))
    paired = first["AUROC"] - second["AUROC"]
    np.testing.assert_array_equal(paired.samples, first["AUROC"].samples - second["AUROC"].samples)
    np.testing.assert_array_equal(first["AP"].samples, same["AP"].samples)
    assert not np.array_equal(first["AP"].samples, sampled_of(one, seed=5)["AP"].samples)


def test_without_samples_there_are_values_and_no_intervals():
    found = sampled_of(images_of(), 0)["AP"]
    assert found.mean().value == pytest.approx(np.mean(found.value)) and found.mean().low is None
    assert found.finding(0).low is None


def test_a_thousand_samples_over_50000_images_and_26_findings_take_under_a_minute():
    """One tenth of the samples, so that the suite stays short; a sample costs the same each time."""
    rng = np.random.default_rng(0)
    truth = (rng.random((50_000, 26)) < rng.uniform(0.002, 0.3, 26)).astype(np.float32)
    values = rng.normal(size=truth.shape).astype(np.float32) + truth
    images = Images(truth, values, np.arange(50_000) // 3, expit(values), values > 1)
    scores = score(names(images), truth, values)
    started = time.process_time()
    resample(images, scores, 100)
    assert time.process_time() - started < 6


def test_parts_of_the_same_patients_are_paired():
    """Each part's sample is that of its images among the images of the patients that were taken of all."""
    images = images_of()
    part = images.where(np.random.default_rng(1).random(len(images.patient)) < 0.4)
    assert len(np.unique(part.patient)) < 60  # some have no image in it
    of = score(names(part), part.truth, part.values)
    sampled = resample(replace(part, among=np.arange(60)), of, 20, 4)
    picked = np.random.default_rng(4).integers(0, 60, (20, 60))
    for sample in range(20):
        rows = np.concatenate([np.flatnonzero(part.patient == one) for one in picked[sample]])
        for place in range(3):
            kept = rows[~np.isnan(part.truth[rows, place])]
            y, s = part.truth[kept, place], part.values[kept, place]
            wanted = roc_auc_score(y, s) if 0 < y.sum() < len(y) else np.nan
            assert sampled["AUROC"].samples[sample, place] == pytest.approx(wanted, abs=1e-6, nan_ok=True)
