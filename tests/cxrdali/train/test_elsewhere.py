"""A run that goes on elsewhere, or later: on other hardware, with other versions, another compiler."""

import pytest
import torch

from cxrdali.report.training.provenance import PROVENANCE
from cxrdali.runs.layout import CONFIG, LAST
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import read_json, sealed_json
from tests.cli.cli import call
from tests.heard import heard

pytestmark = pytest.mark.slow


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 16, "epochs": 2, "arch": "test_efficientnet", "pretrained": False}
    return settings_of(**{**given, "device": "cpu", **changes})


def stopped(out, dataset, **changes):
    """A run that was stopped after its first epoch's second step."""
    asked = iter((None, 15))
    with pytest.raises(Stopped):
        train(settings(**changes), dataset, out, hooks=Hooks(should_stop=lambda: next(asked)))
    return out


def edited(out, **changes):
    """Its config.json as another machine, or another day, would have written it."""
    stored = read_json(out / CONFIG)
    (out / CONFIG).write_bytes(sealed_json({**stored, **changes}))


# ---------------------------------------------------------------- another machine


def test_auto_that_became_bf16_on_a_gpu_goes_on_with_bf16(dataset, tmp_path):
    """What a GPU writes: settings.runtime.precision auto, precision bf16."""
    out = stopped(tmp_path / "run", dataset)
    edited(out, precision="bf16")
    with pytest.raises(UserError) as refused:
        train(settings(), dataset, out)
    words = "another precision: 'bf16' there, 'fp32' now; it began with bf16: give --precision bf16, or another --out"
    assert str(refused.value).endswith(f"{words} folder")
    with pytest.raises(UserError, match="it began with bf16: give --precision bf16"):
        train(settings(precision="fp32"), dataset, out)
    assert train(settings(precision="bf16"), dataset, out).epochs == 2
    assert torch.load(out / LAST, weights_only=True)["epoch"] == 2


@pytest.mark.parametrize(("began", "goes_on"), [("auto", "fp32"), ("fp32", "auto")])
def test_auto_and_what_it_means_here_are_the_same(dataset, tmp_path, began, goes_on):
    out = stopped(tmp_path / "run", dataset, precision=began)
    assert train(settings(precision=goes_on), dataset, out).epochs == 2


