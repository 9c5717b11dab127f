"""The arithmetic of `benchmarks.effects`, against SciPy's own tests and values computed by hand, and its pages."""

import json

import numpy as np
import pytest
from scipy import stats

from benchmarks.effects.arms import ARMS, NETWORK, REPLICATES, SWEPT
from benchmarks.effects.effects import Bench, next_rate, todo
from benchmarks.effects.page import DOCS, TITLES, picture, section
from benchmarks.effects.replicate import replicate
from benchmarks.effects.statistics import EQUIVALENT, HIGHER, LOWER, OPEN, paired, verdicts
from benchmarks.results import RESULTS
from cxrdali.runs.layout import LAST

WHERE = {"cpu": "a CPU", "cores": 2, "gpu": None, "command": "it", "commit": "0123456789"}


def test_paired_differences_are_scipys_t_tests():
    before, after = np.array([0.31, 0.28, 0.33, 0.30, 0.29]), np.array([0.318, 0.283, 0.334, 0.309, 0.291])
    found, scipys = paired(after - before, 0.01), stats.ttest_rel(after, before)
    interval = scipys.confidence_interval(0.95)
    assert found.p == pytest.approx(scipys.pvalue) and found.mean == pytest.approx(0.005)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    inside = [
        stats.ttest_1samp(after - before, bound, alternative=side).pvalue
        for bound, side in ((-0.01, "greater"), (0.01, "less"))
    ]
    assert found.p_outside == pytest.approx(max(inside))
    mirrored = paired(before - after, 0.01)
    assert (mirrored.p, mirrored.p_outside, mirrored.high) == pytest.approx((found.p, found.p_outside, -found.low))


def test_a_known_interval_by_hand():
    """Differences 1 to 5: mean 3, sd sqrt(2.5), error sqrt(0.5), and t(0.975, 4) = 2.7764451."""
    found = paired([1, 2, 3, 4, 5], 1)
    reach = 2.7764451 * 0.5**0.5
    assert (found.low, found.high) == pytest.approx((3 - reach, 3 + reach))
    assert found.p_outside == pytest.approx(1 - stats.t.sf(2 / 0.5**0.5, 4))


def test_the_words_follow_both_families():
    up, down = [0.02, 0.021, 0.019, 0.02, 0.022], [-0.02, -0.021, -0.019, -0.02, -0.022]
    same, wide = [0.0001, -0.0002, 0.0003, -0.0001, 0.0], [0.03, -0.02, 0.01, -0.03, 0.02]
    found = [paired(each, 0.005) for each in (up, down, same, wide)]
    assert verdicts(found) == [HIGHER, LOWER, EQUIVALENT, OPEN]
    one = paired([0.004, 0.012, 0.008, 0.003, 0.011], 0.005)  # p 0.014
    assert verdicts([one]) == [HIGHER] and verdicts([one, *[paired(wide, 0.005)] * 9])[0] == OPEN


def test_the_rate_is_searched_from_the_middle_to_the_better_side():
    assert [next_rate({}), next_rate({3e-3: 0.1}), next_rate({3e-3: 0.1, 9e-3: 0.2})] == [3e-3, 9e-3, 27e-3]
    assert next_rate({3e-3: 0.2, 9e-3: 0.1}) == 1e-3 and next_rate({3e-3: 0.2, 9e-3: 0.1, 1e-3: 0.3}) is None


def test_what_was_done_is_not_done_again_and_a_round_ends_before_the_next_begins():
    rows: list[dict] = []
    order = []
    for arm, number, rate, _ in todo(rows):
        ap = (
            {"Edema": 0.5 - abs(rate - 9e-3)} if rate else {"Edema": 0.5}
        )  # the best is 9e-3, and what is tried last is not
        rows.append({"arm": arm.name, "replicate": number, "rate": rate, "ap": ap, "positives": {"Edema": [90, 60]}})
        order.append((arm.name, number, rate))
    assert order[:4] == [("bce", 0, 3e-3), ("bce", 0, 9e-3), ("bce", 0, 27e-3), ("bce-weighted", 0, 3e-3)]
    assert len(set(order)) == len(order) and list(todo(rows)) == []
    assert {rate for _, number, rate in order if number} == {9e-3, None}
    assert order.index(("best member", 5, None)) < order.index(("asl", 0, 3e-3))
    again = [(arm.name, number) for arm, number, *_ in todo(rows[:-1])]
    assert again == [("cb-focal", 5)]


def rows_of(aps: dict[str, list[list[float]]]) -> list[dict]:
    """Rows of arms in REPLICATES with AP [replicate][finding] of Edema (10 % of the images), Mass (5 %), Fibrosis and
    Hernia (0.5 %) and Nodule, of which too few are held out."""
    positives = {"Edema": (100, 100), "Mass": (50, 60), "Fibrosis": (5, 60), "Hernia": (5, 70), "Nodule": (50, 59)}
    return [
        {
            "arm": arm, "replicate": number, "rate": 0.003, "train_images": 1000, "positives": positives,
            "ap": dict(zip(positives, each, strict=True)), "environment": WHERE,
        }
        for arm, found in aps.items()
        for number, each in zip(REPLICATES, found, strict=True)
    ]  # fmt: skip


