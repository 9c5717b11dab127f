"""Trained on two and three hospitals, tested apart: every number that a run writes, from its own logits and what was
drawn; killed and continued; by two processes; with real radiographs as one of the hospitals."""

import itertools
import json
import os
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrdali import predictions
from cxrdali.runs import layout
from shards.dataset.packed import PackedDataset
from shards.dataset.synonyms import FindingsMap
from shards.packing import pack as packing
from shards.packing.options import PackOptions
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from tests.cli.cli import ROOT, call, done
from tests.cxrdali.hospitals.packs import MAP, average_precision, write_map
from tests.faults.ranks import group
from tests.faults.trainers import ARCH, at_moment, child, command_line, differences, record, steps

pytestmark = pytest.mark.slow

REAL = ROOT.parent / "shared" / "data" / "nih-as-mimic-cxr-jpg"  # 322 radiographs of NIH's in MIMIC-CXR-JPG's layout
SMALL = ["--stage", 1, "--size", 48, "--batch", 24, "--epochs", 2, "--arch", ARCH, "--no-pretrained", "--device", "cpu"]


def line(packs, out, *more):
    """A command line that trains a small network on packs by name."""
    return [
        "train",
        *SMALL,
        *(word for name in packs for word in ("--data", f"{name}={packs[name]}")),
        "--out",
        out,
        *more,
    ]


@pytest.fixture(scope="module")
def packs(hospitals):
    return {name: each.pack for name, each in hospitals.items()}


@pytest.fixture(scope="module")
def trained(packs, tmp_path_factory):
    """A folder with a run of university and clinic, and one of all three."""
    root = tmp_path_factory.mktemp("trained")
    some = {name: packs[name] for name in ("university", "clinic")}
    done(root, *line(some, "two", "--allow-leak"))
    said = done(
        root, *line(packs, "three", "--findings", write_map(root / "map.toml"), "--allow-leak", "--mix", "sqrt")
    )
    (root / "said").write_text(said.stdout)
    return root


def truth(hospitals, table, common):
    """float [n, F] of a union's table, from the plans. common: own names of findings by pack, where they differ."""
    wanted = np.full(table.values.shape, np.nan)
    place = {name: number for number, name in enumerate(table.findings)}
    for pack in {image.partition(":")[0] for image in table.ids["image_id"]}:
        called = {name: common.get(name, name) for name in hospitals[pack].findings}
        for row, image in enumerate(table.ids["image_id"]):
            name, _, own = image.partition(":")
            if name == pack:
                for finding, to in called.items():
                    wanted[row, place[to]] = hospitals[pack].truth(own, finding)
    return wanted


COMMON = {
    **{"Effusion": "Pleural Effusion", "Fluid in the pleura": "Pleural Effusion", "Pulmonary edema": "Edema"},
    **{"Pleural_Thickening": "Pleural Thickening", "Enlarged heart": "Cardiomegaly", "Devices": "Support Devices"},
    "No finding": "No Finding",
}


@pytest.mark.parametrize("run", ["two", "three"])
def test_scores_of_each_hospital_and_of_all_are_those_of_known_labels(trained, hospitals, run):
    table = predictions.read(trained / run / layout.VAL_PREDICTIONS)
    wanted = truth(hospitals, table, COMMON)
    best = (
        pd.read_csv(trained / run / layout.METRICS)
        .set_index("epoch")
        .loc[json.loads((trained / run / layout.PROGRESS).read_text())["best_epoch"]]
    )
    whose = table.ids["image_id"].str.partition(":")[0].to_numpy()
    scores = {}
    for pack in set(whose):
        mine = whose == pack
        known = [
            place for place in range(wanted.shape[1])
            if (wanted[mine, place] == 1).any() and (wanted[mine, place] == 0).any()
        ]  # fmt: skip
        each = [average_precision(wanted[mine, place], table.values[mine, place]) for place in known]
        scores[pack] = np.mean(each)
        assert best[f"mAP_{pack}"] == pytest.approx(scores[pack], rel=1e-5), pack
    assert len(scores) == {"two": 2, "three": 3}[run]
    assert best["mean_mAP"] == pytest.approx(np.mean([*scores.values()]), rel=1e-5)
    pooled = [
        average_precision(wanted[:, place], table.values[:, place])
        for place in range(wanted.shape[1])
        if (wanted[:, place] == 1).any() and (wanted[:, place] == 0).any()
    ]
    assert best["mAP"] == pytest.approx(np.mean(pooled), rel=1e-5)


