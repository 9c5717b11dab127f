"""lr_schedule was called schedule: what was written before is read as it was meant."""

import pytest

from cxrdali.runs import recipes
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings, assigned, settings_of
from cxrdali.runs.steps import Book, Step
from cxrdali.studies.reader import read_study
from shards.errors import UserError
from shards.storage.sealed import sealed_json


@pytest.mark.parametrize("name", ["schedule", "optimizer.schedule", "lr_schedule", "optimizer.lr_schedule"])
def test_in_python_and_on_the_command_line(name):
    assert settings_of({name: "epoch"}, stage=1).optimizer.lr_schedule == "epoch"
    assert settings_of(stage=1).changed(**{name: "epoch"}).optimizer.lr_schedule == "epoch"
    assert assigned(f"{name}=constant") == ("lr_schedule", "constant")


def test_a_value_that_it_never_had_is_of_no_setting_of_before():
    with pytest.raises(UserError, match="unknown setting 'optimizer.schedule'; did you mean data.schedule"):
        settings_of({"optimizer.schedule": "month"}, stage=1)


def test_in_a_recipe_and_in_a_study(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('[every]\noptimizer.schedule = "epoch"\n[a]\nstage = 1\n[b]\nstage = 1\nschedule = "constant"\n')
    found = recipes.read(file)
    assert [found[name].settings["lr_schedule"] for name in "ab"] == ["epoch", "constant"]
    file.write_text('[settings]\nschedule = "epoch"\n[runs.n]\nstage = 1\ngrid.schedule = ["step", "constant"]\n')
    study = read_study(file)
    assert study.settings["lr_schedule"] == "epoch" and study.runs[0].grid == {"lr_schedule": ("step", "constant")}


def test_in_a_run(tmp_path):
    settings = settings_of(stage=1, lr_schedule="epoch")
    stored = settings.as_json()
    stored["optimizer"]["schedule"] = stored["optimizer"].pop("lr_schedule")
    assert TrainSettings.from_json(stored) == settings and settings.difference(stored) is None
    assert settings.changed(lr_schedule="step").difference(stored) == ("lr_schedule", "epoch", "step")
    labels = {"name": "l", "sha256": "0"}
    config = {"settings": stored, "findings": ["a"], "dataset": {"id": "d"}, "labels": labels}
    (tmp_path / "config.json").write_bytes(sealed_json(config))
    run = Run.open(tmp_path)
    assert run.settings == settings and run.setting("lr_schedule") == "epoch" and run.setting("schedule") is None


def test_in_the_record_of_a_step(tmp_path):
    made = tmp_path / "out"
    Book(tmp_path).make(Step("train n", ("out",), {"schedule": "epoch", "lr": 1.0}, (), lambda: made.write_text("a")))

    def reason(settings):
        return Book(tmp_path).reason(Step("train n", ("out",), settings, (), lambda: None))

    assert reason({"lr_schedule": "epoch", "lr": 1.0}) is None
    assert reason({"lr_schedule": "constant", "lr": 1.0}) == 'lr_schedule changed: "epoch" -> "constant"'
