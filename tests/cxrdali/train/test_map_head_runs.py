"""Runs whose heads see a feature map: killed and continued, predicted, retrained, explained."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cxrdali import predictions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models.weights import head_keys
from cxrdali.predict.explain import explain
from cxrdali.predict.options import ExplainOptions, PredictOptions
from cxrdali.predict.predict import load_run_model, predict
from cxrdali.report.explanation.page import write_gallery
from cxrdali.runs.layout import BEST, VAL_PREDICTIONS
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train import trainer
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.faults.trainers import at_moment, differences, in_child
from tests.heard import heard
from tests.releases import FINDINGS

# of fork, in a process with threads
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

KINDS = {
    "csra": {"head": "csra", "csra_attention": "own", "csra_norm": True, "csra_temperatures": "1,4"},
    "ml-decoder": {"head": "ml-decoder", "ml_decoder_width": 16, "ml_decoder_groups": 2},
    "gem": {"pool": "gem", "dropout": 0.2},
}


def settings(kind: str, **more):
    given = {"stage": 1, "size": 48, "batch": 16, "epochs": 2, "arch": "test_efficientnet", "pretrained": False}
    return settings_of(**given, device="cpu", lr=3e-3, **KINDS[kind], **more)


@pytest.fixture(scope="module", params=KINDS)
def run(request, dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / request.param
    train(settings(request.param), dataset, out)
    return out


def killed(kind, pack, out, moment):
    """For a child."""
    at_moment(pytest.MonkeyPatch(), moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
    trainer.train(settings(kind), PackedDataset.open(pack), out)


@pytest.mark.parametrize("run", ["csra", "ml-decoder"], indirect=True)
def test_a_killed_run_continues_to_the_same_bytes(run, dataset, tmp_path):
    """After the first step of the second epoch: with dropout, and statistics of the head's own norm."""
    out = tmp_path / "run"
    assert in_child(killed, run.name, dataset.root, out, 5) == -signal.SIGKILL
    train(settings(run.name), dataset, out)
    assert differences(out, run) == []


def test_predict_gives_the_trainer_s_own_logits_without_options(run, dataset):
    again, stored = predict(run, dataset, "val", PredictOptions(device="cpu")), predictions.read(run / VAL_PREDICTIONS)
    np.testing.assert_allclose(again.values, stored.values, rtol=1e-4, atol=1e-5)
    assert np.ptp(stored.values, axis=0).min() > 0
    trained = load_file(run / BEST)
    assert run.name != "gem" or trained["classifier.pool.p"].item() != settings("gem").model.gem_p


def test_a_head_is_retrained_on_its_frozen_backbone_or_another_takes_its_place(run, dataset, tmp_path):
    said, frozen = [], {"epochs": 1, "device": "cpu"}
    with heard(said):
        train(retrain_settings(run, dataset, frozen), dataset, tmp_path / "kept")
    assert any("features are computed anew in every epoch: a classifier of" in line for line in said)
    before, after = (load_file(folder / BEST) for folder in (run, tmp_path / "kept"))
    head = set(head_keys(load_run_model(Run.open(run))))
    assert head and all(not torch.equal(before[key], after[key]) for key in head)
    rest = {key for key in before if not key.startswith("classifier.")}
    assert all(torch.equal(before[key], after[key]) for key in rest)
    plain = {"head": "linear", "pool": "own", "epochs": 1, "device": "cpu"}
    train(retrain_settings(run, dataset, plain), dataset, tmp_path / "linear")
    assert load_file(tmp_path / "linear" / BEST)["classifier.weight"].shape[0] == len(FINDINGS)


# ---------------------------------------------------------------- pictures


def test_grad_cam_is_of_the_last_map_before_the_head(run, dataset):
    """By torch's own gradient, through the head."""
    found = explain(run, dataset, ExplainOptions(images=1, findings=("Edema",)), PredictOptions(device="cpu"))
    model = load_run_model(Run.open(run)).eval()
    assert found.layer == "bn2"
    one = found.findings[0].best[0]
    (batch,) = list(Loader(dataset, np.array([one.row]), LoaderOptions(48, 1)))
    kept = []
    handle = model.backbone.bn2.register_forward_hook(lambda *call: kept.append(call[2]))
    logit = model(batch.images)[0, FINDINGS.index("Edema")]
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    activations, gradient = (value[0].detach().double().numpy() for value in (kept[0], gradient))
    expected = np.maximum(np.einsum("c,chw->hw", gradient.mean(axis=(1, 2)), activations), 0)
    assert one.heat.shape == (2, 2)
    np.testing.assert_allclose(one.heat, expected, rtol=1e-4, atol=1e-7)


def test_the_attention_of_a_head_is_shown(run, dataset, tmp_path):
    options = ExplainOptions(images=1, findings=("Edema", "Mass"), method="csra")
    if run.name == "gem":
        with pytest.raises(UserError, match="method csra: the run's head is linear; use --method grad-cam$"):
            explain(run, dataset, options, PredictOptions(device="cpu"))
        return
    if run.name == "ml-decoder":
        with pytest.raises(UserError, match="the run's head is ml-decoder; use --method grad-cam or --method ml-dec"):
            explain(run, dataset, options, PredictOptions(device="cpu"))
    options = ExplainOptions(images=1, findings=("Edema", "Mass"), method=run.name)
    found = explain(run, dataset, options, PredictOptions(device="cpu"))
    model = load_run_model(Run.open(run)).eval()
    for each in found.findings:
        one = each.best[0]
        (batch,) = list(Loader(dataset, np.array([one.row]), LoaderOptions(48, 1)))
        with torch.no_grad():
            (head,), (given,) = model.heads, model.inputs(batch.images)[1]
            weights = head.attention(given.flatten(2).mT)[0, FINDINGS.index(each.finding)]
        np.testing.assert_allclose(one.heat, weights.view(2, 2), rtol=1e-5)
        assert one.heat.sum() == pytest.approx(1, abs=1e-5)
    write_gallery(tmp_path / "page.html", found)
    text = (tmp_path / "page.html").read_text()
    assert f"this run's head {run.name} looks at" in text and "Grad-CAM" not in text and "layer" not in text
    assert json.loads((tmp_path / "page.json").read_text())["method"] == run.name


def test_attention_has_no_layer():
    with pytest.raises(UserError, match="layer 'bn2': only Grad-CAM is of a layer; leave it out with --method csra"):
        ExplainOptions(method="csra", layer="bn2")
