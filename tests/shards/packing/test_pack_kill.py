"""Kills of real packing processes: whatever the moment, the same command ends in the same bytes."""

import os
import shutil
import signal
import time

import cv2
import numpy as np
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from tests.faults import processes
from tests.releases import contents
from tests.shards.large import OPTIONS, SHARDS

pytestmark = pytest.mark.slow


class Packer(processes.Packer):
    def wait_for_shards(self, count):
        """Until so many are finished, or all is done."""
        self.wait_for(lambda: (self.out / ".packing" / "options.json").exists() and self.records >= count)
        return self

    def stop(self):
        """And wait until it stands: a busy machine takes its time."""
        self.signal(signal.SIGSTOP)
        self.wait_for(lambda: self.alive().get(self.process.pid) == "T")
        return self

    def kill(self):
        self.signal(signal.SIGKILL, group=True)
        return self.process.wait()


@pytest.fixture
def packer(source, tmp_path):
    """Start packing processes of `source`; whatever is left of them at the end is killed."""
    started = []

    def start(jobs, *options):
        options = ("--sizes", "64,96:raw", "--shard-images", "4", "--jobs", str(jobs), *options)
        started.append(Packer(source, tmp_path / "pack", *options, log=tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield start
    for one in started:
        one.end()


def records(out):
    """Finished shards; of a published dataset all, although the records are being removed one by one."""
    if (out / "dataset.json").exists():
        return SHARDS
    return len(list((out / ".packing" / "records").glob("[0-9]*.json")))


@pytest.fixture
def unfinished(packer, tmp_path):
    """A folder whose packing was killed after a few shards; none of its processes is left."""
    out = tmp_path / "pack"
    while not 5 <= records(out) < SHARDS:  # a busy machine may notice too late, when all is done
        shutil.rmtree(out, ignore_errors=True)
        packer(1).wait_for_shards(5).kill()
    return out


def test_a_rerun_makes_only_what_is_missing(unfinished, source, unbroken):
    done = sorted((unfinished / ".packing" / "records").glob("[0-9]*.json"))
    tars = [unfinished / "64" / f"{path.stem}.tar" for path in done]
    before = [path.stat().st_mtime_ns for path in tars]
    summary = pack(open_release(source), unfinished, OPTIONS)
    assert [path.stat().st_mtime_ns for path in tars] == before
    assert (summary.packed, summary.shards, summary.already_finished) == (120, SHARDS, False)
    assert 0 < summary.images_this_run <= 120 - 5
    assert contents(unfinished) == unbroken


def test_files_that_a_kill_left_before_their_renaming_are_removed(unfinished, source, unbroken):
    for folder, name in (
        ("64", ".000030.idx.4242.part"),
        ("", ".catalog.parquet.4242.part"),
        ("labels", ".chexpert.parquet.4242.part"),
        ("", ".dataset.json.4242.part"),
        (".packing/records", ".000030.json.4242.part"),
        (".packing/tmp", "64-000030.4242.tar"),
    ):
        (unfinished / folder).mkdir(exist_ok=True)
        (unfinished / folder / name).write_bytes(b"half")
    pack(open_release(source), unfinished, OPTIONS)
    assert sorted(contents(unfinished)) == sorted(unbroken)
    assert contents(unfinished) == unbroken


def test_an_unfinished_folder_opens_as_such_and_refuses_other_options(unfinished, source):
    with pytest.raises(UserError, match="unfinished packed dataset; run the same `cxrdali shard` again"):
        PackedDataset.open(unfinished)
    before = contents(unfinished)
    with pytest.raises(UserError, match="another option 'quality': 95 there, 90 now"):
        pack(open_release(source), unfinished, PackOptions(**{**vars(OPTIONS), "quality": 90}))
    assert contents(unfinished) == before


def test_a_second_packer_is_refused_at_once_and_a_dead_one_blocks_nobody(packer, source, unbroken):
    first = packer(1).wait_for_shards(2)
    first.signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(UserError, match="another process is packing into it; wait for it or stop it"):
        pack(open_release(source), first.out, OPTIONS)
    assert time.monotonic() - started < 5
    first.kill()
    pack(open_release(source), first.out, OPTIONS)
    assert contents(first.out) == unbroken


def test_an_interrupt_stops_everything_and_says_how_to_continue(packer, source, unbroken):
    one = packer(2).wait_for_shards(2).stop()
    while records(one.out) in (0, SHARDS):  # a busy machine may notice too late, when all is done
        one.end()
        shutil.rmtree(one.out)
        one = packer(2).wait_for_shards(2).stop()
    one.signal(signal.SIGINT)
    one.signal(signal.SIGCONT)
    assert one.process.wait(timeout=30) == 130, one.said
    assert one.said.endswith("stopped; the same command continues, or begins again\n")
    assert "Traceback" not in one.said
    pack(open_release(source), one.out, OPTIONS)
    assert contents(one.out) == unbroken


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_soon_after_their_parent_was_killed(packer, number):
    """Each of them holds a core, then memory, and goes on writing."""
    one = packer(2).wait_for_shards(2)
    one.signal(number)
    one.process.wait()
    end = time.monotonic() + 5
    while (left := one.alive()) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == {}


def test_workers_of_a_killed_run_change_nothing_in_the_next(packer, source, unbroken):
    """Kill, remove the folder, pack again with other options: the first run's workers still have shards to make."""
    old = packer(2, "--quality", "50").wait_for_shards(1)
    old.signal(signal.SIGSTOP, group=True)
    old.signal(signal.SIGKILL)
    old.process.wait()
    shutil.rmtree(old.out)
    new = packer(1).wait_for_shards(14).stop()
    assert records(new.out) < SHARDS
    if old.alive():
        old.signal(signal.SIGCONT, group=True)
    wait_until_idle(old)
    new.signal(signal.SIGCONT)
    assert new.process.wait() == 0, new.said
    found = contents(new.out)
    assert [name for name in unbroken if found[name] != unbroken[name]] == []
    assert found == unbroken


def wait_until_idle(packer):
    """Until no member of the group has run for half a second."""
    quiet, end = 0, time.monotonic() + 30
    while quiet < 25 and time.monotonic() < end:
        quiet = quiet + 1 if set(packer.alive().values()) <= {"S"} else 0
        time.sleep(0.02)


def test_being_stopped_as_a_whole_and_going_on_later_is_no_stall(packer, unbroken):
    """Ctrl-Z, a closed lid, a debugger."""
    one = packer(2, "--stall", "5").wait_for_shards(2)
    for worker in one.workers():
        os.kill(worker, signal.SIGSTOP)
    assert records(one.out) < SHARDS
    time.sleep(1)  # it looks at them once more
    one.signal(signal.SIGSTOP)
    time.sleep(6)
    one.signal(signal.SIGCONT)  # and again, before they have moved
    time.sleep(1)
    one.signal(signal.SIGCONT, group=True)
    assert one.process.wait(timeout=60) == 0, one.said
    assert contents(one.out) == unbroken


def test_the_images_differ_enough_for_these_tests(source, unbroken):
    """A shard of other options is other bytes; otherwise nothing above could fail."""
    path = next((source / "files").rglob("*.jpg"))
    gray = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert gray.shape == (1700, 1300)
    assert len({unbroken[name] for name in unbroken if name.startswith("64/") and name.endswith(".tar")}) == SHARDS
