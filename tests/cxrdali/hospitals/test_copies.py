"""Copies that one hospital holds of another: all are found, a run that would be judged on them is refused, and the list
that the refusal asks for mends it."""

import json
import re
import shlex

import pandas as pd
import pytest

from tests.cli.cli import call, done
from tests.cxrdali.hospitals.packs import write_map
from tests.faults.trainers import ARCH

pytestmark = pytest.mark.slow

SMALL = ["--stage", 1, "--size", 48, "--batch", 24, "--epochs", 1, "--arch", ARCH, "--no-pretrained", "--device", "cpu"]


@pytest.mark.parametrize("name", ["clinic", "coast"])
def test_all_planted_copies_are_found_and_nobody_else_s_image(hospitals, tmp_path, name):
    home, other = hospitals["university"], hospitals[name]
    done(tmp_path, "overlap", home.pack, other.pack, "--out", "pairs.csv")
    listed = pd.read_csv(tmp_path / "pairs.csv", comment="#")
    found = {*zip(listed["image_id_a"], listed["image_id_b"], strict=True)}
    planted = pd.read_csv(other.release / "synthetic-copies.csv")
    wanted = {*zip(planted["copy_of"], planted["image_id"], strict=True)}
    original = planted.set_index("image_id")["copy_of"]
    assert wanted <= found and len(wanted) >= 6
    for of, image in found - wanted:  # two films of one patient
        assert home.studies[of].subject == home.studies[original[image]].subject


def test_a_run_with_copies_among_test_images_is_refused_and_the_list_mends_it(hospitals, tmp_path):
    packs = [word for name in ("university", "coast") for word in ("--data", hospitals[name].pack)]
    train = ["train", *SMALL, *packs, "--findings", write_map(tmp_path / "map.toml"), "--limit-batches", 2]
    result = call(*train, "--out", "run", cwd=tmp_path)
    assert result.returncode == 1 and "test images of university are training images of coast" in result.stderr
    (command,) = re.findall(r"`cxrdali (.*?)`", result.stderr)
    done(tmp_path, *shlex.split(command))
    result = done(tmp_path, *train, "--out", "run", "--exclude", "overlap.csv")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["excluded"] and "overlap.csv: " in result.stdout + result.stderr


def test_the_run_with_its_copies_goes_on_where_that_is_allowed(hospitals, tmp_path):
    packs = [word for name in ("university", "coast") for word in ("--data", hospitals[name].pack)]
    done(tmp_path, "train", *SMALL, *packs, "--out", "run", "--limit-batches", 1, "--allow-leak")
