import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali.metrics.bootstrap import interval, resample, sampled_macro
from cxrdali.metrics.ranking import score


def test_a_sample_equals_scikit_learn_on_the_resampled_images():
    """Each sample is redone by really repeating the images of the studies taken."""
    rng = np.random.default_rng(0)
    study = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    targets = (rng.random((len(study), 3)) < [0.4, 0.2, 0.1]).astype(float)
    targets[::7, 1] = np.nan
    values = np.round(rng.normal(size=targets.shape) + np.nan_to_num(targets), 1)
    samples = resample(targets, values, study, count=25, seed=4)
    picked = np.concatenate([np.random.default_rng(4).integers(0, 60, (20, 60))])  # the first chunk of samples
    for sample in range(20):
        rows = np.concatenate([np.flatnonzero(study == one) for one in picked[sample]])
        for place in range(3):
            kept = rows[~np.isnan(targets[rows, place])]
            y, s = targets[kept, place], values[kept, place]
            assert samples.ap[sample, place] == pytest.approx(average_precision_score(y, s), abs=1e-6)
            assert samples.auroc[sample, place] == pytest.approx(roc_auc_score(y, s), abs=1e-6)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """AUROC of two unit normals one apart is Phi(1 / sqrt 2) = 0.760; 90 % intervals of 150 small samples."""
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        targets = (np.arange(120) % 3 == 0).astype(float)[:, None]
        values = rng.normal(size=(120, 1)) + targets
        samples = resample(targets, values, np.arange(120), 200, seed)
        low, high = interval(samples.auroc, 0.9)
        covered += low[0] <= 0.7602 <= high[0]
    assert 0.8 < covered / 150 < 0.97


def test_samples_repeat_positives_which_lifts_ap():
    """As the study's page says: 10 of 200 images are positive, and a positive taken twice helps itself."""
    lifted = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        targets = (np.arange(200) < 10).astype(float)[:, None]
        values = rng.normal(size=(200, 1)) + targets
        sampled = resample(targets, values, np.arange(200), 100, seed).ap.mean()
        lifted.append(sampled - average_precision_score(targets, values))
    assert np.mean(lifted) > 3 * np.std(lifted) / np.sqrt(len(lifted)) and np.mean(lifted) < 0.05


def test_images_of_a_study_are_taken_together():
    """Ten copies of each study are no more evidence than one: the interval must not shrink."""
    rng = np.random.default_rng(0)
    targets = (rng.random((80, 1)) < 0.4).astype(float)
    values = rng.normal(size=(80, 1)) + targets
    widths = []
    for copies in (1, 10):
        study = np.repeat(np.arange(80), copies)
        samples = resample(np.repeat(targets, copies, 0), np.repeat(values, copies, 0), study, 400, 0)
        low, high = interval(samples.auroc, 0.95)
        widths.append(high[0] - low[0])
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_samples_without_a_positive_are_left_out_and_no_positive_at_all_is_nan():
    targets = np.zeros((30, 2))
    targets[0, 0] = 1
    samples = resample(targets, np.random.default_rng(0).normal(size=(30, 2)), np.arange(30), 100, 0)
    missing = np.isnan(samples.ap[:, 0]).mean()
    assert 0.2 < missing < 0.55  # (1 - 1/30)^30 = 0.36
    assert np.isnan(samples.ap[:, 1]).all() and np.isnan(samples.auroc[:, 1]).all()
    only_positives = resample(1 - targets, np.random.default_rng(0).normal(size=(30, 2)), np.arange(30), 100, 0)
    np.testing.assert_array_equal(np.isnan(only_positives.ap), np.isnan(samples.ap))  # of the same images
    assert (only_positives.ap[~np.isnan(only_positives.ap)] < 1).any()


def test_a_rare_finding_that_a_sample_lacks_does_not_lift_the_interval_of_the_mean():
    """A common finding with AP 0.9 or so, and one in a single study, ranked last: its AP is 0.02, and a third of the
    samples do not have it. Means over what a sample has would then be near 0.9, twice the mean that is reported."""
    rng = np.random.default_rng(0)
    common = (np.arange(50) < 25).astype(np.float32)
    truth = np.stack([common, (np.arange(50) == 49).astype(np.float32)], axis=1)
    values = np.stack([common + rng.normal(0, 0.5, 50), -np.arange(50.0)], axis=1).astype(np.float32)
    scores, samples = score(("common", "rare"), truth, values), resample(truth, values, np.arange(50), 300)
    assert scores.ap[1] == pytest.approx(1 / 50)
    low, high = interval(sampled_macro(samples.ap, scores.ap), 0.95)
    assert low < scores.macro_ap < high < 0.6
    assert interval(samples.ap, 0.95)[0][0] > 0.7


def test_the_mean_of_a_sample_is_over_the_findings_that_are_defined_on_all_images():
    sampled = np.array([[0.5, np.nan, np.nan], [0.7, 0.1, np.nan]])
    np.testing.assert_allclose(sampled_macro(sampled, np.array([0.6, 0.2, np.nan])), [0.35, 0.4], rtol=1e-15)
    assert np.isnan(sampled_macro(sampled[:, 2:], np.array([np.nan]))).all()


def test_a_thousand_samples_over_50000_images_and_26_findings_take_under_a_minute():
    """One tenth of the samples, so that the suite stays short; a sample costs the same each time."""
    rng = np.random.default_rng(0)
    targets = (rng.random((50_000, 26)) < rng.uniform(0.002, 0.3, 26)).astype(float)
    values = (rng.normal(size=targets.shape) + targets).astype(np.float32)
    started = time.perf_counter()
    resample(targets, values, np.arange(50_000) // 2, 100)
    assert time.perf_counter() - started < 6
