"""`cxrdali predict --images`: what it writes equals packing and predicting, and says what could not be judged."""

import csv
import gc
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from cxrdali import predictions
from cxrdali.postprocess import calibration, ensemble, thresholds
from cxrdali.postprocess.options import FitOptions
from cxrdali.predict.image_files import ImageFile
from cxrdali.predict.judge import Judge
from cxrdali.predict.new_images import judge_files
from cxrdali.predict.options import JudgeOptions
from cxrdali.predict.rendering import Rendered
from cxrdali.runs.reader import Run
from shards.storage.sidecar import check_hash
from tests.cli.cli import call, refused
from tests.cxrdali.predict.new_images import trained
from tests.releases import FINDINGS, image_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(dataset, release_folder, tmp_path_factory):
    """Runs a (48 px, JPEG), b (56 px, raw) and c (50 px, from 56 raw), their tables of all images, and a list of the
    release's files in the order of the catalog."""
    folder = tmp_path_factory.mktemp("place")
    for seed, (name, size) in enumerate((("a", 48), ("b", 56), ("c", 50))):
        trained(dataset, folder / name, size=size, seed=seed)
        done(folder, "predict", "--run", name, "--data", dataset.root, "--split", "all", "--out", f"{name}.parquet")
    (folder / "data.csv").write_text(f"path\n{dataset.root}\n")
    rows = dataset.catalog.rename(columns={"image_id": "dicom_id"}).itertuples()
    paths = [image_path(row) for row in rows]
    listed = pd.DataFrame({"path": [release_folder / path for path in paths], "image_id": dataset.catalog["image_id"]})
    listed.to_csv(folder / "all.csv", index=False)
    (folder / "films").mkdir()
    for name, path in zip(("1.jpg", "2.jpg", "3.jpg"), paths, strict=False):
        shutil.copy(release_folder / path, folder / "films" / name)
    return folder


def done(folder, *words):
    result = call(*words, "--device", "cpu", cwd=folder)
    assert result.returncode == 0, result.stderr
    return result


def judged(folder, out, *more, runs=("a",), images=("films",)):
    words = [word for name in runs for word in ("--run", name)] + [
        word for path in images for word in ("--images", path)
    ]
    return done(folder, "predict", *words, "--out", out, *more)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_the_logits_are_those_of_packing_and_predicting_bit_for_bit(place, name):
    judged(place, "new.parquet", runs=(name,), images=("all.csv",))
    new, packed = predictions.read(place / "new.parquet"), predictions.read(place / f"{name}.parquet")
    assert (new.ids["image_id"] == packed.ids["image_id"]).all() and new.findings == packed.findings
    assert (new.values == packed.values).all() and len(new.values) > 100
    about = new.provenance
    assert (about.kind, about.run, about.split, about.tta, about.labels) == ("logit", name, None, "none", "cxr-lt-2023")


def test_several_runs_of_other_sizes_and_packing(place):
    judged(place, "new.parquet", "--tta", "hflip", runs="cba", images=("all.csv",))
    for name in "cba":
        done(place, "predict", "--run", name, "--data", rows(place / "data.csv")[0]["path"], "--split", "all", "--tta",
             "hflip", "--out", f"{name}-hflip.parquet")  # fmt: skip
    pooled = ensemble.ensemble([place / f"{name}-hflip.parquet" for name in "cba"])
    assert (predictions.read(place / "new.parquet").values == pooled.values).all()
    pooled.write(place / "pooled.parquet")


