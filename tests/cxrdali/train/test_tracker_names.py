"""Which trackers there are, and how they are asked for."""

import pytest

from cxrdali.runs.settings import settings_of
from cxrdali.runtime.options import TRACKERS, UNTRACKED
from cxrdali.train.tracker import REGISTRY
from cxrdali.train.trackers.mlflow import legal
from shards.errors import UserError
from tests.cli.cli import call


def test_settings_know_those_that_there_are():
    assert {*TRACKERS} == {*REGISTRY, *UNTRACKED}


@pytest.mark.parametrize(
    "given, kept",
    [
        (None, ("tensorboard",)),
        (("csv",), ("csv",)),
        (("wandb", "tensorboard", "wandb"), ("wandb", "tensorboard")),
        (("none",), ("none",)),
    ],
)
def test_what_is_kept_of_them(given, kept):
    settings = settings_of(stage=1, **({} if given is None else {"track": given}))
    assert settings.runtime.track == kept and settings.difference(settings_of(stage=1).as_json()) is None


@pytest.mark.parametrize(
    "given, words",
    [
        (("wandbb",), "track 'wandbb': did you mean wandb? choose one of tensorboard, wandb, mlflow, csv, none"),
        (("none", "csv"), "track none,csv: none stands alone; leave it out, or the others"),
        ((), r"track \(\): give a name, or none"),
        ("wandb", "track = 'wandb' is of the wrong kind; track is a list of names"),
    ],
)
def test_others_are_refused_in_words(given, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        settings_of(stage=1, track=given)


def test_on_a_command_line_they_repeat_or_stand_with_commas(tmp_path):
    for given in (["--track", "wandb", "--track", "typo"], ["--track", "wandb,typo"]):
        ended = call("train", "--stage", 1, "--data", tmp_path, *given, cwd=tmp_path)
        assert ended.returncode == 1 and "error: track 'typo'" in ended.stderr


@pytest.mark.parametrize(
    "name, here",
    [("AP/Pleural Effusion", "AP/Pleural Effusion"), ("AP/A&B", "AP/A_26_B"), ("AP/é(x)", "AP/_e9__28_x_29_")],
)
def test_names_that_mlflow_takes(name, here):
    assert legal(name) == here
