"""What a user reads where something was fitted on the images that are scored."""

import json

import pytest

from cxrdali.predictions import read
from cxrdali.report.training.page import SECTIONS
from cxrdali.report.training.sources import ReportOptions, read_sources
from tests.cli.cli import done, refused
from tests.cxrdali.held_out import written
from tests.cxrdali.report.pages import section_html

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(dataset, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    written(tmp_path / "test.parquet", dataset, "test", "test", seed=1)
    return tmp_path


def test_calibrated_and_judged_on_the_same_images(folder, pack_folder):
    data, same = ("--data", pack_folder), "test.parquet: calibration fitted on these very images, which are there to be"
    once = ("calibrate", "test.parquet", "--fit", "test.parquet", "--method", "platt", "--folds", 2, *data)
    refused(*once, "--out", "c.csv", cwd=folder, code=1, said=same)
    assert not (folder / "c.csv").exists() and not (folder / "calibration.json").exists()
    done(folder, *once, "--out", "c.csv", "--allow-same-images")
    about = read(folder / "c.csv").provenance
    assert (about.run, about.split, about.kind) == ("m", "test", "calibrated") and about.calibrated
    again = ("calibrate", "c.csv", "--rules", "calibration.json", "--out", "d.csv", "--allow-same-images")
    refused(*again, cwd=folder, code=1, said="c.csv: was calibrated before (calibrated: platt, fitted on test.parquet)")
    score = ("evaluate", "c.csv", "--draws", 0, "--out", "s", *data)
    refused(*score, cwd=folder, code=1, said="c.csv: calibration fitted on these very images")
    said = done(folder, *score, "--allow-same-images").stdout
    note = "note: these are no test scores: fitted on these images, so that scores are too good: calibration"
    assert note in said.splitlines() and json.loads((folder / "s.json").read_text())["fitted_here"] == ["calibration"]
    (section,) = (each for each in SECTIONS if each.template == "training/evaluation")
    html = section_html(section, read_sources([], None, [folder / "s.json"], ReportOptions("t")))
    assert "Fitted on these images, so that the scores flatter: calibration." in html
    table = html[html.index('aria-label="Metrics by view') :].partition("</table>")[0]
    assert "Fitted on these images" in table and table.count(">calibration<") == 3, table


def test_thresholds_of_validation_are_said_and_of_test_refused(folder, pack_folder):
    data = ("--data", pack_folder)
    for name in ("val", "test"):
        done(folder, "thresholds", "--fit", f"{name}.parquet", "--folds", 2, "--out", f"{name}.json", *data)
    ask = ("evaluate", "val.parquet", "--draws", 0, *data, "--thresholds")
    assert "too good: best epoch, thresholds" in done(folder, *ask, "val.json").stdout
    assert "too good: best epoch\n" in done(folder, *ask, "test.json").stdout
    ask = ("evaluate", "test.parquet", "--draws", 0, *data, "--thresholds")
    assert "no test scores" not in done(folder, *ask, "val.json").stdout
    refused(*ask, "test.json", cwd=folder, code=1, said="test.parquet: thresholds fitted on these very images")
    assert "too good: thresholds\n" in done(folder, *ask, "test.json", "--allow-same-images").stdout


def test_a_table_of_another_program_and_rules_of_an_older_version_are_called_unknown(folder, pack_folder):
    data = ("--data", pack_folder)
    done(folder, "calibrate", "--fit", "val.parquet", "--method", "temperature", "--out", "t.json", *data)
    read(folder / "test.parquet").write(folder / "foreign.csv")
    (folder / "foreign.csv.sha256").unlink()
    said = done(folder, "calibrate", "foreign.csv", "--rules", "t.json", "--out", "f.csv").stdout
    assert "note: whether foreign.csv was calibrated is not known: the calibration may be meant for other" in said
    said = done(folder, "evaluate", "f.csv", "--draws", 0, *data).stdout
    assert "note: fitted on images that nobody knows, perhaps on these: what was done to it before" in said
