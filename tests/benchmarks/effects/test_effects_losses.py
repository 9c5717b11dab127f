"""The benchmark of the loss-design paper's effects: its arithmetic by hand, its flow at a tiny size, its page."""

from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, brier_score_loss

from benchmarks.effects import effects, effects_losses
from benchmarks.effects.effects import LABELS
from benchmarks.effects.effects_losses import EFFECTS, LOSSES, MEASURES, QUICK, effect_rows, measure, tail_of
from benchmarks.results import RESULTS, newest
from cxrdali import predictions
from cxrdali.postprocess import calibration
from cxrdali.runs import folder as runs
from cxrdali.runs.names import flatten
from shards.dataset.packed import PackedDataset
from tests.benchmarks.test_benchmarks import ROOT

TABLES = list(dict.fromkeys(name for effect in EFFECTS for name in (effect.before, effect.after)))


def test_the_tail_is_the_rarest_third():
    positives = {"a": 900, "b": 30, "c": 20, "d": 300, "e": 100, "f": 200, "g": 1}
    assert tail_of(("a", "b", "c", "d", "e", "f"), positives) == ("c", "b")
    assert tail_of(("a",), positives) == ("a",)


def test_a_gain_is_more_precision_or_less_error():
    """Three seeds in which every table is 0.1 after the one before it in TABLES, give or take a hundredth."""
    seeds = [
        {name: dict.fromkeys(MEASURES, 0.1 * place + 0.01 * seed * (place % 2)) for place, name in enumerate(TABLES)}
        for seed in range(3)
    ]
    rows = {(row["effect"], row["measure"]): row for row in effect_rows(seeds)}
    place = {name: number for number, name in enumerate(TABLES)}
    for effect in EFFECTS:
        for name in effect.measures:
            row, steps = rows[effect.name, name], place[effect.after] - place[effect.before]
            shift = (place[effect.after] % 2) - (place[effect.before] % 2)
            assert row["per_seed"] == pytest.approx([0.1 * steps + 0.01 * seed * shift for seed in range(3)])
            assert row["mean_before"] == pytest.approx(fmean(tables[effect.before][name] for tables in seeds))
            up = (steps > 0) == MEASURES[name]
            words = ("seen", "opposite") if effect.claim else ("better", "worse")
            assert row["verdict"] == words[0 if up else 1]
    close = [{name: dict.fromkeys(MEASURES, seed * place[name]) for name in TABLES} for seed in (-1, 0, 1)]
    assert {row["verdict"] for row in effect_rows(close)} == {"not seen", "neither"}


def test_the_flow_at_a_tiny_size(tmp_path):
    rows = measure(tmp_path, QUICK, [1])
    made = [(row["effect"], row["measure"]) for row in rows if "effect" in row]
    assert made == [(effect.name, name) for effect in EFFECTS for name in effect.measures]
    setup, folder = rows[0], tmp_path / "losses1"
    trained = {row["run"]: row for row in rows if "run" in row and row["seed"] == 1}
    assert list(trained) == [*LOSSES, "bce-crt", "ldam-drw-crt", "ldam-drw-crt-slow"]
    assert trained["drw"]["drw_epoch"] == 1 and trained["bce"]["drw_epoch"] is None
    configs = {name: flatten(runs.read_config(folder / name)["settings"]) for name in trained}
    assert [configs[name]["loss"] for name in LOSSES] == ["bce", "asl", "ldam", "ldam", "drw", "ldam-drw"]
    assert (configs["scale"]["ldam_margin"], configs["ldam"]["ldam_margin"]) == (1e-9, 0.5)
    assert {(each["seed"], each["fold"], each["flips"], each["cutout"]) for each in configs.values()} == {
        (1, 1, "none", "off")
    }
    assert configs["ldam-drw-crt"]["frozen"] and configs["ldam-drw-crt"]["sampler"] == "class-balanced"
    # the two ways of retraining train the same classifier
    one, other = (load_file(folder / name / runs.BEST) for name in ("ldam-drw-crt", "ldam-drw-crt-slow"))
    assert all(np.allclose(one[key], other[key], atol=1e-3) for key in one)

    # what was scored, and how, with pandas and scikit-learn alone
    dataset = PackedDataset.open(tmp_path / "packed")
    labels = dataset.labels(LABELS)
    held_out = dataset.catalog["image_id"][np.isin(labels.split.astype(str), ["dev", "test"]) & dataset.packed]
    truth = pd.DataFrame(labels.values == 1, index=dataset.catalog["image_id"], columns=list(labels.findings))
    found = {row["table"]: row for row in rows if "table" in row and row["seed"] == 1}
    assert set(TABLES) <= set(found)
    for name in ("bce", "ldam-drw-crt", "ldam-drw-medium", "asl-platt"):
        table = pd.read_parquet(folder / f"{name}.parquet").set_index("image_id")
        assert set(table.index) == set(held_out)
        wanted = truth.loc[table.index]
        ap = {one: average_precision_score(wanted[one], table[one]) for one in setup["findings"]}
        assert found[name]["ap"] == pytest.approx(ap)
        assert found[name]["mAP, tail"] == pytest.approx(fmean(ap[one] for one in setup["tail"]))
        briers = [
            brier_score_loss(wanted[one], 1 / (1 + np.exp(-table[one].astype(float)))) for one in setup["findings"]
        ]
        assert found[name]["Brier"] == pytest.approx(fmean(briers))
    # calibration was learnt on validation alone
    val = predictions.read(folder / "bce-val.parquet")
    assert val.provenance.split == "val" and not set(val.ids["image_id"]) & set(held_out)
    learnt = calibration.fit(folder / "bce-val.parquet", dataset, labels, "temperature")
    again = calibration.apply(folder / "bce.parquet", learnt)
    np.testing.assert_allclose(predictions.read(folder / "bce-temperature.parquet").values, again.values, rtol=1e-5)

    assert measure(tmp_path, QUICK, [1]) == rows  # the same call again trains nothing

    text = effects_losses.table(rows)
    assert all(f"| **{effect.name}** ({effect.after} less {effect.before}) | " in text for effect in EFFECTS)
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- table -->\nold\n<!-- /table -->\nAfter.\n")
    effects_losses.write_page(rows, page)
    assert page.read_text() == f"Before.\n<!-- table -->\n{text}\n<!-- /table -->\nAfter.\n"
    assert (tmp_path / "page.svg").read_text().count("<path") > 20


def test_the_page_shows_the_committed_rows():
    rows = newest(RESULTS / "effects-losses.jsonl")
    assert effects_losses.table(rows) in (ROOT / "docs" / "effects-losses.md").read_text()
    setup = next(row for row in rows if "setup" in row)
    assert setup["seeds"] >= 3 and setup["setup"]["floor"] >= 40
    assert min(setup["fewest_positives"][finding] for finding in setup["findings"]) >= setup["setup"]["floor"]
    assert setup["tail"] == list(tail_of(setup["findings"], setup["train_positives"]))


def test_the_committed_effects_follow_from_the_committed_measures():
    rows = newest(RESULTS / "effects-losses.jsonl")
    seeds = []
    for number in sorted({row["seed"] for row in rows if "table" in row}):
        seeds.append({row["table"]: row for row in rows if "table" in row and row["seed"] == number})
    committed = [row for row in rows if "effect" in row]
    for row, again in zip(committed, effect_rows(seeds), strict=True):
        assert row["per_seed"] == pytest.approx(again["per_seed"]) and row["verdict"] == again["verdict"]
    assert effects.newest is newest
