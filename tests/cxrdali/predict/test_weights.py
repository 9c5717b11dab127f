"""Predicting with other weights than a run's best, and what is never written: NaN, infinity, constants."""

import argparse
import datetime
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrdali import predictions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models import weights_file
from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.inference import Inference, constant_words, logits
from cxrdali.predict.explain import explain
from cxrdali.predict.options import ExplainOptions
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.runs.layout import BEST, LAST, PROGRESS, VAL_PREDICTIONS
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.runtime.device import Hardware
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import CHECKSUM
from tests.cli.cli import call
from tests.heard import heard
from tests.releases import FINDINGS

pytestmark = pytest.mark.slow

ARCH = "test_efficientnet"
CPU = Hardware("cpu", "fp32")


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 2, "arch": ARCH, "pretrained": False, "device": "cpu"}
    return settings_of(**{**given, **changes})


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    train(settings(), dataset, out)
    return out


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "a")
    return tmp_path / "a"


def by_hand(dataset, table, state):
    """Logits of these weights for a table's images."""
    model = create(ModelOptions(ARCH, 48, pretrained=False), len(FINDINGS))
    model.backbone.load_state_dict(state)
    rows = dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
    images = next(iter(Loader(dataset, np.sort(rows), LoaderOptions(48, len(rows))))).images
    with torch.inference_mode():
        return model.eval()(images).numpy()


def with_weights(path, **options):
    return PredictOptions(weights=str(path), device="cpu", **options)


# ---------------------------------------------------------------- which weights


def test_an_average_predicts_beside_its_run(run, dataset, tmp_path):
    one, two = load_file(run / BEST), torch.load(run / LAST, weights_only=True)["model"]
    mean = {key: ((one[key].double() + two[key].double()) / 2).to(one[key].dtype).contiguous() for key in one}
    save_file(mean, tmp_path / "avg.safetensors")
    said = []
    with heard(said):
        table = predict(run, dataset, "test", with_weights(tmp_path / "avg.safetensors"))
    np.testing.assert_allclose(table.values, by_hand(dataset, table, mean), rtol=1e-4, atol=1e-5)
    content = weights_file.identity(tmp_path / "avg.safetensors")[:16]
    assert table.provenance.run == "a + avg.safetensors"
    assert table.provenance.history == (f"weights of avg.safetensors, content {content}",)
    assert any("not known which images" in line and "avg.safetensors was trained on" in line for line in said)
    best = predict(run, dataset, "test", PredictOptions(device="cpu"))
    assert best.provenance.run == "a" and best.provenance.history == ()


def test_the_last_epoch_predicts_and_is_known(run, dataset):
    said = []
    with heard(said):
        table = predict(run, dataset, "test", with_weights(run / LAST))
    state = torch.load(run / LAST, weights_only=True)["model"]
    np.testing.assert_allclose(table.values, by_hand(dataset, table, state), rtol=1e-4, atol=1e-5)
    assert table.provenance.run == "a + last.pt" and not any("not known" in line for line in said)


def test_last_pt_says_what_best_safetensors_says(run):
    best, last = weights_file.metadata(run / BEST), torch.load(run / LAST, weights_only=True)["about"]
    assert best.pop("map") and best.pop(CHECKSUM)
    assert {**best, "epoch": "2"} == last
    assert (last["arch"], last["size"], last["norm"]) == (ARCH, "48", "imagenet")
    assert last["mean"] == "[0.485, 0.456, 0.406]" and last["head"] == '{"name": "linear"}'
    assert last["findings"].split("\n") == list(FINDINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "test_resnet"}, "holds weights of test_resnet, this run is test_efficientnet; give the run that"),
        ({"size": "64"}, "was trained at 64 px, this run at 48; give the run that these weights belong to"),
        ({"findings": "A\nB\nC\nD\nE"}, "is only in"),
        ({"mean": "[0.5, 0.5, 0.5]"}, r"trained with --norm imagenet \(mean \[0.5, 0.5, 0.5\], std .*; give the run"),
    ],
)  # fmt: skip
def test_weights_of_another_kind_are_refused(run, dataset, tmp_path, changes, message):
    about = {**weights_file.metadata(run / BEST), **changes}
    about.pop(CHECKSUM)
    save_file(load_file(run / BEST), tmp_path / "w.safetensors", about)
    with pytest.raises(UserError, match=message):
        predict(run, dataset, "test", with_weights(tmp_path / "w.safetensors"))


