import pytest

from tests.cxrdali.hospitals.packs import places


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory):
    """Three synthetic hospitals, packed; read-only by agreement."""
    return places(tmp_path_factory.mktemp("hospitals"))