def test_bf16_on_the_cpu_computes_in_bf16(dataset, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        seen = losses[precision] = []
        hooks = Hooks(on_step=lambda step, seen=seen: seen.append(float(step.loss)))
        train(settings(precision=precision, epochs=1), dataset, tmp_path / precision, hooks=hooks)
    assert losses["bf16"] != losses["fp32"] and losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_fp16_needs_a_gpu_to_go_on_and_its_weights_start_another_run(dataset, tmp_path):
    out = stopped(tmp_path / "run", dataset)
    edited(out, precision="fp16")
    words = rf"it began with fp16: continue it on a GPU, or another --out folder; --init {out}/best.safetensors starts"
    for precision in ("auto", "bf16", "fp32"):
        with pytest.raises(UserError, match=words):
            train(settings(precision=precision), dataset, out)


def test_sync_bn_goes_on_in_one_process(dataset, tmp_path):
    """It needs GPUs among several; one process has all images."""
    out = stopped(tmp_path / "run", dataset)
    stored = read_json(out / CONFIG)["settings"]
    stored["runtime"]["sync_bn"] = True
    edited(out, settings=stored, processes=2)
    with pytest.raises(UserError, match="another sync_bn: True there, False now"):
        train(settings(), dataset, out)
    assert train(settings(sync_bn=True), dataset, out).epochs == 2


# ---------------------------------------------------------------- another day


def test_versions_that_changed_are_said_and_both_kept(dataset, tmp_path):
    out, said = stopped(tmp_path / "run", dataset), []
    began = read_json(out / CONFIG)
    assert "continued" not in began and began["command"] is None and began["began"].endswith("+00:00")
    old = {**began["versions"], "torch": "2.1.0", "timm": "0.9.16", "gone": "1.0"}
    edited(out, versions=old)
    asked = iter((None, 15))  # a step, and a batch of validation
    with heard(said), pytest.raises(Stopped):
        train(settings(), dataset, out, hooks=Hooks(should_stop=lambda: next(asked)))
    here = began["versions"]
    assert (
        f"continues with gone missing, timm {here['timm']}, torch {here['torch']}; "
        "began with gone 1.0, timm 0.9.16, torch 2.1.0"
    ) in said
    train(settings(), dataset, out)
    stored = read_json(out / CONFIG)
    assert stored["versions"] == old and stored["began"] == began["began"]
    entries = stored["continued"]
    assert [(each["versions"], each["epoch"], each["processes"]) for each in entries] == [(here, 0, 1)] * 2
    assert all(set(each) == {"versions", "device", "processes", "epoch", "date"} for each in entries)
    assert began["began"] <= entries[0]["date"] <= entries[1]["date"]
    assert {name: stored[name] for name in began if name != "versions"} == {
        name: value for name, value in began.items() if name != "versions"
    }
    shown = PROVENANCE["Versions"](Run.open(out))
    assert "torch 2.1.0" in shown and f"; continued with timm {here['timm']}, torch {here['torch']}" in shown
    assert train(settings(), dataset, out).already_finished and read_json(out / CONFIG) == stored


def test_the_same_versions_are_not_spoken_of(dataset, tmp_path):
    out, said = stopped(tmp_path / "run", dataset), []
    with heard(said):
        train(settings(), dataset, out)
    assert not [line for line in said if "continues with" in line]
    assert "continued" not in PROVENANCE["Versions"](Run.open(out))


def test_config_json_names_the_command(pack_folder, tmp_path):
    words = ["train", "--stage", 1, "--data", pack_folder, "--out", "my run", "--size", 48, "--batch", 16]
    done = call(
        *words, "--epochs", 1, "--arch", "test_efficientnet", "--no-pretrained", "--device", "cpu", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "my run" / CONFIG)["command"] == (
        f"cxrdali train --stage 1 --data {pack_folder} --out 'my run' --size 48 --batch 16 --epochs 1 "
        "--arch test_efficientnet --no-pretrained --device cpu"
    )


@pytest.mark.parametrize("entry", [{"continued": {}}, {"continued": [{}]}, {"began": 1}, {"versions": {"torch": 2}}])
def test_entries_of_another_kind_are_named(dataset, tmp_path, entry):
    out = stopped(tmp_path / "run", dataset)
    edited(out, **entry)
    with pytest.raises(UserError, match=f"not a run's settings .*{next(iter(entry))}"):
        train(settings(), dataset, out)


# ---------------------------------------------------------------- a compiler


def test_without_a_compiler_one_line_says_what_to_install(pack_folder, tmp_path, monkeypatch):
    words = ["train", "--stage", 1, "--data", pack_folder, "--out", "run", "--size", 48, "--batch", 16, "--compile"]
    words += ["--epochs", 1, "--arch", "test_efficientnet", "--no-pretrained", "--device", "cpu"]
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = call(*words, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        "error: --compile needs a C++ compiler (g++), and there is none; install g++ (Debian: apt install g++) or "
        "leave --compile out"
    )
    assert not (tmp_path / "run" / CONFIG).exists()
    monkeypatch.setenv("CXX", "icpx")
    assert "CXX=icpx is not there; unset CXX, or install icpx or leave" in call(*words, cwd=tmp_path).stderr


def test_another_failure_to_compile_is_one_line(dataset, tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise ValueError("no such header\nand pages of C++")

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **_: whole(model, backend=broken))
    with pytest.raises(UserError) as refused:
        train(settings(compile=True), dataset, tmp_path / "run")
    said = str(refused.value)
    assert said.startswith("--compile: torch cannot compile this model here (") and said.endswith("leave --compile out")
    assert "ValueError: no such header); " in said and "pages" not in said
    assert train(settings(epochs=1, compile=False), dataset, tmp_path / "other").epochs == 1
