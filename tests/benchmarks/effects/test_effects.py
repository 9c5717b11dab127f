"""The benchmark of the paper's effects: its arithmetic on cases worked by hand, its flow at a tiny size, its page."""

import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from benchmarks.effects import effects
from benchmarks.effects.effects import (
    EFFECTS,
    LABELS,
    MODELS,
    QUICK,
    effect_rows,
    interval,
    measure,
    threshold,
    verdict,
)
from benchmarks.results import RESULTS
from cxrdali import predictions
from shards.dataset.packed import PackedDataset
from tests.benchmarks.test_benchmarks import ROOT

TABLES = (*(model.name for model in MODELS), "model2-plain", "model3-views", "ensemble", "ensemble-views")


def test_an_interval_is_student_s():
    found = interval([0.01, 0.02, 0.03])
    reach = 4.302653 * 0.01 / math.sqrt(3)  # t of 2 degrees of freedom, from a printed table
    assert found == pytest.approx({"mean": 0.02, "sd": 0.01, "low": 0.02 - reach, "high": 0.02 + reach}, abs=1e-6)
    assert interval([0.5]) == {"mean": 0.5, "sd": None, "low": None, "high": None}


@pytest.mark.parametrize(
    "low, high, claim, word",
    [
        (0.001, 0.02, "gain", "seen"),
        (-0.001, 0.02, "gain", "not seen"),
        (-0.02, -0.001, "gain", "opposite"),
        (None, None, "gain", "not seen"),
        (-0.009, 0.004, "free", "seen"),  # a loss of 0.01 is excluded
        (-0.011, 0.004, "free", "not seen"),
        (-0.009, -0.001, "free", "opposite"),  # small, but a loss
        (None, None, "free", "not seen"),
        (0.001, 0.02, None, "higher"),
        (-0.02, -0.001, None, "lower"),
        (-0.02, 0.001, None, "neither"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(low, high, claim, word):
    assert verdict(low, high, claim) == word


def test_the_paper_s_figures_are_those_of_its_text():
    """Its text: 0.302 to 0.305 on development and 0.308 to 0.307 on test, +0.008 on both, +0.013 and +0.015 ..."""
    found = {name: [round(value, 3) for value in values] for name, values in effects.printed().items()}
    assert found["oversampling, all"] == [0.003, -0.001]
    assert found["view postprocess"] == [0.008, 0.008]
    assert found["ensemble of four"] == [0.013, 0.014]  # of rounded means it is 0.015
    assert found["large batch"] == [0.014, 0.042] and found["better first stage"] == [0.006, 0.006]
    assert found["cheap first stage"] == [0.001]
    # seven of the 26 findings are below 0.10, and the parts make the whole
    lowest, rest, every = (effects.printed()[f"oversampling, {part}"] for part in ("the lowest", "the rest", "all"))
    assert every == pytest.approx([(7 * few + 19 * others) / 26 for few, others in zip(lowest, rest, strict=True)])


def test_a_threshold_takes_in_a_share_of_the_findings_from_below():
    ap = {"a": 0.8, "b": 0.1, "c": 0.4, "d": 0.2, "not counted": 0.01}
    assert threshold(ap, ("a", "b", "c", "d"), 0.5) == pytest.approx(0.3)
    assert threshold(ap, ("a", "b", "c", "d"), 0.01) == pytest.approx(0.15)  # at least one
    assert threshold(ap, ("a", "b", "c", "d"), 1.0) == pytest.approx(0.6)  # never all


def test_every_effect_compares_the_tables_that_it_names():
    """The AP of table k is 2^-k for finding a, and half of that for b, so that a difference names its two tables."""
    place = {name: 2.0**-number for number, name in enumerate(TABLES)}
    tables = {name: {"a": value, "b": value / 2} for name, value in place.items()}
    val = {model.name: 0.1 for model in MODELS} | {"model1": 0.2, "model6": 0.3}
    rows = {row["effect"]: row for row in effect_rows([{"tables": tables, "val": val, "lowest": ["b", "other"]}])}

    def less(after, before, share=0.75):
        return pytest.approx([share * (place[after] - place[before])])

    assert list(rows) == [effect.name for effect in EFFECTS]
    assert rows["cheap first stage"]["per_seed"] == less("model2", "after-costly")
    assert rows["large batch"]["per_seed"] == less("model0", "model1")
    assert rows["better first stage"]["per_seed"] == less("after-model1", "model2")  # model1 was better
    assert rows["stage 2"]["per_seed"] == less("model2", "model0")
    assert rows["oversampling, all"]["per_seed"] == less("model3", "model2")
    assert rows["oversampling, the lowest"]["per_seed"] == less("model3", "model2", 0.5)
    assert rows["oversampling, the rest"]["per_seed"] == less("model3", "model2", 1.0)
    assert rows["hflip TTA"]["per_seed"] == less("model2", "model2-plain")
    assert rows["view postprocess"]["per_seed"] == less("model3-views", "model3")
    assert rows["ensemble of four"]["per_seed"] == less("ensemble-views", "model3-views")
    assert rows["ensemble, best member"]["per_seed"] == less("ensemble", "model6")
    assert [rows[name]["findings"] for name in ("stage 2", "oversampling, the lowest")] == [2, 1]
    assert [rows[name]["better"] for name in ("stage 2", "hflip TTA")] == [0, 2]
    val["model0"] = 0.5
    swapped = effect_rows([{"tables": tables, "val": val, "lowest": ["b"]}])
    assert swapped[2]["per_seed"] == less("model2", "after-model1")


def test_seeds_are_paired_and_findings_averaged_over_them():
    first = {name: {"a": 0.5, "b": 0.5} for name in TABLES}
    second = {name: {"a": 0.2, "b": 0.9} for name in TABLES}
    first["model2"], second["model2"] = {"a": 0.6, "b": 0.52}, {"a": 0.4, "b": 0.86}
    val = {model.name: 0.1 for model in MODELS}
    rows = effect_rows([{"tables": tables, "val": val, "lowest": ["a"]} for tables in (first, second)])
    stage2 = next(row for row in rows if row["effect"] == "stage 2")
    assert stage2["per_seed"] == pytest.approx([0.06, 0.08]) and stage2["mean"] == pytest.approx(0.07)
    assert stage2["sd"] == pytest.approx(math.sqrt(2) * 0.01)
    assert (stage2["better"], stage2["findings"]) == (1, 2)  # b: +0.02 and -0.04
    # 12.706 is t of one degree of freedom: 0.07 -+ 0.127 holds zero
    assert stage2["low"] == pytest.approx(0.07 - 12.7062 * 0.01, abs=1e-5) and stage2["verdict"] == "not seen"


def test_the_flow_at_a_tiny_size(tmp_path, capsys, monkeypatch):
    scale = replace(QUICK, studies=110)
    rows = measure(tmp_path, scale, [1])
    assert [row["effect"] for row in rows if "effect" in row] == [effect.name for effect in EFFECTS]
    assert {row["table"] for row in rows if "table" in row} == set(TABLES)
    runs = {row["run"]: row for row in rows if "run" in row}
    assert [(row["size"], row["batch"]) for row in runs.values()][:3] == [(32, 16), (32, 8), (40, 8)]
    assert {row["fold"] for row in runs.values()} == {1}
    assert len(runs["model5"]["oversampled"]) > len(runs["model3"]["oversampled"]) > 0
    assert runs["model3"]["oversampled"] == runs["model7"]["oversampled"] and runs["model3"]["images_doubled"] > 0

    # what was scored, and how, with pandas and scikit-learn alone
    dataset = PackedDataset.open(tmp_path / "packed")
    labels = dataset.labels(LABELS)
    setup = rows[0]
    found = {row["table"]: row for row in rows if "table" in row}
    held_out = dataset.catalog["image_id"][np.isin(labels.split.astype(str), ["dev", "test"]) & dataset.packed]
    for name in ("model0", "ensemble-views"):
        table = pd.read_parquet(tmp_path / "seed1" / f"{name}.parquet").set_index("image_id")
        assert set(table.index) == set(held_out) and len(table) == setup["held_out_images"]
        truth = pd.DataFrame(labels.values == 1, index=dataset.catalog["image_id"], columns=list(labels.findings))
        wanted = truth.loc[table.index]
        ap = {one: average_precision_score(wanted[one], table[one]) for one in setup["findings"]}
        assert found[name]["ap"] == pytest.approx(ap) and found[name]["map"] == pytest.approx(fmean(ap.values()))
        assert min(wanted.sum()[setup["findings"]]) >= scale.floor
    assert found["model2"]["ap"] != found["model2-plain"]["ap"]

    # nothing was chosen by the held-out images
    val = predictions.read(tmp_path / "seed1" / "model3-val.parquet")
    assert val.provenance.split == "val" and not set(val.ids["image_id"]) & set(held_out)
    for name in ("model3", "ensemble"):
        history = predictions.read(tmp_path / "seed1" / f"{name}-views.parquet").provenance.history
        assert "model3-val.parquet" in history[-1]

    # the same call again trains nothing and finds the same
    stamp = (tmp_path / "seed1" / "model7" / "last.pt").stat().st_mtime_ns
    again = measure(tmp_path, scale, [1])
    assert again == rows and (tmp_path / "seed1" / "model7" / "last.pt").stat().st_mtime_ns == stamp
    with pytest.raises(SystemExit, match="scale.json: was begun with other settings"):
        measure(tmp_path, replace(scale, epochs=2), [1])

    text = effects.table(rows)
    assert all(f"| **{effect.name}**: " in text for effect in EFFECTS) and "**Not seen:** " in text
    page = tmp_path / "effects.md"
    page.write_text("Before.\n<!-- table -->\nold\n<!-- /table -->\nAfter.\n")
    effects.write_page(rows, page)
    assert page.read_text() == f"Before.\n<!-- table -->\n{text}\n<!-- /table -->\nAfter.\n"
    assert (tmp_path / "effects.svg").read_text().count("<path") > 20
    monkeypatch.setattr("sys.argv", ["effects", "--quick"])
    with pytest.raises(SystemExit, match="2"):
        effects.main()
    assert "give --work DIR" in capsys.readouterr().err


def test_the_page_shows_the_committed_rows():
    rows = effects.newest(RESULTS / "effects.jsonl")
    page = (ROOT / "docs" / "effects.md").read_text()
    assert effects.table(rows) in page
    setup = next(row for row in rows if "setup" in row)
    assert setup["seeds"] >= 3 and setup["setup"]["floor"] >= 40
    assert min(setup["fewest_positives"][finding] for finding in setup["findings"]) >= setup["setup"]["floor"]


def test_the_committed_effects_follow_from_the_committed_ap():
    rows = effects.newest(RESULTS / "effects.jsonl")
    seeds = []
    for number in sorted({row["seed"] for row in rows if "run" in row}):
        runs = {row["run"]: row for row in rows if "run" in row and row["seed"] == number}
        tables = {row["table"]: row["ap"] for row in rows if "table" in row and row["seed"] == number}
        val = {name: row["val_map"] for name, row in runs.items()}
        seeds.append({"tables": tables, "val": val, "lowest": runs["model3"]["oversampled"]})
    committed = [row for row in rows if "effect" in row]
    for row, again in zip(committed, effect_rows(seeds), strict=True):
        assert row["per_seed"] == pytest.approx(again["per_seed"]) and row["verdict"] == again["verdict"]
