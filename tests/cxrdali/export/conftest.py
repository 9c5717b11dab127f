import pytest

from tests.cxrdali.export.exported import run_with_weights


@pytest.fixture(scope="package")
def run(dataset, tmp_path_factory):
    """A small convolutional network at 48 px."""
    return run_with_weights(tmp_path_factory.mktemp("exported") / "a", dataset, arch="test_byobnet")


@pytest.fixture(scope="package")
def margin_run(dataset, tmp_path_factory):
    """The same of a loss with a scale of 30, and timm's own head."""
    folder = tmp_path_factory.mktemp("exported") / "margin"
    return run_with_weights(folder, dataset, arch="test_byobnet", loss="ldam")
