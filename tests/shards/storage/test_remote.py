import pickle
from pathlib import Path

import pytest

from shards.errors import UserError
from shards.storage.places import storage_of
from shards.storage.remote import place, reaching

SECRET = "wJalrXUtnFEMI"


def test_a_local_path_stays_a_path():
    assert place("data/packed") == Path("data/packed")
    assert storage_of(place("data/packed")).local


def test_an_address_has_the_methods_of_a_path_also_in_another_process():
    folder = place("memory://release/")
    (folder / "a").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "x.txt").write_bytes(b"text")
    again = pickle.loads(pickle.dumps(folder))
    assert (again / "a" / "x.txt").read_bytes() == b"text"
    assert not storage_of(again / "a").local
    assert [path.name for path in (again / "a").iterdir()] == ["x.txt"]


@pytest.mark.parametrize(
    "address",
    [
        f"s3://key:{SECRET}@bucket/x",
        f"s3://{SECRET}@bucket/x",
        f"https://host/x?X-Amz-Signature={SECRET}",
        # base64 has slashes; a server's name ends at one
        f"s3://key:a/{SECRET}@bucket/x",
        f"s3://key:{SECRET}?a@bucket/x",
        f"gs://key:{SECRET}#a@bucket/x",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address):
    with pytest.raises(UserError, match="credentials do not belong in an address") as caught:
        place(address)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("address", "words"), [("ftp://x/y", "protocol 'ftp'"), ("s3:///x", "names no bucket")])
def test_what_is_no_place(address, words):
    with pytest.raises(UserError, match=words):
        place(address)


def test_a_store_whose_library_is_missing_names_the_extra(monkeypatch):
    import fsspec

    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match=r"pip install 'cxrdali\[s3\]'"):
        place("s3://bucket/x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError("x"), "not there; check the bucket"),
        (PermissionError("x"), "access denied; check the credentials .*AWS_PROFILE"),
        (OSError(f"https://h/x?X-Amz-Signature={SECRET} failed"), "does not answer as it should"),
    ],
)
def test_errors_of_a_store_name_the_place_and_the_way_out(error, words):
    with pytest.raises(UserError, match=words) as caught, reaching("s3://bucket/pack"):
        raise error
    assert str(caught.value).startswith("s3://bucket/pack: ")
    assert SECRET not in str(caught.value)


def test_errors_of_the_code_stay_what_they_are():
    with pytest.raises(KeyError), reaching("s3://bucket/pack"):
        raise KeyError("x")
