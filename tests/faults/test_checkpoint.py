"""Saving under kills at every call, full disks, file-size limits and forbidden folders: the checkpoint before is kept
or the new one is there, and the same command ends in the result of an unbroken run."""

import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxrdali import predictions
from cxrdali.runs import folder as run_folder
from cxrdali.runs import layout
from cxrdali.runs.folder import NEW, commit, load_last, settle
from cxrdali.runs.reader import Run, weights_epoch
from cxrdali.train.tracking import Tracking
from shards.storage import files as storage
from tests.cli.cli import call
from tests.faults.trainers import (
    EPOCHS,
    STAGES,
    at_moment,
    command_line,
    differences,
    error_line,
    in_child,
    progress_without_times,
    train,
    train_command,
)
from tests.releases import contents

pytestmark = pytest.mark.slow

PER_EPOCH = sum(STAGES[1][1:])  # moments


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """A finished stage 1 of two epochs."""
    folder = tmp_path_factory.mktemp("unbroken")
    train(1, dataset, folder)
    return folder / "stage1"


@pytest.fixture(scope="module")
def after_one(dataset, tmp_path_factory):
    """The same run, stopped by the death of its process in the second epoch."""
    folder = tmp_path_factory.mktemp("after") / "stage1"
    with pytest.MonkeyPatch.context() as patch:
        at_moment(patch, PER_EPOCH + 1, fall_dead)
        with pytest.raises(Dead):
            train(1, dataset, folder.parent)
    assert load_last(folder)["epoch"] == 1
    return folder


class Dead(BaseException):
    """In place of a process's end, where nothing after it could have changed a file."""


def fall_dead():
    raise Dead


def check_whole(out, epoch, pack, tmp_path):
    """The state and the best weights of an epoch load, belong together, and predict."""
    assert load_last(out)["epoch"] == epoch
    done = call("predict", "--run", out, "--data", pack, "--device", "cpu", "--out", tmp_path / "p.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(pd.read_parquet(out / layout.VAL_PREDICTIONS))


# ---------------------------------------------------------------- kills


def save(out, after, better, log=None, kill=None):
    """Commit the state of the run `after` to `out`; die at the n-th call ("before" or "after") that changes the folder:
    a name given or removed, a file flushed or written."""
    state, weights = torch.load(after / layout.LAST, weights_only=True), load_file(after / layout.BEST)
    state["best_epoch"] = EPOCHS if better else 1
    best = (weights, {"epoch": str(EPOCHS)}, predictions.read(after / layout.VAL_PREDICTIONS)) if better else None
    numbers = itertools.count()

    def watched(name, function):
        def call(*arguments, **options):
            mine = next(numbers)  # a call may hold others
            if log is not None:
                with log.open("a") as file:
                    print(name, *[each for each in arguments if isinstance(each, str | Path)], file=file)
            if (mine, "before") == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*arguments, **options)
            finally:
                if (mine, "after") == kill:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in ("replace", "rename", "fsync", "unlink", "remove", "mkdir"):
        setattr(os, name, watched(name, getattr(os, name)))
    storage.open_own = watched("open", storage.open_own)
    commit(out, state, Run.open(after).settings, best)


def save_and_die(before, after, better, folder):
    """For a child: in forks of it, every kill of a save, each in its folder; then the log of a save that lived."""
    for number, moment in ((number, moment) for number in itertools.count() for moment in ("before", "after")):
        out = folder / f"{number} {moment}" / "stage1"
        shutil.copytree(before, out)
        process = os.fork()
        if not process:
            try:
                save(out, after, better, kill=(number, moment))
            finally:
                os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != -signal.SIGKILL:
            break
    shutil.rmtree(out)  # that one lived and has saved already
    shutil.copytree(before, out)
    save(out, after, better, log=folder / "calls")


def weights_equal(one, two):
    one, two = load_file(one), load_file(two)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("better", [True, False], ids=["best", "not the best"])
