"""calibrate -> thresholds -> evaluate over a packed dataset, as a user types it."""

import json

import numpy as np
import pytest

from cxrdali.predictions import read
from tests.cli.cli import done, refused
from tests.cxrdali.held_out import written

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(dataset, tmp_path):
    """val and test of one run, train, and the same as a CSV."""
    written(tmp_path / "val.parquet", dataset)
    written(tmp_path / "val.csv", dataset)
    written(tmp_path / "train.parquet", dataset, "train")
    written(tmp_path / "test.parquet", dataset, "test", "test", seed=1)
    return tmp_path


def test_from_validation_to_decisions(folder, pack_folder):
    data = ("--data", pack_folder)
    said = done(folder, "calibrate", "--fit", "val.parquet", "--method", "platt", "--out", "platt.json", *data).stdout
    rules = {row["finding"]: row for row in json.loads((folder / "platt.json").read_text())["findings"]}
    lines = said.splitlines()
    images = rules["Edema"]["images"]
    assert lines[0] == f"val.parquet: {images} images, platt; before and after by cross-fitting, 5 parts by subject"
    for line in lines[2:7]:
        row = next(row for name, row in rules.items() if line.startswith(name))
        numbers = [row[when][name] for name in ("ECE", "Brier") for when in ("before", "after")]
        assert line.removeprefix(row["finding"]).split()[:5] == [
            str(row["positives"]), *(f"{number:.4f}" for number in numbers)
        ]  # fmt: skip
    assert lines[6].startswith("Hernia") and lines[6].endswith("kept as it is: 0 positive of at least 10")
    assert lines[7].startswith("all findings, pooled") and lines[8].startswith("mean over findings: ECE ")
    stored = json.loads((folder / "platt.json").read_text())
    change = stored["Brier_difference"]
    assert lines[8].endswith(f"({change['difference']:+.5f}, by patient {change['low']:+.5f} to {change['high']:+.5f})")
    after = stored["calibration_error"]["after"]
    floor = after["ECE_floor"]["macro_ECE"]
    assert lines[13].split()[:6] == [
        "after,", "equal", "width", *(f"{number:.4f}" for number in (after["macro_ECE"], floor["mean"], floor["p95"]))
    ]  # fmt: skip
    assert lines[-2] == "platt.json: rules fitted to val.parquet; platt.html: reliability diagrams"
    assert "<svg" in (folder / "platt.html").read_text()

    for name in ("val", "test"):
        said = done(
            folder, "calibrate", f"{name}.parquet", "--rules", "platt.json", "--out", f"{name}.c.parquet"
        ).stdout
        assert said.splitlines()[-2].startswith(f"{name}.c.parquet: ")
    slope, offset = (rules["Edema"]["map"][name] for name in ("slope", "offset"))
    before, after = read(folder / "test.parquet").values[:, 0], read(folder / "test.c.parquet").values[:, 0]
    np.testing.assert_allclose(after, slope * before.astype(np.float64) + offset, rtol=1e-6)

    said = done(folder, "thresholds", "--fit", "val.c.parquet", "--out", "f1.json", *data).stdout
    stored = json.loads((folder / "f1.json").read_text())
    assert stored["strategy"] == "f1" and f"{stored['macro_F1']:.3f}" in said and "F1 at 0.5" in said
    assert "Hernia: no positive, so no image is called positive" in said
    edema = next(line for line in said.splitlines() if line.startswith("Edema")).split()
    assert edema[2] == f"{stored['findings'][0]['threshold']:.3f}"

    no_test = "note: these are no test scores"
    said = done(folder, "evaluate", "val.c.parquet", "--draws", 0, *data).stdout
    assert f"val.c.parquet: {images} images of val against labels " in said and no_test in said
    assert "tail, 0 of 1 finding: mAP -" in said  # Hernia, without a positive
    said = done(folder, "evaluate", "test.c.parquet", "--thresholds", "f1.json", "--draws", 0, *data).stdout
    assert " images of test against labels " in said and no_test not in said
    result = json.loads((folder / "test.c.metrics.json").read_text())
    assert "decisions at thresholds f1, fitted to val.c.parquet (recall is sensitivity)" in said
    assert f"all: F1 {result['all']['macro_F1']:.3f}, precision" in said
    errors = next(line for line in said.splitlines() if line.startswith("all, debiased")).split()[2:]
    floor = result["all"]["ECE_floor"]
    assert errors == [
        f"{number:.4f}"
        for key in ("macro_ECE_debiased", "pooled_ECE_debiased")
        for number in (result["all"][key], floor[key]["mean"], floor[key]["p95"])
    ]
    assert f"ECE {result['all']['macro_ECE']:.4f}, Brier {result['all']['macro_Brier']:.4f}" in said
    said = done(folder, "evaluate", "test.c.parquet", "--thresholds", "0.5", "--draws", 0, *data).stdout
    assert "decisions at thresholds fixed=0.5 (recall" in said
    decisions = said.split("decisions at")[1].splitlines()
    assert decisions[1].split()[1:3] == ["threshold", "probability"]  # of 0.5 the logit alone would read as 0
    assert next(line for line in decisions if line.startswith("Edema")).split()[2:4] == ["0.000", "0.5000"]


