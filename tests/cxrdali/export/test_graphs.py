"""ONNX and TorchScript files against timm, and against what `cxrdali predict` computes."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer
from torch import nn

import cxrdali.export
from cxrdali.export.export import export
from cxrdali.export.options import ExportOptions
from cxrdali.models.head import HEADS, Head
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.options import FitOptions
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import load_run_model, predict
from cxrdali.predictions import sigmoid
from cxrdali.runs.reader import Run
from shards.errors import UserError
from tests.cxrdali.export.exported import logits_by_hand, run_with_weights, validation_images
from tests.heard import heard
from tests.releases import FINDINGS

pytestmark = pytest.mark.slow


def byobnet(settings):
    return timm.create_model("test_byobnet", num_classes=len(FINDINGS))


def outputs(path, images) -> np.ndarray:
    """What an exported file gives, by a program that knows nothing of cxrdali."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {"images": images})[0]
    with torch.inference_mode():
        return torch.jit.load(path)(torch.from_numpy(images)).numpy()


def about(path) -> dict:
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    found = {"cxrdali.json": ""}
    torch.jit.load(path, _extra_files=found)
    return json.loads(found["cxrdali.json"])


TARGETS = {"onnx": "a.onnx", "torchscript": "a.pt"}


SAID: list[str] = []


@pytest.fixture(scope="module")
def files(run, dataset, tmp_path_factory):
    """The run in both formats, to logits."""
    folder = tmp_path_factory.mktemp("files")
    with heard(SAID):
        for to, name in TARGETS.items():
            export(run, folder / name, ExportOptions(to, outputs="logits"), dataset)
    return {to: folder / name for to, name in TARGETS.items()}


@pytest.mark.parametrize("to", TARGETS)
def test_a_file_gives_what_timm_gives_by_hand_for_any_number_of_images(files, run, dataset, to):
    path = files[to]
    images = validation_images(run, dataset)
    expected = logits_by_hand(run, images, byobnet)
    assert expected.std() > 0.1, "a network that says the same of all images would prove nothing"
    for count in (1, 2, 7):
        found = outputs(path, images[:count])
        assert found.dtype == np.float32 and found.shape == (count, len(FINDINGS))
        np.testing.assert_allclose(found, expected[:count], rtol=1e-4, atol=1e-4)
    words = f"validation images of {dataset.root}, in batches of 1 and 3"
    assert any(f"to {to}: the largest difference from torch is a logit of " in line and words in line for line in SAID)
    its = about(path)
    assert json.loads(its["findings"]) == list(FINDINGS) and (its["run"], its["epoch"], its["size"]) == ("a", "2", "48")
    assert (
        json.loads(its["packed"])["fit"] == "squash" and its["labels"] == "cxr-lt-2023" and its["dataset"] == dataset.id
    )
    if to == "onnx":
        proto = onnx.load(path)
        onnx.checker.check_model(proto, full_check=True)
        (given,), (taken,) = proto.graph.input, proto.graph.output
        assert (given.name, taken.name) == ("images", "logits") and its["opset"] == "18"
        shape = [each.dim_param or each.dim_value for each in given.type.tensor_type.shape.dim]
        assert shape == ["N", 1, 48, 48] and given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [(each.domain, each.version) for each in proto.opset_import if not each.domain] == [("", 18)]


def test_probabilities_are_those_of_predict(margin_run, dataset, tmp_path):
    """The scale of the loss is inside, 30 times the classifier's output."""
    export(margin_run, tmp_path / "a.pt", ExportOptions("torchscript"))
    table = predict(margin_run, dataset, "val", PredictOptions(device="cpu", precision="fp32"))
    images = validation_images(margin_run, dataset)
    expected = sigmoid(table.values[: len(images)])
    np.testing.assert_allclose(outputs(tmp_path / "a.pt", images), expected, atol=1e-4)
    assert 0.05 < expected.mean() < 0.95 and expected.std() > 0.1


def fitted(run, dataset, folder, method="platt"):
    """Rules of the run's own validation logits, as files."""
    labels, table = dataset.labels("cxr-lt-2023"), folder / "val.parquet"
    predict(run, dataset, "val", PredictOptions(device="cpu", precision="fp32")).write(table)
    made = calibration.fit(table, dataset, labels, method, FitOptions(folds=2))
    made.write(folder / "rules.json")
    calibration.apply(table, made).write(folder / "calibrated.parquet")
    thresholds.fit(folder / "calibrated.parquet", dataset, labels, "f1", FitOptions(folds=2)).write(folder / "f1.json")
    return made


@pytest.mark.parametrize(("to", "method"), [("onnx", "isotonic"), ("torchscript", "platt")])
def test_calibration_and_thresholds_leave_with_it(margin_run, dataset, tmp_path, to, method, monkeypatch):
    monkeypatch.setattr("cxrdali.postprocess.calibration.ENOUGH", 1)
    monkeypatch.setattr("cxrdali.postprocess.calibration_maps.LEAST", 1)
    made = fitted(margin_run, dataset, tmp_path, method)
    assert sum(not rule.kept for rule in made.rules) >= 2
    path = tmp_path / TARGETS[to]
    rules = {"calibration": str(tmp_path / "rules.json"), "thresholds": str(tmp_path / "f1.json")}
    export(margin_run, path, ExportOptions(to, **rules), dataset)
    expected = calibration.apply(tmp_path / "val.parquet", made)
    images = validation_images(margin_run, dataset)
    # an isotonic step is steep: float32 noise of the network may climb a part of it
    np.testing.assert_allclose(
        outputs(path, images), sigmoid(expected.values[: len(images)]), atol=1e-4 if method == "platt" else 2e-2
    )
    its, limits = about(path), json.loads((tmp_path / "f1.json").read_text())["findings"]
    assert json.loads(its["calibration"]) == [f"calibrated: {method}, fitted on val.parquet"]
    assert json.loads(its["thresholds"]) == {each["finding"]: each["probability"] for each in limits}


