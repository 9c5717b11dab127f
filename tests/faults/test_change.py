"""Changes of a finished dataset under kills: it opens at any moment, as the old one or the new one, and the same
command ends in the bytes of one packing."""

import random
import shutil
import signal

import pytest

from shards.dataset.packed import PackedDataset
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.packing.plan import plan
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from tests.faults.processes import Warm
from tests.releases import contents, write_release

pytestmark = pytest.mark.slow

OLD, NEW = (Size(96), Size(40, raw=True)), (Size(96), Size(40, raw=True), Size(64))
KILLS = 8


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A release; of it old/, at two sizes and with three images that were absent, and new/, whole and at three."""
    folder = tmp_path_factory.mktemp("change")
    write_release(folder / "release", subjects=3)
    paths = plan(open_release(folder / "release").images, 4, 0).rows()["path"]
    late = [folder / "release" / path for path in paths.iloc[[0, 1, 7]]]
    asides = [path.rename(path.with_suffix(".later")) for path in late]
    release = folder / "release"
    pack(open_release(release), folder / "old", PackOptions(OLD, shard_images=4), limits=PackLimits(1.0))
    for aside, path in zip(asides, late, strict=True):
        aside.rename(path)
    pack(open_release(release), folder / "new", PackOptions(NEW, shard_images=4))
    return folder


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    one = Warm(tmp_path_factory.mktemp("warm") / "said")
    yield one
    assert one.end() == ""


def changing_calls(warm, command, log):
    """Every call by which a command changes its folder, in order; it ends well."""
    ended = warm.cxrdali(*command, calls=str(log))
    assert ended.code == 0, ended
    return log.read_text().splitlines()


def some(calls, published):
    """Random calls, and all that publish a description, each with a moment to be killed at."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed of the random calls: {seed}")  # pytest shows it when the test fails
    always = {number for number, call in enumerate(calls) if call.startswith("replace ") and call.endswith(published)}
    assert len(always) == 2
    draw = random.Random(seed)
    others = {(number, draw.choice(["before", "after"])) for number in draw.sample(range(len(calls)), KILLS)}
    return sorted(others | {(number, moment) for number in always for moment in ("before", "after")})


def check_whole(out):
    """The dataset opens, and nothing is wrong but files that a killed writer left beside it."""
    dataset = PackedDataset.open(out)
    assert [problem for problem in verify(out).problems if ".part: not in dataset.json" not in problem] == []
    return dataset


def test_a_kill_at_any_call_leaves_the_old_dataset_or_the_new_one(places, warm, tmp_path):
    out = shutil.copytree(places / "old", tmp_path / "pack")
    command = ["shard", "--source", places / "release", "--out", out, "--sizes", "96,40:raw,64", "--shard-images", "4"]
    command += ["--jobs", "1"]
    unbroken = contents(places / "new")
    known = {PackedDataset.open(places / name).id for name in ("old", "new")}
    calls, seen = changing_calls(warm, command, tmp_path / "calls"), set()
    assert contents(out) == unbroken
    for number, moment in some(calls, "/dataset.json"):
        shutil.rmtree(out)
        shutil.copytree(places / "old", out)
        assert warm.cxrdali(*command, kill=(number, moment)).code == -signal.SIGKILL, calls[number]
        seen.add(check_whole(out).id)
        ended = warm.cxrdali(*command)
        assert ended.code == 0 and contents(out) == unbroken, f"{moment} call {number}, {calls[number]}: {ended}"
    assert seen == known


def test_a_kill_at_any_call_of_a_drop_is_ended_by_whichever_command_comes_next(places, warm, tmp_path):
    out = shutil.copytree(places / "new", tmp_path / "pack")
    command = ["shard", "--out", out, "--drop-size", "64"]
    calls = changing_calls(warm, command, tmp_path / "calls")
    dropped = contents(out)
    assert not [name for name in dropped if name.startswith(("64/", "."))]
    for number, moment in some(calls, "/dataset.json"):
        shutil.rmtree(out)
        shutil.copytree(places / "new", out)
        assert warm.cxrdali(*command, kill=(number, moment)).code == -signal.SIGKILL, calls[number]
        gone = check_whole(out).sizes == [40, 96]
        again = warm.cxrdali(*command)
        assert again.code == int(gone) and ("no size '64' to drop" in again.said) == gone, again
        assert contents(out) == dropped, f"{moment} call {number}, {calls[number]}"


def test_a_full_disk_leaves_the_old_dataset_and_the_same_command_goes_on(places, warm, tmp_path):
    out = shutil.copytree(places / "old", tmp_path / "pack")
    command = ["shard", "--source", places / "release", "--out", out, "--sizes", "96,40:raw,64", "--shard-images", "4"]
    ended = warm.cxrdali(*command, "--jobs", "1", file_size=4096)
    assert ended.code == 1 and ended.said.splitlines()[-1].startswith(f"error: {out}: cannot be written"), ended
    assert check_whole(out).id == PackedDataset.open(places / "old").id
    assert warm.cxrdali(*command, "--jobs", "1").code == 0 and contents(out) == contents(places / "new")
