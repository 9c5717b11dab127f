import pytest

from tests.releases import contents, write_large_release
from tests.shards.large import OPTIONS, SHARDS


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The large release; read-only by agreement."""
    root = tmp_path_factory.mktemp("source") / "release"
    write_large_release(root)
    return root


@pytest.fixture(scope="session")
def unbroken(source, tmp_path_factory):
    """The bytes of the dataset that this machine's own processes make of it when nothing interrupts them."""
    from shards.packing.pack import pack
    from shards.releases.open import open_release

    out = tmp_path_factory.mktemp("unbroken") / "pack"
    assert pack(open_release(source), out, OPTIONS).shards == SHARDS
    return contents(out)