def test_a_kill_at_every_single_call_of_a_save_leaves_the_old_state_or_the_new_one(
    unbroken, after_one, dataset, tmp_path, better
):
    """The old one continues to the result of an unbroken run, once per different content of the folder."""
    assert in_child(save_and_die, after_one, unbroken, better, tmp_path) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    renamed = [line.rpartition("/")[2] for line in calls if line.startswith("replace ")]
    tables, weights = [layout.METRICS, layout.FINDINGS, layout.PROGRESS], [layout.BEST, layout.VAL_PREDICTIONS]
    files = [*(NEW[name] for name in (weights if better else []) + tables), layout.LAST]
    files += [*(reversed(weights) if better else []), *tables]
    assert renamed == files and sum(line.startswith("fsync") for line in calls) >= 2 * len(files)
    committed = next(n for n, line in enumerate(calls) if line.startswith("replace ") and line.endswith(layout.LAST))
    whole = tmp_path / f"{len(calls)} before" / "stage1"  # no such call: this one lived
    continued, finished = {}, 0
    for number, moment in itertools.product(range(len(calls)), ("before", "after")):
        out, what = tmp_path / f"{number} {moment}" / "stage1", f"{moment} {number}: {calls[number]}"
        new = number > committed or (number, moment) == (committed, "after")
        left = contents(out)
        state = load_last(out)
        assert state["epoch"] == (EPOCHS if new else 1), what
        expected = whole if new else after_one
        check_what_a_reader_sees(out, state, (after_one, expected), what)
        assert contents(out) == left, what
        settle(out, state, Run.open(out).settings)  # as the next start does
        assert Run.open(out).best_weights().read_bytes() == (expected / layout.BEST).read_bytes(), what
        for name in (*tables, layout.VAL_PREDICTIONS):
            assert (out / name).read_bytes() == (expected / name).read_bytes(), what
        assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in after_one.iterdir()), what
        finished += new
        asides = {re.sub(r"[0-9a-f]{16}\.part", "part", name) for name in left if name.endswith(".part")}  # never read
        key = (*sorted(asides), *sorted(each for each in left.items() if not each[0].endswith(".part")))
        if not new and key not in continued:
            continued[key] = what
            shutil.rmtree(out)
            for name, data in left.items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(data)
            train(1, dataset, out.parent)
            assert differences(out, unbroken) == [], what
    assert finished >= 10 and len(continued) >= (4 if better else 2), continued.values()


def check_what_a_reader_sees(out, state, allowed, what):
    """Without last.pt: the state before or the new one, and each of its files at least as new as progress.json says."""
    run = Run.open(out)
    seen, epoch = run.progress, weights_epoch(run.best_weights())
    assert seen in [Run.open(each).progress for each in allowed], what
    assert seen.best_epoch <= epoch <= state["best_epoch"] and seen.epoch <= len(run.metrics) <= state["epoch"], what
    for name in (layout.BEST, layout.VAL_PREDICTIONS, layout.METRICS, layout.FINDINGS):
        assert (out / name).read_bytes() in [(each / name).read_bytes() for each in allowed], what
    if seen.finished:
        assert len(run.metrics) == EPOCHS and set(run.best_ap) == set(run.findings), what


# ---------------------------------------------------------------- a full disk

