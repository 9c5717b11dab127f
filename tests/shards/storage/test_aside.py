"""Files aside: new names that nobody can foresee, removed when their writer was killed, never written through."""

import multiprocessing
import os
import signal
import stat
from pathlib import Path
from unittest import mock

import pytest

from shards.errors import UserError
from shards.storage import files
from shards.storage.disk import Disk
from shards.storage.files import check_inside, only_one, remove_parts, write_bytes
from shards.storage.sealed import parse_json


def in_child(do, *arguments) -> int:
    """The exit code of a forked process, or minus the signal that ended it."""
    child = multiprocessing.get_context("fork").Process(target=do, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def killed_while_writing(path: Path, data: bytes = b"half") -> None:
    with mock.patch("os.fsync", lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)):
        write_bytes(path, data)


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


def test_what_a_killed_writer_left_is_removed_by_the_next_writer_of_that_name_alone(tmp_path):
    report, other = tmp_path / "report.html", tmp_path / "report.json"
    for path in (report, report, other):
        assert in_child(killed_while_writing, path) == -signal.SIGKILL
    assert len(parts(tmp_path)) == 2, "the second writer removed what the first left, and died too"
    (tmp_path / ".report.html.mine.part").write_text("a file of the user's")
    write_bytes(report, b"whole")
    assert report.read_bytes() == b"whole"
    left = parts(tmp_path)
    assert left[0] == ".report.html.mine.part" and len(left) == 2 and left[1].startswith(".report.json.")
    write_bytes(other, b"whole")
    assert parts(tmp_path) == [".report.html.mine.part"]


@pytest.mark.parametrize("remove", [lambda path: write_bytes(path, b"other"), lambda path: remove_parts(path.parent)])
def test_what_is_being_written_is_not_removed(tmp_path, remove):
    path, whole = tmp_path / "a", files.publish

    def meanwhile(aside, final):
        with mock.patch.object(files, "publish", whole):
            assert in_child(remove, path) == 0
        assert aside.exists()
        whole(aside, final)

    with mock.patch.object(files, "publish", meanwhile):
        write_bytes(path, b"mine")
    assert path.read_bytes() == b"mine" and parts(tmp_path) == []


def test_a_part_that_another_writer_removed_before_it_was_locked_is_made_anew(tmp_path):
    """Between making a file and locking it, another writer may take it for one that was left."""
    real, taken = files.fcntl.flock, []

    def locked_late(file, kind):
        if not taken:
            taken.append(Path(file.name))
            taken[0].unlink()
        real(file, kind)

    with mock.patch("fcntl.flock", locked_late):
        write_bytes(tmp_path / "a", b"mine")
    assert taken and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_names_aside_cannot_be_foreseen_and_are_never_written_through(tmp_path):
    victim, made = tmp_path / "victim", []
    victim.write_text("the user's")
    out = tmp_path / "shared"
    out.mkdir()
    for number in range(os.getpid() - 50, os.getpid() + 50):
        (out / f".table.csv.{number}.part").symlink_to(victim)
    planted = out / f".table.csv.{'0' * 16}.part"
    planted.symlink_to(victim)
    with mock.patch.object(files, "publish", lambda aside, final: made.append(aside.name) or aside.rename(final)):
        for _ in range(2):
            write_bytes(out / "table.csv", b"a table")
    assert victim.read_text() == "the user's" and planted.is_symlink() and len(set(made)) == 2
    tokens = iter(["0" * 16, "1" * 16])
    with mock.patch("secrets.token_hex", lambda size: next(tokens)), pytest.raises(UserError, match="File exists"):
        write_bytes(out / "table.csv", b"another")  # as if the name had been foreseen
    assert victim.read_text() == "the user's" and (out / "table.csv").read_bytes() == b"a table"


def test_a_file_under_a_link_s_name_replaces_the_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "victim").write_text("the user's")
    (tmp_path / "last.pt").symlink_to(tmp_path / "victim")
    write_bytes(tmp_path / "last.pt", b"state")
    assert (tmp_path / "victim").read_text() == "the user's" and not (tmp_path / "last.pt").is_symlink()


@pytest.mark.parametrize("name", ["a" * 233, "a" * 255, "é" * 127])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    path = tmp_path / name
    assert in_child(killed_while_writing, path) == -signal.SIGKILL
    (part,) = parts(tmp_path)
    assert len(os.fsencode(part)) <= 255
    write_bytes(path, b"x")
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long_is_said(tmp_path):
    with pytest.raises(UserError, match="File name too long.; give a shorter name"):
        write_bytes(tmp_path / ("a" * 256), b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"x")
        with only_one(tmp_path / "lock", "writing"):
            pass
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lock: is a link"), only_one(tmp_path / "lock", "writing"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_only_links_below_the_root_are_refused(tmp_path):
    root = tmp_path / "root"
    (tmp_path / "disk" / "b").mkdir(parents=True)
    root.symlink_to(tmp_path / "disk")  # the user's own choice
    check_inside(root, root / "b" / "c")
    (root / "a").symlink_to(tmp_path)
    for path in (root / "a", root / "a" / "b" / "c"):
        with pytest.raises(UserError, match="root/a: is a link, and nothing is written or removed where a link leads"):
            check_inside(root, path)
    with pytest.raises(UserError, match="is a link"):
        Disk(root / "a").make_folder()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "NaN is no finite number"),
        ("[-Infinity]", "-Infinity is no finite number"),
        ("1e400", "1e400 is no finite number"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' is duplicated"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        (str(2**63), "the number 9223372036854775808... does not fit 64 bits"),
        (b'{"a": "\xff"}', "decode"),
        ("{", "Expecting"),
    ],
)
def test_json_that_no_writer_of_ours_writes_is_a_value_error(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)
