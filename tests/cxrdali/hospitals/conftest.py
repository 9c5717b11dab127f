import pytest

from tests.cxrdali.hospitals.packs import places


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """`cxrdali overlap` keeps signatures in the user's cache: not in that of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory):
    """Three synthetic hospitals, packed; read-only by agreement."""
    return places(tmp_path_factory.mktemp("hospitals"))