DISK, PAGE = 8 << 20, os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of DISK bytes: a process holds it in a name space of its own, and nothing is left when that ends."""
    place = tmp_path_factory.mktemp("disk")
    mount = f'mount -t tmpfs -o size={DISK} cxrdali "$0" && echo ready && cat'
    holder = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", mount, place], text=True, stdin=-1, stdout=-1, stderr=-1, start_new_session=True
    )
    ready = holder.stdout.readline() == "ready\n"
    if ready:
        yield Path(f"/proc/{holder.pid}/root{place}")
    _, said = holder.communicate()
    if not ready:
        pytest.skip(f"no small disk can be made here (unshare -rm, mount -t tmpfs): {said.strip()}")


@pytest.fixture
def room(disk):
    """The disk, empty; room(n) leaves n free bytes and room() frees them all again."""

    def leave(count=None):
        (disk / "ballast").unlink(missing_ok=True)
        if count is not None:
            free = os.statvfs(disk)
            with (disk / "ballast").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - count)

    leave.disk = disk
    yield leave
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def end_well(pack, out, unbroken, cwd):
    done = call(*train_command(pack, out), cwd=cwd)
    assert done.returncode == 0 and f"{out}: finished" in done.stdout, done.stderr
    assert differences(out, unbroken) == []


# free bytes at the start: the file that does not fit. Sizes are those of the files; a tmpfs counts in pages
COMMAND = 1000  # bytes at most by which config.json is longer for the command that began the run
AT_THE_START = [
    (0, layout.CONFIG),
    ("config", layout.SEEN),
    ("what is seen", layout.EVENTS),
    ("events", NEW[layout.BEST]),
    (40 * PAGE, NEW[layout.BEST]),
    ("weights", NEW[layout.VAL_PREDICTIONS]),
    ("weights and predictions", NEW[layout.METRICS]),
    ("all but progress and state", NEW[layout.PROGRESS]),
    ("all but a state", layout.LAST),
    ("half a state", layout.LAST),
    ("all but a page of a state", layout.LAST),
]


def free_bytes(name, unbroken):
    if isinstance(name, int):
        return name
    seen, weights, predictions, state = (
        (unbroken / file).stat().st_size // PAGE + 1
        for file in (layout.SEEN, layout.BEST, layout.VAL_PREDICTIONS, layout.LAST)
    )
    config = ((unbroken / layout.CONFIG).stat().st_size + COMMAND) // PAGE + 1
    first = 2 + config + seen  # events, and where the run is within its epoch
    pages = {
        "config": config,
        "what is seen": config + seen,
        "events": first,
        "weights": first + weights,
        "weights and predictions": first + weights + predictions,
        "all but progress and state": first + weights + predictions + 2,
        "all but a state": first + weights + predictions + 3,
        "half a state": first + weights + predictions + 3 + state // 2,
        "all but a page of a state": first + weights + predictions + 3 + state - 1,
    }
    return PAGE * pages[name]


@pytest.mark.parametrize("free, file", AT_THE_START)
def test_a_disk_that_is_full_before_the_first_checkpoint(room, unbroken, pack_folder, tmp_path, free, file):
    out = room.disk / "stage1"
    room(free_bytes(free, unbroken))
    ended = call(*train_command(pack_folder, out), cwd=tmp_path)
    error_line(ended.returncode, ended.stderr, out / file, "No space left on device", "make room; the same command")
    assert not (out / layout.LAST).exists()
    room()
    end_well(pack_folder, out, unbroken, tmp_path)


def test_events_that_never_had_room_are_one_line(room, unbroken, pack_folder, tmp_path):
    """In a process of its own: pytest keeps what threads say of their errors to itself."""
    out, log = room.disk / "stage1", tmp_path / "said"
    room(free_bytes("what is seen", unbroken))
    code = in_child(command_line, log, train_command(pack_folder, out))
    error_line(code, log.read_text(), out / layout.EVENTS, "No space left on device")
    room()
    end_well(pack_folder, out, unbroken, tmp_path)


@pytest.mark.parametrize("moment", [PER_EPOCH + 1, 2 * PER_EPOCH], ids=["within an epoch", "at its end"])
@pytest.mark.parametrize("pages", [0, 1, 3, 50, 200])
def test_a_disk_that_gets_full_keeps_the_checkpoint_before(
    room, unbroken, after_one, pack_folder, tmp_path, moment, pages
):
    """The second epoch is stopped (SIGTERM) with a full disk, or cannot save its end."""
    out = room.disk / "stage1"
    with pytest.MonkeyPatch.context() as patch:

        def fill():
            room(pages * PAGE)
            if moment != 2 * PER_EPOCH:
                signal.raise_signal(signal.SIGTERM)

        at_moment(patch, moment, fill)
        ended = call(*train_command(pack_folder, out), cwd=tmp_path)
    what = ["No space left on device", "make room; the same command continues; the previous checkpoint is kept"]
    tables = [NEW[layout.METRICS], NEW[layout.FINDINGS]] if moment == 2 * PER_EPOCH else []
    file = tables[pages] if pages < len(tables) else layout.LAST  # a table takes a page
    error_line(ended.returncode, ended.stderr, out / file, *what)
    check_whole(out, 1, pack_folder, tmp_path)  # with the disk still full
    assert weights_equal(out / layout.BEST, after_one / layout.BEST)
    room()
    end_well(pack_folder, out, unbroken, tmp_path)


def test_a_disk_that_is_full_after_the_commit_has_room_for_all_of_the_epoch(
    room, unbroken, after_one, pack_folder, tmp_path, monkeypatch
):
    """Tables and weights are complete before last.pt: after it, names change and nothing is written."""
    out, whole = room.disk / "stage1", run_folder.write_bytes

    def write_bytes(path, data):
        whole(path, data)
        if path.name == layout.LAST:
            room(0)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_bytes", write_bytes)
        ended = call(*train_command(pack_folder, out), cwd=tmp_path)
    error_line(ended.returncode, ended.stderr, out, "No space left on device", "make room")  # in the second epoch
    check_whole(out, 1, pack_folder, tmp_path)
    assert progress_without_times(out) == progress_without_times(after_one) and len(Run.open(out).metrics) == 1
    room()
    end_well(pack_folder, out, unbroken, tmp_path)


# ---------------------------------------------------------------- a file-size limit (ulimit -f): no disk is needed


@pytest.mark.parametrize(
    "limit, file", [(1000, layout.CONFIG), (None, layout.SEEN), (20_000, NEW[layout.BEST]), (1_000_000, layout.LAST)]
)
def test_a_file_over_the_allowed_size_is_one_line(unbroken, pack_folder, tmp_path, limit, file):
    """None: a byte less than that file has, which is more than config.json."""
    out, log = tmp_path / "stage1", tmp_path / "said"
    limit = limit or (unbroken / file).stat().st_size - 1
    code = in_child(command_line, log, train_command(pack_folder, out), False, limit)
    error_line(code, log.read_text(), out / file, "File too large")
    end_well(pack_folder, out, unbroken, tmp_path)


def test_events_that_cannot_be_written_are_one_line_and_the_epoch_is_saved(unbroken, pack_folder, tmp_path):
    """TensorBoard writes in a thread of its own: its error must neither be lost nor be printed there."""
    out, log = tmp_path / "stage1", tmp_path / "said"
    code = in_child(without_room_for_events, log, train_command(pack_folder, out))
    error_line(code, log.read_text(), out / layout.EVENTS, "File too large", "make room; the same command continues")
    check_whole(out, 1, pack_folder, tmp_path)
    end_well(pack_folder, out, unbroken, tmp_path)


def without_room_for_events(log, arguments):
    """For a child: no file may grow while an epoch's events are written; the log may again after it."""
    whole = Tracking.send

    def send(tracking):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            whole(tracking)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    Tracking.send = send
    command_line(log, arguments)