def test_a_csv_for_people_and_lines_for_programs(place, dataset):
    labels = dataset.labels("cxr-lt-2023")
    done(place, "predict", "--run", "a", "--data", dataset.root, "--split", "val", "--out", "val.parquet")
    calibration.fit(place / "val.parquet", dataset, labels, "platt", FitOptions(folds=2)).write(place / "platt.json")
    calibration.apply(place / "val.parquet", calibration.read(place / "platt.json")).write(place / "val-platt.parquet")
    fitted = thresholds.fit(place / "val-platt.parquet", dataset, labels, "f1", FitOptions(folds=2))
    fitted.write(place / "f1.json")
    rules = ("--calibration", "platt.json", "--thresholds", "f1.json")
    said = judged(place, "new.csv", *rules, images=("all.csv",)).stdout
    assert f"new.csv: {len(dataset.catalog)} images, 5 findings" in said
    judged(place, "new.jsonl", *rules, images=("all.csv",))

    table = calibration.apply(place / "a.parquet", calibration.read(place / "platt.json"))
    probability, present = table.as_probabilities().values, fitted.decide(place / "x", table)
    people = rows(place / "new.csv")
    assert list(people[0]) == [
        "path", "image_id", *(f"{name} probability" for name in FINDINGS), *(f"{name} present" for name in FINDINGS),
    ]  # fmt: skip
    assert [row["image_id"] for row in people] == table.ids["image_id"].tolist()
    given = np.array([[float(row[f"{name} probability"]) for name in FINDINGS] for row in people])
    assert np.allclose(given, probability, rtol=1e-6, atol=0)
    assert [[row[f"{name} present"] == "yes" for name in FINDINGS] for row in people] == present.tolist()
    about = json.loads(check_hash(place / "new.csv", (place / "new.csv").read_bytes()))
    assert about["run"] == "a" and about["calibrated"] == ["calibrated: platt, fitted on val.parquet"]

    lines = [json.loads(line) for line in (place / "new.jsonl").read_text().splitlines()]
    limits = {rule.finding: rule.probability for rule in fitted.rules}
    for line, row, wanted in zip(lines, people, present.tolist(), strict=True):
        assert (line["path"], line["image_id"]) == (row["path"], row["image_id"])
        assert [each["name"] for each in line["findings"]] == list(FINDINGS)
        assert [each["present"] for each in line["findings"]] == wanted
        for each in line["findings"]:
            assert each["probability"] == pytest.approx(float(row[f"{each['name']} probability"]), rel=1e-8)
            assert each["threshold"] == limits[each["name"]]
    assert limits["Hernia"] is None


def test_without_thresholds_nothing_is_decided(place):
    judged(place, "few.csv")
    judged(place, "few.jsonl")
    assert not any("present" in name for name in rows(place / "few.csv")[0])
    (line, *_) = (place / "few.jsonl").read_text().splitlines()
    assert {(each["threshold"], each["present"]) for each in json.loads(line)["findings"]} == {(None, None)}


def test_paths_behind_one_another_and_probabilities_in_a_table(place):
    judged(place, "two.parquet", "--as", "probability", images=("films/1.jpg", "films/2.jpg"))
    table = predictions.read(place / "two.parquet")
    assert table.ids["image_id"].tolist() == ["1", "2"] and table.provenance.kind == "probability"
    assert ((table.values > 0) & (table.values < 1)).all()


def test_rejects_are_listed_and_the_others_judged(place, tmp_path):
    shutil.copytree(place / "films", tmp_path / "films")
    (tmp_path / "films" / "=cut.jpg").write_bytes((tmp_path / "films" / "1.jpg").read_bytes()[:500])
    (tmp_path / "films" / "old.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 9)
    for name in ("twin.jpg", "lat\udce9in.jpg"):  # the second is no UTF-8
        (tmp_path / "films" / name).write_bytes((tmp_path / "films" / "1.jpg").read_bytes())
    words = ("predict", "--run", place / "a", "--out", "new.csv", "--device", "cpu", "--images")
    result = call(*words, "films", "films/gone.jpg", cwd=tmp_path)
    assert result.returncode == 1 and "films/gone.jpg: no such file" in result.stderr
    (tmp_path / "list.csv").write_text("path\nfilms/gone.jpg\n")
    result = call(*words, "films", "list.csv", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "3 images rejected: " in result.stdout and "1 absent" in result.stdout
    assert "(listed in new.csv.rejects.csv)" in result.stdout
    listed = {row["path"]: row["reason"] for row in rows(tmp_path / "new.csv.rejects.csv")}
    assert set(listed) == {"films/=cut.jpg", "films/old.dcm", "films/gone.jpg"} and listed["films/gone.jpg"] == "absent"
    made = {row["image_id"]: row for row in rows(tmp_path / "new.csv")}
    assert set(made) == {"1", "2", "3", "twin", r"lat\udce9in"}
    same = [f"{name} probability" for name in FINDINGS]
    assert [float(made["1"][name]) for name in same] == pytest.approx(
        [float(made["twin"][name]) for name in same], 1e-5
    )

    result = call(*words, "list.csv", cwd=tmp_path)
    assert result.returncode == 1
    assert "new.csv: no image could be judged, 1 image rejected: 1 absent (listed in" in result.stderr
    assert call(*words, "films/1.jpg", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "new.csv.rejects.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--images", "films", "--split", "test"), "--split belongs to packed datasets"),
        (("--images", "films", "--data", "x"), "--data belongs to packed datasets"),
        (("--images", "films", "--gpus", "2"), "--gpus belongs to packed datasets"),
        (("--images", "films", "--allow-leak"), "--allow-leak belongs to packed datasets"),
        (("--calibration", "x.json"), "--calibration belongs to --images"),
        (("--thresholds", "0.5"), "--thresholds belongs to --images"),
        (("--jobs", "2"), "--jobs belongs to --images"),
        (("--run", "b"), "several --run belong to --images"),
        (("films",), "unexpected 'films'; new images are given with --images"),
        (("--images", "films", "--as", "logit"), "a .csv of --images holds probabilities"),
    ],
)
def test_options_of_packs_and_of_images_are_kept_apart(place, words, said):
    refused("predict", "--run", "a", "--out", "never.csv", *words, cwd=place, code=2, said=said)


