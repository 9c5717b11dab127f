"""The shipped study of stages: what its arms are, and that its page says what was measured."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cxrdali.runs import recipes
from cxrdali.studies.expand import expand, groups
from cxrdali.studies.reader import read_study
from cxrdali.studies.shipped import names
from shards.storage.sealed import read_json

ROOT = Path(__file__).parents[3]
ARMS = ("stages", "schedule", "images", "seconds")
DROP, EMA = {"drop_path": 0.1}, {"ema_half_life": 2000.0, "ema_warmup": True}
HOW = {"off": {}, "on": DROP | EMA}


@cache
def planned():
    return expand(read_study(names()["stages"]), recipes.load(None))


def settings_of(name):
    return planned()[name].recipe.resolve(Path("runs"))[0]


@pytest.mark.parametrize("seed", [0, 2])
def test_arms_have_as_many_images_of_each_size(seed):
    chain = [settings_of(f"{name}-off-seed{seed}") for name in ("first", "second", "stages")]
    (one, whole, short) = (settings_of(f"{name}-off-seed{seed}") for name in ARMS[1:])
    assert [(each.data.size, each.optimizer.epochs) for each in chain] == [(32, 4), (48, 4), (64, 4)]
    assert [(each.size, each.epochs) for each in one.segments] == [(32, 4), (48, 4), (64, 4)]
    assert {each.optimizer.batch for each in (*chain, one, whole, short)} == {32}
    assert [(each.data.size, each.optimizer.epochs) for each in (whole, short)] == [(64, 12), (64, 8)]


@pytest.mark.parametrize("name", ["first", "second", *ARMS])
def test_arms_differ_in_the_average_and_drop_path_alone(name):
    off = settings_of(f"{name}-off-seed1").flat()
    for how, added in HOW.items():
        found = settings_of(f"{name}-{how}-seed1")
        changed = {key: value for key, value in found.flat().items() if off[key] != value and key != "init"}
        grows = {"grow_from": 0.0} if name == "schedule" and "drop_path" in added else {}
        assert changed == {**added, **grows}
        before = {"second": f"runs/first-{how}-seed1", "stages": f"runs/second-{how}-seed1"}
        assert found.model.init == before.get(name)


def test_each_question_has_the_same_arms_on_both_sides():
    every = {name: (settings_of(name), {}) for name in planned() if "-seed" in name}
    found, _ = groups(read_study(names()["stages"]), every)

    def said(name, position):
        return [each.split("-")[position] for each in found[name]]

    assert all(said(arm, 0) == [arm] * 6 and said(arm, 1) == ["off"] * 3 + ["on"] * 3 for arm in ARMS)
    assert said("on", 0) == said("off", 0) == [arm for arm in ARMS for _ in range(3)]
    assert {*said("on", 1)} == {"on"} and {*said("off", 1)} == {"off"}


def test_the_page_has_the_measured_numbers():
    found = read_json(ROOT / "benchmarks" / "results" / "stages-study.json")
    text = (ROOT / "docs" / "stages.md").read_text()
    assert not found["missing"]
    on_test = {row["run"]: row for row in found["scores"] if (row["split"], row["metric"]) == ("test", "mAP")}
    for arm in ARMS:
        rows = [on_test[f"{arm}-{how}"] for how in HOW]
        assert all(row["n"] == 3 for row in rows)
        cells = " | ".join("{mean:.3f} ± {sd:.3f}".format(**row) for row in rows)
        assert f"| {arm} | {cells} |" in text

    def signed(value):
        return f"{value:+.3f}".replace("-", "−")

    questions = [(claim["higher"], claim["than"]) for claim in found["claims"]]
    tests = [stats.ttest_1samp(side(higher, on_test) - side(than, on_test), 0) for higher, than in questions]
    for (higher, than), test, p in zip(questions, tests, holm([test.pvalue for test in tests]), strict=True):
        ends = test.confidence_interval()
        mean = (side(higher, on_test) - side(than, on_test)).mean()
        row = f"| {higher} − {than} | {signed(mean)} ({signed(ends.low)} to {signed(ends.high)}) | {p:.3f} |"
        assert row in text, row


def side(name, on_test):
    """mAP of an arm by seed, float [3], its mean over off and on; of "off" or "on" the mean over arms."""
    cells = [f"{name}-{how}" for how in HOW] if name in ARMS else [f"{arm}-{name}" for arm in ARMS]
    return np.mean([list(on_test[cell]["values"].values()) for cell in cells], axis=0)


def holm(values):
    """Holm's adjusted p, by his definition."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    found, before = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        before = found[place] = max(before, min(1.0, (len(values) - rank) * values[place]))
    return found


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