def test_rules_of_other_logits_are_refused(run, margin_run, dataset, tmp_path):
    fitted(margin_run, dataset, tmp_path)
    for rules, words in (
        ({"calibration": "rules.json"}, "run 'a' here, 'margin' in val.parquet"),
        ({"thresholds": "f1.json"}, "give the --calibration that came before these thresholds"),
    ):
        given = {name: str(tmp_path / file) for name, file in rules.items()}
        with pytest.raises(UserError, match=words):
            export(run, tmp_path / "a.onnx", ExportOptions("onnx", **given))
        assert not (tmp_path / "a.onnx").exists()
    given = {"calibration": str(tmp_path / "rules.json"), "allow_other_run": True}
    export(run, tmp_path / "a.pt", ExportOptions("torchscript", **given))
    assert json.loads(about(tmp_path / "a.pt")["calibration"]) == ["calibrated: platt, fitted on val.parquet"]


def test_two_exports_to_onnx_are_the_same_bytes(files, run, dataset, tmp_path):
    """TorchScript numbers its classes anew each time in a process."""
    export(run, tmp_path / "a.onnx", ExportOptions("onnx", outputs="logits"), dataset)
    assert (tmp_path / "a.onnx").read_bytes() == files["onnx"].read_bytes()


@pytest.mark.parametrize("to", TARGETS)
def test_a_file_names_no_place_on_this_machine(files, to, run, dataset):
    data = files[to].read_bytes()
    for place in (run.parent, dataset.root, sys.prefix, Path(cxrdali.export.__file__).parent, "site-packages"):
        assert str(place).encode() not in data, place


@pytest.mark.parametrize("to", TARGETS)
def test_a_file_that_differs_is_not_written(run, dataset, tmp_path, to, monkeypatch):
    monkeypatch.setattr("cxrdali.export.graph.Exported.forward", lambda self, images: self.model(images) + 0.01)
    path = tmp_path / TARGETS[to]

    with pytest.raises(UserError, match="differs from torch by up to a logit of 0.01, on 16 generated images"):
        export(run, path, ExportOptions(to, outputs="logits"))
    assert list(tmp_path.iterdir()) == []


@register_model
def cxrdali_test_swin(pretrained=False, num_classes=10, **_):
    """Shifted windows, into which a number of images could be folded."""
    made = SwinTransformer(64, 4, num_classes=num_classes, embed_dim=16, depths=(2, 2), num_heads=(2, 2), window_size=4)
    made.pretrained_cfg = {}
    return made


@dataclass(frozen=True)
class Normed(Head):
    """A norm behind the linear layer: its rows are findings too."""

    name: ClassVar[str] = "normed"

    def attach(self, backbone, num_findings):
        backbone.fc = nn.Sequential(nn.Linear(backbone.fc.in_features, num_findings), nn.BatchNorm1d(num_findings))


@pytest.fixture(autouse=True)
def _its_own_heads(monkeypatch):
    """A head that is added stays for all tests of a process."""
    monkeypatch.setattr(HEADS, "_added", {Normed.name: Normed})


# every loss and head; of a distilled network two classifiers
NETWORKS = [
    ("test_efficientnet", {"head": "cosine", "loss": "ldam", "pool": "gem"}, 18),
    ("test_vit", {"loss": "ldam-drw", "drw_epoch": 1, "head": "ml-decoder", "ml_decoder_width": 16}, 20),
    ("test_convnext", {"loss": "asl", "checkpointing": True, "channels_last": True}, 18),
    ("test_resnet", {"head": "normed", "loss": "cb-focal", "dropout": 0.5, "norm": "weights"}, 18),
    ("deit_tiny_distilled_patch16_224", {"size": 64, "head": "cosine", "loss": "ldam"}, 18),
    ("cxrdali_test_swin", {"size": 64, "loss": "focal", "head": "csra", "csra_norm": True}, 18),
]


@pytest.mark.parametrize(("arch", "more", "opset"), NETWORKS, ids=[arch for arch, *_ in NETWORKS])
def test_every_kind_of_network_head_and_loss_leaves(arch, more, opset, dataset, tmp_path):
    """Against the run's own model, which predicts."""
    run = run_with_weights(tmp_path / "run", dataset, arch=arch, **more)
    images = validation_images(run, dataset, 5)
    with torch.inference_mode():
        expected = load_run_model(Run.open(run)).eval()(torch.from_numpy(images)).numpy()
    assert expected.std() > 1e-3
    for to, name in TARGETS.items():
        export(run, tmp_path / name, ExportOptions(to, outputs="logits", opset=opset if to == "onnx" else None))
        for part in (images[:1], images):
            found, close = outputs(tmp_path / name, part), 1e-3 * max(1, np.abs(expected).max())
            np.testing.assert_allclose(found, expected[: len(part)], rtol=0, atol=close)
    assert about(tmp_path / "a.onnx")["opset"] == str(opset)


def test_an_operator_set_that_torch_or_onnxruntime_does_not_have_is_named(run, tmp_path, caplog):
    with pytest.raises(UserError, match="opset 17: at least 18"):
        ExportOptions("onnx", opset=17)
    caplog.clear()
    with pytest.raises(UserError, match="opset 99: torch .* makes 18 of it; give another --opset"):
        export(run, tmp_path / "b.onnx", ExportOptions("onnx", opset=99))
    assert list(tmp_path.iterdir()) == [] and "Traceback" not in caplog.text
