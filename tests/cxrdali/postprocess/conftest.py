import pytest

from tests.cxrdali.held_out import written


@pytest.fixture
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


@pytest.fixture
def val(dataset, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    return tmp_path / "val.parquet"
