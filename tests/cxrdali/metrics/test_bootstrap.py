import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali.metrics.bootstrap import resample


def test_a_draw_equals_scikit_learn_on_the_resampled_images():
    """Each draw is redone by really repeating the images of the studies drawn."""
    rng = np.random.default_rng(0)
    study = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    targets = (rng.random((len(study), 3)) < [0.4, 0.2, 0.1]).astype(float)
    targets[::7, 1] = np.nan
    values = np.round(rng.normal(size=targets.shape) + np.nan_to_num(targets), 1)
    draws = resample(targets, values, study, draws=25, seed=4)
    picked = np.concatenate([np.random.default_rng(4).integers(0, 60, (20, 60))])  # the first chunk of draws
    for draw in range(20):
        rows = np.concatenate([np.flatnonzero(study == one) for one in picked[draw]])
        for place in range(3):
            kept = rows[~np.isnan(targets[rows, place])]
            y, s = targets[kept, place], values[kept, place]
            assert draws.ap[draw, place] == pytest.approx(average_precision_score(y, s), abs=1e-6)
            assert draws.auroc[draw, place] == pytest.approx(roc_auc_score(y, s), abs=1e-6)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """AUROC of two unit normals one apart is Phi(1 / sqrt 2) = 0.760; 90 % intervals of 150 small samples."""
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        targets = (np.arange(120) % 3 == 0).astype(float)[:, None]
        values = rng.normal(size=(120, 1)) + targets
        draws = resample(targets, values, np.arange(120), 200, seed)
        low, high = draws.interval(draws.auroc, 0.9)
        covered += low[0] <= 0.7602 <= high[0]
    assert 0.8 < covered / 150 < 0.97


def test_draws_repeat_positives_which_lifts_ap():
    """As the study's page says: 10 of 200 images are positive, and a positive drawn twice helps itself."""
    lifted = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        targets = (np.arange(200) < 10).astype(float)[:, None]
        values = rng.normal(size=(200, 1)) + targets
        drawn = resample(targets, values, np.arange(200), 100, seed).ap.mean()
        lifted.append(drawn - average_precision_score(targets, values))
    assert np.mean(lifted) > 3 * np.std(lifted) / np.sqrt(len(lifted)) and np.mean(lifted) < 0.05


def test_images_of_a_study_are_drawn_together():
    """Ten copies of each study are no more evidence than one: the interval must not shrink."""
    rng = np.random.default_rng(0)
    targets = (rng.random((80, 1)) < 0.4).astype(float)
    values = rng.normal(size=(80, 1)) + targets
    widths = []
    for copies in (1, 10):
        study = np.repeat(np.arange(80), copies)
        draws = resample(np.repeat(targets, copies, 0), np.repeat(values, copies, 0), study, 400, 0)
        low, high = draws.interval(draws.auroc, 0.95)
        widths.append(high[0] - low[0])
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_draws_without_a_positive_are_left_out_and_no_positive_at_all_is_nan():
    targets = np.zeros((30, 2))
    targets[0, 0] = 1
    draws = resample(targets, np.random.default_rng(0).normal(size=(30, 2)), np.arange(30), 100, 0)
    missing = np.isnan(draws.ap[:, 0]).mean()
    assert 0.2 < missing < 0.55  # (1 - 1/30)^30 = 0.36
    assert np.isnan(draws.ap[:, 1]).all() and np.isnan(draws.auroc[:, 1]).all()


def test_a_thousand_draws_over_50000_images_and_26_findings_take_under_a_minute():
    """One tenth of the draws, so that the suite stays short; a draw costs the same each time."""
    rng = np.random.default_rng(0)
    targets = (rng.random((50_000, 26)) < rng.uniform(0.002, 0.3, 26)).astype(float)
    values = (rng.normal(size=targets.shape) + targets).astype(np.float32)
    started = time.perf_counter()
    resample(targets, values, np.arange(50_000) // 2, 100)
    assert time.perf_counter() - started < 6
