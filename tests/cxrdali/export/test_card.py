"""The model card: every number on it comes from a file, and what was not measured is said to be so."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from cxrdali.data.splits import train_and_validation
from cxrdali.evaluate import evaluate as scores
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.export import card
from cxrdali.export.export import export
from cxrdali.export.options import ExportOptions
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.options import FitOptions
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runs.layout import METRICS, PROGRESS
from cxrdali.runs.reader import Run
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.options import Size
from tests.cxrdali.comparable_runs import change_config
from tests.cxrdali.export.exported import run_with_weights
from tests.releases import FINDINGS

pytestmark = pytest.mark.slow

NUMBER = re.compile(r"(?<![\w.,])[-−]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])")


@pytest.fixture(scope="module")
def made(run, dataset, tmp_path_factory):
    """A copy of the run with evaluations of its test and validation images beside it; rules; and its card."""
    folder = tmp_path_factory.mktemp("card")
    shutil.copytree(run, folder / "a")
    labels = dataset.labels("cxr-lt-2023")
    for split in ("val", "test"):
        path = folder / f"{split}.parquet"
        predict(folder / "a", dataset, split, PredictOptions(device="cpu")).write(path)
    fitted = calibration.fit(folder / "val.parquet", dataset, labels, "temperature", FitOptions(folds=2))
    fitted.write(folder / "rules.json")
    calibration.apply(folder / "val.parquet", fitted).write(folder / "calibrated.parquet")
    limits = thresholds.fit(folder / "calibrated.parquet", dataset, labels, "f1", FitOptions(folds=2))
    limits.write(folder / "f1.json")
    plain = thresholds.fit(folder / "val.parquet", dataset, labels, "f1", FitOptions(folds=2))
    for split in ("val", "test"):
        found = scores.evaluate(folder / f"{split}.parquet", dataset, labels, EvaluateOptions(draws=200), plain)
        scores.write(found, folder / "a" / f"{split}.metrics")
    rules = {"calibration": str(folder / "rules.json"), "thresholds": str(folder / "f1.json")}
    export(folder / "a", folder / "card.md", ExportOptions("card", **rules), dataset)
    return folder


def text(folder, name="card.md") -> str:
    return ModelCard.load(folder / name).text


def leaves(value) -> list:
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in [key, *leaves(each)]]
    return [leaf for each in value for leaf in leaves(each)] if isinstance(value, list) else [value]


def stands_in(number: str, known: list) -> bool:
    """Whether a number as it is printed is one of these, rounded to as many digits, or is in one of these texts."""
    plain = number.replace(",", "").replace("−", "-")
    digits = len(plain.partition("e")[0].partition(".")[2])
    for leaf in known:
        if isinstance(leaf, str) and number in leaf:
            return True
        if isinstance(leaf, int | float) and not isinstance(leaf, bool):
            rounded = f"{leaf:.{digits}f}" if "e" not in plain else f"{leaf:g}"
            if plain in (rounded, f"{leaf:g}", str(leaf)):
                return True
    return False


def unknown(words: str, known: list) -> list[str]:
    """Numbers of a card that stand neither there nor in the words of the template."""
    fixed = NUMBER.findall(Path(card.__file__).with_name("card.md.j2").read_text())
    return [each for each in NUMBER.findall(words) if each not in fixed and not stands_in(each, known)]


def test_every_number_of_the_card_stands_beside_it(made):
    numbers = json.loads((made / "card.json").read_text())
    words = text(made)
    assert len(NUMBER.findall(words)) > 150
    assert unknown(words, leaves(numbers)) == []
    assert unknown(words + "\n| mAP | 0.1234 | 77,123 |\n", leaves(numbers)) == ["0.1234", "77,123"]


def test_every_number_beside_it_is_that_of_its_source(made, dataset):
    """Of the run's files, read here by hand; counts from the pack's tables."""
    found, run = json.loads((made / "card.json").read_text()), Run.open(made / "a")
    config = json.loads((made / "a" / "config.json").read_text())
    assert found["selection"]["train_images"] == config["selection"]["train_images"]
    labels = dataset.labels("cxr-lt-2023")
    train, val = train_and_validation(dataset, labels, run.fold)
    test = np.flatnonzero((np.asarray(labels.split) == "test") & dataset.packed)
    for name, rows in (("train", train), ("val", val), ("test", test)):
        its, part = dataset.catalog.iloc[rows], found["pack"]["splits"][name]
        assert (part["images"], part["studies"], part["patients"]) == (
            len(its), its["study_id"].nunique(), its["subject_id"].nunique(),
        )  # fmt: skip
        assert part["view"] == its["view"].value_counts().to_dict()
    assert found["pack"]["release"] == dataset.info["release"]
    best = (made / "a" / METRICS).read_text().splitlines()[2].split(",")
    assert (found["best"]["mAP"], found["best"]["epoch"]) == (float(best[4]), 2)
    for each, split in zip(found["evaluations"], ("test", "val"), strict=True):
        scored = json.loads((made / "a" / f"{split}.metrics.json").read_text())
        assert (each["file"], each["split"]) == (f"{split}.metrics.json", split)
        for view in ("all", "frontal", "lateral"):
            for key in ("mAP", "mAP_low", "mAP_high", "macro_ECE", "patients", "LRAP"):
                assert each[view][key] == scored[view][key]
            for row, right in zip(each[view]["findings"], scored[view]["findings"], strict=True):
                assert right == row
    rules = json.loads((made / "rules.json").read_text())
    assert found["calibration"]["macro_ECE_after"] == rules["macro_ECE_after"]


def test_sex_and_age_are_counted_where_the_pack_has_them(release_folder, tmp_path):
    """Age by quantiles: the oldest patient, of 103 years, is not told."""
    release = open_release(release_folder)
    sexes = [("F", "M", "")[place % 3] for place in range(len(release.images))]
    ages = [("", "20", "50", "80")[place % 4] for place in range(len(release.images))]
    ages[1] = "103"
    pack(
        replace(release, images=release.images.assign(sex=sexes, age=ages)), tmp_path / "pack", PackOptions((Size(48),))
    )
    dataset = PackedDataset.open(tmp_path / "pack")
    run = run_with_weights(tmp_path / "run", dataset, arch="test_byobnet")
    export(run, tmp_path / "card.md", ExportOptions("card"), dataset)
    splits = json.loads((tmp_path / "card.json").read_text())["pack"]["splits"]
    labels, catalog = dataset.labels("cxr-lt-2023"), dataset.catalog
    train, _ = train_and_validation(dataset, labels, Run.open(run).fold)
    its, part = catalog.iloc[train], splits["train"]
    assert part["sex"] == {name: int((its["sex"].fillna("unknown") == name).sum()) for name in ("F", "M", "unknown")}
    known = np.sort(its["age"].dropna().to_numpy(np.float64))
    assert part["age"] == {str(each): np.quantile(known, each) for each in (0.05, 0.5, 0.95)}
    assert part["age_unknown"] == int(its["age"].isna().sum()) > 0
    (row,) = [line for line in text(tmp_path).splitlines() if line.startswith("| train |")]
    counts = ", ".join(f"{name} {count}" for name, count in part["sex"].items())
    spread = ", ".join(f"{each:g}" for each in part["age"].values())
    assert row.endswith(f"| {counts} | {spread} ({part['age_unknown']} unknown) |")
    assert "103" not in [each for line in text(tmp_path).splitlines() for each in NUMBER.findall(line)]


def test_what_the_card_says(made):
    words = text(made)
    assert "It is no medical device" in words and "10.1109/ICCVW60793.2023.00287" in words and "2603.02294" in words
    assert "the licence or data-use agreement of the images decides" in words.lower()
    assert "95 % intervals: 200 samples of the patients" in words
    assert "**Fitted on these very images, so that the scores are too good: best epoch" in words
    assert (
        "Groups of patients, by sex, age or anything else: not measured" in words
        and "Temperature, fitted on val.parquet" in words
    )
    assert "| test | " in words and "### Test, labels cxr-lt-2023 (test.metrics.json)" in words
    for row in json.loads((made / "f1.json").read_text())["findings"]:
        if row["probability"] is not None:
            assert f"| {row['finding']} | {row['probability']:.4f} |" in words


def test_scores_of_groups_are_those_of_the_evaluation(made, dataset, tmp_path):
    shutil.copytree(made / "a", tmp_path / "a")
    labels = dataset.labels("cxr-lt-2023")
    plain = thresholds.fit(made / "val.parquet", dataset, labels, "f1", FitOptions(folds=2))
    options = EvaluateOptions(draws=50, by=("view", "sex", "view_position"), min_group=3, allow_same_images=True)
    found = scores.evaluate(made / "val.parquet", dataset, labels, options, plain)
    scores.write(found, tmp_path / "a" / "val.metrics")
    export(tmp_path / "a", tmp_path / "card.md", ExportOptions("card"), dataset)
    words = text(tmp_path)
    assert "Groups of patients, by sex, age or anything else: not measured" not in words
    assert "- Groups of patients, sex: not measured: no sex is known of these images; attach it" in words
    rows = {(part["by"], row["group"]): row for part in found["groups_by"]["dimensions"] for row in part["groups"]}
    small = [name for name, row in rows.items() if row["too_small"]]
    assert small and len(small) < len(rows)
    for (_, name), row in rows.items():
        (line,) = [each for each in words.splitlines() if each.startswith(f"| {name} |") and each.count("|") == 11
                   and (row["too_small"] or f"| {row['images']} |" in each)]  # fmt: skip
        if row["too_small"]:
            assert line.startswith(f"| {name} | too small | too small |")
        else:
            assert f"| {row['mAP']:.3f}" in line and f"| {row['macro_AUROC']:.3f}" in line
    for row in found["groups_by"]["worst"]["means"]:
        assert f"{row['group']} (by " in words
    known = json.loads((tmp_path / "card.json").read_text())
    (each,) = [each for each in known["evaluations"] if each["file"] == "val.metrics.json"]
    for part in each["groups_by"]["dimensions"]:
        for row in part["groups"]:
            assert "findings" not in row and (row["images"] is None) == row["too_small"]
    assert str(dataset.root) not in words and str(dataset.root) not in (tmp_path / "card.json").read_text()


def test_scores_by_some_of_the_findings_say_so(made, dataset, tmp_path):
    shutil.copytree(made / "a", tmp_path / "a")
    labels = dataset.labels("cxr-lt-2023")
    first, *others = labels.findings
    fewer = replace(labels, findings=tuple(others), values=labels.values[:, 1:])
    scores.write(
        scores.evaluate(made / "test.parquet", dataset, fewer, EvaluateOptions(draws=0)),
        tmp_path / "a" / "test.metrics",
    )
    export(tmp_path / "a", tmp_path / "card.md", ExportOptions("card"), dataset)
    said = text(tmp_path)
    assert f"Findings in common with the labels, which alone count: {', '.join(others)}." in said
    assert f"Left out, unknown to the labels: {first}." in said
    assert said.count("Left out, unknown") == 1  # validation was scored by all


def test_a_card_names_no_path_and_no_patient(made, dataset):
    catalog = dataset.catalog
    for file in ("card.md", "card.json"):
        words = (made / file).read_text()
        for place in (str(made), str(dataset.root), "/tmp", "/work"):
            assert place not in words, (file, place)
        for column in ("image_id", "study_id", "subject_id"):
            found = [each for each in catalog[column].unique() if re.search(rf"(?<![\w.]){each}(?!\w)", words)]
            assert not found, (file, column)


def test_a_run_by_itself_says_what_is_not_known(run, tmp_path):
    """Without a pack, evaluations and rules; and of one that kept its weights alone, no progress either."""
    shutil.copytree(run, tmp_path / "a")
    export(tmp_path / "a", tmp_path / "card.md", ExportOptions("card"))
    words = text(tmp_path)
    for said in (
        "Studies, patients, views, sex and age: not recorded", "No evaluation was given", "Calibration: not measured.",
        "Release | not recorded", "Frontal images by themselves.", "Any image but its own validation images",
        "Epoch 2 was kept, of 2 that were done and 2 that were planned",
    ):  # fmt: skip
        assert said in words, said
    for name in (PROGRESS, METRICS, "findings.csv"):
        (tmp_path / "a" / name).unlink()
    export(tmp_path / "a", tmp_path / "less.md", ExportOptions("card"))
    assert "Which epoch was kept is not recorded." in text(tmp_path, "less.md")


def test_where_it_began_is_followed_as_far_as_it_is_there(dataset, tmp_path):
    for name, more in (("one", {}), ("two", {"init": "runs/one"}), ("three", {"init": "gone/two/best.safetensors"})):
        run_with_weights(tmp_path / "runs" / name, dataset, arch="test_byobnet", **more)
    export(tmp_path / "runs" / "three", tmp_path / "card.md", ExportOptions("card"))
    lineage = json.loads((tmp_path / "card.json").read_text())["lineage"]
    assert [(each["run"], each["starts_from"]) for each in lineage] == [
        ("three", "best.safetensors"), ("two", "one"), ("one", "random weights"),
    ]  # fmt: skip
    change_config(tmp_path / "runs" / "one", settings__init="runs/two")  # a circle ends
    export(tmp_path / "runs" / "three", tmp_path / "circle.md", ExportOptions("card"))
    assert "gone" not in (tmp_path / "circle.md").read_text()


def test_an_evaluation_of_another_run_is_refused_given_or_found(made, margin_run, dataset, tmp_path):
    path, words = (
        made / "a" / "test.metrics.json",
        "test.metrics.json: is an evaluation of a, not of margin; give --eval",
    )
    with pytest.raises(UserError, match=words):
        export(margin_run, tmp_path / "card.md", ExportOptions("card", evaluation=(path,)))
    shutil.copytree(margin_run, tmp_path / "margin")
    shutil.copy(path, tmp_path / "margin")
    with pytest.raises(UserError, match=words):
        export(tmp_path / "margin", tmp_path / "card.md", ExportOptions("card"))
    assert [each.name for each in tmp_path.iterdir()] == ["margin"]


def test_names_from_files_are_text(run, dataset, tmp_path):
    """A run named like a table, an image and a script."""
    name = "a|b <img src=x onerror=1> [x](y) `c` *d*"
    shutil.copytree(run, tmp_path / name)
    export(tmp_path / name, tmp_path / "card.md", ExportOptions("card"))
    words = text(tmp_path)
    assert r"# a\|b \<img src=x onerror=1\> \[x\](y) \`c\` \*d\*" in words and "<img" not in words.replace(r"\<img", "")
    rows = [line for line in words.splitlines() if line.startswith(r"| a\|b")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [8]


def test_nothing_is_written_over(run, tmp_path):
    """A card that somebody edited is their work; the numbers go beside it, where something else may be."""
    out = tmp_path / "card.md"
    export(run, out, ExportOptions("card"))
    first = out.read_bytes()
    export(run, tmp_path / "again.md", ExportOptions("card"))
    assert (tmp_path / "again.md").read_bytes() == first
    with pytest.raises(UserError, match="card.md: is there already; move it away, or give another --out"):
        export(run, out, ExportOptions("card"))
    out.unlink()
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(UserError, match="card.json: is there already"):
        export(run, out, ExportOptions("card"))
    assert (tmp_path / "card.json").read_text() == "{}" and not out.exists()


def test_synthetic_data_is_said_first(run, tmp_path):
    shutil.copytree(run, tmp_path / "a")
    change_config(tmp_path / "a", synthetic=True)
    export(tmp_path / "a", tmp_path / "card.md", ExportOptions("card"))
    loaded = ModelCard.load(tmp_path / "card.md")
    assert "synthetic" in loaded.data.tags
    assert loaded.text.strip().splitlines()[2].startswith("**Trained or scored on synthetic images, of no patient.")
    assert list(FINDINGS) == json.loads((tmp_path / "card.json").read_text())["findings"]