def test_weights_without_a_classifier_do_not_predict(run, dataset, tmp_path):
    headless = {key: value for key, value in load_file(run / BEST).items() if "classifier" not in key}
    torch.save(headless, tmp_path / "w.pt")
    with pytest.raises(UserError, match="w.pt: it has no classifier: there is a new one, so it cannot predict"):
        predict(run, dataset, "test", with_weights(tmp_path / "w.pt"))


def test_best_weights_that_were_replaced_are_told_to_be_given(copied, dataset, tmp_path):
    state, about = load_file(copied / BEST), weights_file.metadata(copied / BEST)
    save_file(state, copied / BEST)
    told = r"best.safetensors: {}.*predict --weights"
    with pytest.raises(UserError, match=told.format("names no epoch, the best one is .: not what this run wrote")):
        predict(copied, dataset, "test", PredictOptions(device="cpu"))
    values = predict(copied, dataset, "test", with_weights(copied / BEST)).values
    about.pop(CHECKSUM)
    (copied / BEST).write_bytes(weights_file.sealed(changed(state, about))[0])
    with pytest.raises(UserError, match=told.format(r"is not what this run wrote \(checksum")):
        predict(copied, dataset, "test", PredictOptions(device="cpu"))
    assert np.isfinite(values).all()


def changed(state, about):
    from safetensors.torch import save

    return save({**state, "bn1.bias": state["bn1.bias"] + 1}, about)


def test_explain_takes_other_weights(run, dataset, tmp_path):
    other = load_file(run / BEST)
    other["classifier.weight"] = -other["classifier.weight"]
    save_file(other, tmp_path / "w.safetensors")
    how = ExplainOptions(images=2, findings=(FINDINGS[0],))
    plain = explain(run, dataset, how, PredictOptions(device="cpu"))
    shown = explain(run, dataset, how, with_weights(tmp_path / "w.safetensors"))
    table = predict(run, dataset, "val", with_weights(tmp_path / "w.safetensors"))
    expected = table.as_probabilities().values[:, 0]
    assert (plain.run, shown.run) == ("a", "a + w.safetensors")
    rows = dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"]).tolist()
    for example in shown.findings[0].best:
        assert example.probability == pytest.approx(expected[rows.index(example.row)], rel=1e-5)


@pytest.mark.parametrize("name", ["lightning.ckpt", "checkpoint.pth.tar", "compiled.safetensors"])
def test_checkpoints_of_other_programs_start_a_stage_and_predict(run, dataset, tmp_path, name):
    """The whole way: a stage of rate 1e-12 from it validates as it predicts beside the run."""
    state = {key: value + 0.01 if value.is_floating_point() else value for key, value in load_file(run / BEST).items()}
    path, inside = tmp_path / name, {f"_orig_mod.model.{key}": value for key, value in state.items()}
    saved = {"state_dict": inside, "arch": ARCH, "args": argparse.Namespace(model=ARCH), "hyper_parameters": {}}
    save_file(inside, path) if name.endswith("safetensors") else torch.save(saved, path)
    table = predict(run, dataset, "val", with_weights(path))
    np.testing.assert_allclose(table.values, by_hand(dataset, table, state), rtol=1e-4, atol=1e-4)
    train(settings(epochs=1, lr=1e-12, init=str(path), frozen=True), dataset, tmp_path / "b")
    np.testing.assert_allclose(
        predictions.read(tmp_path / "b" / VAL_PREDICTIONS).values, table.values, rtol=1e-4, atol=1e-4
    )


# ---------------------------------------------------------------- what a stage starts from


def reached(run):
    done = Run.open(run).progress
    when = datetime.datetime.fromtimestamp((run / PROGRESS).stat().st_mtime)
    return f"best epoch {done.best_epoch} of 2, validation mAP {done.best_score:.4f}, finished {when:%Y-%m-%d %H:%M}"


