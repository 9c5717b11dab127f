"""One thread per library: small models gain nothing from two, and lose a lot to a busy machine."""

import os
import signal

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")  # equal files make equal pages

import pytest  # noqa: E402

from tests.releases import write_nih, write_release  # noqa: E402
from tests.s3 import address, own_address, packed_bucket, s3, s3_server  # noqa: E402, F401

# a runner in the background ignores SIGINT (or SIGHUP, under nohup), and so would every command that tests start
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def release_folder(tmp_path_factory):
    """A small MIMIC-CXR-JPG release with CXR-LT 2023 labels; read-only by agreement."""
    root = tmp_path_factory.mktemp("release") / "mimic-cxr-jpg"
    write_release(root)
    return root


@pytest.fixture(scope="session")
def pack_folder(release_folder, tmp_path_factory):
    """The release packed at 48 (JPEG), 64 (JPEG) and 56 (raw) pixels in shards of 16; read-only by agreement."""
    from shards.packing.options import PackOptions
    from shards.packing.pack import pack
    from shards.releases.open import open_release
    from shards.renditions.rendition import Size

    out = tmp_path_factory.mktemp("packed") / "pack"
    options = PackOptions(sizes=(Size(48), Size(56, raw=True), Size(64)), shard_images=16)
    pack(open_release(release_folder), out, options)
    return out


@pytest.fixture(scope="session")
def dataset(pack_folder):
    from shards.dataset.packed import PackedDataset

    return PackedDataset.open(pack_folder)


@pytest.fixture
def time_limit():
    """A test that hangs fails."""

    def expired(*_):
        raise TimeoutError("two minutes are over")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def nih(tmp_path_factory):
    """A small ChestX-ray14 packed at 48 pixels: another hospital than `dataset`, with other findings and splits."""
    from shards.dataset.packed import PackedDataset
    from shards.packing.options import PackOptions
    from shards.packing.pack import pack
    from shards.releases.open import open_release
    from shards.renditions.rendition import Size

    root = tmp_path_factory.mktemp("nih")
    write_nih(root / "release", patients=20)
    pack(open_release(root / "release"), root / "nih", PackOptions(sizes=(Size(48),), shard_images=16))
    return PackedDataset.open(root / "nih")
