"""The study of both papers' effects: what its file asks, and that its pages are of the committed numbers."""

import tomllib

import pytest

from benchmarks.effects import SEEDS, STUDY
from benchmarks.pages.effects import ROOT, STAGES, TITLES, claims_of, picture, section
from benchmarks.results import RESULTS
from cxrdali.runs import recipes
from cxrdali.studies.expand import expand
from cxrdali.studies.reader import read_study
from shards.storage.sealed import read_json

FILE = RESULTS / "effects.json"


def claim(says, higher, difference, p, values=(0.04, 0.05)):
    ends = {"low": None, "high": None} if p is None else {"low": difference - 0.01, "high": difference + 0.01}
    return {
        "says": says, "higher": higher, "than": "bce", "metric": "mAP", "split": "test", "scores": [0.34, 0.2951],
        "difference": difference, "p": p, "values": dict(enumerate(values)), **ends,
    }  # fmt: skip


def test_a_page_is_what_the_claims_say():
    """Holm's adjustment over the three claims of the page that were measured: 3 x 0.0001, 2 x 0.0156, 0.05."""
    claims = [
        claim("ASL", "asl", 0.0451, 0.0156), claim("DRW", "drw", -0.0102, 0.0001), claim("margin", "ldam", 0.02, 0.05),
        claim("cRT", "bce-crt", None, None), claim("views", "bce-views", 0.01, 0.01),
    ]  # fmt: skip
    scores = [{"run": "asl", "split": "test", "metric": "mAP", "mean": 0.3401, "sd": 0.0123}]
    where = {"cpu": "x", "cores": 2, "gpu": None, "commit": "abcdef0123", "command": "c"}
    page = section({"claims": claims, "scores": scores, "environment": where}, "effects-losses")
    row = "| **ASL** (asl less bce) | all | 0.2951 | +0.0451 | +0.0351 to +0.0551 | 0.031 | +0.0400, +0.0500 | higher |"
    assert row in page.splitlines()
    assert "**Higher:** ASL (all)." in page and "**Lower:** DRW (all)." in page
    assert "**Not separable:** margin (all)." in page, "p of 0.05 is not below 0.05"
    assert "**Not measured:** cRT (all)." in page and "views" not in page
    assert "| all | not measured | 0.340 ± 0.012 |" in page and "`benchmarks/results/effects.json`" in page


def test_runs_differ_in_what_their_line_says_and_in_their_rate():
    runs = expand(read_study(STUDY), recipes.load(None))
    settings = {name: planned.recipe.settings for name, planned in runs.items() if planned.table == name}
    plain = settings["bce"]
    for name in ("bce-weighted", "scale", "ldam", "ldam-cosine", "drw", "ldam-drw", "asl", "cb-focal"):
        other = {key for key in {*plain, *settings[name]} if plain.get(key) != settings[name].get(key)}
        allowed = {"lr", "loss", "head", "pos_weight", "ldam_margin", "drw_epoch", "cb_beta", "cb_terms"}
        assert other <= allowed, name
    steps = [
        settings[name]["batch"] * settings[name]["limit_batches"] for name in ("bce", "large-images", "large-steps")
    ]
    assert steps == [3200, 3200, 6400]


def test_every_claim_is_of_a_page_and_asked_of_all_findings_and_of_the_rare():
    claims = tomllib.loads(STUDY.read_text())["claims"]
    asked = {(each["higher"], each["than"]) for each in claims}
    assert len(claims) == 2 * len(asked) and {each["metric"] for each in claims} == {"mAP", "mAP_tail"}
    assert set(STAGES) <= {each["higher"] for each in claims} and {each["split"] for each in claims} == {"test"}


@pytest.mark.parametrize("page", TITLES)
def test_the_committed_pages_and_pictures_are_of_the_committed_numbers(page, tmp_path):
    found = read_json(FILE)
    assert {len(each["values"]) for each in claims_of(found, page)} == {len(SEEDS)}
    assert section(found, page) in (ROOT / "docs" / f"{page}.md").read_text()
    picture(found, page, tmp_path / "new.svg")
    drawn, committed = (path.read_text() for path in (tmp_path / "new.svg", ROOT / "docs" / f"{page}.svg"))
    assert drawn.count("<path") == committed.count("<path")
