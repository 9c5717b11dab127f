"""`cxrdali overlap`: what it prints and writes, and training with it."""

import pandas as pd
import pytest

from tests.cli.cli import run
from tests.cxrdali.two_packs import two_packs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("packs")
    two_packs(root, each=2)
    return root


def test_it_counts_lists_and_leaves_out(folder, tmp_path):
    cache = tmp_path / "cache"
    done = run("overlap", "home", "away", "--out", tmp_path / "o.csv", cwd=folder, CXRDALI_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "exact: 2 pairs: 2 images of home and 2 images of away (compared at 192 px)"
    assert lines[1] == "near: 20 pairs: 20 images of home and 20 images of away (compared at 192 px)"
    assert lines[2].startswith("home: 22 images of ") and " train, " in lines[2]
    assert lines[3].startswith("away: 22 images of 22 patients; of table: 17 train, 0 dev, 5 test")
    assert lines[-1] == f"next: cxrdali train --data home --exclude {tmp_path / 'o.csv'} ..."
    assert len(list((cache / "likeness").glob("*.npy"))) == 2
    table = pd.read_csv(tmp_path / "o.csv", dtype=str)
    assert list(table)[:4] == ["pack_a", "image_id_a", "pack_b", "image_id_b"] and len(table) == 22
    options = "--stage 1 --size 192 --batch 16 --epochs 1 --arch test_byobnet --no-pretrained --device cpu"
    train = ("train", "--data", "home", "--out", tmp_path / "run", "--exclude", tmp_path / "o.csv", *options.split())
    done = run(*train, "--limit-batches", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stdout


def test_names_tell_packs_apart(folder, tmp_path):
    done = run("overlap", "A=home", "B=away", "--exact-only", cwd=folder)
    assert done.returncode == 0 and "2 images of A and 2 images of B" in done.stdout
    assert "next: cxrdali overlap A=home B=away --out overlap.csv, then cxrdali train" in done.stdout
    done = run("overlap", "home", "away", "--exact-only", "--out", tmp_path / "of two.csv", cwd=folder)
    assert f"--exclude '{tmp_path}/of two.csv' ..." in done.stdout
    done = run("overlap", "home", "home", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "error: home: is given twice; give each pack once\n")
    done = run("overlap", "home", "away", "--out", tmp_path / "no" / "o.csv", cwd=folder)
    assert done.returncode == 1 and "no such folder" in done.stderr