@pytest.mark.parametrize(
    ("out", "words", "said"),
    [
        ("never.txt", (), "are written as .csv, .jsonl, .parquet"),
        ("gone/never.csv", (), "gone: no such folder"),
        ("all.csv", (), "all.csv: is one of --images"),
        (
            "o.csv",
            ("--images", "o.csv.rejects.csv"),
            "o.csv.rejects.csv: is one of --images",
        ),
        ("never.csv", ("--images", ""), "a blank path, as of a variable that is not set"),
        ("a/metrics.csv", (), "belongs to a run"),
        ("never.csv", ("--run", "a"), "a: is given twice"),
        ("never.csv", ("--batch", "0"), "batch 0"),
    ],
)
def test_what_is_refused_before_an_image_is_read(place, out, words, said):
    refused("predict", "--run", "a", "--images", "all.csv", "--out", out, *words, cwd=place, code=1, said=said)


def test_decisions_have_no_place_in_a_table(place):
    words = ("predict", "--run", "a", "--images", "films", "--thresholds", "0.5", "--out", "never.parquet")
    refused(*words, cwd=place, code=2, said="a .parquet has no place for decisions")


def test_a_network_that_does_not_see_the_images(place, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(place / "a" / "best.safetensors")
    save_file({name: value * 0 for name, value in weights.items()}, tmp_path / "zero.safetensors")
    words = ("predict", "--run", place / "a", "--weights", tmp_path / "zero.safetensors", "--device", "cpu")
    result = call(*words, "--images", "films", "--out", tmp_path / "new.csv", cwd=place)
    assert result.returncode == 1 and "gives images that differ the same logits" in result.stderr
    assert not (tmp_path / "new.csv").exists()


def test_a_study_in_a_folder_that_is_no_utf8_has_a_page(place, tmp_path):
    shutil.copytree(place / "films", tmp_path / "films" / "d\udce9")
    done(tmp_path, "read", place / "a", "films", "--study", "--html", "page.html")
    assert r"Study films/d\udce9" in (tmp_path / "page.html").read_text()
    assert json.loads((tmp_path / "page.json").read_text())["readings"][0]["name"] == "Study films/d\udce9"


def test_no_more_images_are_held_than_three_batches(place):
    judge = Judge.of([Run.open(place / "a")], JudgeOptions(device="cpu", batch=4))
    held, whole = [], judge.judge

    def counting(*given):
        held.append(sum(type(each) is Rendered for each in gc.get_objects()))
        time.sleep(0.02)  # decoders have all the time to be ahead
        return whole(*given)

    judge.judge = counting
    found = judge_files(judge, [ImageFile(place / "films" / "1.jpg", str(number)) for number in range(28)], 2)
    assert len(found.paths) == 28 and len(held) == 7 and 4 <= max(held) <= 3 * 4 + 2
