"""A reading says what predict, calibrate and thresholds say of an image; its page says what its JSON says."""

import asyncio
import json
import re
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import binomtest

from cxrdali.postprocess import calibration, thresholds
from cxrdali.predict.heatmaps import heat_maps
from cxrdali.predict.image_files import find
from cxrdali.predict.judge import Judge
from cxrdali.predict.new_images import read_files
from cxrdali.predict.options import JudgeOptions, ReadOptions, ReferenceOptions
from cxrdali.predict.reading import Operating, read_image, read_study
from cxrdali.predict.reference import fit
from cxrdali.predict.rendering import Rendering
from cxrdali.predictions import match, read
from cxrdali.report.kit import page as pages
from cxrdali.report.kit.numbers import chance, percent_interval
from cxrdali.report.reading.page import TEMPLATE, page_data, write_reading
from cxrdali.runs.layout import REFERENCE_ARRAYS, REFERENCE_JSON
from cxrdali.runs.reader import Run
from shards.errors import UserError
from tests.cli.cli import call
from tests.cxrdali.report.pages import Page, check_numbers
from tests.cxrdali.serve.chromium import PROGRAM, tab
from tests.dicom_files import dicom

pytestmark = pytest.mark.slow
LAYER = "stages.2"  # of more places than the last


@pytest.fixture(scope="module")
def run(frontal):
    return Run.open(frontal.path)


@pytest.fixture(scope="module")
def rules(frontal, run, tmp_path_factory):
    """Options with a calibration, and thresholds of calibrated logits, fitted to the run's validation images.

    Their logits rank images well, which those of so small a network do not.
    """
    folder, labels = tmp_path_factory.mktemp("rules"), frontal.dataset.labels(run.labels)
    table = read(run.val_predictions)
    rows, columns = match(run.val_predictions, table, frontal.dataset, labels)
    values = np.random.default_rng(0).normal(0, 1, table.values.shape) + 2 * (labels.values[rows] == 1)
    replace(table, values=values[:, np.argsort(columns)].astype(np.float32)).write(folder / "logits.parquet")
    made = calibration.fit(folder / "logits.parquet", frontal.dataset, labels, "platt")
    made.write(folder / "platt.json")
    calibration.apply(folder / "logits.parquet", made).write(folder / "val.parquet")
    thresholds.fit(folder / "val.parquet", frontal.dataset, labels, "f1").write(folder / "f1.json")
    return JudgeOptions(calibration=str(folder / "platt.json"), thresholds=str(folder / "f1.json"), device="cpu")


@pytest.fixture(scope="module")
def table(run):
    return read(run.val_predictions)


@pytest.fixture(scope="module")
def rendered(frontal, run, table):
    """Four validation images, from their files."""
    with Rendering.of(run) as rendering:
        return [rendering.render(frontal.images[name]) for name in table.ids["image_id"][:4]]


@pytest.fixture(scope="module")
def plain(run):
    return Judge.of([run], JudgeOptions(device="cpu"))


@pytest.fixture(scope="module")
def judge(run, rules):
    return Judge.of([run], rules)


@pytest.fixture(autouse=True)
def layer(monkeypatch):
    monkeypatch.setattr("cxrdali.predict.reading.map_layer", lambda model, size: LAYER)


def reading_page(readings):
    return pages.render(TEMPLATE, page_data(readings, {}))


def by_name(reading):
    return {each.finding: each for each in reading.findings}


def test_probabilities_are_those_of_the_run_s_own_table(plain, rendered, table):
    for place, image in enumerate(rendered):
        found = by_name(read_image(plain, None, image, ReadOptions(top=0)))
        for column, name in enumerate(table.findings):
            assert found[name].probability == pytest.approx(expit(table.values[place, column]), abs=1e-5)
            assert (found[name].threshold, found[name].positive, found[name].operating) == (None, None, None)


