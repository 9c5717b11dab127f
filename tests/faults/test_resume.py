"""Stopped or killed at every moment of a job of two stages, a run trains on the same samples, pixels and losses and
ends with the bits of an unbroken one.

Moments are counted over the whole job: after each optimizer step and each validation batch of each stage.
"""

import os
import shutil
import signal
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.runs import layout
from cxrdali.runs.folder import load_last
from cxrdali.train.stopping import Stopped
from shards.errors import UserError
from tests.faults.trainers import (
    EPOCHS,
    MOMENTS,
    STAGES,
    at_moment,
    child,
    differences,
    in_child,
    job,
    job_with_a_signal,
    record,
    steps,
    train,
)

pytestmark = pytest.mark.slow

STEPS = MOMENTS.count("step")
FIRST_OF_STAGE_2 = EPOCHS * sum(STAGES[1][1:]) + 1
# the first one, an epoch's first step, the last moment of stage 1, within stage 2's first validation
SOME = [1, 5, FIRST_OF_STAGE_2 - 1, FIRST_OF_STAGE_2 + 4]


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """The finished job's folder, and its steps."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        record(patch, folder / "log")
        job(dataset, folder)
    return folder, steps(folder / "log")


def test_the_job_is_the_one_that_the_moments_are_counted_in(unbroken, dataset, tmp_path, monkeypatch):
    folder, done = unbroken
    expected = [
        [stage, epoch, options["batch"] * step]
        for stage, (options, count, _) in STAGES.items()
        for epoch in range(EPOCHS)
        for step in range(count)
    ]
    assert [step[:3] for step in done] == expected and len(done) == STEPS
    assert len({tuple(step[4]) for step in done}) == len({step[5] for step in done}) == STEPS  # none is like another
    reached = []
    for moment in (len(MOMENTS), len(MOMENTS) + 1):
        at_moment(monkeypatch, moment, lambda moment=moment: reached.append(moment))
    job(dataset, tmp_path)
    assert reached == [len(MOMENTS)]
    assert all_differences(tmp_path, folder) == []


def all_differences(one, two):
    return [found for stage in STAGES for found in differences(one / f"stage{stage}", two / f"stage{stage}")]


def stop_at(moment, dataset, folder, **changes):
    """The job until it is stopped by a real SIGTERM."""
    with pytest.MonkeyPatch.context() as patch:
        record(patch, folder / "log")
        at_moment(patch, moment, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped, match="SIGTERM; saved, the same command continues"):
            job(dataset, folder, **changes)


def go_on(dataset, folder, **changes):
    with pytest.MonkeyPatch.context() as patch:
        record(patch, folder / "log")
        job(dataset, folder, **changes)


@pytest.mark.parametrize("moment", range(1, len(MOMENTS) + 1))
def test_stopped_at_any_moment_it_goes_on_as_if_nothing_had_happened(unbroken, dataset, tmp_path, moment):
    folder, done = unbroken
    stop_at(moment, dataset, tmp_path)
    assert steps(tmp_path / "log") == done[: MOMENTS[:moment].count("step")]
    go_on(dataset, tmp_path)
    assert steps(tmp_path / "log") == done
    assert all_differences(tmp_path, folder) == []


def test_stopped_again_and_again_it_gets_a_step_further_each_time(unbroken, dataset, tmp_path):
    """Two moments a start: validation begins anew, and the second of stage 2's batches must be reached."""
    folder, done = unbroken
    for _ in range(len(MOMENTS)):
        try:
            stop_at(3, dataset, tmp_path)
        except pytest.fail.Exception:  # it was not stopped: nothing is left to do
            break
        assert steps(tmp_path / "log") == done[: len(steps(tmp_path / "log"))]
    assert steps(tmp_path / "log") == done
    assert all_differences(tmp_path, folder) == []


@pytest.mark.parametrize("moment", range(1, len(MOMENTS) + 1))
def test_killed_at_any_moment_it_goes_on_from_the_last_finished_epoch(unbroken, dataset, pack_folder, tmp_path, moment):
    folder, done = unbroken
    code = in_child(job_with_a_signal, signal.SIGKILL, pack_folder, tmp_path, tmp_path / "log", moment)
    assert code == -signal.SIGKILL
    before = steps(tmp_path / "log")
    assert before == done[: MOMENTS[:moment].count("step")]
    epochs = [len(list(group)) for _, group in groupby(before, key=lambda step: step[:2])]
    (tmp_path / "log").unlink()
    go_on(dataset, tmp_path)
    assert steps(tmp_path / "log") == done[sum(epochs[:-1]) :]
    assert all_differences(tmp_path, folder) == []


# ---------------------------------------------------------------- elastic


@pytest.mark.parametrize("moment, threads", zip(SOME, (1, 2, 4, 5), strict=True))
def test_other_threads_change_nothing_at_all(unbroken, dataset, tmp_path, moment, threads):
    folder, done = unbroken
    stop_at(moment, dataset, tmp_path, threads=3)
    go_on(dataset, tmp_path, threads=threads)
    assert steps(tmp_path / "log") == done
    assert all_differences(tmp_path, folder) == []


