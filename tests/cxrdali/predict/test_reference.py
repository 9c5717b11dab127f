"""A reference warns of what is not of training's kind, as often without need as it says, and belongs to its weights."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_sample_image

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import balanced_parts
from cxrdali.metrics.intervals import wilson
from cxrdali.models.probe import Seen
from cxrdali.predict.likeness import KINDS
from cxrdali.predict.options import ReferenceOptions
from cxrdali.predict.predict import load_run_model
from cxrdali.predict.reference import (
    ENOUGH,
    Reference,
    distances,
    fit,
    fit_rule,
    network_features,
    view_images,
)
from cxrdali.runs.layout import REFERENCE_ARRAYS, REFERENCE_JSON
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import run_rows
from cxrdali.runtime.device import Hardware
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.comparable_runs import change_config

pytestmark = pytest.mark.slow
CPU = Hardware("cpu", "fp32")


@pytest.fixture(scope="module")
def reference(frontal):
    made = fit(frontal.path, frontal.dataset, ReferenceOptions(device="cpu", threads=1))
    made.save(frontal.path)
    return made


@pytest.fixture(scope="module")
def check(frontal, reference):
    """Of pixels uint8 [64, 64]: its Likeness; shaped as the pack's files, its view as a DICOM says it."""
    model = load_run_model(Run.open(frontal.path))

    def checked(pixels, position="", shape=(96, 96)):
        tags = SimpleNamespace(view_position=position) if position else None
        image = SimpleNamespace(pixels=np.ascontiguousarray(pixels), height=shape[0], width=shape[1], tags=tags)
        features = network_features(model, torch.from_numpy(image.pixels)[None, None], CPU)
        return reference.check(image, features[0])

    return checked


@pytest.fixture(scope="module")
def validation(frontal):
    """Pixels uint8 [n, 64, 64] and subjects [n] of the run's validation images."""
    run, dataset = Run.open(frontal.path), frontal.dataset
    rows = run_rows(run, dataset, dataset.labels(run.labels), "")[1]
    batches = Loader(dataset, rows, LoaderOptions(64, 16, 1, "cpu", "cpu"))
    return np.concatenate([images[:, 0].numpy().copy() for images, _ in batches]), dataset.catalog["subject_id"][rows]


# ---------------------------------------------------------------- the rule


def test_the_rate_is_that_of_other_images_of_the_same_kind():
    """100 populations: the limit of one half holds for the other as often as it says, and so does its interval."""
    rng, rates, held = np.random.default_rng(0), [], 0
    subjects = np.array([f"p{number}" for number in range(400)])
    for _ in range(100):
        values = pd.DataFrame(rng.standard_t(5, (400, len(KINDS))), columns=list(KINDS))
        found = fit_rule(values, np.zeros(400, dtype=bool), subjects, "patient")["validation"]
        rate, low, high = found["false_alarms"]
        assert found["measured_images"] == found["measured_subjects"] == 200
        rates.append(rate)
        held += low <= 0.05 <= high
    assert np.mean(rates) == pytest.approx(0.05, abs=0.012)
    assert held >= 80  # the limit is itself of a sample of 200


def test_too_few_patients_have_no_rate():
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(60, len(KINDS))), columns=list(KINDS))
    subjects = np.array([f"p{number % (ENOUGH - 1)}" for number in range(60)])
    found = fit_rule(values, np.zeros(60, dtype=bool), subjects, "patient")
    assert found["validation"]["false_alarms"] is None
    scores = np.max([np.abs(values[name] - values[name].median()) for name in values], axis=0)
    assert found["limit"] >= 1 and len(scores) == 60
    words = Reference({"validation": found["validation"]}, np.zeros((1, 2, 2)), None).false_alarms
    assert "was not measured" in words and f"of {ENOUGH - 1} patients" in words


def test_one_patient_is_enough_for_a_limit():
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(30, len(KINDS))), columns=list(KINDS))
    found = fit_rule(values, np.zeros(30, dtype=bool), np.array(["p"] * 30), "patient")
    assert found["limit"] >= 1 and found["validation"]["false_alarms"] is None


