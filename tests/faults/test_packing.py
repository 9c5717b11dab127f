"""Packing under kills, errors, full disks and forbidden places: nothing half is ever taken for whole, and the same
command ends in the bytes of an unbroken run."""

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.plan import plan
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from tests.cli.cli import command
from tests.faults.processes import Packer, Warm
from tests.releases import contents, image_path, jpeg, write_large_release, write_release

pytestmark = pytest.mark.slow

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"
SIZES, ENCODINGS = (Size(96), Size(40, raw=True)), {"96": "jpg", "40": "npy"}
OPTIONS = PackOptions(sizes=SIZES, shard_images=4)
READ, WRITE, ENTER = 0o444, 0o222, 0o111
WORDS = ("--sizes", "96,40:raw", "--shard-images", "4")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """120 images of 2.2 megapixels in 38 shards: about two seconds of decoding."""
    root = tmp_path_factory.mktemp("large") / "release"
    write_large_release(root)
    return root


@pytest.fixture(scope="module")
def large_unbroken(large, tmp_path_factory):
    return unbroken_run(large, tmp_path_factory)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """12 small images in 4 shards, of which the third is by far the largest."""
    root = tmp_path_factory.mktemp("tiny") / "release"
    write_release(root, subjects=3)
    rows = plan(open_release(root).images, OPTIONS.shard_images, OPTIONS.seed).rows()
    assert rows["shard"].max() == 3
    for path in rows.loc[rows["shard"] == 2, "path"]:
        noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
        (root / path).write_bytes(jpeg(noise))
    return root


@pytest.fixture(scope="module")
def tiny_unbroken(tiny, tmp_path_factory):
    return unbroken_run(tiny, tmp_path_factory)


def unbroken_run(source, tmp_path_factory):
    """The bytes of a packed dataset that nothing interrupted."""
    out = tmp_path_factory.mktemp("unbroken") / "pack"
    rerun(source, out)
    return contents(out)


def rerun(source, out):
    return pack(open_release(source), out, OPTIONS)


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    one = Warm(tmp_path_factory.mktemp("warm") / "said")
    yield one
    assert one.end() == ""


@pytest.fixture
def memory(tmp_path):
    """A folder in memory, where there is one: a busy disk takes 10 ms for each of 10,000 fsyncs, and a kill does not
    care."""
    if os.access("/dev/shm", os.W_OK):
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cxrdali-") as name:
            yield Path(name)
    else:
        yield tmp_path


@pytest.fixture
def packer(tmp_path):
    """Start packing processes into one folder; whatever is left of them at the end is killed."""
    started = []

    def start(source, jobs):
        log = tmp_path / f"said{len(started)}"
        started.append(Packer(source, tmp_path / "pack", *WORDS, "--jobs", str(jobs), log=log))
        return started[-1]

    yield start
    for one in started:
        one.end()


def error_line(ended, *named):
    """The one line that begins with error: and is the last; it holds every text of `named`."""
    assert ended.code == 1 and "Traceback" not in ended.said, ended
    lines = ended.said.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], ended.said
    missing = [text for text in map(str, named) if text not in lines[-1]]
    assert missing == [], f"{missing} not in: {lines[-1]}"
    return lines[-1]


def check_unfinished(out):
    """Opening says that it is not finished, and verify says that there is nothing to compare with."""
    with pytest.raises(UserError, match="(an unfinished|no) packed dataset; run"):
        PackedDataset.open(out)
    with pytest.raises(UserError, match="no such file"):
        verify(out)


def check_no_partial_file_has_a_final_name(out, unbroken):
    """Tars, indexes and tables that are there under their own names are already the right ones."""
    found = {name: data for name, data in contents(out).items() if not name.startswith(".packing/")}
    assert [name for name in found if found[name] != unbroken.get(name)] == []