@pytest.mark.parametrize("moment", SOME)
def test_other_micro_batches_see_the_same_samples_and_pixels(unbroken, dataset, tmp_path, moment):
    """And only those: batch normalisation sees smaller groups, so losses and weights are others."""
    _, done = unbroken
    stop_at(moment, dataset, tmp_path, micro_batch=4)
    go_on(dataset, tmp_path, micro_batch=2)
    found = steps(tmp_path / "log")
    assert [step[:-1] for step in found] == [step[:-1] for step in done]
    assert [step[-1] for step in found] != [step[-1] for step in done]


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_any_position_is_continued_with_any_batch_size(dataset, order):
    """Seen before and seen after are the epoch: every sample once, at its place, with its pixels."""
    rows = np.arange(len(dataset.catalog))

    def loader(batch):
        options = LoaderOptions(48, batch, order=order, window=2)
        return Loader(dataset, rows, options, seed=5, shuffle=True, augment=AugmentOptions(side=0.2))

    def read(one, position, stop=None):
        one.load_state_dict({"epoch": 1, "position": position})
        batches = []
        for batch in one:
            batches.append(batch)
            if stop and one.state_dict()["position"] >= stop:
                break
        state = one.state_dict()
        return np.concatenate([b.rows for b in batches]), np.concatenate([b.images for b in batches]), state

    whole_rows, whole, _ = read(loader(11), 0)
    assert sorted(whole_rows) == rows.tolist()
    by_one, others = loader(1), [loader(batch) for batch in (3, 16, 64, 120)]
    for position in range(1, len(rows)):
        one = others[position % len(others)]
        after_rows, after, _ = read(one, position)
        assert (after_rows == whole_rows[position:]).all() and (after == whole[position:]).all(), position
    for batch in (1, 7, 50):  # the positions that a real iteration stops at, and its own account of them
        for stop in range(batch, len(rows), 5 * batch):
            one = by_one if batch == 1 else loader(batch)
            before_rows, before, state = read(one, 0, stop)
            assert state == {"epoch": 1, "position": stop}
            after_rows, after, _ = read(others[stop % len(others)], state["position"])
            assert sorted([*before_rows, *after_rows]) == rows.tolist()
            assert (np.concatenate([before, after]) == whole).all()


# ---------------------------------------------------------------- beside another process, and asleep


@pytest.fixture
def asleep(pack_folder, tmp_path):
    """A training process that stopped itself (SIGSTOP) in the second epoch of stage 1; killed at the end."""
    process = child(job_with_a_signal, signal.SIGSTOP, pack_folder, tmp_path, tmp_path / "log", 6)
    end = time.monotonic() + 60
    while (state := Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "T":
        assert time.monotonic() < end and state != "Z", state
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_a_second_run_into_the_folder_stops_at_once_and_a_killed_one_blocks_nobody(asleep, unbroken, dataset, tmp_path):
    folder, _ = unbroken
    before = {path: path.read_bytes() for path in (tmp_path / "stage1").rglob("*") if path.is_file()}
    started = time.monotonic()
    with pytest.raises(UserError, match="stage1: another process is training into it; wait for it or stop it"):
        train(1, dataset, tmp_path)
    assert time.monotonic() - started < 5
    assert {path: path.read_bytes() for path in (tmp_path / "stage1").rglob("*") if path.is_file()} == before
    asleep.kill()
    asleep.join()
    assert asleep.exitcode == -signal.SIGKILL
    job(dataset, tmp_path)
    assert all_differences(tmp_path, folder) == []


def test_a_process_that_slept_goes_on(asleep, unbroken, tmp_path):
    """There are no worker processes: DALI's threads sleep and wake with the one that they belong to."""
    folder, done = unbroken
    assert len(steps(tmp_path / "log")) == 5
    os.kill(asleep.pid, signal.SIGCONT)
    asleep.join(60)
    assert asleep.exitcode == 0
    assert steps(tmp_path / "log") == done
    assert all_differences(tmp_path, folder) == []


def test_the_comparison_sees_one_changed_bit(unbroken, tmp_path):
    """Otherwise nothing above could fail."""
    folder, _ = unbroken
    out = tmp_path / "stage1"
    shutil.copytree(folder / "stage1", out)
    assert differences(out, folder / "stage1") == []
    state = load_last(out)
    name = next(name for name, value in state["model"].items() if value.ndim == 1)
    state["model"][name].view(torch.int32)[0] ^= 1
    state["metrics"][1]["val_loss"] += 1e-12
    torch.save(state, out / layout.LAST)
    (out / layout.METRICS).write_text((out / layout.METRICS).read_text().replace("0.", "0.0", 1))
    (out / layout.VAL_PREDICTIONS).write_bytes((folder / "stage2" / layout.VAL_PREDICTIONS).read_bytes())
    found = differences(out, folder / "stage1")
    assert found == ["last.pt: .metrics", f"last.pt: .model.{name}", "metrics.csv", "val_predictions.parquet"]