def test_the_next_stage_has_the_same_packs_map_and_mix(trained, packs):
    (said,) = [each for each in (trained / "said").read_text().splitlines() if each.startswith("next: ")]
    words = shlex.split(said.removeprefix("next: ").split("  # or: ")[0])[1:]
    given = {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}
    assert given["--mix"] == "sqrt" and FindingsMap.read(given["--findings"]).own == MAP
    assert [value for name, value in itertools.pairwise(words) if name == "--data"] == [
        f"{name}={packs[name]}" for name in packs
    ]
    again = ["--size", 48, "--batch", 48, "--epochs", 1, "--no-pretrained", "--limit-batches", 1, "--allow-leak"]
    done(trained, *words, *again)


@pytest.mark.parametrize("run", ["two", "three"])
def test_the_loss_of_validation_is_that_of_known_labels(trained, hospitals, run):
    table = predictions.read(trained / run / layout.VAL_PREDICTIONS)
    wanted, logits = truth(hospitals, table, COMMON), table.values.astype(float)
    known = ~np.isnan(wanted)
    assert not known.all()
    terms = np.logaddexp(0, logits) - logits * np.nan_to_num(wanted)
    progress = json.loads((trained / run / layout.PROGRESS).read_text())
    best = pd.read_csv(trained / run / layout.METRICS).set_index("epoch").loc[progress["best_epoch"]]
    assert best["val_loss"] == pytest.approx(terms[known].mean(), rel=1e-4)


def test_the_best_epoch_is_that_of_the_mean_over_hospitals(trained):
    for run in ("two", "three"):
        progress = json.loads((trained / run / layout.PROGRESS).read_text())
        metrics = pd.read_csv(trained / run / layout.METRICS).set_index("epoch")
        assert progress["best_epoch"] == metrics["mean_mAP"].idxmax()


def test_class_counts_are_those_of_the_training_images_whose_label_is_known(trained, hospitals):
    config = json.loads((trained / "three" / layout.CONFIG).read_text())
    validation = {*predictions.read(trained / "three" / layout.VAL_PREDICTIONS).ids["image_id"]}
    expected = dict.fromkeys(config["findings"], 0)
    for name, hospital in hospitals.items():
        labels, catalog = hospital.dataset.labels(), hospital.dataset.catalog
        for row, image in enumerate(catalog["image_id"]):
            if labels.split[row] == "train" and f"{name}:{image}" not in validation:
                for finding in labels.findings:
                    expected[COMMON.get(finding, finding)] += int(hospital.truth(image, finding))
    assert dict(zip(config["findings"], config["train_positives"], strict=True)) == expected


def test_predictions_on_one_hospital_alone_are_those_on_all(trained, packs):
    every = [word for name in packs for word in ("--data", f"{name}={packs[name]}")]
    done(trained, "predict", "--run", "three", *every, "--split", "val", "--out", "all.parquet", "--device", "cpu")
    whole = predictions.read(trained / "all.parquet")
    stored = predictions.read(trained / "three" / layout.VAL_PREDICTIONS)
    assert whole.ids["image_id"].tolist() == stored.ids["image_id"].tolist() and whole.findings == stored.findings
    np.testing.assert_allclose(whole.values, stored.values, rtol=1e-5, atol=1e-5)
    for name, pack in packs.items():
        done(
            trained,
            "predict",
            "--run",
            "three",
            "--data",
            pack,
            "--split",
            "val",
            "--out",
            f"{name}.parquet",
            "--device",
            "cpu",
        )
        alone = predictions.read(trained / f"{name}.parquet")
        assert set(alone.ids["image_id"]) == {
            image.partition(":")[2] for image in whole.ids["image_id"] if image.startswith(f"{name}:")
        }
        at = pd.Index(whole.ids["image_id"]).get_indexer([f"{name}:{image}" for image in alone.ids["image_id"]])
        np.testing.assert_allclose(alone.values, whole.values[at], rtol=1e-5, atol=1e-5)