def test_a_stage_says_what_it_starts_from(run, dataset, tmp_path):
    said = []
    with heard(said):
        train(settings(stage=2, size=64, epochs=1, init=str(run), limit_batches=1), dataset, tmp_path / "b")
        train(settings(stage=3, size=64, epochs=1, init=str(tmp_path / "b"), limit_batches=1), dataset, tmp_path / "c")
        train(settings(epochs=1, limit_batches=1, init=str(run / LAST)), dataset, tmp_path / "d")
        predict(run, dataset, "test", PredictOptions(device="cpu"))
    assert f"starts from {run}, {reached(run)}" in said
    (trial,) = [line for line in said if line.startswith(f"starts from {tmp_path / 'b'}, best epoch 1 of 1")]
    assert trial.endswith("; a trial of --limit-batches 1, not a whole training")
    assert any(line.startswith(f"starts from {run / LAST}, arch {ARCH}, epoch 2, written 20") for line in said)
    assert f"{run}: {reached(run)}" in said


def test_a_forgotten_arch_is_named(run, dataset, tmp_path):
    for init in (run, run / BEST, run / LAST):
        with pytest.raises(UserError, match=f"holds weights of {ARCH}, this run is test_resnet; give --arch {ARCH}"):
            train(settings(stage=2, arch="test_resnet", init=str(init)), dataset, tmp_path / "b")


def stopped(dataset, out, **changes):
    steps = []
    hooks = Hooks(on_step=steps.append, should_stop=lambda: 15 if len(steps) == 9 else None)
    with pytest.raises(Stopped):
        train(settings(**changes), dataset, out, hooks=hooks)


def test_a_run_continues_with_its_own_network_alone(run, dataset, tmp_path):
    """A twin's last.pt in the run's folder; an older version's says nothing, and continues."""
    stopped(dataset, tmp_path / "b")
    state = torch.load(tmp_path / "b" / LAST, weights_only=True)
    assert (state["about"]["epoch"], state["position"]) == ("1", 16)
    twin = {**state["about"], "arch": "test_efficientnet_gn"}
    torch.save({**state, "about": twin}, tmp_path / "b" / LAST)
    with pytest.raises(UserError, match=f"last.pt: holds weights of test_efficientnet_gn, this run is {ARCH}; restore"):
        train(settings(), dataset, tmp_path / "b")
    others = {**state["about"], "findings": "\n".join(reversed(FINDINGS))}
    torch.save({**state, "about": others}, tmp_path / "b" / LAST)
    with pytest.raises(UserError, match="last.pt: findings is '.*' there, '.*' in this run; restore it"):
        train(settings(), dataset, tmp_path / "b")
    del state["about"]
    torch.save(state, tmp_path / "b" / LAST)
    assert train(settings(), dataset, tmp_path / "b").epochs == 2
    one, two = load_file(run / BEST), load_file(tmp_path / "b" / BEST)
    assert all(torch.equal(one[key], two[key]) for key in one)


# ---------------------------------------------------------------- NaN, infinity, constants


def overflowing(run, path):
    """Finite weights whose products are not."""
    state = load_file(run / BEST)
    for key in state:
        if key.endswith("bn1.weight"):
            state[key] = state[key] * 1e25
    save_file(state, path)
    return path


@pytest.mark.parametrize("tta", ["none", "hflip"])
@pytest.mark.parametrize(("precision", "fix"), [("fp32", "give others than .*w.safetensors with --weights"),
                                                ("bf16", "use --precision fp32, or give others than")])  # fmt: skip
def test_no_table_of_nan_is_written(run, dataset, tmp_path, tta, precision, fix):
    path = overflowing(run, tmp_path / "w.safetensors")
    first = dataset.catalog["image_id"].iloc[np.flatnonzero(dataset.labels("cxr-lt-2023").split == "test")[0]]
    with pytest.raises(UserError, match=f"NaN or infinity for image '{first}', .* in all, in {precision}; {fix}"):
        predict(run, dataset, "test", with_weights(path, tta=tta, precision=precision))