def test_calibration_and_thresholds_are_those_of_the_files(judge, rules, rendered, run, table):
    made, limits = calibration.read(rules.calibration), thresholds.read(rules.thresholds)
    calibrated = calibration.apply(run.val_predictions, made)
    called = limits.decide(run.val_predictions, calibrated)
    kept = {rule.finding for rule in made.rules if rule.kept}
    for place, image in enumerate(rendered):
        found = by_name(read_image(judge, None, image, ReadOptions(top=0)))
        for rule in limits.rules:
            each = found[rule.finding]
            at = calibrated.findings.index(rule.finding)
            assert each.probability == pytest.approx(expit(calibrated.values[place, at]), abs=1e-5)
            assert each.positive == called[place, at] and each.threshold == rule.probability
            assert each.calibrated == (rule.finding not in kept)
            if rule.recall is not None:
                assert each.operating.sensitivity[0] == rule.recall
            assert each.operating.positives == rule.positives
    assert found and not kept >= set(found)


def test_an_interval_counts_patients_where_they_are_known(judge, rules):
    rule = next(rule for rule in thresholds.read(rules.thresholds).rules if rule.positives > 5)
    made = replace(rule, recall=0.75, specificity=0.5, independent=(40, 60), positives=50, images=200)
    found = Operating.of(made)
    right = [binomtest(*each).proportion_ci(0.95, method="wilson") for each in ((30, 40), (30, 60))]
    assert found.sensitivity == pytest.approx((0.75, right[0].low, right[0].high))
    assert found.specificity == pytest.approx((0.5, right[1].low, right[1].high))
    assert found.by_patient and found.prevalence == 0.25
    older = Operating.of(replace(made, independent=None, recall=0.5))
    right = binomtest(25, 50).proportion_ci(0.95, method="wilson")
    assert older.sensitivity == pytest.approx((0.5, right.low, right.high)) and not older.by_patient
    none = replace(made, recall=None, positives=0, independent=(0, 60))
    assert Operating.of(none).sensitivity is None
    assert Operating.of(thresholds.fixed(("Mass",)).rules[0]) is None


def test_rules_of_another_tta_are_named(run, rules, rendered):
    judge = Judge.of([run], replace(rules, tta="hflip", allow_other_run=True))
    found = read_image(judge, None, rendered[0], ReadOptions(top=0))
    for words in (found.calibration, found.thresholds):
        assert "test-time augmentation 'hflip' here, 'none' in " in words
    alike = read_image(Judge.of([run], rules), None, rendered[0], ReadOptions(top=0))
    assert "test-time" not in alike.calibration + alike.thresholds
    assert re.fullmatch(r"platt, fitted on [\d,]+ images of val", alike.calibration)


def test_other_weights_are_named(run, rendered):
    judge = Judge.of([run], JudgeOptions(device="cpu", weights=str(run.path / "last.pt")))
    assert read_image(judge, None, rendered[0], ReadOptions(top=0)).run == "run + last.pt"


def test_what_is_called_present_comes_first(judge, rendered):
    for image in rendered:
        found = read_image(judge, None, image, ReadOptions(top=0)).findings
        order = [(not each.positive, -each.probability) for each in found]
        assert order == sorted(order)


def test_a_study_is_the_mean_over_its_images(frontal, judge, rendered, table, tmp_path):
    for number, name in enumerate(table.ids["image_id"][:4]):
        folder = tmp_path / ("a" if number < 3 else "b")
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(frontal.images[name].read_bytes())
    files = find([str(tmp_path)])
    readings, rejected = read_files(judge, None, files, ReadOptions(top=1, study=True), 1)
    assert not rejected and [len(each.images) for each in readings] == [3, 1]
    assert [each.name for each in readings] == [f"Study {tmp_path / name}" for name in "ab"]
    alone, _ = read_files(judge, None, files, ReadOptions(top=0), 1)
    for each in readings[0].findings:
        own = [by_name(other)[each.finding].probability for other in alone[:3]]
        assert each.probability == pytest.approx(np.mean(own), abs=1e-6)
        assert each.positive == (each.threshold is not None and each.probability >= each.threshold)
    shown = readings[0].images
    place = [each.finding for each in readings[0].findings].index("Cardiomegaly")
    assert [each.probabilities[place] for each in shown] == pytest.approx(
        [by_name(other)["Cardiomegaly"].probability for other in alone[:3]], abs=1e-6
    )
    assert (
        "How calibration and thresholds do on the mean of several images: they were fitted to single ones."
        in readings[0].not_checked
    )
    assert [each.name for each in alone] == [each.image_id for each in files]