def test_that_the_best_epoch_was_chosen_on_them_is_known_of_one_hospital_s_images_too(trained, packs):
    done(trained, "predict", "--run", "three", "--data", packs["coast"], "--split", "val", "--out", "own.parquet")
    done(trained, "evaluate", "own.parquet", "--data", packs["coast"], "--out", "own", "--draws", 0)
    assert json.loads((trained / "own.json").read_text())["fitted_here"] == ["best epoch"]


@pytest.mark.parametrize("pack", ["coast", "university"])
def test_a_run_of_two_hospitals_is_judged_on_a_third_and_on_its_own_test_images(trained, packs, hospitals, pack):
    out = f"apart-{pack}.parquet"
    done(trained, "predict", "--run", "two", "--data", packs[pack], "--split", "test", "--out", out, "--device", "cpu")
    table = predictions.read(trained / out)
    done(
        trained, "evaluate", out, "--data", packs[pack], "--out", f"apart-{pack}", "--draws", 0, "--allow-leak",
        *(["--findings", write_map(trained / "map.toml")] if pack == "coast" else []),
    )  # fmt: skip
    result = json.loads((trained / f"apart-{pack}.json").read_text())
    own = hospitals[pack].findings
    shared = {COMMON.get(name, name): name for name in own if COMMON.get(name, name) in table.findings}
    found = {row["finding"]: row for row in result["all"]["findings"]}
    assert {COMMON.get(name, name) for name in found} == {*shared}
    for name, row in found.items():
        common = COMMON.get(name, name)
        wanted = np.array([hospitals[pack].truth(image, shared[common]) for image in table.ids["image_id"]])
        expected = average_precision(wanted, table.values[:, table.findings.index(common)])
        if (wanted == 0).all() or (wanted == 1).all():
            assert row["AP"] is None or (wanted == 1).all()
        else:
            assert row["AP"] == pytest.approx(expected, rel=1e-5), name
        assert row["positives"] == wanted.sum()


def test_a_run_of_three_is_compared_with_one_of_one_hospital_by_tables_of_its_images(trained, packs):
    done(trained, *line({"coast": packs["coast"]}, "alone"))
    refused = call("compare", "three", "alone", "--data", packs["coast"], "--draws", 0, cwd=trained)
    assert refused.returncode == 1 and "was trained on several packs, and --data is one" in refused.stderr
    (command,) = re.findall(r"`cxrdali (predict .*?)`", refused.stderr)
    done(trained, *shlex.split(command))
    done(trained, *shlex.split(command.replace("--run three", "--run alone").replace("three.parquet", "alone.parquet")))
    tables = [predictions.read(trained / f"{name}.parquet") for name in ("three", "alone")]
    assert tables[0].ids.equals(tables[1].ids)  # the folds are the pack's own
    done(
        trained, "compare", "three.parquet", "alone.parquet", "--data", packs["coast"], "--draws", 0, "--out", "c.html",
        "--findings", trained / "map.toml",
    )  # fmt: skip
    scores = json.loads((trained / "c.json").read_text())
    assert [run["name"] for run in scores["runs"]] == ["three", "alone"]


# ---------------------------------------------------------------- killed, and by several


