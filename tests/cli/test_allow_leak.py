"""Another release's test images that a run was trained on, from predict to every score, as a user types it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold

from cxrdali.predictions import read
from shards.dataset.packed import PackedDataset
from tests.cli.cli import call, done

pytestmark = pytest.mark.slow

SMALL = ["--size", 48, "--batch", 8, "--epochs", 1, "--arch", "test_byobnet", "--no-pretrained", "--device", "cpu"]
FINDINGS = ["Edema", "Hernia", "Mass", "No Finding", "Pneumonia"]


@pytest.fixture(scope="module")
def leaked(pack_folder, tmp_path_factory):
    """Two runs, and the tables of one on the test images of two releases; and what is said of those of the other."""
    folder = tmp_path_factory.mktemp("leaked")
    shutil.copytree(pack_folder, folder / "pack")
    dataset = PackedDataset.open(folder / "pack")
    labels, catalog = dataset.labels("cxr-lt-2023"), dataset.catalog
    table = catalog[["image_id", "subject_id", "study_id"]].join(pd.DataFrame(labels.values, columns=FINDINGS))
    # every third patient, and single images of the others
    chosen = (table["subject_id"].astype(int) % 3 == 0) | (np.arange(len(table)) % 9 == 0)
    table = table.assign(split=np.where(chosen, "test", "train"))
    table.drop(columns=["subject_id", "study_id"]).to_csv(folder / "other.csv", index=False)
    done(folder, "label", "pack", "--table", "other.csv", "--id-column", "image_id", "--findings", ",".join(FINDINGS),
         "--split-column", "split", "--allow-subject-overlap")  # fmt: skip
    for seed, name in enumerate(("one", "two")):
        done(folder, "train", "--stage", 1, "--labels", "cxr-lt-2023", "--data", "pack", "--out", name,
             "--seed", seed, *SMALL)  # fmt: skip

    rows = np.flatnonzero((labels.split == "train") & dataset.packed)
    trained = rows[next(GroupKFold(5).split(rows, groups=pd.factorize(catalog["subject_id"])[0][rows]))[0]]
    test = np.flatnonzero(chosen & catalog["shard"].notna())
    itself = np.isin(test, trained)
    assert 5 < itself.sum() < len(test)
    words = f"{itself.sum()} of {len(test)} test images were trained on by NAME (fold 0 of 5 of cxr-lt-2023)"
    for name in ("one", "two"):
        done(folder, "predict", "--run", name, "--split", "test", "--labels", "other", "--data", "pack",
             "--allow-leak", "--device", "cpu", "--out", f"{name}.parquet")  # fmt: skip
        assert read(folder / f"{name}.parquet").provenance.seen == (words.replace("NAME", name),)
    return folder, words.replace("NAME", "one")


def test_predict_refuses_and_knows_a_better_split(leaked):
    folder, words = leaked
    ask = ["predict", "--run", "one", "--split", "test", "--data", "pack", "--device", "cpu", "--out", "p.parquet"]
    found = call(*ask, "--labels", "other", cwd=folder)
    advice = "predict test of its own labels with --labels cxr-lt-2023, or say --allow-leak"
    assert found.returncode == 1 and not (folder / "p.parquet").exists()
    assert found.stderr.splitlines()[-1] == (
        f"error: one: {words}, so their scores would say nothing of unseen images; {advice}"
    )
    done(folder, *ask, "--labels", "cxr-lt-2023")
    assert read(folder / "p.parquet").provenance.seen == ()


# a command without --out, and what it writes
COMMANDS = [
    ("evaluate one.parquet --data pack --draws 0 --out scores", "scores.json"),
    ("compare one.parquet two.parquet --data pack --draws 0 --out c.html", "c.json"),
    ("ensemble one.parquet two.parquet --out e.parquet", "e.parquet"),
    ("ensemble one.parquet two.parquet --fit-weights one.parquet,two.parquet --data pack --out f.parquet", "f.parquet"),
    ("ensemble one.parquet two.parquet --weights-by-map one.parquet,two.parquet --data pack --out w.parquet",
     "w.parquet"),
    ("calibrate --fit one.parquet --method temperature --data pack --out t.json", "t.json"),
    ("thresholds --fit one.parquet --data pack --out f1.json", "f1.json"),
    ("postprocess one.parquet --fit one.parquet --data pack --views v.json --out v.parquet", "v.parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "written"), COMMANDS)
def test_every_score_and_fit_is_refused_and_says_so_where_allowed(leaked, words, written):
    folder, seen = leaked
    arguments = words.split()
    found = call(*arguments, cwd=folder)
    assert (
        found.returncode == 1
        and f"error: one.parquet: {seen}: they look better than any other; give a table of" in found.stderr
    )
    assert "or say --allow-leak" in found.stderr and not (folder / written).exists()
    same = ["--allow-same-images"] if {"--fit-weights", "--weights-by-map"} & {*arguments} else []
    same = ["--allow-same-images"] if arguments[0] == "postprocess" else same
    found = done(folder, *arguments, "--allow-leak", *same)
    assert (folder / written).exists()
    if arguments[0] in ("evaluate", "compare", "ensemble"):
        assert seen in found.stdout
    if arguments[0] in ("calibrate", "thresholds"):
        assert f"warning: one.parquet: {seen}: with rules fitted to them, scores flatter" in found.stderr
    if arguments[0] == "ensemble":
        both = tuple(f"{name}.parquet: {seen.replace('by one', f'by {name}')}" for name in ("one", "two"))
        assert read(folder / written).provenance.seen == both


def test_scores_carry_the_sentence_to_the_pages(leaked):
    folder, seen = leaked
    done(folder, "evaluate", "one.parquet", "--data", "pack", "--draws", 0, "--allow-leak", "--out", "s")
    assert json.loads((folder / "s.json").read_text())["seen"] == [seen]
    done(folder, "report", "one", "--evaluation", "s.json", "--out", "r.html")
    page = (folder / "r.html").read_text()
    assert page.count(seen) == 2 and f"one, test split: {seen}." in page  # at a glance, and beside the scores
    done(
        folder,
        "compare",
        "one.parquet",
        "two.parquet",
        "--data",
        "pack",
        "--draws",
        0,
        "--allow-leak",
        "--out",
        "c.html",
    )
    page = (folder / "c.html").read_text()
    assert f"one: {seen}" in page and f"two: {seen.replace('by one', 'by two')}" in page
    done(
        folder,
        "calibrate",
        "--fit",
        "one.parquet",
        "--method",
        "platt",
        "--data",
        "pack",
        "--allow-leak",
        "--out",
        "p.json",
    )
    assert f"<strong>{seen}.</strong>" in (folder / "p.html").read_text()


def test_training_images_are_scored_as_what_they_are(leaked):
    folder, _ = leaked
    done(
        folder,
        "predict",
        "--run",
        "one",
        "--split",
        "train",
        "--data",
        "pack",
        "--device",
        "cpu",
        "--out",
        "tr.parquet",
    )
    count = len(read(folder / "tr.parquet").values)
    said = done(folder, "evaluate", "tr.parquet", "--data", "pack", "--draws", 0, "--out", "tr").stdout
    text = f"{count} of {count} train images were trained on by one (fold 0 of 5)"
    assert f"note: {text}\n" in said and json.loads((folder / "tr.json").read_text())["seen"] == [text]


def test_a_csv_does_not_tell_and_is_called_so(leaked):
    folder, _ = leaked
    read(folder / "one.parquet").write(folder / "plain.csv")
    (folder / "plain.csv.sha256").unlink()
    said = done(
        folder, "evaluate", "plain.csv", "--labels", "other", "--data", "pack", "--draws", 0, "--out", "n"
    ).stdout
    assert "and nobody can tell whether its images were trained on" in said
    assert json.loads((folder / "n.json").read_text())["seen"] is None


def test_a_run_that_saw_its_validation_images_is_not_compared(leaked):
    folder, _ = leaked
    for name, init in (("second", "one"), ("honest", None)):
        init = ["--init", init] if init else []
        done(folder, "train", "--stage", 1, "--fold", 1, *init, "--allow-leak", "--labels", "cxr-lt-2023",
             "--data", "pack", "--out", name, *SMALL)  # fmt: skip
    ask = ["compare", "honest", "second", "--data", "pack", "--draws", 0, "--folds", 2]
    (folder / "second" / "seen.parquet").unlink()  # of an older version
    count = len(read(folder / "second" / "val_predictions.parquet").values)
    text = f"{count} of {count} validation images were trained on by one (fold 0 of 5)"
    found = call(*ask, cwd=folder)
    assert f"error: second: {text}, so its score does not compare; compare runs that have not seen them" in found.stderr
    assert f"second: {text}" in done(folder, *ask, "--allow-leak").stdout.splitlines()
    done(folder, "report", "second", "--out", "second.html")
    assert f"Stage 1: {text}." in (folder / "second.html").read_text()
    found = done(folder, "explain", "--run", "second", "--findings", "Mass", "--data", "pack", "--device", "cpu",
                 "--layer", "stages.2", "--out", "x.html")  # fmt: skip
    assert f"note: {text}" in found.stdout + found.stderr


def test_a_study_goes_on_where_a_release_has_patients_in_two_splits_and_says_so(leaked):
    folder, _ = leaked
    given = {"size": 48, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": "false", "device": "cpu"}
    sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    done(folder, "loss-design", "--models", "ld-bce", "--tta", "hflip", "--data", "pack", "--labels", "other",
         "--draws", 0, *sets, "--out", "study")  # fmt: skip
    dataset = PackedDataset.open(folder / "pack")
    labels, subject = dataset.labels("other"), dataset.catalog["subject_id"].to_numpy()
    rows = np.flatnonzero((labels.split == "train") & dataset.packed)
    trained = rows[next(GroupKFold(10).split(rows, groups=pd.factorize(subject)[0][rows]))[0]]
    test = np.flatnonzero((labels.split == "test") & dataset.packed)
    count = np.isin(subject[test], subject[trained]).sum()
    words = (
        f"{count} of {len(test)} test images are other images of patients that were trained on by ld-bce (fold 0 of 10)"
    )
    assert count > 0 and json.loads((folder / "study/evaluations/ld-bce.test.json").read_text())["seen"] == [words]
    assert words in (folder / "study" / "report.html").read_text()