@pytest.fixture
def by_hand() -> tuple[list[dict], np.ndarray]:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.2, 0.4, (5, 5))
    apart = 0.05 + rng.normal(0, 0.002, (5, 5))
    apart[:, 4] = -9.0  # of the finding that does not count
    return rows_of({"bce": before.tolist(), "scale": (before + apart).tolist()}), apart[:, :4]


def test_the_table_is_what_the_rows_give(by_hand):
    rows, apart = by_hand
    page = section(rows, "effects-losses")
    (whole, tail) = [each.split(" | ") for each in page.splitlines() if each.startswith("| **scale alone**")]
    for cells, found in ((whole, apart), (tail, apart[:, 2:])):
        test = stats.ttest_1samp(found.mean(axis=1), 0)
        interval = test.confidence_interval()
        rest = [np.delete(found, place, axis=1).mean() for place in range(found.shape[1])]
        assert cells[3] == f"{found.mean():+.4f}"
        assert cells[4] == f"{interval.low:+.4f} to {interval.high:+.4f}"
        assert cells[6] == f"{min(rest):+.4f} to {max(rest):+.4f}"
        assert cells[7] == ", ".join(f"{each:+.4f}" for each in found.mean(axis=1)) and cells[8] == "higher |"
    assert "**Higher:** scale alone (all); scale alone (tail)." in page and "**Lower:**" not in page
    assert "LDAM-DRW against plain BCE; " in page.split("**Not measured:**")[1].split("\n")[0]
    assert "fewer than 60 held-out positives in a replicate: Nodule (59)." in page
    means = next(each for each in page.splitlines() if each.startswith("| **tail**")).split(" | ")
    assert means[3] == f"{np.mean([[row['ap'][n] for n in ('Fibrosis', 'Hernia')] for row in rows[:5]]):.3f}"


def test_nothing_is_equivalent_within_a_margin_of_half_the_score():
    """Fibrosis and Hernia, the tail, have an AP of 0.018: less than twice the margin of 0.01."""
    ap = np.tile([0.5, 0.5, 0.018, 0.018, 0.5], (5, 1)) + np.linspace(-1e-5, 1e-5, 5)[:, None] ** 2
    rows = rows_of({"bce": ap.tolist(), "scale": (ap + np.linspace(-1e-4, 1e-4, 5)[:, None]).tolist()})
    page = section(rows, "effects-losses")
    assert "**Equivalent:** scale alone (all)." in page and "**Not separable:** scale alone (tail)." in page


def test_the_sixth_replicate_is_in_no_table(by_hand):
    rows, _ = by_hand
    swept = [{**rows[0], "replicate": SWEPT, "ap": dict.fromkeys(rows[0]["ap"], 0.99)}]
    assert section([*swept, *rows], "effects-losses") == section(rows, "effects-losses")


@pytest.mark.parametrize("page", TITLES)
def test_the_committed_pages_and_pictures_are_of_the_committed_rows(page, tmp_path):
    rows = [json.loads(line) for line in (RESULTS / "effects.jsonl").read_text().splitlines()]
    assert section(rows, page) in (DOCS / f"{page}.md").read_text()
    picture(rows, page, tmp_path / "new.svg")
    drawn, committed = (path.read_text() for path in (tmp_path / "new.svg", DOCS / f"{page}.svg"))
    assert drawn.count("<path") == committed.count("<path")


@pytest.mark.slow
def test_a_replicate_trains_on_one_half_and_is_scored_on_the_other(tmp_path, monkeypatch):
    for name, value in {"limit_batches": 2, "size": 32, "batch": 8, "folds": 2, "epochs": 6}.items():
        monkeypatch.setitem(NETWORK, name, value)
    monkeypatch.setattr("benchmarks.effects.replicate.SIZE", 32)
    (dataset, first), (_, other) = replicate(tmp_path, 0, studies=80), replicate(tmp_path, 1)
    subjects = dataset.catalog["subject_id"].to_numpy()
    parts = {name: set(subjects[first.split == name]) for name in ("train", "dev", "test")}
    assert parts["test"] == set(subjects[other.split == "train"]) and not parts["test"] & parts["train"]
    assert parts["dev"] == set(subjects[other.split == "dev"]) and len(parts["dev"]) > 0
    bench = Bench(tmp_path, 0, {"bce": 0.003})
    found = bench.measured(ARMS["bce"], 0.003)
    assert bench.settings(ARMS["drw"], 0.003).loss.cb_beta == 1 - 1 / found["train_images"]
    assert bench.settings(ARMS["bce-crt"], 0.003).model.init == str(bench.folder("bce") / LAST)
    assert set(found["ap"]) == {name for name, (_, held_out) in found["positives"].items() if held_out}
    assert found["held_out_images"] == (first.split == "test").sum()
    assert bench.measured(ARMS["bce, views"], None)["rate"] is None