def test_the_command_leaves_no_file(run, pack_folder, tmp_path):
    path = overflowing(run, tmp_path / "w.safetensors")
    given = ("--run", run, "--data", pack_folder, "--split", "test", "--device", "cpu", "--out", tmp_path / "p.csv")
    result = call("predict", *given, "--weights", path, cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith("error: the network gives NaN or inf")
    assert not list(tmp_path.glob("p.csv*"))


class Means(torch.nn.Module):
    """Two findings of an image's mean; where it, or its left half alone, is above a limit, one of them is `value`."""

    def __init__(self, limit, value, left=False):
        super().__init__()
        self.limit, self.value, self.left = limit, value, left

    def forward(self, images):
        part = images[..., : images.shape[-1] // 2] if self.left else images
        mean, seen = images.float().mean((1, 2, 3)), part.float().mean((1, 2, 3))
        return torch.stack([mean, torch.where(seen > self.limit, self.value, -mean)], dim=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("tta", ["none", "hflip", "medium"])
def test_the_first_image_and_the_number_are_named(dataset, value, tta):
    rows = np.arange(20, 60)
    loader = Loader(dataset, rows, LoaderOptions(48, 7))
    images = torch.cat([batch.images for batch in loader]).float()
    left, right = images[..., :24].mean((1, 2, 3)), images[..., 24:].mean((1, 2, 3))
    limit = float(torch.minimum(left.sort().values[-4], right.sort().values[-4]))
    bad = (left > limit) | ((right > limit) if tta == "hflip" else False)  # the mirror image's left half
    assert tta != "hflip" or (bad != (left > limit)).any()
    with pytest.raises(UserError) as error:
        logits(Means(limit, value, left=True), loader, 2, CPU, Inference(tta=tta, fix="FIX"))
    line = str(error.value)
    if tta != "medium":
        first = dataset.catalog["image_id"].iloc[rows[int(bad.nonzero()[0])]]
        assert line == (
            f"the network gives NaN or infinity for image {first!r}, {int(bad.sum())} of 40 in all, in fp32; FIX"
        )
    assert "in fp32; FIX" in line


def test_constants_are_refused_where_images_differ(run, dataset, tmp_path):
    state = load_file(run / BEST)
    state["classifier.weight"][1] = 0
    save_file(state, tmp_path / "one.safetensors")
    said = []
    with heard(said):
        table = predict(run, dataset, "test", with_weights(tmp_path / "one.safetensors"))
    assert f"all {len(table.values)} images have the same logit for {FINDINGS[1]}" in said
    state["classifier.weight"][:] = 0
    save_file(state, tmp_path / "all.safetensors")
    words = f"all.safetensors: all {len(table.values)} images have the same logit for every finding, though the images"
    for tta in ("none", "hflip"):
        with pytest.raises(UserError, match=words):
            predict(run, dataset, "test", with_weights(tmp_path / "all.safetensors", tta=tta))
    with pytest.raises(UserError, match="images have the same logit for every finding"):
        explain(run, dataset, ExplainOptions(split="test"), with_weights(tmp_path / "all.safetensors"))


def test_equal_images_may_have_equal_logits(dataset):
    for rows, expected in (
        ([3, 3, 3], (False, "")),
        ([3], (False, "")),
        ([3, 4], (True, "all 2 images have the same logit for every finding")),
    ):
        loader = Loader(dataset, np.array(rows), LoaderOptions(48, 2))
        assert constant_words(np.ones((len(rows), 2), np.float32), ("A", "B"), loader) == expected


def test_training_goes_on_with_a_note_of_constants_and_explain_refuses_them(run, dataset, tmp_path):
    state = load_file(run / BEST)
    state["classifier.weight"][:], state["classifier.bias"][:] = 0, 0.5
    torch.save(state, tmp_path / "w.pt")
    said = []
    with heard(said):
        train(settings(epochs=1, lr=1e-12, init=str(tmp_path / "w.pt")), dataset, tmp_path / "b")
    count = len(predictions.read(tmp_path / "b" / VAL_PREDICTIONS).values)
    assert f"validation: all {count} images have the same logit for every finding" in said
    with pytest.raises(UserError, match=rf"val_predictions.parquet: all {count} images have the same logit for every"):
        explain(tmp_path / "b", dataset, ExplainOptions(), PredictOptions(device="cpu"))


def test_features_that_are_not_finite_are_not_kept(run, dataset, tmp_path):
    path = overflowing(run, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"NaN or infinity for image '.*', \d+ of \d+ in all, in fp32; start from"):
        train(
            settings(frozen=True, flips="none", cutout="off", init=str(path), cache_features=True),
            dataset,
            tmp_path / "b",
        )
