"""Which copies make room for others, and which never do."""

import mmap
import os
import shutil
from pathlib import Path

import pytest

from shards.dataset import cache as caching
from shards.dataset.cache import Cache, Full, default_folder, in_use
from shards.errors import UserError

ID = "a" * 64


@pytest.fixture
def bounded(tmp_path):
    """A cache of 100 bytes with the folder of a dataset."""
    cache = Cache(tmp_path / "cache", 100)
    (cache.dataset(ID, "s3://bucket/pack", b"{}") / "48").mkdir()
    return cache


def path(cache, number: int):
    return cache.folder / ID / "48" / f"{number:06d}.tar"


def fill(cache, number: int, size: int, used: float):
    """A copy that was last used so many seconds after 1970."""
    with cache.claim(path(cache, number), size) as part:
        part.write(bytes(size))
        Path(part.name).rename(path(cache, number))
    os.utime(path(cache, number), (used, used))


def held(cache) -> list[int]:
    return sorted(int(found.stem) for found in (cache.folder / ID / "48").glob("*.tar"))


def test_a_copy_that_gets_its_name_while_another_process_claims_it_is_no_error(bounded, monkeypatch):
    first, touch = bounded.claim(path(bounded, 1), 5), Path.touch

    def finished_meanwhile(part):
        touch(part)
        part.rename(path(bounded, 1))

    monkeypatch.setattr(Path, "touch", finished_meanwhile)
    assert bounded.claim(path(bounded, 1), 5) is None
    first.close()
    assert held(bounded) == [1]


@pytest.mark.parametrize("after", ["*/.source", "[0-9]*/.*.tar.*.part", "[0-9]*/*.tar"])
def test_a_part_that_becomes_a_copy_while_room_is_made_is_counted_once(bounded, monkeypatch, after):
    """Whichever of the listings it falls behind."""
    part = bounded.claim(path(bounded, 1), 60)
    part.write(bytes(60))
    part.flush()
    listing = Path.glob

    def finished_meanwhile(folder, pattern):
        found = list(listing(folder, pattern))
        if pattern == after:
            Path(part.name).rename(path(bounded, 1))
        return iter(found)

    monkeypatch.setattr(Path, "glob", finished_meanwhile)
    assert [(size, found) for _, size, found in bounded._copies()] == [(60, path(bounded, 1))]
    part.close()


def test_the_least_recently_used_copies_make_room(bounded):
    for number, used in ((1, 30), (2, 10), (3, 20)):
        fill(bounded, number, 30, used)
    in_use(path(bounded, 2)).close()  # used now: the latest
    fill(bounded, 4, 50, 40)
    assert held(bounded) == [2, 4]


def test_a_copy_that_is_open_or_mapped_stays_and_what_does_not_fit_beside_it_waits(bounded):
    fill(bounded, 1, 40, 10)
    fill(bounded, 2, 40, 20)
    file = in_use(path(bounded, 1))
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    file.close()
    with pytest.raises(Full):
        bounded.claim(path(bounded, 3), 61)
    assert held(bounded) == [1]  # the other one was removed in vain
    bounded.claim(path(bounded, 3), 60).close()
    mapped.close()
    bounded.claim(path(bounded, 4), 100).close()
    assert held(bounded) == []


def test_a_part_counts_as_whole_while_it_is_filled_and_makes_room_when_its_process_is_gone(bounded):
    part = bounded.claim(path(bounded, 1), 60)
    assert bounded.claim(path(bounded, 1), 60) is None  # another has it
    with pytest.raises(Full):
        bounded.claim(path(bounded, 2), 50)
    part.write(b"begun")
    part.close()  # as the kernel does for a dead process
    with bounded.claim(path(bounded, 1), 60) as again:
        assert again.read() == b"begun"
    bounded.claim(path(bounded, 2), 50).close()
    assert [found.name for found in path(bounded, 1).parent.iterdir()] == [".000002.tar.50.part"]


def test_a_copy_that_another_process_has_just_finished_is_not_made_again(bounded):
    fill(bounded, 1, 40, 10)
    assert bounded.claim(path(bounded, 1), 40) is None
    assert len(list(path(bounded, 1).parent.iterdir())) == 1


def test_a_smaller_bound_holds_from_the_next_opening_on(bounded):
    fill(bounded, 1, 50, 10)
    fill(bounded, 2, 50, 20)
    Cache(bounded.folder, 60).dataset("b" * 64, "s3://bucket/other", b"{}")
    assert held(bounded) == [2]


def test_what_is_no_copy_is_never_removed(bounded, pack_folder):
    own = shutil.copytree(pack_folder, bounded.folder / "pack")  # the only one there is
    before = sorted(own.rglob("*"))
    fill(bounded, 1, 100, 10)
    bounded.claim(path(bounded, 2), 100).close()
    assert sorted(own.rglob("*")) == before and held(bounded) == []


def test_without_a_bound_nothing_is_removed(bounded):
    cache = Cache(bounded.folder)
    for number in range(4):
        fill(cache, number, 50, number)
    assert held(cache) == [0, 1, 2, 3]


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CXRDALI_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "cxrdali"
    monkeypatch.setenv("CXRDALI_CACHE", str(tmp_path / "elsewhere"))
    assert default_folder() == tmp_path / "elsewhere"


def test_what_cannot_be_a_cache_is_refused(tmp_path, bounded, monkeypatch):
    with pytest.raises(UserError, match="cache size 0 bytes: at least 1"):
        Cache(tmp_path, 0)
    with pytest.raises(UserError, match="s3://bucket/cache: a cache is a folder on this machine"):
        Cache("s3://bucket/cache")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file.*cannot be written .*give another folder"):
        Cache(tmp_path / "file").dataset(ID, "s3://bucket/pack", b"{}")

    def without_locks(file, kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(caching.fcntl, "flock", without_locks)
    for action in (lambda: bounded.claim(path(bounded, 1), 10), lambda: bounded.dataset(ID, "s3://b/pack", b"{}")):
        with pytest.raises(UserError, match=r"cannot be locked \(Function not implemented\); give a folder on a file"):
            action()
