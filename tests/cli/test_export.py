"""`cxrdali export` as a user types it."""

import sys

import pytest

from tests.cli.cli import call
from tests.cxrdali.export.exported import run_with_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    made = tmp_path_factory.mktemp("exporting")
    run_with_weights(made / "run", dataset, arch="test_byobnet")
    (made / "other.onnx").write_bytes(b"somebody's network")
    (made / "folder").mkdir()
    return made


@pytest.mark.parametrize(
    ("to", "out", "said"),
    [
        ("onnx", "a.onnx", "a.onnx: ONNX, opset 18, 0."),
        ("torchscript", "a.pt", "a.pt: TorchScript, 0."),
        ("timm", "a.safetensors", "a.safetensors: load it with timm.create_model('test_byobnet', num_classes=5, "),
        ("hub-folder", "hub", "hub: model.safetensors, config.json, README.md, README.json: load it with "),
        ("card", "README.md", "README.md: the model card; README.json: its numbers"),
    ],
)
def test_what_is_written_and_how_it_was_checked(folder, pack_folder, to, out, said):
    result = call("export", "run", "--to", to, "--out", out, "--data", pack_folder, cwd=folder)
    assert result.returncode == 0 and not result.stderr, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("run: best epoch 2 of 2, validation mAP ")
    assert any(line.startswith(said) for line in lines), lines
    checked = [line for line in lines if line.startswith(f"run to {to}: the largest difference from torch is a ")]
    assert len(checked) == (to != "card"), lines
    assert all(f"validation images of {pack_folder}, in batches of 1 and 3" in line for line in checked)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--to", "onnx", "--out", "other.onnx"], "other.onnx: is there already; move it away"),
        (["--to", "onnx", "--out", "a.bin"], "a.bin: an export to onnx is a file .onnx; name one, as a.onnx"),
        (["--to", "onnx", "--out", "folder"], "folder: an export to onnx is a file .onnx"),
        (["--to", "timm", "--out", "no/a.safetensors"], "no: no such folder; make it, or give another --out"),
        (["--to", "timm", "--out", "run/best.safetensors"], "run/best.safetensors: best.safetensors there"),
        (["--to", "timm", "--out", "b.safetensors", "--opset", "18"], "opset: --to timm has no place for it"),
        (["--to", "timm", "--out", "b.safetensors", "--calibration", "x.json"], "calibration: --to timm has no place"),
        (["--to", "hub-folder", "--out", "run"], "run: is there already; move it away"),
        (["--to", "card", "--out", "b.md", "--evaluation", "x.json"], "x.json: no such file; `cxrdali eval"),
        (["--to", "onnx", "--out", "b.onnx", "--calibration", "x.json"], "x.json: no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_written(folder, more, message):
    before = sorted(folder.rglob("*"))
    result = call("export", "run", *more, cwd=folder)
    assert result.returncode == 1 and result.stderr.startswith(f"error: {message}"), result.stderr
    assert result.stderr.count("\n") == 1 and sorted(folder.rglob("*")) == before
    assert (folder / "other.onnx").read_bytes() == b"somebody's network"


def test_usage(folder):
    result = call("export", "run", "--to", "keras", "--out", "a.h5", cwd=folder)
    assert result.returncode == 2 and "choose one of timm, onnx, torchscript, hub-folder, card" in result.stderr
    assert call("export", "run", "--out", "a.onnx", cwd=folder).returncode == 2


def test_without_the_extra_it_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = call("export", "run", "--to", "onnx", "--out", "c.onnx", cwd=folder)
    assert result.returncode == 1 and result.stderr.startswith("error: --to onnx: import of onnxruntime")
    assert result.stderr.endswith("; pip install 'cxrdali[export]'\n") and not (folder / "c.onnx").exists()
