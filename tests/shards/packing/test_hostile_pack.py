"""Packs made to do harm: links that lead out, and what they bring along to be deleted."""

import json
import multiprocessing
import os
import shutil
import signal
from unittest import mock

import pytest

from shards.dataset.description import DATASET, seal
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach, detach
from shards.packing.engine import Local
from shards.packing.folder import identity_of
from shards.packing.job import PackJob
from shards.packing.options import PackOptions
from shards.packing.pack import pack_job
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.renditions.options import Size
from shards.storage import files
from shards.storage.files import json_bytes
from tests.cli.cli import call
from tests.heard import heard
from tests.releases import contents


@pytest.fixture
def copy(pack_folder, tmp_path):
    """A pack among a user's files."""
    (tmp_path / "mine").mkdir()
    for place in (tmp_path, tmp_path / "mine"):
        (place / "results.parquet").write_text("the user's")
        (place / ".notes.txt.4242.part").write_text("the user's")
        (place / "lock").write_text("the user's")
    (tmp_path / "mine" / "records").mkdir()
    return shutil.copytree(pack_folder, tmp_path / "pack")


def reseal(root, **changes):
    info = json.loads((root / DATASET).read_bytes())
    (root / DATASET).write_bytes(json_bytes(seal({**info, **changes})))


@pytest.fixture
def labels(release_folder):
    """A folder of labels that can be attached."""
    return release_folder / "cxr-lt-2023"


def everything(folder):
    return {name: data for name, data in contents(folder).items() if not name.startswith("pack/")}


@pytest.mark.parametrize("target", ["..", "../mine"])
@pytest.mark.parametrize("name", ["labels", ".packing"])
def test_no_link_is_followed_out_of_a_pack(copy, labels, tmp_path, name, target):
    if (copy / name).exists():
        shutil.rmtree(copy / name)
    (copy / name).symlink_to(target)
    reseal(copy, labels={}, default_labels=None)
    before = everything(tmp_path)
    for change in (lambda: attach(copy, [labels]), lambda: detach(copy, "chexpert")):
        with pytest.raises(UserError, match=f"pack/{name}: is a link, and nothing is written or removed where a link"):
            change()
    assert call("label", copy, "--labels", labels, cwd=tmp_path).returncode == 1
    assert everything(tmp_path) == before and (copy / name).is_symlink()
    assert f"{copy / name}: is a link, so no command writes or removes anything there" in verify(copy).problems


@pytest.mark.parametrize("name", [".packing", ".packing/tmp", ".packing/records", "48"])
def test_packing_follows_no_link_out_of_its_folder(release_folder, copy, tmp_path, name):
    """An unfinished packing that somebody else began."""
    release, out = open_release(release_folder), tmp_path / "begun"
    job = PackJob(release, out, PackOptions(sizes=(Size(48),), shard_images=16))
    target = tmp_path / "mine"
    if name == ".packing":
        out.mkdir()
        (target / "options.json").write_bytes(json_bytes(identity_of(job)))
    else:
        (out / ".packing").mkdir(parents=True)
        (out / ".packing" / "options.json").write_bytes(json_bytes(identity_of(job)))
    (out / name).symlink_to(target)
    before = contents(target)
    with pytest.raises(UserError, match=f"begun/{name}: is a link, and nothing is written or removed where a link"):
        pack_job(job, Local(1))
    assert contents(target) == before


def test_a_size_may_lie_on_another_disk(copy, tmp_path):
    (copy / "48").rename(tmp_path / "disk")
    (copy / "48").symlink_to(tmp_path / "disk")
    detach(copy, "chexpert")
    assert PackedDataset.open(copy).sizes == [48, 56, 64] and verify(copy).problems == ()


