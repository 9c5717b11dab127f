"""A synthetic release that is cut short: the same command makes it whole, and a stranger's folder stays as it is."""

import itertools
import os
import re
import resource
import signal
from pathlib import Path
from unittest import mock

import pytest

from shards.errors import UserError
from shards.synthetic import release as writing
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release
from shards.synthetic.tables import METADATA
from tests.dying import dies_before
from tests.releases import contents
from tests.shards.storage.test_aside import in_child

pytestmark = pytest.mark.slow

OPTIONS = SyntheticOptions(studies=1, size=32, seed=1)
CALLS = ("replace", "rename", "unlink", "rmdir", "mkdir", "open", "fsync")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_release(root, OPTIONS)
    return contents(root)


def _killed_at(out: Path, step: int) -> None:
    """Write, and die before the `step`-th call that changes a folder."""
    dies_before(step, CALLS)
    write_release(out, OPTIONS)


def test_a_kill_at_any_call_leaves_nothing_that_counts_and_the_same_command_makes_it_whole(whole, tmp_path):
    seen = set()
    for step in itertools.count(1):
        out = tmp_path / str(step)
        ended = in_child(_killed_at, out, step)
        left = contents(out) if out.exists() else {}
        published = {name: data for name, data in left.items() if not name.startswith(".synthetic/")}
        assert (published == whole) if METADATA in published else published.items() <= whole.items(), step
        assert ".synthetic/options.json" in left or not published or left == whole, step
        if not ended:
            break
        state = frozenset(re.sub(r"(tmp/)[^/]+|[0-9a-f]{16}(?=\.part)", r"\1", name) for name in left)
        if state not in seen and (not published or ".synthetic/options.json" in left):
            write_release(out, OPTIONS)
            assert contents(out) == whole and not (out / ".synthetic").exists(), step
        seen.add(state)
    assert left == whole and len(seen) > 12


def begun(out: Path) -> None:
    """Leave the beginning of a release."""
    with mock.patch.object(writing, "write_tables", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        write_release(out, OPTIONS)


def test_the_beginning_of_another_release_is_not_taken(tmp_path):
    begun(tmp_path)
    before = contents(tmp_path)
    assert set(before) == {".synthetic/lock", ".synthetic/options.json"}
    other = SyntheticOptions(studies=4, size=32, seed=1)
    with pytest.raises(UserError, match="holds the beginning of another synthetic release, whose options are in"):
        write_release(tmp_path, other)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("target", [".synthetic", ".synthetic/tmp", "files"])
def test_no_link_is_followed_out_of_the_folder(tmp_path, target):
    mine, out = tmp_path / "mine", tmp_path / "out"
    (mine / "p10").mkdir(parents=True)
    (mine / "p10" / "picture.jpg").write_text("the user's")
    (out / ".synthetic").mkdir(parents=True)
    if target == ".synthetic":
        (out / target).rmdir()
    else:
        begun(out)
    (out / target).symlink_to(mine)
    before = contents(mine)
    with pytest.raises(UserError, match=f"out/{target}: is a link, and nothing is written or removed where a link"):
        write_release(out, OPTIONS)
    assert contents(mine) == before


def test_a_full_disk_is_one_line_and_the_same_command_ends(whole, tmp_path):
    def limited(out):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
        try:
            write_release(out, OPTIONS)
        except UserError as error:
            words = "out: cannot be written (File too large); make room; the same command continues"
            os._exit(7 if str(error).endswith(words) else 1)

    assert in_child(limited, tmp_path / "out") == 7
    assert not list((tmp_path / "out").rglob("*.jpg"))
    write_release(tmp_path / "out", OPTIONS)
    assert contents(tmp_path / "out") == whole