def check_ids(source, out):
    """Every image of the metadata table once: in the catalog, and as image and json in every size, where it says."""
    metadata = pd.read_csv(source / METADATA, dtype=str)
    catalog = pd.read_parquet(out / "catalog.parquet")
    assert sorted(catalog["image_id"]) == sorted(metadata["dicom_id"])
    assert len(set(catalog["image_id"])) == len(catalog)
    for size, extension in ENCODINGS.items():
        found = []
        for path in sorted((out / size).glob("*.tar")):
            with tarfile.open(path) as tar:
                found += [(m.name, int(path.stem), m.offset_data, m.size) for m in tar]
        columns = catalog[["subject_id", "study_id", "image_id", "shard", f"offset_{size}", f"length_{size}"]]
        wanted = [(f"{a}/{b}/{c}.{extension}", *place) for a, b, c, *place in columns.itertuples(index=False)]
        assert [member for member in found if not member[0].endswith(".json")] == wanted
        names = [name for name, *_ in found]
        assert names[1::2] == [name.removesuffix(extension) + "json" for name in names[::2]]
        assert len(set(names)) == 2 * len(metadata)


# ---------------------------------------------------------------- kills


def test_twenty_kills_in_a_row_at_random_moments_end_in_the_same_bytes(large, large_unbroken, packer):
    """Moments: shards finished, and up to a tenth of a second more; the last three in the publication."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed of the random moments: {seed}")  # pytest shows it when the test fails
    draw = random.Random(seed)
    shards = len([name for name in large_unbroken if re.fullmatch(r"96/\d+\.tar", name)])
    reached = [*sorted(draw.randrange(shards - 2) for _ in range(17)), "catalog.parquet", "labels", "dataset.json"]
    killed = 0
    for number, target in enumerate(reached):
        one = packer(large, jobs=1 + number // 2 % 2)
        one.wait_for(partial(has_reached, one, target))
        time.sleep(draw.uniform(0, 0.1 if isinstance(target, int) else 0.02))
        one.signal(signal.SIGKILL, group=number % 2 == 0)
        killed += one.process.wait() == -signal.SIGKILL
    assert killed >= 17, f"seed {seed}: only {killed} of 20 came before the end of the run"
    last = packer(large, jobs=2)
    assert last.process.wait() == 0, f"seed {seed}: {last.said}"
    found = contents(last.out)
    assert [name for name in {**found, **large_unbroken} if found.get(name) != large_unbroken.get(name)] == [], seed
    assert not [path for path in last.out.rglob("*") if path.name == ".packing" or path.name.endswith(".part")]
    check_ids(large, last.out)
    assert verify(last.out, deep=True).problems == ()


def has_reached(one, target):
    """So many shards, or a file by its name."""
    return one.records >= target if isinstance(target, int) else (one.out / target).exists()


@pytest.fixture(scope="module")
def last_shard(warm, tiny, tmp_path_factory):
    """A folder whose packing died at the first call for its last shard."""
    out = tmp_path_factory.mktemp("last") / "pack"
    calls = publishing_calls(warm, tiny, out)
    shutil.rmtree(out)
    first = next(n for n, call in enumerate(calls) if re.match(r"open .*/96-000003\.tar wb", call))
    assert warm.cxrdali(*shard(tiny, out), kill=(first, "before")).code == -signal.SIGKILL
    return out


def shard(source, out, jobs=1):
    return ["shard", "--source", source, "--out", out, *WORDS, "--jobs", jobs]


def publishing_calls(warm, source, out):
    """Every call by which a packing run changes its folder, in order; the run ends well."""
    log = out.with_name("calls")
    ended = warm.cxrdali(*shard(source, out), calls=str(log))
    assert ended.code == 0, ended
    return log.read_text().splitlines()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_every_single_call_of_the_last_shard_and_of_the_publication(
    warm, tiny, tiny_unbroken, last_shard, memory, moment
):
    out = shutil.copytree(last_shard, memory / "pack")
    calls = publishing_calls(warm, tiny, out)
    assert contents(out) == tiny_unbroken
    check_calls(calls, ["/96/000003.tar", "/40/000003.idx", "/records/000003.json", "/catalog.parquet", "/rejects.csv"])
    check_calls(calls, ["/labels/chexpert.parquet", "/labels/cxr-lt-2023.parquet", "/dataset.json"])
    published = next(n for n, call in enumerate(calls) if call.endswith("/dataset.json"))
    for number, call in enumerate(calls):
        shutil.rmtree(out)
        shutil.copytree(last_shard, out)
        assert warm.cxrdali(*shard(tiny, out), kill=(number, moment)).code == -signal.SIGKILL, call
        if number > published or (number == published and moment == "after"):
            PackedDataset.open(out)
            assert verify(out).problems == (), call
        else:
            check_unfinished(out)
            check_no_partial_file_has_a_final_name(out, hidden_asides(out, tiny_unbroken))
        rerun(tiny, out)
        assert contents(out) == tiny_unbroken, f"{moment} call {number}, {call}"


def check_calls(calls, published):
    """The watch sees what it is for: a file is opened aside, closed, flushed and renamed, then its folder flushed."""
    for name in published:
        place = next(n for n, call in enumerate(calls) if call.startswith("replace ") and call.endswith(name))
        aside = calls[place].split(" ")[1]
        written = (f"open {aside} w", f"open {aside} x", f"close {aside}")
        assert [n for n, call in enumerate(calls[:place]) if call.startswith(written)]
        assert [calls[place - 1].split(" ")[0], calls[place + 1].split(" ")[0]] == ["fsync", "fsync"]


def hidden_asides(out, unbroken):
    """The unbroken contents, and whatever stands aside: hidden names that end in .part belong to nobody."""
    asides = {
        name: data for name, data in contents(out).items() if re.search(r"(^|/)\.[^/]+\.[0-9a-f]{16}\.part$", name)
    }
    return {**unbroken, **asides}


def test_a_kill_at_every_single_call_of_the_beginning(warm, tiny, tiny_unbroken, memory):
    out = memory / "pack"
    calls = publishing_calls(warm, tiny, out)
    first_record = next(n for n, call in enumerate(calls) if call.endswith("/records/000000.json"))
    for number, call in enumerate(calls[:first_record]):
        shutil.rmtree(out, ignore_errors=True)
        assert warm.cxrdali(*shard(tiny, out), kill=(number, "before")).code == -signal.SIGKILL, call
        check_unfinished(out)
        rerun(tiny, out)
        assert contents(out) == tiny_unbroken, f"before call {number}, {call}"


# ---------------------------------------------------------------- errors in the middle


def test_a_file_over_the_allowed_size_is_one_line_and_the_rerun_completes(warm, tiny, tiny_unbroken, tmp_path):
    """The limit (ulimit -f) is hit by the third shard alone, while its tar is written."""
    out = tmp_path / "pack"
    others = max(len(data) for name, data in tiny_unbroken.items() if name != "96/000002.tar")
    assert len(tiny_unbroken["96/000002.tar"]) > others
    ended = warm.cxrdali(*shard(tiny, out), file_size=others)
    check_stopped_in_the_third_shard(out, tiny_unbroken)
    rerun(tiny, out)
    assert contents(out) == tiny_unbroken
    error_line(ended, out, "File too large", "; ")


def test_an_encoder_that_breaks_leaves_no_partial_file_and_the_rerun_completes(warm, tiny, tiny_unbroken, tmp_path):
    """An error of the program, not of its user: it may show where it happened, but must not look like success."""
    out = tmp_path / "pack"
    catalog = plan(open_release(tiny).images, OPTIONS.shard_images, OPTIONS.seed).rows()
    ended = warm.cxrdali(*shard(tiny, out), encode=int((catalog["shard"] < 2).sum()) + 2)
    assert ended.code == 1 and "the encoder broke" in ended.said.splitlines()[-1]
    check_stopped_in_the_third_shard(out, tiny_unbroken)
    rerun(tiny, out)
    assert contents(out) == tiny_unbroken


def check_stopped_in_the_third_shard(out, unbroken):
    check_unfinished(out)
    check_no_partial_file_has_a_final_name(out, unbroken)
    assert sorted(path.name for path in (out / "96").iterdir()) == [
        f"00000{n}.{e}" for n in (0, 1) for e in ("idx", "tar")
    ]
    assert list((out / ".packing" / "tmp").rglob("*.*")) == []


def test_an_fsync_that_fails_is_an_error_at_every_place(warm, tiny, tiny_unbroken, last_shard, memory):
    """A broken disk says so here or nowhere; a file whose fsync failed must not count as finished."""
    calls = publishing_calls(warm, tiny, shutil.copytree(last_shard, memory / "whole"))
    places = [number for number, call in enumerate(calls) if call.startswith("fsync ")]
    assert len(places) >= 20
    out, said = memory / "pack", []
    for number in places:
        shutil.copytree(last_shard, out)
        said.append(warm.cxrdali(*shard(tiny, out), bad_medium=number))
        assert said[-1].code == 1, number
        rerun(tiny, out)
        assert contents(out) == tiny_unbroken, calls[number]
        shutil.rmtree(out)
    for ended in said:
        error_line(ended, out, "Input/output error")


# ---------------------------------------------------------------- a full disk

DISK = 4 << 20


@pytest.fixture
def disk(tmp_path):
    """A process that sees a disk of DISK bytes in a folder; what it makes there is visible below `seen`."""
    (tmp_path / "disk").mkdir()
    one = Warm(tmp_path / "said", tmp_path / "disk", DISK)
    if not one.ready:
        pytest.skip(f"no small disk can be made here (unshare -rm, mount -t tmpfs): {one.end().strip()}")
    yield one
    assert one.end() == ""


def leave(folder, count):
    """Fill a disk with one file so that `count` bytes remain."""
    free = os.statvfs(folder)
    with (folder / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - count)
    after = os.statvfs(folder)
    assert after.f_bavail * after.f_frsize == count


def met_the_wall_in(out):
    """The kind of file that a full disk did not take, from what is there."""
    for folder, kind in ((".packing/options.json", "options"), ("catalog.parquet", "catalog"), ("labels", "labels")):
        if kind == "options" and not (out / folder).exists():
            return kind
    tars, indexes = (sorted(path.stem for path in out.glob(f"[0-9]*/*.{e}")) for e in ("tar", "idx"))
    records = [path.stem for path in (out / ".packing" / "records").glob("[0-9]*.json")]
    if len(tars) > len(indexes):
        return "index"
    if len(indexes) > len(SIZES) * len(records):
        return "record"
    if len(records) < 4:
        return "tar"
    for name in ("catalog.parquet", "rejects.csv", "labels/cxr-lt-2023.parquet", "labels/chexpert.parquet"):
        if not (out / name).exists():
            return name
    return "dataset.json"


def test_a_full_disk_is_one_line_wherever_it_is_met_and_the_rerun_completes(disk, tiny, tiny_unbroken):
    """Every number of free pages from none to enough, so that every kind of file is the one that does not fit."""
    page, kinds, said = os.sysconf("SC_PAGE_SIZE"), {}, []
    for pages in itertools.count():
        leave(disk.seen, pages * page)
        out = disk.seen / "pack"
        ended = disk.cxrdali(*shard(tiny, disk.place / "pack"))
        if ended.code == 0:
            (disk.seen / "ballast").unlink()
            break
        kinds[met_the_wall_in(out)] = pages
        said.append(ended)
        check_unfinished(out)
        check_no_partial_file_has_a_final_name(out, tiny_unbroken)
        (disk.seen / "ballast").unlink()
        again = disk.cxrdali(*shard(tiny, disk.place / "pack"))
        assert again.code == 0, again
        assert contents(out) == tiny_unbroken, pages
        shutil.rmtree(out)
    assert contents(out) == tiny_unbroken and pages > 30
    tables = {"catalog.parquet", "labels/cxr-lt-2023.parquet", "labels/chexpert.parquet"}
    assert {"tar", "index", "record", "dataset.json", *tables} <= set(kinds), kinds
    for ended in said:
        line = error_line(ended, disk.place / "pack", "No space left on device", "make room")
        assert len(re.findall(re.escape(str(disk.place)), line)) == 1, line


def test_a_disk_that_is_full_for_a_worker_is_one_line_too(disk, tiny, tiny_unbroken):
    """With two jobs the error crosses a process on its way."""
    leave(disk.seen, 64 << 10)
    whole = command(*shard(tiny, disk.place / "pack", jobs=2))  # not a warm child: joblib ends at the interpreter's end
    ended = disk.program(*whole)
    check_unfinished(disk.seen / "pack")
    (disk.seen / "ballast").unlink()
    assert disk.program(*whole).code == 0
    assert contents(disk.seen / "pack") == tiny_unbroken
    error_line(ended, disk.place / "pack", "No space left on device", "make room")


# ---------------------------------------------------------------- forbidden places


@pytest.fixture
def release(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "release")


@pytest.fixture
def plain(warm):
    """Commands that permission bits stop, as they stop everyone but root."""
    return lambda *arguments: warm.cxrdali(*arguments, unprivileged=True)


@contextlib.contextmanager
def without(path, bits):
    """A file or folder that lost these permission bits, for a while."""
    before = path.stat().st_mode
    path.chmod(before & ~bits)
    try:
        yield
    finally:
        path.chmod(before)


def test_a_target_in_a_folder_that_is_not_ours_is_one_line(plain, release, tmp_path):
    (tmp_path / "closed").mkdir()
    with without(tmp_path / "closed", WRITE):
        ended = plain(*shard(release, tmp_path / "closed" / "pack"))
    assert list((tmp_path / "closed").iterdir()) == []
    error_line(ended, tmp_path / "closed" / "pack", "Permission denied", "; give another")


@pytest.mark.parametrize("name", [".", ".packing/records", ".packing/tmp", "96"])
def test_an_unfinished_folder_that_became_read_only_is_one_line_and_can_be_finished(
    plain, release, tiny_unbroken, last_shard, tmp_path, name
):
    out = shutil.copytree(last_shard, tmp_path / "pack")
    with without(out / name, WRITE):
        ended = plain(*shard(release, out))
        check_unfinished(out)
    again = plain(*shard(release, out))
    assert again.code == 0, again
    assert contents(out) == tiny_unbroken
    error_line(ended, out, "Permission denied")


def test_a_finished_dataset_that_is_read_only_is_finished_and_verified(plain, release, tiny_unbroken, tmp_path):
    out = tmp_path / "pack"
    rerun(release, out)
    with contextlib.ExitStack() as closed:
        for path in [*out.rglob("*"), out]:
            closed.enter_context(without(path, WRITE))
        ended = plain(*shard(release, out))
        assert ended.code == 0 and "already finished" in ended.said, ended
        checked = plain("verify", out, "--jobs", 1)
        assert checked.code == 0 and "whole" in checked.said, checked
    assert contents(out) == tiny_unbroken


@pytest.mark.parametrize("name", ["cxr-lt-2023", METADATA, "mimic-cxr-2.0.0-chexpert.csv.gz", "cxr-lt-2023/train.csv"])
def test_a_table_or_its_folder_that_may_not_be_read_is_one_line(plain, release, tmp_path, name):
    with without(release / name, READ | WRITE | ENTER):
        ended = plain(*shard(release, tmp_path / "pack"))
    assert not (tmp_path / "pack").exists()
    error_line(ended, release / name, "Permission denied")


def test_a_release_that_may_not_be_entered_is_wrong_usage(plain, release, tmp_path):
    with without(release, READ | ENTER):
        ended = plain(*shard(release, tmp_path / "pack"))
    assert ended.code == 2 and "Traceback" not in ended.said
    assert re.search(f"'--source': .*{release}' is not readable", ended.said.splitlines()[-1])


def test_images_that_may_not_be_read_are_rejects_with_the_reason(plain, release, tmp_path):
    table = pd.read_csv(release / METADATA, dtype=str)
    paths = [release / image_path(row) for row in table.itertuples()]
    study = paths[4].parent
    with without(paths[0], READ), without(study, READ | ENTER):
        ended = plain(*shard(release, tmp_path / "pack"), "--max-reject-fraction", 1)
    assert ended.code == 0, ended
    rejects = pd.read_csv(tmp_path / "pack" / "rejects.csv")
    wanted = [path for path in paths if path == paths[0] or path.parent == study]
    assert sorted(release / path for path in rejects["path"]) == sorted(wanted) and len(wanted) > 2
    assert set(rejects["reason"]) == {"unreadable: Permission denied"}
    assert re.search(rf"{len(wanted)} rejected: unreadable", ended.said), ended
    assert verify(tmp_path / "pack").problems == ()


@pytest.mark.parametrize("before", ["nothing", "unfinished"])
def test_a_read_only_disk_is_one_line(disk, tiny, last_shard, before):
    if before == "unfinished":
        shutil.copytree(last_shard, disk.seen / "pack")
    disk.remount("ro")
    error_line(disk.cxrdali(*shard(tiny, disk.place / "pack")), disk.place / "pack", "Read-only file system")
    disk.remount("rw")
    assert disk.cxrdali(*shard(tiny, disk.place / "pack")).code == 0


def test_a_file_as_the_target_is_wrong_usage_and_is_left_alone(warm, tiny, tmp_path):
    (tmp_path / "pack").write_text("mine")
    ended = warm.cxrdali(*shard(tiny, tmp_path / "pack"))
    assert ended.code == 2 and str(tmp_path / "pack") in ended.said.splitlines()[-1] and "Traceback" not in ended.said
    error_line(warm.cxrdali(*shard(tiny, tmp_path / "pack" / "in")), tmp_path / "pack" / "in", "--out")
    assert (tmp_path / "pack").read_text() == "mine"


# ---------------------------------------------------------------- workers


def at_work(packer, source):
    """A packer with two jobs that has finished two shards."""
    one = packer(source, jobs=2)
    assert one.wait_for(lambda: one.records >= 2)
    return one


def check_ends(one, seconds):
    """The packer ends by itself, and nothing of it is left; returns its exit code."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        one.process.wait(timeout=seconds)
    assert one.process.poll() is not None, f"still there after {seconds} s: {one.said}"
    end = time.monotonic() + 5
    while (left := one.alive()) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == {}
    return one.process.returncode