def test_fit_and_apply_in_one_command(folder, pack_folder):
    one = ("calibrate", "test.parquet", "--fit", "val.parquet", "--method", "isotonic", "--data", pack_folder)
    done(folder, *one, "--out", "a.parquet")
    assert (folder / "calibration.json").exists() and (folder / "calibration.html").exists()
    done(folder, *one, "--out", "b.csv", "--save-rules", "mine.json", "--as", "probability")
    assert (folder / "mine.json").read_bytes() == (folder / "calibration.json").read_bytes()
    done(folder, "calibrate", "test.parquet", "--rules", "mine.json", "--out", "c.parquet")
    assert (read(folder / "a.parquet").values == read(folder / "c.parquet").values).all()
    assert read(folder / "b.csv").values.max() <= 1


def test_what_a_table_does_not_say_is_said(folder, dataset, pack_folder):
    fit = ("--method", "temperature", "--out", "t.json", "--data", pack_folder)
    result = done(folder, "calibrate", "--fit", "val.csv", *fit)
    assert (
        "warning: val.csv does not say which split it holds: images that were trained on look better" in result.stderr
    )
    assert "warning" not in done(folder, "calibrate", "--fit", "train.parquet", "--allow-leak", *fit).stderr
    written(folder / "other.parquet", dataset, "test", "test", run="n")
    other = ("calibrate", "other.parquet", "--rules", "t.json", "--out", "o.parquet")
    refused(*other, cwd=folder, code=1, said="other.parquet: run 'n' here, 'm' in train.parquet")
    said = done(folder, *other, "--allow-other-run").stdout
    assert "note: run 'n' here, 'm' in train.parquet, to which the rules were fitted" in said
    said = done(folder, "evaluate", "val.csv", "--draws", 0, "--data", pack_folder).stdout
    assert "note: val.csv does not say what it holds; ECE and Brier take its values as logits" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("calibrate test.parquet --out c.parquet", 2, "give one of --fit"),
        ("calibrate --fit val.parquet --rules r.json --method platt --out c.json", 2, "give one of --fit"),
        ("calibrate --fit val.parquet --out c.json", 2, "--fit and --method belong together"),
        (
            "calibrate test.parquet --rules r.json --method platt --out c.parquet",
            2,
            "--fit and --method belong together",
        ),
        ("calibrate --rules r.json --out c.parquet", 2, "--rules calibrates a table: give its FILE"),
        ("calibrate test.parquet --rules r.json --allow-leak --out c.parquet", 2, "--allow-leak belongs to --fit"),
        ("calibrate test.parquet --rules r.json --folds 0 --out c.parquet", 2, "--folds belongs to --fit"),
        ("calibrate --fit val.parquet --method platt --as probability --out c.json", 2, "belong to a FILE"),
        ("calibrate --fit val.parquet --method beta --out c.json", 2, "'beta': choose one of"),
        ("calibrate --fit val.parquet --method platt --out c.parquet", 1, "c.parquet: rules are written as .json"),
        ("calibrate --fit val.parquet --method platt --out no/c.json", 1, "no: no such folder; make it"),
        ("calibrate test.parquet --rules r.json --out test.parquet", 1, "is a table that this one is made from"),
        ("calibrate test.parquet --rules r.json --out c.parquet", 1, "r.json: no such file; fit it again"),
        ("calibrate --fit train.parquet --method platt --out c.json --data {pack}", 1, "whose images were trained on"),
        ("calibrate --fit val.parquet --method platt --out c.json --data {pack} --folds 1", 1, "folds 1: at least 2"),
        ("calibrate --fit val.parquet --method platt --out c.json --data {pack} --folds 0", 1, "folds 0: at least 2"),
        ("thresholds --out t.json", 2, "Missing option '--fit'"),
        ("thresholds --fit val.parquet --strategy f2 --out t.json --data {pack}", 1, "strategy 'f2': choose one of"),
        ("thresholds --fit val.parquet --out t.csv", 1, "t.csv: rules are written as .json"),
        ("thresholds --fit train.parquet --out t.json --data {pack}", 1, "whose images were trained on"),
        ("evaluate test.parquet --data {pack} --thresholds t.json", 1, "t.json: no such file; fit them again"),
        ("evaluate test.parquet --data {pack} --thresholds 50", 1, "threshold 50: a probability between 0 and 1"),
    ],
)
def test_mistakes_are_named(folder, pack_folder, arguments, code, said):
    refused(*arguments.format(pack=pack_folder).split(), cwd=folder, code=code, said=said)


def test_a_method_of_the_command_is_one_of_the_library_s():
    from cli.calibrate import calibrate
    from cxrdali.postprocess.calibration import PER_FINDING
    from cxrdali.postprocess.options import CALIBRATIONS, SHARED

    method = next(each for each in calibrate.params if each.name == "method")
    assert tuple(method.type.choices) == CALIBRATIONS == (SHARED, *PER_FINDING)