@pytest.mark.parametrize("limit", [0, 200_000, 500_000, 1_200_000])
def test_a_kill_in_the_middle_of_a_write_leaves_the_checkpoint_before(unbroken, after_one, dataset, tmp_path, limit):
    """The kernel ends the process (SIGXFSZ) at a byte: half of last.pt or of the best weights is on the disk."""
    out = shutil.copytree(after_one, tmp_path / "stage1")
    assert in_child(save_and_be_cut, out, unbroken, limit) == -signal.SIGXFSZ
    halves = {path.name.rsplit(".", 2)[0][1:]: path.stat().st_size for path in out.glob(".*.part")}
    assert halves == {layout.LAST if limit > 450_000 else NEW[layout.BEST]: limit}
    train(1, dataset, tmp_path)
    assert differences(out, unbroken) == []


def save_and_be_cut(out, after, limit):
    """For a child."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    save(out, after, better=True)


# ---------------------------------------------------------------- forbidden places


READ, WRITE = 0o444, 0o222


def plain(log, arguments):
    """The command as somebody whom permission bits stop, which root is not: its code and what it said."""
    return in_child(command_line, log, arguments, True), log.read_text()


def without(path, bits):
    path.chmod(path.stat().st_mode & ~bits)


@pytest.mark.parametrize(
    "begun, name", [(False, ".."), (False, "."), (True, ".."), (True, "."), (True, layout.EVENTS), (True, layout.LAST)]
)
def test_a_folder_that_is_read_only_is_one_line(unbroken, after_one, pack_folder, tmp_path, begun, name):
    """Its parent (which does not matter to a run that has begun), itself, the events; a last.pt not to be read."""
    out = tmp_path / "runs" / "stage1"
    if begun:
        shutil.copytree(after_one, out)
    else:
        (out if name == "." else out.parent).mkdir(parents=True)
    closed = out.parent if name == ".." else out / name
    without(closed, READ if name == layout.LAST else WRITE)
    code, said = plain(tmp_path / "said", train_command(pack_folder, out))
    if begun and name == "..":
        assert code == 0, said
    else:
        error_line(code, said, out, "Permission denied")
    closed.chmod(0o755)
    end_well(pack_folder, out, unbroken, tmp_path) if code else None
    assert differences(out, unbroken) == []


def test_a_finished_run_that_is_read_only_still_predicts(unbroken, pack_folder, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "stage1")
    for path in [*out.rglob("*"), out]:
        without(path, WRITE)
    words = ["predict", "--run", out, "--data", pack_folder, "--device", "cpu", "--out", tmp_path / "p.csv"]
    code, said = plain(tmp_path / "said", words)
    assert code == 0, said
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(pd.read_parquet(unbroken / layout.VAL_PREDICTIONS))
