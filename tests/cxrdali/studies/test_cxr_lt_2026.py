"""The shipped study of the first place of CXR-LT 2026: what its recipes say, that each arm is the winner but for one
part, and that a killed study goes on; and the shipped study of parts."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cxrdali.postprocess.forms import FORMS
from cxrdali.predictions import read
from cxrdali.runs import recipes
from cxrdali.studies.expand import expand, recipe_file
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.reader import read_study
from cxrdali.studies.shipped import names
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.cli.cli import call, run, start

ARMS = {  # flat settings in which each differs from the winner
    "no-stage1": {"new_head"},
    "no-csra": {"head", "csra_lambda", "csra_temperatures", "csra_attention", "csra_norm"},
    "no-ema": {"ema"},
    "no-repeats": {"sampler", "repeat_threshold", "repeat_cap", "repeat_rounding", "repeat_share"},
    "bce": {"loss", "cb_beta", "db_power", "db_margin", "pos_weight"},
    "vertical-flips": {"flips"},
    "frontal-validation": {"select_view"},
}
WINNER = {
    "arch": "convnextv2_base.fcmae_ft_in22k_in1k", "size": 512, "batch": 256, "epochs": 70, "head_epochs": 10,
    "head_epochs_lr": 1e-3, "lr": 1.5e-5, "head_lr": 1.5e-4, "min_lr": 1.5e-7, "lr_schedule": "epoch", "ema": 0.9999,
    "clip_norm": 1.0, "drop_path": 0.2, "head": "csra", "csra_attention": "own", "csra_norm": True, "csra_lambda": 0.1,
    "loss": "db-reduced", "db_power": 0.5, "db_margin": 0.2, "cb_beta": 0.9999, "sampler": "repeat-factor",
    "repeat_threshold": 0.01, "repeat_cap": 10, "repeat_rounding": "fixed", "repeat_share": "labels",
    "flips": "horizontal", "folds": 10, "group": "subject", "new_head": True,
}  # fmt: skip
STAGE1 = {
    "arch": WINNER["arch"], "size": 512, "head": "linear", "loss": "asl", "head_epochs": 3, "head_epochs_lr": 1e-3,
    "lr": 1e-5, "head_lr": 1e-4, "ema": 0.9999, "pretrained": True,
}  # fmt: skip


def expanded(demo=False):
    study = read_study(names()["cxr-lt-2026"])
    runs = expand(study, recipes.load(recipe_file(study, demo)))
    tables = {table.name for table in study.runs}
    return {name: each for name, each in runs.items() if each.table in tables}


def flat(each):
    return each.recipe.resolve(Path("runs"))[0].flat()


def test_the_recipes_are_the_winners():
    runs = expanded()
    for name, known in (("winner-seed1", WINNER), ("stage1-seed1", STAGE1)):
        settings = flat(runs[name])
        assert {key: settings[key] for key in known} == known
    augment = " ".join(flat(runs["winner-seed0"])["augment"])
    assert all(part in augment for part in ("affine(p=0.4", "clahe(p=0.2", "noise(p=0.15"))
    assert runs["winner-seed2"].recipe.starts_from == "stage1-seed2" and runs["winner-seed2"].packs == ("padchest",)
    assert runs["stage1-seed2"].packs == ("mimic",)


@pytest.mark.parametrize("demo", [False, True])
def test_an_arm_is_the_winner_but_for_one_part(demo):
    runs = expanded(demo)
    cells = {each.cell for each in runs.values()} - {"winner", "stage1"}
    assert cells == {*ARMS}
    for arm, parts in ARMS.items():
        for seed in range(3):
            here, there = flat(runs[f"{arm}-seed{seed}"]), flat(runs[f"winner-seed{seed}"])
            keys = {key for key in {*here, *there} if here.get(key) != there.get(key)} - {"augment_preset", "init"}
            assert keys and keys <= parts, arm
            starts = runs[f"{arm}-seed{seed}"].recipe.starts_from
            assert starts == (None if arm == "no-stage1" else f"stage1-seed{seed}")


def test_every_part_is_the_plain_run_but_for_one_setting():
    study = read_study(names()["parts"])
    runs = {name: each for name, each in expand(study, recipes.load()).items() if each.axes}
    assert len(runs) == 4 * len(study.runs)
    for name, each in runs.items():
        plain, seed = runs[f"plain-seed{each.axes['seed']}"], each.axes["seed"]
        mine, its = flat(each), flat(plain)
        changed = {key for key in mine if key in its and mine[key] != its[key]}
        assert (name == f"plain-seed{seed}") == (not changed), name
        assert mine["seed"] == its["seed"] == seed
        assert {"epochs", "batch", "lr", "arch"}.isdisjoint(changed), "as many images at the same rate"
    (comparison,) = study.comparisons
    assert comparison.tables == tuple(table.name for table in study.runs) and comparison.by == "seed"


def small(folder: Path) -> Path:
    """The shipped study on small packs: its demo's recipes, made smaller, two seeds, two arms."""
    text = names()["cxr-lt-2026"].read_text()
    text = text.replace('file = "cxr_lt_2026.toml"', 'file = "small.toml"').replace('form = "cxr-lt-2026"', "")
    text = text.replace("seed = [0, 1, 2]", "seed = [0, 1]").replace(', "winner-seed2+hflip"', "")
    text = text.replace('normal = "Normal"', 'normal = "No Finding"').replace('labels = "chexpert"', "")
    (folder / "study.toml").write_text(text)
    recipe = (recipes.PAPER.parent / "cxr_lt_2026_demo.toml").read_text()
    recipe = recipe.replace("optimizer.epochs = 4", "optimizer.epochs = 2").replace(
        "optimizer.batch = 32", "optimizer.batch = 8"
    )
    (folder / "small.toml").write_text(recipe.replace("data.size = 64", "data.size = 48") + "")
    return folder / "study.toml"


