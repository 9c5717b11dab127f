"""`cxrdali loss-design` as a user calls it: mistakes, and a plan that measures and writes nothing."""

from pathlib import Path

import pytest

from cxrdali.runs import recipes
from tests.cli.cli import call
from tests.cxrdali.studies.test_loss_design import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with tiny.toml."""
    made = tmp_path_factory.mktemp("study")
    (made / "tiny.toml").write_text(TINY)
    return made


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--models", "ld-x"], 1, "no recipe 'ld-x'; there are model0"),
        (["--models", ","], 1, "no model: give --models, names with commas between them, or leave it out"),
        (["--tta", "vflip"], 1, "tta 'vflip': did you mean hflip or flips? choose one of none, hflip, flips, light"),
        (["--calibration", "beta"], 2, "'beta': choose one of temperature, per-finding-temperature, platt"),
        (["--thresholds", "precision=2"], 1, "strategy 'precision=2': precision= takes a number above 0, at most 1"),
        (["--draws", "-1"], 1, "draws -1: 0 or more"),
        (["--set", "ld-bce.rate=1"], 1, "--set ld-bce.rate=1: unknown setting 'rate'"),
        (["--set", "ld-bce.asl_clip=0.1"], 1, "ld-bce: asl-clip 0.1: the loss bce has no such parameter; it has pos"),
        (["--models", "bce", "--set", "ld-asl.lr=1e-4"], 1, "ld-asl.lr: ld-asl is not among the models; add it to --m"),
        (["--models", "bce"], 1, "no rendition of 512 pixels or more is stored (stored: 48, 56, 64)"),
        (["--scale", "demo"], 2, "--scale demo makes its own data; leave --data out, or use --scale full"),
        (["--labels", "padchest"], 1, "no labels 'padchest'; attached are cxr-lt-2023, chexpert"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder, pack_folder, arguments, code, message):
    done = call("loss-design", "--data", pack_folder, *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (folder / "loss-design" / "runs").exists()


def test_a_dry_run_shows_the_plan_and_writes_nothing(folder, pack_folder):
    given = ["loss-design", "--recipes", "tiny.toml", "--data", pack_folder, "--out", "dry"]
    done = call(*given, "--models", "bce,ldam-drw,crt", "--tta", "hflip", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith(("model", "ld-"))}
    assert list(rows) == ["model", "ld-bce", "ld-ldam-drw", "ld-byobnet", "ld-crt"]
    assert "ld-byobnet" in rows["ld-crt"].split()[2:6], "what it starts from"
    assert all(float(word.replace(",", "")) > 0 for word in rows["ld-crt"].split()[-4:])
    for line in (
        "predict ld-byobnet+hflip val, dev, test", "ensemble weighted val, dev, test", "calibrate ensemble platt",
        "evaluate ld-crt val, dev, test", "compare losses, backbones, retrained", "report",
    ):  # fmt: skip
        assert f"  {line}: not done yet" in lines, line
    assert "note: ld-byobnet too: the others need it" in lines
    assert not (folder / "dry").exists()


def test_the_demo_s_recipes_are_small_and_begin_from_scratch():
    known = recipes.read(recipes.LOSS_DESIGN_DEMO)
    settings = [recipe.resolve(Path("runs"))[0] for recipe in known.values()]
    assert {each.data.size for each in settings} == {64}
    assert not any(each.model.pretrained for each in settings)