def test_a_study_is_called_by_its_mean(run, plain, rendered):
    found = read_study(plain, None, rendered, ReadOptions(top=0), "study")
    limit = float(np.median([each.probability for each in found.findings]))
    judge = Judge.of([run], JudgeOptions(device="cpu", thresholds=f"{limit:.9f}"))
    called = read_study(judge, None, rendered, ReadOptions(top=0), "study").findings
    assert [each.positive for each in called] == [each.probability >= each.threshold for each in called]
    assert len({each.positive for each in called}) == 2


def test_a_study_of_dicoms_is_what_their_tags_say(frontal, plain, tmp_path):
    gray = cv2.imread(str(next(iter(frontal.images.values()))), cv2.IMREAD_GRAYSCALE)
    tags = {"StudyInstanceUID": "1.2.3", "PatientName": "Doe^Jane", "PatientBirthDate": "19500101"}
    for name, more in (("a/1", {"ViewPosition": "PA"}), ("b/2", {"ViewPosition": "LL"}), ("b/3", {})):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        own = {**tags, **more} if more else {"StudyInstanceUID": "1.9"}
        (tmp_path / f"{name}.dcm").write_bytes(dicom(gray, 8, **own))
    reference = fit(frontal.path, frontal.dataset, ReferenceOptions(images=60, device="cpu", threads=1))
    readings, rejected = read_files(plain, reference, find([str(tmp_path)]), ReadOptions(top=0, study=True), 1)
    assert not rejected and [each.name for each in readings] == ["Study 1.2.3", "Study 1.9"]
    assert [each.view_position for each in readings[0].images] == ["PA", "LL"]
    assert np.array_equal(readings[0].images[0].pixels, readings[1].images[0].pixels)
    (strange,) = [words for words in readings[0].warnings if "View LL" in words]
    assert strange.startswith("b/2: View LL: 0 of the run's ")
    assert not any("view was not checked" in words for words in readings[0].not_checked)
    assert any("view was not checked" in words for words in readings[1].not_checked)
    page = reading_page(readings)
    assert "Doe" not in page and "1950" not in page and "View LL: 0 of" in page


def test_heat_maps_are_those_of_the_first_findings(judge, rendered):
    found = read_image(judge, None, rendered[0], ReadOptions(top=2))
    (image,) = found.images
    assert list(image.heats) == [each.finding for each in found.findings[:2]]
    pixels = torch.from_numpy(rendered[0].pixels)[None, None]
    for name, heat in image.heats.items():
        right = heat_maps(judge.model, LAYER, pixels, torch.tensor([judge.findings.index(name)]))[0]
        assert np.array_equal(heat, right)
    assert np.array_equal(image.pixels, rendered[0].pixels)


def test_what_was_not_checked_is_said(plain, judge, rendered):
    said = " ".join(read_image(plain, None, rendered[0], ReadOptions(top=0)).not_checked)
    assert "the run has no reference. `cxrdali reference RUN --data PACK` fits one" in said
    assert "not calibrated" in said and "No threshold was given" in said and "none were asked for" in said
    said = " ".join(read_image(judge, None, rendered[0], ReadOptions()).not_checked)
    assert "not calibrated" not in said and "No threshold" not in said and "No heat maps" not in said