def test_the_form_is_asked_for_before_anything_is_trained(dataset, nih, tmp_path):
    text = names()["cxr-lt-2026"].read_text().replace('"Normal"', '"No Finding"')
    (tmp_path / "s.toml").write_text(text)
    demo = recipes.load(recipes.PAPER.parent / "cxr_lt_2026_demo.toml")
    packs = {"mimic": dataset, "padchest": nih}
    with pytest.raises(UserError, match=r"line \d+: labels .*: form cxr-lt-2026 asks for 'Normal' \(and .* more\)"):
        make_plan(tmp_path, packs, read_study(tmp_path / "s.toml"), demo, StudyOptions(draws=0))
    plan = make_plan(tmp_path, packs, read_study(tmp_path / "s.toml"), demo, StudyOptions(draws=0, synthetic=True))
    assert "submissions are in the labels' own form: synthetic findings are not cxr-lt-2026's" in plan.notes


def test_packs_that_are_not_given_are_named(tmp_path):
    done = call("study", "cxr-lt-2026", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "cxr-lt-2026 is a study of several packs; give --data mimic=PACK --data padchest=PACK" in done.stderr
    done = call("study", "cxr-lt-2026", "--data", "other=x", "--dry-run", cwd=tmp_path)
    assert done.returncode != 0 and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_end(dataset, nih, tmp_path):
    for name, pack in (("mimic", nih), ("padchest", dataset)):
        shutil.copytree(pack.root, tmp_path / name)
    line = [
        "study",
        small(tmp_path),
        "--data",
        "mimic=mimic",
        "--data",
        "padchest=padchest",
        "--draws",
        0,
        "--out",
        "out",
    ]
    line += ["--models", "winner,no-csra,bce"]
    process = start(*line, cwd=tmp_path)
    until, made = time.monotonic() + 120, tmp_path / "out/runs/winner-seed0/metrics.csv"
    while not made.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and made.exists() and not (tmp_path / "out/report.html").exists()
    done = run(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "runs/winner-seed0" in done.stdout + done.stderr and "train stage1-seed0" not in done.stdout
    rows = read_json(tmp_path / "out/comparisons/parts.test.json")["differences"]
    assert {(row["run"], row["against"], row["n"]) for row in rows if row["metric"] == "mAP"} == {
        ("no-csra", "winner", 2), ("bce", "winner", 2),
    }  # fmt: skip
    pooled, one, two = (
        read(tmp_path / f"out/predictions/{name}.test.parquet").values
        for name in ("ensemble", "winner-seed0+hflip", "winner-seed1+hflip")
    )
    p = (1 / (1 + np.exp(-one.astype(float))) + 1 / (1 + np.exp(-two.astype(float)))) / 2
    np.testing.assert_allclose(1 / (1 + np.exp(-pooled.astype(float))), p, rtol=1e-5)
    assert (tmp_path / "out/submission.zip").is_file() and FORMS["cxr-lt-2026"].file == "submission.csv"
    again = run(*line, cwd=tmp_path)
    assert again.returncode == 0 and "were done before" in again.stdout