def check_line(one, *named):
    lines = one.said.splitlines()
    assert "Traceback" not in one.said and lines[-1].startswith("error: "), one.said
    assert all(re.search(name, lines[-1]) for name in named), lines[-1]


def test_a_worker_that_is_killed_ends_the_packer_with_one_line(large, large_unbroken, packer):
    """As the kernel does when memory runs out."""
    one = at_work(packer, large)
    os.kill(one.workers()[0], signal.SIGKILL)
    assert check_ends(one, 30) == 1
    rerun(large, one.out)
    assert contents(one.out) == large_unbroken
    check_line(one, "worker", "the same command|again", "--jobs")


def test_a_worker_that_hangs_in_a_shard_ends_the_packer_within_half_a_minute(large, large_unbroken, packer):
    """As a read from a lost network disk does. The other worker finishes every other shard meanwhile."""
    one = at_work(packer, large)
    one.stop_worker(in_a_shard=True)
    assert check_ends(one, 45) == 1
    rerun(large, one.out)
    assert contents(one.out) == large_unbroken
    check_line(one, "shard 0000", r"no image for \d\d s", "the same command continues")


def test_a_worker_that_hangs_between_two_shards_does_not_keep_the_packer(large, large_unbroken, packer):
    """The other worker can do it all, or the packer gives up; it must not wait for ever at its own end."""
    one = at_work(packer, large)
    one.stop_worker(in_a_shard=False)
    assert check_ends(one, 45) in (0, 1)
    rerun(large, one.out)
    assert contents(one.out) == large_unbroken
