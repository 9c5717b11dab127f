"""Steps: done again exactly when settings, results or what they need changed. a -> b -> d, a -> c."""

import shutil
import threading
import time

import pytest

from cxrdali.runs.steps import Book, Step
from shards.errors import UserError
from shards.storage import files
from shards.storage.files import only_one, write_bytes
from tests.heard import heard
from tests.releases import contents


class World:
    """Four steps that each write what they read and a letter; `log` is what was done."""

    def __init__(self, root):
        self.root, self.log, self.settings = root, [], {name: {"n": 1} for name in "abcd"}

    def steps(self):
        return [self.step("a"), self.step("b", "a"), self.step("c", "a"), self.step("d", "b")]

    def step(self, name, *needs):
        def do():
            self.log.append(name)
            (self.root / name).write_text(name * self.settings[name]["n"])

        return Step(name, (name,), dict(self.settings[name]), needs, do)

    def run(self):
        self.log.clear()
        Book(self.root).run(self.steps())
        return "".join(self.log)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    assert made.run() == "abcd"
    return made


def test_a_second_time_nothing_is_done(world):
    assert world.run() == ""


@pytest.mark.parametrize(("name", "redone"), [("a", "abcd"), ("b", "bd"), ("c", "c"), ("d", "d")])
def test_a_deleted_or_changed_file_takes_along_what_depends_on_it(world, name, redone):
    (world.root / name).unlink()
    assert world.run() == redone
    (world.root / name).write_text("X")
    assert world.run() == redone
    assert (world.root / name).read_text() == name
    assert world.run() == ""


@pytest.mark.parametrize(("name", "redone"), [("a", "abcd"), ("b", "bd"), ("c", "c"), ("d", "d")])
def test_a_changed_setting_takes_along_what_depends_on_it(world, name, redone):
    world.settings[name] = {"n": 2}
    reasons = Book(world.root).plan(world.steps())
    assert reasons[name] == "n changed: 1 -> 2"
    assert "".join(name for name, reason in reasons.items() if reason) == redone
    assert world.run() == redone
    assert world.run() == ""


def test_the_same_length_and_other_content_is_a_change(world):
    (world.root / "c").write_text("Z")
    assert Book(world.root).plan(world.steps())["c"] == "c was changed"


def test_a_copy_of_the_folder_is_as_done_as_the_folder(world, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "there"
    shutil.copytree(world.root, copy, copy_function=shutil.copyfile)  # other times, same bytes
    world.root = copy
    assert world.run() == ""


def test_a_kill_between_a_step_and_its_dependents_is_made_up_for(world):
    (world.root / "a").unlink()
    steps, book = world.steps(), Book(world.root)
    book.make(steps[0])  # ... and here it was killed
    world.log.clear()
    assert world.run() == "bcd"


def test_a_step_that_fails_is_not_done(world):
    def fail():
        raise OSError("no")

    steps = world.steps()
    steps[1] = Step("b", ("b",), {"n": 9}, ("a",), fail)
    with pytest.raises(OSError, match="no"):
        Book(world.root).run(steps)
    assert not (world.root / "b").exists(), "a result without a record is no result"
    assert world.run() == "bd"


def test_a_step_that_makes_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"x: was to be made and is not there"):
        Book(tmp_path).run([Step("x", ("x",), {}, (), lambda: None)])


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b"[1]"])
def test_a_damaged_record_is_a_step_not_done(world, damage):
    (world.root / ".steps" / "c.made.json").write_bytes(damage)
    assert world.run() == "c"


# ---------------------------------------------------------------- steps that continue what they began in a folder


class Training:
    """A step that writes one file per call of `do` and is whole with two."""

    def __init__(self, root, lr=1.0, needs=()):
        self.root, self.lr, self.needs = root, lr, needs

    def step(self):
        return Step("train m", ("runs/m/two",), {"lr": self.lr}, self.needs, self.do, folder="runs/m")

    def do(self):
        folder = self.root / "runs" / "m"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "one").exists():
            (folder / "one").write_text(str(self.lr))
            raise KeyboardInterrupt
        (folder / "two").write_text((folder / "one").read_text())


def _begin(root, **settings):
    with pytest.raises(KeyboardInterrupt):
        Book(root).run([Training(root, **settings).step()])


