"""Kills at every call of writing results of several files: nothing sound is refused, and no file of another result."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrdali.evaluate.evaluate import write
from cxrdali.report.training.folder import read_evaluation
from cxrdali.runs.oversampling import read_ap
from shards.errors import UserError
from shards.storage import sealed
from shards.storage.sidecar import beside, check_hash, write_with_hash
from tests.cxrdali.paper_folder import write_step

pytestmark = pytest.mark.slow

CALLS = ("replace", "rename", "fsync", "unlink", "remove")


def killed_at(work: Callable[[], object], number: int, moment: str) -> bool:
    """Do the work in a child that dies before or after its n-th call that changes a folder; whether it died."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    try:
        numbers = itertools.count()

        def watched(function):
            def call(*arguments, **options):
                mine = next(numbers)
                if (mine, "before") == (number, moment):
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return function(*arguments, **options)
                finally:
                    if (mine, "after") == (number, moment):
                        os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name in CALLS:
            setattr(os, name, watched(getattr(os, name)))
        work()
    finally:
        os._exit(0)


def kills(work: Callable[[Path], object], before: Path, folder: Path):
    """Copies of the folder `before` in which the work was killed, at one call after the other, until it is not."""
    for number, moment in ((number, moment) for number in itertools.count() for moment in ("before", "after")):
        out = shutil.copytree(before, folder / f"{number} {moment}")
        if not killed_at(lambda out=out: work(out), number, moment):
            assert number >= 6
            return
        yield out


def evaluation(folder: Path, ap: float) -> dict:
    """What an evaluation says, with what the CSV has beside it."""
    path = write_step(folder, "m", "val", {"Edema": ap, "Mass": 0.5}, {"Edema": 30, "Mass": 9})
    part = {**read_evaluation(path).content["all"], "groups": None}
    return {**read_evaluation(path).content, "all": part, "frontal": None}


def test_a_killed_evaluation_leaves_no_csv_of_other_numbers(tmp_path):
    old, new = (evaluation(tmp_path / "made", ap) for ap in (0.25, 0.75))
    (tmp_path / "before").mkdir()
    write(old, tmp_path / "before" / "m")
    seen = set()
    for out in kills(lambda out: write(new, out / "m"), tmp_path / "before", tmp_path / "killed"):
        said, csv = read_ap(out / "m.json"), out / "m.csv"
        assert said["Edema"] in (0.25, 0.75) and read_evaluation(out / "m.json").content in (old, new)
        if csv.exists():
            assert read_ap(csv) == said
        seen.add((said["Edema"], csv.exists()))
        write(new, out / "m")
        assert read_ap(csv) == read_ap(out / "m.json") == {"Edema": 0.75, "Mass": 0.5}
    assert seen == {(0.25, True), (0.25, False), (0.75, False), (0.75, True)}


@pytest.mark.parametrize("start", ["with its hash", "without", "none"])
def test_a_killed_table_is_the_old_one_or_the_new_one_and_has_its_hash(tmp_path, start):
    before = tmp_path / "before"
    before.mkdir()
    if start != "none":
        write_with_hash(before / "t.csv", b"old")
    if start == "without":
        beside(before / "t.csv").unlink()
    sealed.noted.clear()
    for out in kills(lambda out: write_with_hash(out / "t.csv", b"new"), before, tmp_path / "killed"):
        path = out / "t.csv"
        if start == "none" and not path.exists():
            continue
        assert path.read_bytes() in (b"old", b"new")
        check_hash(path, path.read_bytes())
        assert start == "without" or beside(path).exists()
        if beside(path).exists():
            with pytest.raises(UserError, match="its SHA-256 is not the one in t.csv.sha256"):
                check_hash(path, b"mew")
        write_with_hash(path, b"new")
        assert beside(path).read_text().count("\n") == 1
    assert bool(sealed.noted) == (start == "without")


def test_the_hash_is_as_sha256sum_reads_it(tmp_path):
    write_with_hash(tmp_path / "t.csv", b"a,b\n1,2\n")
    assert os.system(f"cd {tmp_path} && sha256sum --status -c t.csv.sha256") == 0
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,3\n")
    assert os.system(f"cd {tmp_path} && sha256sum --status -c t.csv.sha256") != 0
