"""A dataset in parts, by packers that run at once or one after the other, as the tasks of a SLURM array do."""

import contextlib
import os
import signal

import pytest

from shards.errors import UserError
from shards.packing.engine import Local
from shards.packing.job import PackJob, PartSummary
from shards.packing.options import Part
from shards.packing.pack import pack, pack_job
from shards.releases.open import open_release
from shards.storage.files import only_one
from tests.cli.cli import call
from tests.faults.processes import Packer
from tests.releases import contents
from tests.shards import large
from tests.shards.large import OPTIONS, SHARDS

pytestmark = pytest.mark.slow

GIVEN = (*large.GIVEN, "--jobs", "1")


@pytest.fixture
def part(source, tmp_path):
    """Start the packer of a part; whatever is left of them at the end is killed."""
    started = []

    def start(text):
        log = tmp_path / f"{len(started)}.log"
        started.append(Packer(source, tmp_path / "pack", *GIVEN, "--part", text, log=log))
        return started[-1]

    yield start
    for one in started:
        one.end()


def pack_part(source, out, part):
    return pack_job(PackJob(open_release(source), out, OPTIONS, part=part), Local())


def finished(out):
    return {int(path.stem) for path in (out / ".packing" / "records").glob("[0-9]*.json")}


def test_two_parts_at_once_then_a_plain_run_publishes_the_same_bytes(part, source, unbroken, tmp_path):
    out = tmp_path / "pack"
    one, two = part("1/2"), part("2/2")
    one.wait_for(lambda: {shard % 2 for shard in finished(out)} == {0, 1})
    plain = call("shard", "--source", source, "--out", out, *GIVEN, cwd=tmp_path)
    if one.process.poll() is None or two.process.poll() is None:
        assert plain.returncode == 1 and "another process is packing into it" in plain.stderr
    assert (one.process.wait(60), two.process.wait(60)) == (0, 0), one.said + two.said
    assert "part 1 of 2 is made" in one.said and "part 2 of 2 is made" in two.said
    assert "the same command without --part publishes the dataset" in one.said
    assert finished(out) == set(range(SHARDS)) and not (out / "dataset.json").exists()
    assert list((out / ".packing" / "tmp").iterdir()) == []
    plain = call("shard", "--source", source, "--out", out, *GIVEN, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert contents(out) == unbroken


def test_a_part_makes_its_own_shards_only_and_a_second_run_of_it_none(source, tmp_path):
    out = tmp_path / "pack"
    other = out / ".packing" / "tmp" / "of-another-part"
    other.mkdir(parents=True)
    made = pack_part(source, out, Part(3, 4))
    assert isinstance(made, PartSummary)
    assert finished(out) == set(range(2, SHARDS, 4))
    assert (made.finished, made.shards, made.images_this_run > 0) == (len(finished(out)), SHARDS, True)
    again = pack_part(source, out, Part(3, 4))
    assert (again.finished, again.images_this_run) == (made.finished, 0)
    assert other.is_dir()


def test_a_killed_part_is_finished_by_the_plain_run(part, source, unbroken, tmp_path):
    out = tmp_path / "pack"
    one = part("1/2")
    one.wait_for(lambda: len(finished(out)) >= 3)
    one.signal(signal.SIGKILL, group=True)
    one.process.wait(20)
    pack(open_release(source), out, OPTIONS)
    assert contents(out) == unbroken


def test_shards_that_were_lost_since_are_made_again(source, unbroken, tmp_path):
    """A copy that is not whole, a disk that was lost, between the parts and the last run."""
    out = tmp_path / "pack"
    pack_part(source, out, Part(1, 1))
    (out / "64/000003.tar").unlink()
    (out / "64/000004.idx").unlink()
    os.truncate(out / "96/000005.tar", (out / "96/000005.tar").stat().st_size - 512)
    summary = pack(open_release(source), out, OPTIONS)
    assert 3 <= summary.images_this_run <= 3 * OPTIONS.shard_images
    assert contents(out) == unbroken


def test_parts_of_other_options_are_refused(source, tmp_path):
    out = tmp_path / "pack"
    pack_part(source, out, Part(9, 38))
    done = call("shard", "--source", source, "--out", out, *GIVEN, "--seed", 1, "--part", "2/38", cwd=tmp_path)
    assert done.returncode == 1 and "was packed with another option 'seed'" in done.stderr


@pytest.mark.parametrize(("held", "wanted", "refused"), [(1, 1, False), (1, 0, True), (0, 1, True), (0, 0, True)])
def test_shared_holders_exclude_only_those_that_want_it_alone(tmp_path, held, wanted, refused):
    expected = pytest.raises(UserError, match="another process is at it") if refused else contextlib.nullcontext()
    lock = tmp_path / "lock"
    with only_one(lock, "at it", shared=bool(held)), expected, only_one(lock, "at it", shared=bool(wanted)):
        pass


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/2/3", "1.0/2"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"part .*: give I/N, part I of N, counted from 1; for example 3/8"):
        Part.parse(text)