@pytest.mark.parametrize("name", [".steps", "predictions", "predictions/deep", "runs", "runs/m", "runs/replaced"])
def test_no_link_is_followed_out_of_the_folder_of_a_study(tmp_path, name):
    """A folder that somebody else made: what is written and moved aside stays in it."""
    mine, root = tmp_path / "mine", tmp_path / "study"
    mine.mkdir()
    (mine / "one").write_text("the user's")
    (mine / ".notes.4242.part").write_text("the user's")
    (root / name).parent.mkdir(parents=True)
    if name == "runs/replaced":
        _begin(root, lr=1.0)  # a run of other settings is moved there
    (root / name).symlink_to(mine)
    before = contents(mine)

    def do():
        write_bytes(root / "predictions" / "deep" / "table", b"x")

    steps = [Training(root, lr=2.0).step()] if "runs" in name else [Step("a", ("predictions/deep/table",), {}, (), do)]
    with pytest.raises(UserError, match=f"study/{name}: is a link, and nothing is written or removed where a link"):
        Book(root).run(steps)
    assert contents(mine) == before


def test_a_training_that_was_stopped_continues_in_its_folder(tmp_path):
    _begin(tmp_path)
    step = Training(tmp_path).step()
    assert Book(tmp_path).reason(step) == "continues"
    Book(tmp_path).run([step])
    assert not (tmp_path / "runs" / "replaced").exists()
    assert Book(tmp_path).reason(step) is None


def test_a_training_of_other_settings_is_moved_aside_not_deleted(tmp_path):
    _begin(tmp_path, lr=1.0)
    said = []
    with pytest.raises(KeyboardInterrupt), heard(said):  # begins anew
        Book(tmp_path).run([Training(tmp_path, lr=2.0).step()])
    assert (tmp_path / "runs" / "replaced" / "m-1" / "one").read_text() == "1.0"
    assert any("moved to" in text and "m-1" in text for text in said)
    Book(tmp_path).run([Training(tmp_path, lr=2.0).step()])
    assert (tmp_path / "runs" / "m" / "two").read_text() == "2.0"
    _begin(tmp_path, lr=3.0)
    assert (tmp_path / "runs" / "replaced" / "m-2" / "two").exists()


def test_a_finished_training_that_lost_a_file_begins_anew(tmp_path):
    _begin(tmp_path)
    Book(tmp_path).run([Training(tmp_path).step()])
    (tmp_path / "runs" / "m" / "two").unlink()
    _begin(tmp_path)  # not continued: what is left of it is of no use
    assert (tmp_path / "runs" / "replaced" / "m-1" / "one").exists()


def test_a_run_that_was_trained_by_hand_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "runs" / "m"
    folder.mkdir(parents=True)
    (folder / "one").write_text("by hand")
    Book(tmp_path).run([Training(tmp_path).step()])
    assert (folder / "two").read_text() == "by hand"


def test_a_run_by_hand_with_other_settings_is_not_moved_when_the_right_ones_come(tmp_path):
    """The trainer refuses wrong ones; that try must not make the folder one that the steps began."""
    folder = tmp_path / "runs" / "m"
    folder.mkdir(parents=True)
    (folder / "one").write_text("by hand")

    def refuse():
        raise UserError("holds a run with another lr")

    with pytest.raises(UserError, match="another lr"):
        Book(tmp_path).run([Step("train m", ("runs/m/two",), {"lr": 9}, (), refuse, "runs/m")])
    assert Book(tmp_path).reason(Training(tmp_path).step()) == "takes over the run that is there"
    Book(tmp_path).run([Training(tmp_path).step()])
    assert (folder / "two").read_text() == "by hand"


def test_a_finished_run_by_hand_that_lacks_a_file_is_named_with_a_way_out(tmp_path):
    folder = tmp_path / "runs" / "m"
    folder.mkdir(parents=True)
    (folder / "one").write_text("by hand")
    step = Step("train m", ("runs/m/two",), {}, (), lambda: None, "runs/m")
    for _ in range(2):
        with pytest.raises(UserError, match=r"m/two: was to be made .*; move the folder runs/m away to train it anew"):
            Book(tmp_path).run([step])
    shutil.rmtree(folder)
    assert Book(tmp_path).reason(step) == "not done yet"


def test_what_began_from_a_run_that_is_made_again_does_not_continue(tmp_path):
    def first():
        (tmp_path / "a").write_text("a")

    steps = [Step("a", ("a",), {}, (), first), Training(tmp_path, needs=("a",)).step()]
    with pytest.raises(KeyboardInterrupt):
        Book(tmp_path).run(steps)
    assert Book(tmp_path).plan(steps) == {"a": None, "train m": "continues"}
    (tmp_path / "a").unlink()
    assert Book(tmp_path).plan(steps) == {"a": "a is missing", "train m": "after a"}
    with pytest.raises(KeyboardInterrupt):
        Book(tmp_path).run(steps)
    assert (tmp_path / "runs" / "replaced" / "m-1" / "one").exists()


