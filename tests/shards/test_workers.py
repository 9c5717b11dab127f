"""The pool of worker processes, and the watch over workers that have not begun: those in a shard are in
tests/faults/test_packing.py."""

import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import joblib
import pytest

from shards import workers
from shards.errors import UserError
from shards.packing.verify import verify
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release
from shards.workers import ALIVE, DONE, Watch, run


def test_workers_that_never_begin_a_shard_are_ended(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    with (
        pytest.raises(UserError, match="no worker has begun a shard for 1 s, and all were ended"),
        Watch(tmp_path, images=10, stall=1, image_of=str),
    ):
        child.join(20)
        assert child.exitcode == -9
        raise UserError("a worker process was killed")


@pytest.mark.slow
def test_a_worker_whose_image_takes_long_is_left_alone_as_long_as_it_says_so(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    marks = tmp_path / f"000007.{child.pid}.marks"
    marks.write_bytes(2 * DONE)
    with (
        pytest.raises(UserError, match="^image 2 of shard 7: the worker of shard 000007 has finished no image for 2 s"),
        Watch(tmp_path, images=10, stall=2, image_of=lambda shard, place: f"image {place} of shard {shard}"),
    ):
        for _ in range(8):
            time.sleep(0.5)
            marks.write_bytes(marks.read_bytes() + ALIVE)
        assert child.exitcode is None
        child.join(20)
        assert child.exitcode == -9
        raise UserError("a worker process was killed")


def made(function, *arguments, tasks=5, jobs=2, **more):
    return list(run([joblib.delayed(function)(*arguments)] * tasks, jobs, "the work", **more))


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_every_result_comes_once_and_no_worker_stays(jobs):
    tasks = [joblib.delayed(divmod)(number, 3) for number in range(7)]
    before = {*Path("/dev/shm").iterdir()}
    assert sorted(run(tasks, jobs, "the work")) == sorted(divmod(number, 3) for number in range(7))
    assert multiprocessing.active_children() == []
    ours = re.compile(rf"[^0-9]{os.getpid()}[^0-9]")
    assert [path for path in {*Path("/dev/shm").iterdir()} - before if ours.search(path.name)] == []


def test_an_error_of_a_task_is_raised_and_says_where_it_was():
    with pytest.raises(ZeroDivisionError) as caught:
        made(divmod, 1, 0)
    assert "in send_answer" in caught.value.__notes__[0]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_workers_that_die_all_at_once_end_the_run_with_one_line(number):
    with pytest.raises(
        UserError, match=rf"^the work: a worker process was killed \({number.name}; .*again, with fewer"
    ):
        made(signal.raise_signal, number)
    assert multiprocessing.active_children() == []


def test_stopped_workers_end_the_run_with_one_line():
    with pytest.raises(UserError, match="^the work: no worker process has used the processor for 1 s, and all were"):
        made(signal.raise_signal, signal.SIGSTOP, idle=1.0)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("work", ["verify", "synth"])
def test_a_stopped_worker_ends_verify_and_synth(pack_folder, tmp_path, monkeypatch, work):
    monkeypatch.setattr(workers, "IDLE", 2.0)

    def stop():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.001)
        os.kill(children[0].pid, signal.SIGSTOP)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(UserError, match="no worker process has used the processor for 2 s"):
        if work == "verify":
            verify(pack_folder, jobs=2)
        else:
            write_release(tmp_path / "synthetic", SyntheticOptions(studies=40, size=64), jobs=2)
