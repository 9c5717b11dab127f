import pytest

from tests.cxrdali.held_out import written


@pytest.fixture
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


@pytest.fixture
def few_are_enough(monkeypatch):
    """Isotonic regression from as few positives as the test release has."""
    monkeypatch.setattr("cxrdali.postprocess.calibration.ENOUGH", 10)


@pytest.fixture
def val(dataset, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    return tmp_path / "val.parquet"