def test_nothing_is_removed_that_the_pack_does_not_list(copy, labels):
    own = copy / "labels" / "mine.parquet"
    own.write_text("the user's")
    (copy / ".rsync.Xy12.part").write_text("the user's")
    detach(copy, "cxr-lt-2023")
    attach(copy, [labels])
    assert own.read_text() == (copy / ".rsync.Xy12.part").read_text() == "the user's"
    assert verify(copy).problems == (f"{copy / '.rsync.Xy12.part'}: not in dataset.json", f"{own}: not in dataset.json")


@pytest.mark.parametrize("note", [b"", b"{}", b'"chexpert"', b"[1, [], null]", b"[" * 100_000, b'["../../results"]'])
def test_a_note_of_another_kind_removes_nothing(copy, note, tmp_path):
    (copy / ".packing").mkdir()
    (copy / ".packing" / "labels.json").write_bytes(note)
    before = everything(tmp_path)
    detach(copy, "cxr-lt-2023")
    assert everything(tmp_path) == before and PackedDataset.open(copy).label_names == ["chexpert"]
    assert not (copy / ".packing").exists()


def _killed_at_unlisting(root):
    real = files.write_bytes

    def killed(path, data):
        real(path, data)
        if path.name == DATASET:
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(files, "write_bytes", killed):
        detach(root, "cxr-lt-2023")


def test_what_a_killed_removal_left_is_removed_by_the_next_call(copy, labels):
    process = multiprocessing.get_context("fork").Process(target=_killed_at_unlisting, args=(copy,))
    process.start()
    process.join()
    stray = copy / "labels" / "cxr-lt-2023.parquet"
    assert process.exitcode == -signal.SIGKILL and stray.exists()
    detach(copy, "chexpert")
    assert not stray.exists() and verify(copy).problems == ()


def test_findings_that_stay_in_the_shards_are_said(copy, labels):
    """KEY.json are in the shards, which nothing changes: who reads them by webdataset must know."""
    stored = PackedDataset.open(copy).info["stored_labels"]
    assert stored == PackedDataset.open(copy).info["labels"]
    with heard([]) as said:
        detach(copy, "cxr-lt-2023")
    assert "are not attached, but the .json in the shards still hold them as" in said[0]
    assert f"(sha256 {stored['cxr-lt-2023'][:12]})" in said[0]
    inspected = " ".join(call("inspect", copy, cwd=copy).stdout.split())
    assert "Labels cxr-lt-2023: are not attached, but the .json in the shards still hold them" in inspected
    attach(copy, [labels])
    assert PackedDataset.open(copy).info["stored_labels"] == stored == PackedDataset.open(copy).info["labels"]
    assert "still hold them" not in call("inspect", copy, cwd=copy).stdout
    reseal(copy, stored_labels={**stored, "cxr-lt-2023": "0" * 64})  # as if the table had been corrected
    with heard([]) as said:
        detach(copy, "cxr-lt-2023")
        attach(copy, [labels])
    assert "were attached anew, but the .json in the shards still hold them as they were packed (sha256 0000" in said[1]
    assert verify(copy).problems == ()


def test_a_pack_of_an_earlier_version_says_that_it_does_not_know(copy):
    info = json.loads((copy / DATASET).read_bytes())
    del info["stored_labels"]
    (copy / DATASET).write_bytes(json_bytes(seal(info)))
    with heard([]) as said:
        detach(copy, "cxr-lt-2023")
    assert said[:1] == [
        "labels cxr-lt-2023: the .json in the shards may hold other findings of them, as they were packed (by an "
        "earlier version, which did not note it): who reads the shards with webdataset sees those"
    ]
    assert verify(copy).problems == ()


def test_what_an_unfinished_packing_of_another_size_has_made_is_not_removed(copy):
    (copy / ".packing" / "records").mkdir(parents=True)
    for name in ("options.json", "records/000000.json"):
        (copy / ".packing" / name).write_text("{}")
    detach(copy, "chexpert")
    assert set(contents(copy / ".packing")) == {"lock", "options.json", "records/000000.json"}