def test_a_folder_with_nothing_but_a_lock_is_not_kept(tmp_path):
    (tmp_path / "runs" / "m").mkdir(parents=True)
    (tmp_path / "runs" / "m" / ".lock").touch()
    assert Book(tmp_path).reason(Training(tmp_path).step()) == "not done yet"
    _begin(tmp_path)
    assert not (tmp_path / "runs" / "replaced").exists()


def test_a_folder_that_somebody_trains_into_stays_where_it_is(tmp_path):
    _begin(tmp_path, lr=1.0)
    with (
        only_one(tmp_path / "runs" / "m" / ".lock", "training into it"),
        pytest.raises(UserError, match=r"runs/m: another process is training into it"),
    ):
        Book(tmp_path).run([Training(tmp_path, lr=2.0).step()])
    assert (tmp_path / "runs" / "m" / "one").read_text() == "1.0"


# ---------------------------------------------------------------- kills


class Killed(BaseException):
    pass


def flow(root, log, lr=1):
    """a -> train m (two files, continued where it was) -> c, every file by a rename."""

    def write(name, text, *needed):
        log.append(name)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(root / name, (text + "".join((root / need).read_text() for need in needed)).encode())

    def train():
        if not (root / "runs/m/one").exists():
            write("runs/m/one", f"{lr}", "a")
        write("runs/m/two", "two ", "runs/m/one")

    return [
        Step("a", ("a",), {}, (), lambda: write("a", "a")),
        Step("train m", ("runs/m/one", "runs/m/two"), {"lr": lr}, ("a",), train, "runs/m"),
        Step("c", ("c",), {}, ("train m",), lambda: write("c", "c ", "runs/m/two")),
    ]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", [None, "a"])
def test_a_kill_at_any_rename_is_made_up_for(tmp_path, monkeypatch, when, change):
    """From nothing, and from a finished folder with other settings and without a file."""
    whole = files.publish
    for moment in range(1, 100):
        root, log, left = tmp_path / str(moment), [], moment
        root.mkdir()
        if change:
            Book(root).run(flow(root, log, lr=1))
            (root / change).unlink()

        def publish(aside, final):
            nonlocal left
            left -= 1
            if left == 0 and when == "before":
                shutil.copy(aside, aside.with_name(f".{final.name}.1.part"))  # the real one is tidied up by `except`
                raise Killed
            whole(aside, final)
            if left == 0:
                raise Killed

        monkeypatch.setattr(files, "publish", publish)
        steps = flow(root, log, lr=2)
        try:
            Book(root).run(steps)
        except Killed:
            log.clear()
            left = -1
            # what a plan foretells is what is done
            foretold = [name for name, reason in Book(root).plan(steps).items() if reason]
            assert Book(root).run(steps) == len(foretold)
        monkeypatch.setattr(files, "publish", whole)
        assert (root / "c").read_text() == "c two 2a"
        assert Book(root).run(steps) == 0
        assert not [path for path in root.rglob("*.part") if path.parent.name != "m"], "a trainer clears its own folder"
        if left > 0:
            break
    assert moment == 9, "a, its record, begun, two files, its record, c, its record; then none is left"


# ---------------------------------------------------------------- several workers


class SlowBook(Book):
    """Whoever begins alone takes its time over it."""

    def prepare(self, steps):
        super().prepare(steps)
        time.sleep(0.1)


def test_workers_that_begin_together_all_work(tmp_path):
    ended, everybody = [], threading.Barrier(4)

    def work():
        everybody.wait()
        try:
            with SlowBook(tmp_path).shared(World(tmp_path).steps()):
                everybody.wait(10)  # all are in it at once
            ended.append("well")
        except Exception as error:
            everybody.abort()
            ended.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert ended == ["well"] * 4


def test_a_worker_says_what_is_in_the_way_and_keeps_to_the_plan_of_others(world, tmp_path_factory):
    other = World(world.root)
    other.settings["a"] = {"n": 2}
    with Book(world.root).shared(world.steps()):
        with Book(world.root).shared(world.steps()):
            pass
        with (
            pytest.raises(UserError, match="another process does other steps in it"),
            Book(world.root).shared(other.steps()),
        ):
            pass
    with Book(world.root).shared(other.steps()):
        pass
    (world.root / "b").unlink()
    (world.root / "b").symlink_to(tmp_path_factory.mktemp("elsewhere") / "b")
    with pytest.raises(UserError, match="link"), Book(world.root).shared(world.steps()):
        pass