def killed(arguments, log, moment):
    """For a child: a command line that kills itself at a moment."""
    patch = pytest.MonkeyPatch()
    at_moment(patch, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
    command_line(Path(log), arguments)


@pytest.mark.parametrize("moment", [2, 7])
def test_a_killed_run_of_three_hospitals_continues_as_if_nothing_had_been(trained, packs, tmp_path, moment):
    arguments = line(packs, tmp_path / "three", "--findings", trained / "map.toml", "--allow-leak", "--mix", "sqrt")
    process = child(killed, arguments, tmp_path / "log", moment)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    done(tmp_path, *arguments)
    assert differences(tmp_path / "three", trained / "three") == []


def together(rank, log, arguments):
    """For one of several processes: a command line whose samples are recorded."""
    patch = pytest.MonkeyPatch()
    record(patch, log.with_name(f"{log.name}.{rank}"))
    command_line(log.with_name(f"said.{rank}"), arguments)


def test_two_processes_train_on_the_samples_of_one(packs, tmp_path):
    seen, tables = [], []
    for world in (1, 2):
        out, log = tmp_path / f"run{world}", tmp_path / f"log{world}"
        arguments = line(packs, out, "--findings", write_map(tmp_path / "map.toml"), "--allow-leak")
        assert group(world, together, log, arguments) == [0] * world
        batches: dict[tuple, list] = {}
        for rank in range(world):
            for stage, epoch, position, _, rows, *_ in steps(log.with_name(f"{log.name}.{rank}")):
                batches.setdefault((stage, epoch, position), []).extend(rows)
        seen.append(batches)
        tables.append((predictions.read(out / layout.VAL_PREDICTIONS), pd.read_csv(out / layout.METRICS)))
    assert seen[0] == seen[1] and len(seen[0]) > 4
    (one, alone), (two, both) = tables
    assert one.ids.equals(two.ids) and (alone["images"] == both["images"]).all()
    # batch normalisation sees other groups of images: near, not equal
    assert both["train_loss"].to_numpy() == pytest.approx(alone["train_loss"].to_numpy(), rel=0.15)


def test_other_packs_or_another_map_do_not_continue_it(trained, packs, tmp_path):
    two = {name: packs[name] for name in ("university", "clinic")}
    for arguments in (
        line(packs, "three", "--allow-leak"),
        line(two, "three", "--findings", trained / "map.toml", "--allow-leak"),
        line(dict(reversed(packs.items())), "three", "--findings", trained / "map.toml", "--allow-leak"),
    ):
        result = call(*arguments, cwd=trained)
        assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith("error: "), result.stderr


# ---------------------------------------------------------------- real radiographs


@pytest.mark.skipif(not REAL.is_dir(), reason="no real radiographs beside the repository")
def test_real_radiographs_as_a_hospital_beside_a_synthetic_one(hospitals, tmp_path):
    packing.pack(open_release(REAL), tmp_path / "real", PackOptions(sizes=(Size(48),)))
    both = {"real": tmp_path / "real", "clinic": hospitals["clinic"].pack}
    done(tmp_path, *line(both, "run", "--epochs", 1))
    config = json.loads((tmp_path / "run" / layout.CONFIG).read_text())
    assert [each["name"] for each in config["dataset"]["packs"]] == ["real", "clinic"]
    done(
        tmp_path,
        "predict",
        "--run",
        "run",
        "--data",
        tmp_path / "real",
        "--split",
        "test",
        "--out",
        "real.parquet",
        "--device",
        "cpu",
    )
    done(tmp_path, "evaluate", "real.parquet", "--data", tmp_path / "real", "--out", "scores", "--draws", 20)
    scores = json.loads((tmp_path / "scores.json").read_text())
    labels = PackedDataset.open(tmp_path / "real").labels()
    assert scores["images"] == (labels.split[:] == "test").sum()
    done(
        tmp_path,
        "predict",
        "--run",
        "run",
        "--data",
        hospitals["coast"].pack,
        "--split",
        "all",
        "--out",
        "away.parquet",
        "--device",
        "cpu",
    )
    done(tmp_path, "evaluate", "away.parquet", "--data", hospitals["coast"].pack, "--out", "away", "--draws", 20)
