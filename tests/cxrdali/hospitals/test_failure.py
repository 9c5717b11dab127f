"""A group in which a finding does not show, although the labels have it, is the worst one by every score."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from shards.renditions.rendition import Size
from shards.synthetic.facts import FREQUENCIES
from shards.synthetic.hospital import open_hospital
from shards.synthetic.plan import SyntheticOptions
from tests.cli.cli import done
from tests.cxrdali.hospitals.packs import place
from tests.faults.trainers import ARCH

pytestmark = pytest.mark.slow

FEW = {**dict.fromkeys(FREQUENCIES, 0.0), "Pleural Effusion": 0.5, "Cardiomegaly": 0.3}
SMALL = [
    "--size",
    48,
    "--batch",
    24,
    "--epochs",
    10,
    "--lr",
    3e-3,
    "--arch",
    ARCH,
    "--no-pretrained",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """The evaluation of a small network, trained at the coast on two findings, on later patients."""
    root = tmp_path_factory.mktemp("failure")
    hospital = replace(open_hospital("coast"), shares=FEW, views={"PA": 1.0})
    for name, studies, seed in (("coast", 1200, 3), ("later", 500, 4)):
        place(root, name, SyntheticOptions(studies, 64, seed, hospital=hospital), Size(48))
    done(root, "train", "--stage", 1, *SMALL, "--data", "coast", "--out", "run")
    done(
        root,
        "predict",
        "--run",
        "run",
        "--data",
        "later",
        "--split",
        "all",
        "--out",
        "later.parquet",
        "--device",
        "cpu",
    )
    by = ["--by", "sex,age,scanner,sex*age", "--age-bins", 60, "--draws", 200]
    done(root, "evaluate", "later.parquet", "--data", "later", "--out", "scores", *by)
    return json.loads((root / "scores.json").read_text())["groups_by"]


@pytest.mark.parametrize("measure", ["mAP", "macro_AUROC"])
def test_the_planted_failure_is_the_worst_group(scores, measure):
    worst = next(row for row in scores["worst"]["means"] if row["metric"] == measure)
    assert (worst["by"], worst["group"]) == ("sex*age", "F, 60 and over"), worst
    assert worst["high"] < 0 and worst["p_holm"] < 0.05


def test_it_is_effusion_that_fails_and_no_other_finding(scores):
    (crossed,) = (part for part in scores["dimensions"] if part["by"] == "sex*age")
    groups = {row["group"]: pd.DataFrame(row["findings"]).set_index("finding")["AUROC"] for row in crossed["groups"]}
    failed = groups.pop("F, 60 and over")
    known = [each["Fluid in the pleura"] for each in groups.values() if each["Fluid in the pleura"] is not None]
    assert failed["Fluid in the pleura"] < 0.65 and min(known) > failed["Fluid in the pleura"] + 0.15
    assert failed["Enlarged heart"] > 0.8


def test_machines_do_not_fail_where_nothing_was_planted(scores):
    (by,) = (part for part in scores["dimensions"] if part["by"] == "scanner")
    assert {row["group"] for row in by["groups"]} == {"Brixen Film 70", "Ossum K"}
    assert all(row["p_holm"] > 0.05 for row in by["gaps"])
