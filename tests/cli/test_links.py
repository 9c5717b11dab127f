"""Output folders that somebody else made: no command writes or deletes where a link in them leads."""

import pytest

from cxrdali.train.tracker import TrackedRun
from cxrdali.train.trackers.tensorboard import TensorBoard
from shards.errors import UserError
from tests.cli.cli import call
from tests.releases import contents


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("the user's")
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["release", "packed", "runs", ".cxrdali-demo"])
def test_demo(tmp_path, mine, name):
    out = tmp_path / "demo"
    out.mkdir()
    (out / ".cxrdali-demo").touch()
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(mine / "thesis.txt" if name == ".cxrdali-demo" else mine)
    ended = call("demo", "--out", out, "--fresh", cwd=tmp_path)
    assert ended.returncode == 1
    assert f"demo/{name}: is a link, and nothing is written or removed where a link leads" in ended.stderr
    assert contents(mine) == {"thesis.txt": b"the user's"}


def test_events_of_a_run(tmp_path, mine):
    (tmp_path / "tensorboard").symlink_to(mine)
    run = TrackedRun(tmp_path, "", None, 0, {})
    with pytest.raises(UserError, match="tensorboard: is a link"), TensorBoard().following(run):
        pass
    assert contents(mine) == {"thesis.txt": b"the user's"}


def test_synth(tmp_path, mine):
    (tmp_path / ".synthetic").symlink_to(mine)
    ended = call("synth", "--studies", 1, "--size", 32, "--out", tmp_path, cwd=tmp_path)
    assert ended.returncode == 1 and ".synthetic: is a link" in ended.stderr
    assert contents(mine) == {"thesis.txt": b"the user's"}
