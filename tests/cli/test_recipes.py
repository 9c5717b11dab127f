"""`cxrdali recipes`, `train --recipe` and `paper` as a user calls them."""

import json
from pathlib import Path

import pytest

from cli.options.flows import demo_sizes
from cxrdali.runs import recipes
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.shipped import open_study
from tests.cli.cli import call
from tests.cxrdali.studies.test_paper import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with tiny.toml."""
    made = tmp_path_factory.mktemp("recipes")
    (made / "tiny.toml").write_text(TINY)
    return made


def ok(*arguments, cwd):
    done = call(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_the_table_of_recipes(folder):
    lines = ok("recipes", cwd=folder).stdout.splitlines()
    assert lines[0].split() == [
        "recipe",
        "stage",
        "starts",
        "from",
        "size",
        "batch",
        "max",
        "LR",
        "epochs",
        "loss",
        "oversampling",
        "what",
    ]
    names = [line.split()[0] for line in lines[1:]]
    assert names[:8] == [f"model{number}" for number in range(8)] and len(names) == 46
    assert names[8:13] == [f"model{number}-printed" for number in range(3, 8)]
    assert all(name.startswith("ld-") for name in names[13:])
    doubled = dict(zip(names, lines[1:], strict=True))
    assert "  7 named findings  " in doubled["model3-printed"] and " 11 named findings " in doubled["model5-printed"]
    retrained = next(line for line in lines if line.startswith("ld-crt-ours"))
    assert "ld-convnext-large-ours" in retrained and "class-balanced samples" in retrained
    row = next(line for line in lines if line.startswith("model6"))
    assert row.split()[:14] == [
        "model6",
        "2",
        "model0",
        "384",
        "80",
        "0.001",
        "30",
        "bce",
        "AP",
        "<",
        "0.10",
        "in",
        "model2",
        "model3",
    ]


def test_a_recipe_with_every_setting(folder):
    lines = ok("recipes", "model3", cwd=folder).stdout.splitlines()
    for line in ("oversample_below = 0.1", 'oversample_from = "model2"', 'starts_from = "model0"', 'group = "study"'):
        assert line in lines
    assert "seed = 0  # default" in lines
    assert 'micro_batch = "auto"  # default' in lines


def test_runs_find_each_other_and_say_what_was_overridden(folder, pack_folder):
    given = ["--recipes", "tiny.toml", "--data", pack_folder, "--device", "cpu"]
    missing = "error: recipe model2 starts from runs/model0, which does not exist; run `cxrdali train --recipe model0` "
    early = call("train", "--recipe", "model2", *given, cwd=folder)
    assert early.returncode == 1
    assert early.stderr.splitlines()[-1] == missing + "first, or give the initial weights with --init"
    ok("train", "--recipe", "model0", *given, "--lr", 5e-4, "--epochs", 1, cwd=folder)
    ok("train", "--recipe", "model2", *given, cwd=folder)
    (folder / "runs" / "model2").rename(folder / "runs" / "aside")
    early = call("train", "--recipe", "model3", *given, cwd=folder)
    assert early.returncode == 1
    assert early.stderr.splitlines()[-1] == (
        "error: recipe model3 oversamples by the AP of runs/model2, which does not exist; run `cxrdali train --recipe "
        "model2` first, or give a run or metrics with --oversample-from"
    )
    (folder / "runs" / "aside").rename(folder / "runs" / "model2")
    ok("train", "--recipe", "model3", *given, "--oversample", "", "--out", "runs/plain", cwd=folder)
    config = json.loads((folder / "runs" / "plain" / "config.json").read_bytes())
    assert config["oversampling"] is None, "given and empty means none"
    assert config["recipe"]["overridden"] == {"device": "cpu"}
    said = ok("train", "--recipe", "model3", *given, cwd=folder).stdout
    assert "images twice" in said
    config = json.loads((folder / "runs" / "model0" / "config.json").read_bytes())
    assert config["recipe"] == {"name": "model0", "starts_from": None, "overridden": {"device": "cpu", "lr": 5e-4}}
    config = json.loads((folder / "runs" / "model3" / "config.json").read_bytes())
    assert config["settings"]["model"]["init"] == "runs/model0"
    assert config["settings"]["data"]["oversample_from"] == "runs/model2"
    assert config["oversampling"]["below"] == 1.0


def test_a_plain_stage_has_no_recipe_and_may_oversample_named_findings(folder, pack_folder):
    ok("train", "--stage", 1, "--data", pack_folder, "--arch", "test_efficientnet", "--no-pretrained", "--size", 48,
       "--batch", 8, "--epochs", 1, "--device", "cpu", "--oversample", "Mass, Edema", cwd=folder)  # fmt: skip
    config = json.loads((folder / "runs" / "stage1" / "config.json").read_bytes())
    assert config["recipe"] is None
    assert config["oversampling"]["findings"] == ["Mass", "Edema"]
    assert config["settings"]["data"]["group"] == "subject"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "give --stage 1, 2 or 3, or --recipe NAME"),
        (["train", "--stage", 1, "--recipe", "model0"], 2, "give --stage 1, 2 or 3, or --recipe NAME"),
        (["train", "--stage", 1, "--recipes", "tiny.toml"], 2, "choose one of them with --recipe NAME"),
        (["train", "--recipe", "model8"], 1, "no recipe 'model8'; did you mean model"),
        (["train", "--recipe", "model0", "--recipes", "gone.toml"], 1, "gone.toml: no recipes (No such file"),
        (["train", "--stage", 1, "--oversample", "Bulla"], 1, "oversample 'Bulla': no such finding"),
        (["train", "--stage", 1, "--oversample-below", 0.1], 1, "needs --oversample-from"),
        (["train", "--stage", 1, "--oversample-from", "x"], 1, "needs --oversample-below"),
        (["train", "--stage", 1, "--oversample-below", 0.1, "--oversample-from", "x.json"], 1, "x.json: no such run"),
        (["train", "--stage", 1, "--oversample-below", 2, "--oversample-from", "x"], 1, "oversample-below 2.0: an AP"),
        (["paper", "--scale", "demo", "--models", "9", "--out", "never"], 1, "no recipe 'model9'; did you mean model"),
        (["recipes", "nothing"], 1, "no recipe 'nothing'"),
        (["paper", "--models", "9"], 1, "no recipe 'model9'"),
        (["paper", "--models", ""], 1, "no model: give --models"),
        (["paper", "--set", "lr"], 2, "--set 'lr': write NAME=VALUE"),
        (["paper", "--set", "model9.lr=1"], 1, "--set model9.lr=1: no recipe 'model9'"),
        (["paper", "--set", "model0.rate=1"], 1, "--set model0.rate=1: unknown setting 'rate'"),
        (["paper", "--set", "lr=fast"], 1, "--set lr=fast: lr = 'fast' is of the wrong kind; lr is a number"),
        (["paper", "--template", "train=x.csv"], 2, "--template 'train=x.csv': write test=FILE or dev=FILE"),
        (["paper", "--template", "test=x.csv"], 1, "x.csv: no such file"),
        (["paper"], 1, "model0: 58 training images make no batch of 256; --set model0.batch=N"),
        (["paper"], 1, "pack more images (and 10 more problems: --dry-run)"),
        (["paper", "--set", "batch=8"], 1, "...,224 (here --set size=... for --size) (and 5 more problems: --dry-run)"),
        (["paper", "--models", "0", "--set", "model7.lr=1e-4"], 1, "model7.lr: model7 is not among the models; add it"),
        (["paper", "--set", "lr=0.0"], 1, "error: model0: lr 0.0: above 0, below 100"),
    ],
)
def test_what_is_wrong_is_one_line(folder, pack_folder, arguments, code, message):
    where = [] if arguments[0] == "recipes" or "demo" in arguments else ["--data", pack_folder]
    if arguments[0] == "train" and "--stage" in arguments:
        where += ["--arch", "test_efficientnet", "--no-pretrained", "--size", 48, "--batch", 8, "--device", "cpu"]
        where += ["--out", "never"]
    done = call(*arguments, *where, cwd=folder)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not Path(folder / "never" / "config.json").exists()


def test_the_demo_s_data_is_the_same_whichever_models_are_trained():
    study, known = open_study("stage-training"), recipes.load(recipes.DEMO)
    assert demo_sizes(study, known, StudyOptions()) == demo_sizes(study, known, StudyOptions(models=("model1",)))
    larger = StudyOptions(models=("model1",), overrides={"": {"size": 80}, "model1": {"size": 160}})
    assert demo_sizes(study, known, larger) == [64, 96, 112, 128, 160]


def test_a_dry_run_measures_and_writes_nothing(folder, pack_folder):
    given = ["paper", "--recipes", "tiny.toml", "--data", pack_folder, "--out", "dry", "--models", "3,5,6"]
    done = ok(*given, "--set", "model5.epochs=3", "--dry-run", cwd=folder)
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith("model")}
    assert list(rows) == ["model", "model0", "model2", "model3", "model5", "model6"]
    assert "3 of 3" in rows["model5"]
    assert " + " in rows["model3"], "what oversampling adds is not known yet"
    assert all(float(word.replace(",", "")) > 0 for word in rows["model0"].split()[-4:])
    assert "  ensemble val, dev, test: not done yet" in lines
    assert any(line.startswith("note: model0, model2 too") for line in lines)
    assert not (folder / "dry").exists()