def test_views_that_training_has_not_count_as_warnings():
    values = pd.DataFrame(np.zeros((200, len(KINDS))), columns=list(KINDS))
    subjects = np.array([f"p{number}" for number in range(200)])
    strange = balanced_parts(subjects, 2) == 1
    found = fit_rule(values, strange, subjects, "patient")
    assert found["validation"]["false_alarms"][0] == 1


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (3, 41), (900, 1000)])
def test_wilson_is_scipy_s(hits, count):
    right = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((right.low, right.high), abs=1e-12)


def test_distances_are_to_the_fifth_nearest_direction():
    rng = np.random.default_rng(0)
    bank, query = rng.normal(size=(50, 8)), rng.normal(size=(3, 8))
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    right = [np.sort(1 - unit @ (each / np.linalg.norm(each)))[4] for each in query]
    assert distances(query, unit) == pytest.approx(right)


def test_a_view_counts_by_its_name_and_else_by_its_side():
    views = {"PA": {"view": "frontal", "images": 30}, "ap": {"view": "frontal", "images": 5},
             "L": {"view": "lateral", "images": 7}}  # fmt: skip
    found = [view_images(views, name) for name in ("pa", "AP", "LL", "LATERAL", "LLO", "L")]
    assert found == [30, 5, 7, 7, 0, 7]


# ---------------------------------------------------------------- a run


def test_the_rate_that_is_stated_is_that_of_its_validation_images(reference, check, validation):
    pixels, subjects = validation
    other = balanced_parts(subjects.to_numpy(), 2) == 1
    warned = [bool(check(image).warnings) for image in pixels[other]]
    about = reference.about["validation"]
    assert about["false_alarms"][0] == pytest.approx(np.mean(warned)) and about["measured_images"] == other.sum()
    rate, low, high = about["false_alarms"]
    assert low <= 0.05 <= high, "5 % were asked for"
    assert f"{100 * rate:.1f} % get a warning of looking otherwise" in reference.false_alarms


def _photo(number: int) -> np.ndarray:
    photo = cv2.cvtColor(load_sample_image(("china.jpg", "flower.jpg")[number % 2]), cv2.COLOR_RGB2GRAY)
    left = 40 * number
    return cv2.resize(photo[:400, left : left + 400], (64, 64), interpolation=cv2.INTER_AREA)


STRANGE = {  # from a validation image and its number
    "inverted": (lambda image, number: 255 - image, "as a negative"),
    "rotated": (lambda image, number: np.rot90(image), "turned by 90 degrees to the right"),
    "upside down": (lambda image, number: image[::-1, ::-1], "turned upside down"),
    "noise": (lambda image, number: np.random.default_rng(number).integers(0, 256, image.shape).astype(np.uint8), ""),
    "photo": (lambda image, number: _photo(number), ""),
    "black": (lambda image, number: image * 0, ""),
    "a quarter of it": (lambda image, number: cv2.resize(image[32:, :32], (64, 64)), ""),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_of_another_kind_is_flagged(check, validation, name):
    change, turn = STRANGE[name]
    found = [check(change(image, number)) for number, image in enumerate(validation[0][:12])]
    assert sum(bool(each.warnings) for each in found) >= 11
    if turn:
        assert sum(any(turn in words for words in each.warnings) for each in found) >= 9


def test_laterals_are_strange_to_a_run_of_frontals(frontal, check, validation):
    images = [cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (64, 64), interpolation=cv2.INTER_AREA)
              for path in frontal.laterals[:12]]  # fmt: skip
    assert sum(bool(check(image).warnings) for image in images) >= 11, "by their pixels alone"
    named = check(validation[0][0], "LL")
    assert named.warnings[0].startswith("View LL: 0 of the run's") and named.view == named.warnings[0]
    known = check(validation[0][0], "PA")
    assert known.view not in known.warnings and "of the run's" in known.view


