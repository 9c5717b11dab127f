"""Who can read what is written, and that no patient is named on the way from a release to the pages about it."""

import os
import re
import stat
from pathlib import Path

import pytest

from shards.dataset.cache import Cache
from tests.cli.cli import call, done
from tests.releases import write_release

pytestmark = pytest.mark.slow

ONE_REJECT = ("--max-reject-fraction", 0.1)
MODEL = ("--size", 48, "--batch", 8, "--epochs", 1, "--arch", "test_byobnet", "--no-pretrained", "--device", "cpu")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(folder, all that was said) of a job with the umask of most machines, one image damaged."""
    folder, said = tmp_path_factory.mktemp("private"), []
    table = write_release(folder / "release")
    damaged = next((folder / "release/files").rglob("*.jpg"))
    damaged.write_bytes(damaged.read_bytes()[:300])
    before = os.umask(0o022)
    pack = ("--data", "pack")
    fitted = ("--fit", "runs/a/val_predictions.parquet", "--method", "platt", "--folds", 2)
    try:
        for line in (
            ("shard", "--source", "release", "--out", "pack", "--sizes", 48, *ONE_REJECT),
            ("verify", "pack", "--deep", "--jobs", 1),
            ("label", "pack"),
            ("inspect", "pack", "--html", "inspect.html", "--images"),
            ("train", "--stage", 1, *MODEL, *pack, "--out", "runs/a"),
            ("train", "--stage", 1, *MODEL, *pack, "--out", "runs/b", "--seed", 1),
            ("predict", "--run", "runs/a", *pack, "--split", "test", "--out", "test.parquet", "--device", "cpu"),
            ("evaluate", "test.parquet", *pack, "--draws", 5),
            ("calibrate", "test.parquet", *fitted, *pack, "--out", "c.parquet"),
            ("compare", "runs", *pack, "--draws", 5, "--folds", 2, "--out", "compare.html"),
            ("report", "runs/a", *pack, "--images", "--evaluation", "test.metrics.json", "--out", "report.html"),
            ("explain", "--run", "runs/a", *pack, "--layer", "stages.2", "--images", 1, "--out", "maps"),
        ):
            said.append(done(folder, *line))
    finally:
        os.umask(before)
    return folder, said, table


def patients(table) -> re.Pattern:
    """Of their ids, but not as digits of a longer number."""
    return re.compile(rf"(?<![\d.])p?({'|'.join(table['subject_id'].unique())})(?!\d)")


def test_no_patient_is_named_in_what_is_said_and_in_no_page(job):
    folder, said, table = job
    named = patients(table)
    for each in said:
        assert not named.search(each.stdout + each.stderr), each.args
    pages = [*folder.rglob("*.html"), *folder.rglob("*.json"), *folder.rglob("*.csv"), *folder.rglob("events.*")]
    assert named.search((folder / "pack/rejects.csv").read_text())  # a path of MIMIC-CXR names its patient
    kept = [folder / "release", folder / "pack"]  # the data itself
    pages = [path for path in pages if not any(path.is_relative_to(place) for place in kept)]
    assert {path.suffix for path in pages} >= {".html", ".json", ".csv"} and len(pages) > 12
    for path in pages:
        assert not named.search(path.read_bytes().decode("latin-1")), path


def test_errors_name_images_and_no_patients(job, tmp_path):
    folder, _, table = job
    labels = folder / "release/cxr-lt-2023"
    rows = (labels / "train.csv").read_text().splitlines()
    first, others = rows[1], (labels / "test.csv").read_text().splitlines()
    (tmp_path / "both").mkdir()
    (tmp_path / "both/train.csv").write_text("\n".join(rows[:1] + rows[2:]))
    (tmp_path / "both/test.csv").write_text("\n".join([*others, first]))
    refused = call("label", folder / "pack", "--labels", "both", cwd=tmp_path)
    assert refused.returncode == 1 and "subjects in more than one split" in refused.stderr
    assert not patients(table).search(refused.stderr)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_world_cannot_open_a_pack_and_nobody_else_a_run_or_a_cache(job, tmp_path):
    folder, _, _ = job
    assert mode(folder / "pack") == 0o750 and mode(folder / "pack/catalog.parquet") == 0o644
    assert [mode(folder / name) for name in ("runs/a", "runs/b", "maps")] == [0o700] * 3
    cache = tmp_path / "above/cache"
    Cache(cache).dataset("1234", "s3://bucket/pack", b"{}")
    assert mode(cache) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    Cache(shared).dataset("1234", "s3://bucket/pack", b"{}")
    assert mode(shared) == 0o770  # a folder that was there keeps its owner's choice


@pytest.mark.parametrize(("umask", "allowed"), [(0o077, 0o700), (0o027, 0o750), (0o002, 0o775)])
def test_files_have_the_mode_that_the_umask_says(job, tmp_path, umask, allowed):
    folder, _, _ = job
    before = os.umask(umask)
    try:
        pack = ("--data", folder / "pack")
        done(tmp_path, "inspect", folder / "pack", "--html", "inspect.html")
        done(tmp_path, "evaluate", folder / "test.parquet", *pack, "--draws", 0, "--out", "m")
        done(tmp_path, "predict", "--run", folder / "runs/a", *pack, "--out", "p.parquet", "--device", "cpu")
        done(
            tmp_path,
            "shard",
            "--source",
            folder / "release",
            "--out",
            "pack",
            "--sizes",
            48,
            "--max-reject-fraction",
            0.1,
        )
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert mode(path) == allowed & 0o666, path
    assert mode(tmp_path / "pack") == allowed & 0o770
