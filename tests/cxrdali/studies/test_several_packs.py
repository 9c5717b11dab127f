"""A study of two packs: runs on one, on both, and predictions of either on each pack alone."""

import numpy as np
import pandas as pd
import pytest

from cxrdali.predictions import read
from cxrdali.runs.config_file import read_config
from cxrdali.runs.steps import Book
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.reader import read_study
from cxrdali.studies.shipped import write_record
from cxrdali.studies.work import Part, work
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.cxrdali.studies.small import SETTINGS

pytestmark = pytest.mark.slow

TEXT = (
    SETTINGS
    + """[packs]
mimic = "mimic"
nih = "nih"
[runs.both]
[runs.mimic]
packs = "mimic"
[[predict]]
of = ["both", "mimic"]
pack = "mimic"
splits = ["val", "test"]
[[predict]]
of = ["both", "mimic"]
pack = "nih"
splits = "test"
[[comparisons]]
name = "away"
tables = ["mimic@nih", "both@nih"]
[[comparisons]]
name = "seeds"
runs = ["mimic", "both"]
by = "seed"
[[claims]]
higher = "both@mimic"
than = "mimic@mimic"
split = "test"
"""
)


def test_runs_of_one_and_of_both_packs_are_judged_on_each(dataset, nih, tmp_path):
    (tmp_path / "two.toml").write_text(TEXT)
    packs, study, root = {"mimic": dataset, "nih": nih}, read_study(tmp_path / "two.toml"), tmp_path / "out"
    root.mkdir()
    mixed = "[[ensembles]]\nname = 'mixed'\nmembers = ['mimic@mimic', 'mimic@nih']\n"
    (tmp_path / "mixed.toml").write_text(TEXT + mixed)
    with pytest.raises(UserError, match=r"line \d+: members of mixed are of several datasets"):
        make_plan(root, packs, read_study(tmp_path / "mixed.toml"), {}, StudyOptions(draws=0))
    unlike = TEXT.replace('higher = "both@mimic"', 'higher = "both@nih"')
    (tmp_path / "unlike.toml").write_text(unlike)
    with pytest.raises(UserError, match=r"line \d+: both sides are to have the same images and labels"):
        make_plan(root, packs, read_study(tmp_path / "unlike.toml"), {}, StudyOptions(draws=0))

    def plan():
        return make_plan(root, packs, study, {}, StudyOptions(draws=0))

    steps = plan().steps
    write_record(root, plan().record)
    found = work(Book(root), steps, steps, Part())
    assert (found.failed, found.blocked, found.done) == ({}, [], len(steps))
    assert [each["name"] for each in read_config(root / "runs" / "both")["dataset"]["packs"]] == ["mimic", "nih"]
    assert "packs" not in read_config(root / "runs" / "mimic")["dataset"]
    one, other = (read(root / f"predictions/{name}@mimic.val.parquet") for name in ("both", "mimic"))
    assert list(one.ids["image_id"]) == list(other.ids["image_id"]), "each validates on the same images of a pack"
    away = read(root / "predictions" / "mimic@nih.test.parquet")
    assert set(away.ids["image_id"]) <= set(nih.catalog["image_id"])
    compared = read_json(root / "comparisons" / "away.test.json")
    assert [row["name"] for row in compared["runs"]] == ["mimic@nih.test", "both@nih.test"]
    scores = {name: read_json(root / f"evaluations/{name}@mimic.test.json")["all"]["mAP"] for name in ("both", "mimic")}
    seeds = read_json(root / "comparisons" / "seeds.json")
    own = {row["run"]: row["mean"] for row in seeds["scores"] if row["metric"] == "mAP"}
    last = {run: pd.read_csv(root / "runs" / run / "metrics.csv")["mAP"].iloc[-1] for run in ("mimic", "both")}
    assert own == pytest.approx(last, rel=1e-4), "each on its own validation images"
    assert seeds["differences"] == [] and "no differences of runs that validate on other packs" in plan().notes[-1]
    (claim,) = read_json(root / "claims.json")["claims"]
    np.testing.assert_allclose(claim["scores"], [scores["both"], scores["mimic"]])
    assert claim["difference"] == pytest.approx(scores["both"] - scores["mimic"])
    assert set(Book(root).plan(plan().steps).values()) == {None}