def test_a_network_without_a_map_says_so(judge, rendered, monkeypatch):
    def none(model, size):
        raise UserError("VisionTransformer: 17 x 192 is no map; choose a layer with --layer, as patch_embed.proj")

    monkeypatch.setattr("cxrdali.predict.reading.map_layer", none)
    found = read_image(judge, None, rendered[0], ReadOptions())
    assert not found.images[0].heats
    assert found.not_checked[-1] == "No heat maps: VisionTransformer: 17 x 192 is no map."


def test_the_figures_say_what_else_was_fitted_on_their_images(judge, plain, rendered):
    assert read_image(judge, None, rendered[0], ReadOptions(top=0)).fitted_here == "best epoch, calibration"
    assert read_image(plain, None, rendered[0], ReadOptions(top=0)).fitted_here == ""


def test_weights_from_elsewhere_were_not_chosen_on_their_images(run, rules, rendered, tmp_path):
    shutil.copy(run.best_weights(), tmp_path / "other.safetensors")
    options = replace(rules, weights=str(tmp_path / "other.safetensors"), allow_other_run=True)
    found = read_image(Judge.of([run], options), None, rendered[0], ReadOptions(top=0))
    assert found.fitted_here == "calibration"


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(judge, rendered, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cxrdali.predict.reading.map_layer", lambda model, size: LAYER)
        readings = [read_image(judge, None, each, ReadOptions(top=2)) for each in rendered[:2]]
    out = tmp_path_factory.mktemp("page") / "read.html"
    write_reading(out, readings, {"other.jpg": "empty file"})
    return Page(out), readings


def test_every_number_of_the_page_is_in_its_json(page):
    page, readings = page
    assert check_numbers(page) > 50
    stored = page.numbers["readings"]
    assert [each["findings"] for each in stored] == json.loads(
        json.dumps([each.as_json()["findings"] for each in readings])
    )
    assert page.numbers["rejected"] == {"other.jpg": "empty file"} and "other.jpg (empty file)" in page.text


def test_the_page_says_what_it_is_and_fetches_nothing(page):
    page, readings = page
    assert "Not a medical device." in page.text and "<script" not in page.source
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert page.tags.count("img") == 2 * (1 + 2)
    for each in readings:
        present = [finding.finding for finding in each.findings if finding.positive]
        assert (f"Called present: {present[0]}" if present else "No finding is called present.") in page.text
    assert "Also fitted on these images, so that the figures flatter: best epoch, calibration." in page.text
    assert "about 30 have the finding" in page.text


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium")
def test_a_phone_shows_the_decisions_and_a_desk_every_column(judge, rendered, tmp_path):
    """A study's name is a UID of 64 characters without a blank."""
    named = replace(rendered[0], name=f"Study 1.2.{'8' * 60}")
    both = [read_image(judge, None, each, ReadOptions(top=2)) for each in (named, rendered[1])]
    out = write_reading(tmp_path / "read.html", both, {})
    ends = "[...document.querySelector('table').rows[0].cells].map(cell => cell.getBoundingClientRect().right)"

    async def at(seen, width):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        await seen.call("Emulation.setDeviceMetricsOverride", **size)
        return await seen.evaluate("document.documentElement.scrollWidth"), await seen.evaluate(ends)

    async def story():
        async with tab(tmp_path / "profile") as seen:
            await seen.open(out.as_uri())
            return await at(seen, 400), await at(seen, 1200)

    (phone, columns), (desk, wide) = asyncio.run(story())
    assert phone <= 400 and columns[2] <= 400 - 16 and desk <= 1200 and max(wide) <= 1200 - 24
    assert len(wide) == 8


def test_a_page_without_rules_claims_nothing_of_them(plain, rendered):
    reading = read_image(plain, None, rendered[0], ReadOptions(top=0))
    source = reading_page([reading])
    assert "Probabilities are not calibrated" in source and "about 30 have the finding" not in source
    assert "Sensitivity" not in source and "Called present" not in source


def test_patients_are_named_where_they_are_known(judge, rendered):
    reading = read_image(judge, None, rendered[0], ReadOptions(top=0))
    known = reading_page([reading])
    findings = [replace(each, operating=replace(each.operating, by_patient=False)) for each in reading.findings]
    unknown = reading_page([replace(reading, findings=tuple(findings))])
    for source, words in ((known, "patients"), (unknown, "images")):
        assert f"by thresholds that were fitted to other {words}." in source
    assert "counting patients, by how many" in known and "counting images, so too narrow" in unknown


def test_an_upload_without_a_name_has_a_page(plain, rendered):
    source = reading_page([read_image(plain, None, replace(rendered[0], name="", image_id=""), ReadOptions(top=0))])
    assert rendered[0].image_id not in source and "<title>Read by run</title>" in source


def test_json_has_no_nan(judge, rendered):
    reading = read_image(judge, None, rendered[0], ReadOptions(top=1))
    found = json.loads(json.dumps(reading.as_json(), allow_nan=False))
    assert set(found) >= {"name", "run", "findings", "images", "warnings", "not_checked"}
    assert "pixels" not in found["images"][0] and len(found["images"][0]["heat_maps"]) == 1


def test_probabilities_are_never_written_as_certain():
    assert [chance(each) for each in (0.5, 0.031, 0.9994, 0.99999, 1e-9, None)] == [
        "50.0 %", "3.1 %", "99.9 %", ">99.9 %", "<0.0001 %", "–",
    ]  # fmt: skip
    assert percent_interval((0.813, 0.702, 0.889)) == "81.3 % (70.2 to 88.9)" and percent_interval(None) == "–"


# ---------------------------------------------------------------- the commands


@pytest.fixture
def folder(frontal, tmp_path):
    for name, path in list(frontal.images.items())[:2]:
        (tmp_path / f"{name}.jpg").write_bytes(path.read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return tmp_path


def test_read_as_a_user_types_it(frontal, rules, folder):
    given = ("--calibration", rules.calibration, "--thresholds", rules.thresholds, "--device", "cpu", "--top", 0)
    done = call("read", frontal.path, *sorted(folder.glob("*.jpg")), *given, "--html", "page.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^page.html: 2 readings, 0\.\d MB$", done.stdout, re.MULTILINE)
    assert "broken: not read: " in done.stderr
    stored = json.loads((folder / "page.json").read_text())
    assert stored["page"] == "reading" and len(stored["readings"]) == 2 and list(stored["rejected"]) == ["broken"]
    assert "Not read: broken (" in (folder / "page.html").read_text()


@pytest.mark.parametrize(("more", "code", "words"), [
    (("broken.jpg", "--html", "page.html"), 1, "of 1 file none could be read"),
    (("broken.jpg", "--html", "page.pdf"), 2, "the page is a .html"),
    (("missing.jpg", "--html", "page.html"), 1, "missing.jpg: no such file"),
    (("--html", "page.html"), 2, "PATH"),
    (("broken.jpg", "--html", "no/page.html"), 1, "no such folder"),
])  # fmt: skip
def test_mistakes_are_named(frontal, folder, more, code, words):
    done = call("read", frontal.path, *more, cwd=folder)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "page.html").exists()


def test_a_reference_is_fitted_and_used(frontal, folder):
    done = call(
        "reference", frontal.path, "--data", frontal.path.parent / "pack", "--images", 60, "--device", "cpu", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    try:
        assert f"{frontal.path / 'reference.json'}: 60 training images of " in done.stdout
        name = next(iter(frontal.images))
        strange = 255 - cv2.imread(str(frontal.images[name]), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(folder / "strange.png"), strange)
        done = call("read", frontal.path, "strange.png", "--device", "cpu", "--html", "page.html", cwd=folder)
        assert done.returncode == 0, done.stderr
        page = Page(folder / "page.html")
        assert "This does not look like what the run was trained on." in page.text
        assert "as a negative, with black and white exchanged" in page.text
        assert "warning: strange: " in done.stderr
        assert check_numbers(page) > 50
    finally:
        for made in (REFERENCE_JSON, REFERENCE_ARRAYS):
            (frontal.path / made).unlink(missing_ok=True)
