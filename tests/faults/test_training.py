"""Damaged data: training does not start on what a count or a size shows, stops at a sample that cannot be decoded, and
after the data was restored the same command ends as if nothing had been."""

import re
import shutil
import tarfile
import time

import numpy as np
import pytest

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import FoldOptions, train_and_validation
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.cli.cli import call
from tests.faults.trainers import EPOCHS, STAGES, differences, error_line, record, steps, train, train_command

pytestmark = pytest.mark.slow

SHARD = "48/000003.tar"


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """A finished stage 1; its steps are in `log`."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        record(patch, folder / "log")
        train(1, dataset, folder)
    return folder / "stage1"


@pytest.fixture
def pack(pack_folder, tmp_path):
    """A packed dataset to be damaged."""
    return shutil.copytree(pack_folder, tmp_path / "pack")


# ---------------------------------------------------------------- what a size or a count shows


def cuts(path):
    """Bytes that remain, by the place of the cut."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    middle = members[len(members) // 2]
    return {
        "nothing": 0,
        "a member's end": middle.offset,
        "in a header": middle.offset + 100,
        "in the data": middle.offset_data + middle.size // 2,
        "before the end blocks": members[-1].offset_data + (members[-1].size + 511) // 512 * 512,
        "in the end blocks": path.stat().st_size - 512,
        "the last byte": path.stat().st_size - 1,
    }


PLACES = ("nothing", "a member's end", "in a header", "in the data", "before the end blocks", "in the end blocks")


@pytest.mark.parametrize("place", [*PLACES, "the last byte"])
def test_a_shard_that_was_cut_is_refused_before_anything_is_written(unbroken, pack, tmp_path, place):
    path, out = pack / SHARD, tmp_path / "stage1"
    whole, left = path.read_bytes(), cuts(pack / SHARD)[place]
    assert left < len(whole)
    path.write_bytes(whole[:left])
    ended = call(*train_command(pack, out), cwd=tmp_path)
    error_line(ended.returncode, ended.stderr, path, f"has {left} bytes", f"says {len(whole)}", "copy it again")
    assert not out.exists()
    path.write_bytes(whole)
    check_the_next_try(pack, out, unbroken, tmp_path)


def check_the_next_try(pack, out, unbroken, cwd):
    done = call(*train_command(pack, out), cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert differences(out, unbroken) == []


@pytest.mark.parametrize(
    "name, left, message",
    [
        (SHARD, None, "is missing"),
        ("64/000000.tar", 0.5, "bytes, dataset.json says"),  # of a size that this stage does not read
        ("catalog.parquet", 0.5, "hash"),
        ("catalog.parquet", 0, "hash"),
        ("catalog.parquet", None, "No such file"),
        ("labels/cxr-lt-2023.parquet", 0.9, "hash"),
        ("dataset.json", 0.9, "not readable"),
        ("dataset.json", 0, "not readable"),
        ("dataset.json", None, "no packed dataset"),
    ],
)
def test_a_file_that_was_cut_or_lost_is_refused_before_an_epoch(unbroken, pack, tmp_path, name, left, message):
    path, out = pack / name, tmp_path / "stage1"
    whole = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(whole[: int(left * len(whole))])
    ended = call(*train_command(pack, out), cwd=tmp_path)
    line = error_line(ended.returncode, ended.stderr, path if name != "dataset.json" else pack, message)
    assert ";" in line  # and what to do
    assert not out.exists() or [each.name for each in out.iterdir()] == [".lock"]
    path.write_bytes(whole)
    check_the_next_try(pack, out, unbroken, tmp_path)


# ---------------------------------------------------------------- what only the decoder sees


def damage(pack, row):
    """Zero the JPEG of a row in its shard; returns the shard and its bytes before."""
    dataset = PackedDataset.open(pack)
    stored = dataset.stored(48)
    path = stored.paths[stored.shard[row]]
    whole = path.read_bytes()
    data = bytearray(whole)
    start, stop = stored.offset[row], stored.offset[row] + stored.length[row]
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    PackedDataset.open(pack)  # sizes and counts are right
    return path, whole


def rows_of_the_run(dataset, unbroken):
    """Rows that stand for a moment: the first sample, one that only the second epoch has, one of validation."""
    done = [step[4] for step in steps(unbroken.parent / "log")]
    early, later = (np.concatenate(part) for part in (done[: STAGES[1][1]], done[STAGES[1][1] :]))
    _, validation = train_and_validation(dataset, dataset.labels(), FoldOptions())
    return {"first": done[0][0], "second epoch": int(np.setdiff1d(later, early)[0]), "validation": int(validation[-1])}


@pytest.mark.parametrize("when", ["first", "second epoch", "validation"])
def test_a_damaged_sample_is_named_within_seconds_and_the_restored_run_goes_on(unbroken, dataset, pack, tmp_path, when):
    row, out = rows_of_the_run(dataset, unbroken)[when], tmp_path / "stage1"
    path, whole = damage(pack, row)
    started = time.monotonic()
    ended = call(*train_command(pack, out), cwd=tmp_path)
    assert time.monotonic() - started < 10
    line = error_line(ended.returncode, ended.stderr, path, f"sample {dataset.key(row)!r} is damaged", "cxrdali verify")
    again = call(*train_command(pack, out), cwd=tmp_path)
    assert again.stderr.splitlines()[-1].endswith(line)  # the same, not a hang, and not another message
    assert (out / "last.pt").exists() == (when == "second epoch")
    path.write_bytes(whole)
    done = call(*train_command(pack, out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("continues after epoch 1 and 0 images" in done.stdout) == (when == "second epoch")
    assert differences(out, unbroken) == []


@pytest.mark.parametrize("place", [0, 15, 16, 31, 47, 111, 119])
def test_the_loader_names_the_damaged_sample_wherever_it_stands_in_a_batch(dataset, pack, place):
    """And delivers every batch before it; batches of 16, so 111 is a last and 119 in the partial one."""
    rows = np.random.default_rng(0).permutation(len(dataset.catalog))
    path, whole = damage(pack, rows[place])
    loader = Loader(PackedDataset.open(pack), rows, LoaderOptions(48, 16), augment=AugmentOptions())
    delivered = []
    with pytest.raises(UserError, match=re.escape(f"{path}: sample {dataset.key(rows[place])!r} is damaged")):
        for batch in loader:
            delivered.append(batch.rows)
    assert len(delivered) <= place // 16
    path.write_bytes(whole)  # the mapping sees it, and the loader can be read again
    assert np.concatenate([batch.rows for batch in loader]).tolist() == rows.tolist()


def test_the_run_is_long_enough_for_these_tests(unbroken):
    assert len(steps(unbroken.parent / "log")) == EPOCHS * STAGES[1][1]
