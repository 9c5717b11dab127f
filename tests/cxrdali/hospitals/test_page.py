"""docs/several-hospitals.md: its commands run as printed, one after the other, and give what it says."""

import json
import re
import shlex

import pandas as pd
import pytest

from tests.cli.cli import ROOT, done

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The folder in which the page was followed, and what each command said, by its name."""
    folder, found = tmp_path_factory.mktemp("page"), {}
    text = (ROOT / "docs" / "several-hospitals.md").read_text()
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language == "toml":
            (folder / "map.toml").write_text(code)
        elif language == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                assert words[0] == "cxrdali", line
                found.setdefault(words[1], []).append(done(folder, *words[1:]).stdout)
    return folder, found


def test_the_copies_are_listed(said):
    folder, found = said
    listed = pd.read_csv(folder / "overlap.csv", comment="#")
    planted = pd.read_csv(folder / "releases" / "clinic" / "synthetic-copies.csv")
    pairs = {*zip(listed["image_id_a"], listed["image_id_b"], strict=True)}
    wanted = {*zip(planted["copy_of"], planted["image_id"], strict=True)}
    assert wanted == pairs and len(planted) >= 20 and "near:" in found["overlap"][0]


def test_the_run_left_the_copies_out_and_so_does_the_next_stage(said):
    folder, found = said
    config = json.loads((folder / "runs" / "both" / "config.json").read_text())
    assert [pack["name"] for pack in config["dataset"]["packs"]] == ["university", "clinic"]
    assert config["excluded"]
    assert " --exclude overlap.csv " in next(
        line for line in found["train"][0].splitlines() if line.startswith("next: ")
    )


def test_the_card_of_the_run_names_its_packs_and_the_list(said):
    folder, _ = said
    done(folder, "export", "runs/both", "--to", "card", "--out", "card.md")
    card = (folder / "card.md").read_text()
    assert "| exclude | overlap.csv |" in card and "| Pack university |" in card and "| Pack clinic |" in card


def test_home_and_away_have_the_findings_in_common(said):
    folder, _ = said
    result = json.loads((folder / "runs" / "both.external" / "external.json").read_text())
    assert {"external.csv", "external.html"} <= {path.name for path in (folder / "runs" / "both.external").iterdir()}
    assert "Pleural Effusion" in json.dumps(result) and "Rib fracture" in json.dumps(result)


def test_groups_are_scored(said):
    folder, _ = said
    groups = json.loads((folder / "coast-groups.json").read_text())["groups_by"]
    assert [part["by"] for part in groups["dimensions"]] == ["sex", "age", "scanner", "sex*age"]
