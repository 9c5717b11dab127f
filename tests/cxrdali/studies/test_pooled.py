"""One table of several folders of a study: worked out by hand, against SciPy's paired t test, and what is refused."""

import json

import pytest
from scipy import stats

from cxrdali.runs.steps import Book, Step
from cxrdali.studies.pooled import pooled_table
from cxrdali.studies.table import study_table
from shards.errors import UserError
from shards.storage.sealed import read_json, sealed_json
from tests.cli.cli import call

# by folder: mAP of two runs and of their ensemble
MAP = {"r1": (0.30, 0.34, 0.35), "r2": (0.32, 0.33, 0.38), "r3": (0.40, 0.45, 0.41)}
RUNS, TABLES = ("a", "b"), ("a", "b", "both")
CLAIM = {
    "says": "", "higher": "both", "than": "a", "metric": "mAP", "split": "test", "printed": [], "scores": [0, 0],
    "difference": 0.0, "low": None, "high": None, "unit": "patient", "n": 1, "verdict": "not separable",
}  # fmt: skip


def folder(root, scores, title="Two runs", images=None, claims=(CLAIM,)):
    """A study's folder as its steps leave it: two runs and an ensemble, scored on test."""
    steps = []

    def step(name, out, content, needs=()):
        def do():
            (root / out).parent.mkdir(parents=True, exist_ok=True)
            (root / out).write_bytes(sealed_json(content))

        steps.append(Step(name, (out,), {}, needs, do))

    for name in RUNS:
        step(f"train {name}", f"{name}.json", {})
    for name, value in zip(TABLES, scores, strict=True):
        found = {
            "hashes": images or root.name,
            "labels": "nih",
            "all": {"findings": [{"finding": "Mass"}], "mAP": value},
        }
        step(f"evaluate {name} test", f"evaluations/{name}.test.json", found)
    step("claims", "claims.json", {"claims": list(claims)})
    record = {
        "title": title, "synthetic": True, "models": list(RUNS), "notes": ["a note"],
        "runs": {name: {"cell": name, "axes": {}, "repeat": "seed 0 fold 0"} for name in RUNS},
        "steps": [*(each.name for each in steps), *(f"evaluate {name} val" for name in RUNS)],
        "tables": [*({"name": name, "kind": "model", "of": name} for name in RUNS),
                   {"name": "both", "kind": "ensemble", "of": ""}],
    }  # fmt: skip
    root.mkdir()
    (root / "study.json").write_bytes(sealed_json(record))
    book = Book(root)
    for each in steps:
        book.make(each)
    return root


@pytest.fixture
def roots(tmp_path):
    return [folder(tmp_path / name, scores) for name, scores in MAP.items()]


def row_of(rows, **wanted):
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row


def test_folders_are_repeats_of_runs_and_of_ensembles(roots):
    found = pooled_table(roots)
    both = row_of(found["scores"], run="both", split="test", metric="mAP")
    assert both["values"] == {"r1": 0.35, "r2": 0.38, "r3": 0.41} and both["n"] == 3
    assert both["mean"] == pytest.approx(0.38) and both["sd"] == pytest.approx(0.03)
    a = row_of(found["scores"], run="a", split="test", metric="mAP")
    assert a["values"] == {name: scores[0] for name, scores in MAP.items()}
    less = row_of(found["differences"], run="b", split="test", metric="mAP")
    assert (less["against"], less["n"]) == ("a", 3)
    assert list(less["values"].values()) == pytest.approx([0.04, 0.01, 0.05])
    assert found["missing"][0]["name"] == "r1 a" and "r2: a note" in found["notes"]


def test_claims_are_judged_over_folders(roots):
    """Of an ensemble too, which has no seed in a single folder."""
    (claim,) = pooled_table(roots)["claims"]
    by_scipy = stats.ttest_rel([0.35, 0.38, 0.41], [0.30, 0.32, 0.40])
    ends = by_scipy.confidence_interval()
    assert list(claim["values"].values()) == pytest.approx([0.05, 0.06, 0.01]) and claim["n"] == 3
    assert [claim["low"], claim["high"]] == pytest.approx([ends.low, ends.high])
    assert claim["p"] == pytest.approx(by_scipy.pvalue) == claim["p_holm"]
    assert claim["verdict"] == "not separable" and claim["unit"] == "seed"
    assert claim["scores"] == pytest.approx([0.38, 0.34])


def test_holm_counts_all_differences_of_a_metric(roots):
    rows = [row for row in pooled_table(roots)["differences"] if row["split"] == "test"]
    ps = {row["run"]: row["p"] for row in rows}
    for row in rows:
        assert row["p"] == pytest.approx(stats.ttest_1samp(list(row["values"].values()), 0).pvalue)
    low, high = sorted(ps, key=ps.__getitem__)
    adjusted = {row["run"]: row["p_holm"] for row in rows}
    assert adjusted == pytest.approx({low: 2 * ps[low], high: max(2 * ps[low], ps[high])})


def test_a_claim_of_unlike_images_is_not_measured(tmp_path):
    root = folder(tmp_path / "r1", MAP["r1"])
    path = root / "evaluations" / "both.test.json"
    path.write_bytes(sealed_json({**read_json(path), "hashes": "others"}))
    (claim,) = pooled_table([root])["claims"]
    assert (claim["n"], claim["difference"], claim["verdict"]) == (0, None, "not separable")


def test_other_studies_and_names_that_clash_are_refused(tmp_path, roots):
    other = folder(tmp_path / "other", MAP["r1"], title="Another")
    with pytest.raises(UserError, match="other: holds another study than r1, or other runs; pool folders of one file"):
        pooled_table([*roots, other])
    with pytest.raises(UserError, match="each is a repeat; rename those that are called alike"):
        pooled_table([roots[0], roots[0]])
    with pytest.raises(UserError, match="no study was begun there"):
        pooled_table([*roots, tmp_path])


def test_the_command_writes_the_pooled_table(tmp_path, roots):
    file = tmp_path / "two.toml"
    file.write_text('[runs.a]\nrecipe = "model0"\n')
    over = [text for root in roots for text in ("--over", str(root))]
    ended = call("study", file, "--table", *over, "--out", tmp_path / "pooled", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "both  test   3  0.380 ± 0.030" in ended.stdout and "3 pairs" in ended.stdout
    stored = json.loads((tmp_path / "pooled" / "table.json").read_text())
    assert stored["claims"] == json.loads(json.dumps(pooled_table(roots)["claims"]))
    assert "3 pairs" in (tmp_path / "pooled" / "table.md").read_text()
    assert call("study", file, *over, cwd=tmp_path).returncode == 2
    assert study_table(roots[0])["claims"][0]["unit"] == "patient", "a folder keeps its own"
