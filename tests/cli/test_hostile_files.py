"""Recipes, plugins, runs and tables that others made: none leads out, runs code, hangs, or speaks to a browser."""

import json
import os
import shutil
import time

import pytest
import torch

from cxrdali.runs.layout import CONFIG
from shards.storage.sealed import sealed_json
from tests.cli.cli import call, done
from tests.cxrdali.comparable_runs import packed, write_run
from tests.cxrdali.report.pages import Page

RECIPES = {
    "list": "[a]\nseed = " + "[" * 50_000 + "]" * 50_000,
    "inline": "[a]\nx = " + "{a=" * 3000 + "1" + "}" * 3000,
    "dotted": "[a]\n" + ".".join(["a"] * 3000) + " = 1\n",
    "chain": "".join(f"[m{i}]\nstage=2\nstarts_from='m{i + 1}'\n" for i in range(3000)) + "[m3000]\nstage=1\n",
    "digits": "[a]\nseed = " + "9" * 5000,
    "long": "# " + "x" * 1_000_000,
    "up": "['../../x']\nstage = 1\n",
    "absolute": "['/tmp/x']\nstage = 1\n",
    "from": "[a]\nstage = 2\nstarts_from = '../../x'\n",
    "oversample": "[a]\nstage = 2\nstarts_from = 'model0'\ndata.oversample_from = '/etc'\n",
    "init": "[a]\nstage = 2\nmodel.init = '/etc/passwd'\n",
    "escape": '[a]\nstage = 1\nabout = "\\u001b]0;owned\\u0007"\n',
    "infinite": "[a]\nstage = 1\noptimizer.lr = inf\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_one_line_and_nothing_else(tmp_path, name):
    (tmp_path / "r.toml").write_text(RECIPES[name])
    begun = time.monotonic()
    result = call("recipes", "--recipes", "r.toml", cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.startswith("error: r.toml: ") and result.stderr.count("\n") == 1
    assert result.stderr[:-1].isprintable() and result.stdout == "" and time.monotonic() - begun < 10
    assert len(result.stderr) < 1000


def test_a_recipe_file_that_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", "pipe"):
        result = call("recipes", "--recipes", path, cwd=tmp_path)
        assert result.returncode == 1 and f"{path}: no recipes (no plain file of at most" in result.stderr


# ---------------------------------------------------------------- what others made, on a page


MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A packed dataset, and runs of which one is called by markup and names a plugin that would leave a mark."""
    root = tmp_path_factory.mktemp("hostile")
    dataset = packed(root)
    (root / "evil.py").write_text(f"open({str(root / 'mark')!r}, 'w')")
    for seed, name in enumerate(("plain", MARKUP)):
        run = write_run(root / "runs" / name, dataset, 1.0, seed=seed)
        config = json.loads((run / CONFIG).read_text())
        del config["checksum"]  # whoever can write the file can write a checksum too
        config["plugins"] = [{"path": str(root / "evil.py"), "sha256": "0"}]
        config["recipe"] = {"name": MARKUP, "starts_from": "../../x", "overridden": {MARKUP: MARKUP}}
        config["device"] = MARKUP
        (run / CONFIG).write_bytes(sealed_json(config))
    return root


@pytest.mark.slow
def test_markup_in_names_is_text_and_a_run_s_plugin_is_not_run(root, tmp_path):
    given = ("--data", root / "pack", "--draws", 0)
    table = tmp_path / f"{MARKUP}.parquet"
    shutil.copy(root / "runs/plain/val_predictions.parquet", table)
    done(tmp_path, "compare", root / "runs", table, *given, "--title", MARKUP, "--out", "compare.html")
    done(tmp_path, "evaluate", table, "--data", root / "pack", "--draws", 0, "--out", "m")
    done(tmp_path, "report", root / "runs/plain", root / "runs" / MARKUP, "--data", root / "pack", "--evaluation",
         "m.json", "--out", "report.html", "--title", MARKUP)  # fmt: skip
    for name in ("compare.html", "report.html"):
        text = (tmp_path / name).read_text()
        assert MARKUP not in text and "<img src=x" not in text and MARKUP in Page(tmp_path / name).text
    assert not (root / "mark").exists()


@pytest.mark.parametrize("name", ["../escape.py", "/dev/null", "folder"])
def test_only_a_python_file_is_a_plugin_and_only_when_asked_for(root, tmp_path, name):
    (tmp_path / "folder").mkdir()
    given = ("train", "--stage", 1, "--data", root / "pack", "--out", "run")
    result = call(*given, "--plugins", name, cwd=tmp_path)
    assert result.returncode in (1, 2) and "Traceback" not in result.stderr and not (tmp_path / "run").exists()


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_and_states_that_run_code_are_refused(root, tmp_path, zipped):
    mark, model = tmp_path / "mark", ("--size", 48, "--batch", 8, "--epochs", 1, "--arch", "test_byobnet")
    torch.save({"state_dict": Touches(mark)}, tmp_path / "init.pt", _use_new_zipfile_serialization=zipped)
    given = ("train", "--stage", 1, "--data", root / "pack", "--device", "cpu", *model)
    refused = call(*given, "--out", "run", "--init", "init.pt", cwd=tmp_path)
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1].startswith("error: init.pt: ")
    done(tmp_path, *given, "--out", "run", "--no-pretrained")
    torch.save({"epoch": Touches(mark)}, tmp_path / "run/last.pt", _use_new_zipfile_serialization=zipped)
    refused = call(*given, "--out", "run", "--no-pretrained", cwd=tmp_path)
    assert refused.returncode == 1 and "run/last.pt: no state to continue from" in refused.stderr
    assert not mark.exists()
    torch.load(tmp_path / "init.pt", weights_only=False)
    assert mark.exists()  # it would have run
