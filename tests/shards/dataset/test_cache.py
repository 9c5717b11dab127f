"""Copies on their way: one process fills each, and what a dead one left is continued."""

from pathlib import Path

import pytest

from shards.dataset import cache as caching
from shards.dataset.cache import Cache, claim, copied, default_folder
from shards.errors import UserError
from shards.storage import files

ID = "a" * 64


@pytest.fixture
def cache(tmp_path):
    """A cache with the folder of a dataset."""
    cache = Cache(tmp_path / "cache")
    (cache.dataset(ID, "s3://bucket/pack", b"{}") / "48").mkdir()
    return cache


def path(cache, number: int):
    return cache.folder / ID / "48" / f"{number:06d}.tar"


def fill(cache, number: int, num_bytes: int):
    with claim(path(cache, number), num_bytes) as part:
        part.write(bytes(num_bytes))
        Path(part.name).rename(path(cache, number))


def finished(cache) -> list[int]:
    return sorted(int(found.stem) for found in (cache.folder / ID / "48").glob("*.tar"))


def test_a_copy_that_gets_its_name_while_another_process_claims_it_is_no_error(cache, monkeypatch):
    first, lock = claim(path(cache, 1), 5), files.lock

    def finished_meanwhile(file, kind):
        Path(file.name).rename(path(cache, 1))
        first.close()
        lock(file, kind)

    monkeypatch.setattr("shards.dataset.cache.lock", finished_meanwhile)
    assert claim(path(cache, 1), 5) is None
    first.close()
    assert finished(cache) == [1]


def test_a_planted_part_or_folder_is_not_written_through(cache, tmp_path):
    """A cache that several users share: the names of its parts are known."""
    victim = tmp_path / "victim"
    victim.write_text("the user's")
    part = path(cache, 1).with_name(".000001.tar.60.part")
    part.symlink_to(victim)
    with pytest.raises(UserError, match="000001.tar.60.part: is a link"):
        claim(path(cache, 1), 60)
    part.unlink()
    part.hardlink_to(victim)
    assert claim(path(cache, 1), 60) is None
    fill(cache, 1, 60)
    assert victim.read_text() == "the user's" and path(cache, 1).read_bytes() == bytes(60)
    (cache.folder / ("b" * 64)).symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link, and nothing is written or removed where a link leads"):
        cache.dataset("b" * 64, "s3://bucket/other", b"{}")
    assert not (tmp_path / "dataset.json").exists()


def test_a_part_is_one_process_s_until_it_ends_and_then_the_next_one_s_to_continue(cache):
    part = claim(path(cache, 1), 60)
    assert claim(path(cache, 1), 60) is None  # another has it
    assert (copied(path(cache, 1), 60), copied(path(cache, 2), 60)) == (0, None)
    part.write(b"begun")
    part.close()  # as the kernel does for a dead process
    assert copied(path(cache, 1), 60) == 5
    with claim(path(cache, 1), 60) as again:
        assert again.read() == b"begun"


def test_a_copy_that_another_process_has_just_finished_is_not_made_again(cache, monkeypatch):
    fill(cache, 1, 40)
    assert claim(path(cache, 1), 40) is None
    exists = Path.exists
    answers = [False]  # finished after the first look
    monkeypatch.setattr(Path, "exists", lambda self: answers.pop() if answers else exists(self))
    assert claim(path(cache, 1), 40) is None
    assert [found.name for found in path(cache, 1).parent.iterdir()] == ["000001.tar"]


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CXRDALI_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "cxrdali"
    monkeypatch.setenv("CXRDALI_CACHE", str(tmp_path / "elsewhere"))
    assert default_folder() == tmp_path / "elsewhere"


def test_what_cannot_be_a_cache_is_refused(tmp_path, cache, monkeypatch):
    with pytest.raises(UserError, match="s3://bucket/cache: a cache is a folder on this machine"):
        Cache("s3://bucket/cache")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file.*cannot be written .*give another folder"):
        Cache(tmp_path / "file").dataset(ID, "s3://bucket/pack", b"{}")

    def without_locks(file, kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(caching.fcntl, "flock", without_locks)
    with pytest.raises(UserError, match=r"cannot be locked \(Function not implemented\); give a folder on a file"):
        claim(path(cache, 1), 10)
