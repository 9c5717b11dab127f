"""Fitted rules meet a table of another run, or of another test-time augmentation: refused, unless it is allowed."""

import pytest

from cxrdali.postprocess import calibration, thresholds, views
from cxrdali.postprocess.ensemble import ensemble, weights_by_map
from cxrdali.predictions import read
from shards.errors import UserError
from tests.cxrdali.held_out import written

OTHERS = {
    "run": ({"run": "n"}, "run 'n' here, 'm' in val.parquet, to which the rules were fitted"),
    "tta": ({"tta": "hflip"}, "test-time augmentation 'hflip' here, 'none' in val.parquet, to which the rules"),
}


@pytest.fixture(params=OTHERS)
def other(request, dataset, tmp_path):
    """A table of another run or TTA, and what is said of it."""
    changed, said = OTHERS[request.param]
    written(tmp_path / "other.parquet", dataset, "test", "test", **changed)
    return tmp_path / "other.parquet", said


def test_a_calibration(dataset, labels, val, other):
    path, said = other
    fitted = calibration.fit(val, dataset, labels, "platt")
    with pytest.raises(UserError, match=f"other.parquet: {said}.*; fit to validation predictions of this run"):
        calibration.apply(path, fitted)
    about = calibration.apply(path, fitted, allow_other_run=True).provenance
    assert about.history[-1].startswith(f"calibrated: platt, fitted on val.parquet (allowed: {said}")
    assert about.calibrated == ("calibrated: platt, fitted on val.parquet",)  # thresholds still fit


def test_thresholds(dataset, labels, val, other):
    path, said = other
    fitted = thresholds.fit(val, dataset, labels, "f1")
    with pytest.raises(UserError, match=f"other.parquet: {said}"):
        fitted.decide(path, read(path))
    assert fitted.decide(path, read(path), allow_other_run=True).shape == read(path).values.shape
    assert thresholds.fixed(labels.findings).decide(path, read(path)).any()  # fitted to nothing


def test_views(dataset, labels, val, other):
    path, said = other
    fitted = views.fit(val, dataset, labels)
    with pytest.raises(UserError, match=f"other.parquet: {said}"):
        views.apply(path, fitted, dataset)
    table, _ = views.apply(path, fitted, dataset, allow_other_run=True)
    assert f"(allowed: {said}" in table.provenance.history[-1]


def test_views_of_an_older_version_know_no_tta(dataset, labels, val, tmp_path):
    fitted = views.fit(val, dataset, labels)
    del fitted.made_from["tta"]
    written(tmp_path / "t.parquet", dataset, "test", "test", tta="hflip")
    views.apply(tmp_path / "t.parquet", fitted, dataset)


def test_weights_of_an_ensemble(dataset, labels, tmp_path):
    for run in "ab":
        written(tmp_path / f"{run}.val.parquet", dataset, run=run, seed=ord(run))
        for tta in ("none", "hflip"):
            written(tmp_path / f"{run}.{tta}.parquet", dataset, "test", "test", run=run, tta=tta, seed=ord(run) + 1)
    weights = weights_by_map([tmp_path / f"{run}.val.parquet" for run in "ab"], dataset, labels)
    assert weights.ttas == ("none", "none")
    ensemble([tmp_path / f"{run}.none.parquet" for run in "ab"], weights)
    flipped = [tmp_path / f"{run}.hflip.parquet" for run in "ab"]
    with pytest.raises(UserError, match="a.hflip.parquet: test-time augmentation 'hflip' here, 'none' in the"):
        ensemble(flipped, weights)
    allowed = ensemble(flipped, weights, allow_other_run=True)
    assert "(allowed: test-time augmentation 'hflip' here" in allowed.provenance.history[-1]


def test_a_table_that_does_not_say_is_taken_as_it_is(dataset, labels, val, tmp_path):
    fitted = calibration.fit(val, dataset, labels, "platt")
    read(val).write(tmp_path / "t.csv")
    calibration.apply(tmp_path / "t.csv", fitted)
