"""Augmentation as a setting: on the command line, in runs of before, in a retrained classifier."""

import json

import pytest

from cli.options.fields import Texts
from cxrdali.report.training.data import first_training_images
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import sealed_json

SMALL = {"stage": 1, "size": 32, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": False, "device": "cpu",
         "threads": 1, "limit_batches": 1}  # fmt: skip


def test_commas_in_parentheses_are_a_text_s_own():
    found = Texts().convert("affine(degrees=10, p=0.3), clahe,noise(sigma=0.1)", None, None)
    assert found == ("affine(degrees=10, p=0.3)", "clahe", "noise(sigma=0.1)")
    assert Texts().convert("Fibrosis, Hernia,", None, None) == ("Fibrosis", "Hernia")
    assert settings_of(stage=1, augment=found).data.augment == found


def test_a_run_of_before_goes_on_with_what_it_had(dataset, tmp_path):
    train(settings_of(**SMALL, flips="both", cutout="fixed"), dataset, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    for name in ("augment_preset", "mixup", "cutmix"):
        del config["settings"]["data"][name]
    file.write_bytes(sealed_json(config))
    message = (
        "'both' there, 'horizontal' now; it began when others were the default: give --flips both --cutout fixed, or"
    )
    with pytest.raises(UserError, match=message):
        train(settings_of(**SMALL), dataset, tmp_path / "run")
    assert train(settings_of(**SMALL, flips="both", cutout="fixed"), dataset, tmp_path / "run").already_finished


def test_a_retrained_classifier_sees_images_as_they_are_and_a_report_says_what_is_done(dataset, tmp_path):
    train(settings_of(**SMALL, augment_preset="mild", mixup=0.2), dataset, tmp_path / "run")
    plain, kept = (retrain_settings(tmp_path / "run", dataset, {}, augment).data for augment in (False, True))
    assert (plain.flips, plain.augment, plain.mixup, plain.augment_preset) == ("none", (), 0, "none")
    augment = ("affine(p=1)", "crop(p=1)", "clahe(p=1)", "noise(p=0)")
    train(settings_of(**SMALL, augment=augment), dataset, tmp_path / "shown")
    images, words = first_training_images(Run.open(tmp_path / "shown"), dataset)
    count = len(images)
    assert words.split(", ")[1:] == [
        "0 upside down", "0 with black cutout squares", f"{count} with crop or affine", f"{count} with clahe",
        "0 with noise",
    ]  # fmt: skip
    assert (kept.flips, len(kept.augment), kept.mixup, kept.augment_preset) == ("horizontal", 5, 0.2, "mild")