def test_a_view_of_another_name_shows_the_same_side(reference, validation):
    total = reference.about["training_images"]
    only = replace(reference, about={**reference.about, "views": {"PA": {"view": "frontal", "images": total}}})
    tags = SimpleNamespace(view_position="AP")
    image = SimpleNamespace(pixels=validation[0][0], height=96, width=96, tags=tags)
    assert only.check(image, None).view == f"View AP: {total} of the run's {total} training images show the same side."
    tags.view_position = "pa"
    assert only.check(image, None).view == f"View pa: {total} of the run's {total} training images have it."


def test_a_file_of_another_shape_is_strange(check, validation):
    usual = next(image for image in validation[0] if not check(image).warnings)
    found = check(usual, shape=(300, 100))
    assert found.warnings == (
        "Height of the file relative to its width: 3; 98 % of the validation images have 1 to 1.",
    )


def test_what_was_saved_is_loaded(frontal, reference, check, validation):
    loaded = Reference.load(Run.open(frontal.path))
    assert {**loaded.about, "arrays": ""} == reference.about
    assert np.array_equal(loaded.means, reference.means) and np.array_equal(loaded.features, reference.features)


def test_other_weights_and_damage_are_refused(frontal, reference, tmp_path):
    run = Run.open(frontal.path)
    with pytest.raises(UserError, match="was fitted to other weights than .*; leave --weights out, or move reference"):
        Reference.load(run, frontal.path / "last.pt")
    assert Reference.load(Run.open(frontal.path)) is not None
    good, arrays = (frontal.path / REFERENCE_JSON).read_bytes(), (frontal.path / REFERENCE_ARRAYS).read_bytes()
    try:
        changed = json.dumps({**json.loads(good), "limit": 99.0}).encode()
        (frontal.path / REFERENCE_JSON).write_bytes(changed)
        with pytest.raises(UserError, match="checksum is not that of its content"):
            Reference.load(run)
        (frontal.path / REFERENCE_JSON).write_bytes(good)
        (frontal.path / REFERENCE_ARRAYS).write_bytes(arrays[:-1] + bytes([arrays[-1] ^ 1]))
        with pytest.raises(UserError, match="beside it is of another one"):
            Reference.load(run)
        (frontal.path / REFERENCE_ARRAYS).write_bytes(arrays)
        stored = json.loads(good)
        del stored["measures"]["mirror"]
        (frontal.path / REFERENCE_JSON).write_bytes(sealed_json(stored))
        with pytest.raises(UserError, match="its measures are not those of this cxrdali"):
            Reference.load(run)
    finally:
        (frontal.path / REFERENCE_JSON).write_bytes(good)
        (frontal.path / REFERENCE_ARRAYS).write_bytes(arrays)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset__size": 96}, "size 64, in training 96; give the dataset of the run"),
        ({"dataset__packed__fit": "crop"}, "'fit': 'squash'.*, in training .*'fit': 'crop'"),
    ],
)
def test_images_that_were_packed_otherwise_are_no_reference(frontal, tmp_path, change, said):
    shutil.copytree(frontal.path, tmp_path / "run")
    change_config(tmp_path / "run", **change)
    with pytest.raises(UserError, match=f"images are packed otherwise in .*: .*{said}"):
        fit(tmp_path / "run", frontal.dataset, ReferenceOptions(device="cpu"))


def test_a_network_without_features_is_compared_by_pixels(frontal, monkeypatch, validation):
    def told(run, weights=None):
        model = load_run_model(run, weights)
        model.seen = Seen(why="its classifier sees tokens")
        return model

    monkeypatch.setattr("cxrdali.predict.reference.load_run_model", told)
    made = fit(frontal.path, frontal.dataset, ReferenceOptions(images=60, device="cpu", threads=1))
    image = SimpleNamespace(pixels=255 - validation[0][0], height=96, width=96, tags=None)
    found = made.check(image, None)
    assert found.warnings and [each.name for each in found.measures] == [name for name in KINDS if name != "distance"]
    assert made.about["without_features"] == "its classifier sees tokens" and made.features is None


def test_a_run_without_one_has_none(tmp_path, frontal):
    assert Reference.load(Run(tmp_path, {}, "run")) is None
