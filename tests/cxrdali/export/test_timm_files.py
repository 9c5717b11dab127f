"""Weights that timm loads: one file, and a folder as the Hugging Face Hub has them. Nothing here reaches a network."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from cxrdali.export.export import export
from cxrdali.export.options import ExportOptions
from cxrdali.models import weights_file
from cxrdali.models.classifier import create
from cxrdali.models.weights import load_initial
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.options import FitOptions
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import load_run_model, predict
from cxrdali.runs.reader import Run
from cxrdali.train.build import initial_weights
from shards.errors import UserError
from shards.renditions.options import RenditionOptions, Size
from shards.renditions.rendition import renditions
from tests.cxrdali.export.exported import logits_by_hand, run_with_weights, validation_images
from tests.heard import heard
from tests.releases import FINDINGS, jpeg, smooth_image

pytestmark = pytest.mark.slow

MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def logits(model, images) -> np.ndarray:
    with torch.inference_mode():
        return model.eval()((torch.from_numpy(images).float().repeat(1, 3, 1, 1) / 255 - MEAN) / STD).numpy()


def test_a_file_loads_with_timm_and_gives_our_logits(margin_run, dataset, tmp_path):
    """The scale of the loss, 30, is in the classifier."""
    path = tmp_path / "a.safetensors"
    with heard([]) as said:
        export(margin_run, path, ExportOptions("timm"), dataset)
    images = validation_images(margin_run, dataset)
    made = timm.create_model("test_byobnet", num_classes=len(FINDINGS), checkpoint_path=path)
    expected = logits_by_hand(
        margin_run, images, lambda _: timm.create_model("test_byobnet", num_classes=len(FINDINGS))
    )
    np.testing.assert_allclose(logits(made, images), expected, rtol=1e-4, atol=1e-3)
    assert np.abs(expected).max() > 10
    with safe_open(path, "np") as file:
        about = file.metadata()
    assert about["findings"].split("\n") == list(FINDINGS) and json.loads(about["mean"]) == [0.485, 0.456, 0.406]
    assert (about["format"], about["logit_scale"], about["arch"], about["size"]) == ("pt", "1.0", "test_byobnet", "48")
    assert f"timm.create_model('test_byobnet', num_classes=5, checkpoint_path='{path}')" in said[-1]
    assert (
        "the gray image / 255, three times, less mean [0.485, 0.456, 0.406], by std [0.229, 0.224, 0.225]" in said[-1]
    )
    weights_file.check(path)


def test_the_file_is_taken_by_init_with_the_same_logits(margin_run, dataset, tmp_path):
    export(margin_run, tmp_path / "a.safetensors", ExportOptions("timm"))
    run, images = Run.open(margin_run), torch.from_numpy(validation_images(margin_run, dataset))
    for scale in (1.0, 30.0):
        model = create(run.settings.changed(loss="bce" if scale == 1 else "ldam").model_options(), len(FINDINGS))
        assert model.logit_scale == scale
        load_initial(model, tmp_path / "a.safetensors", FINDINGS[::-1])
        with torch.inference_mode():
            expected = load_run_model(run).eval()(images).flip(1)
            torch.testing.assert_close(model.eval()(images), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("arch", ["test_vit", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_of_one_size_is_told_its_size(arch, dataset, tmp_path):
    run = run_with_weights(tmp_path / "run", dataset, arch=arch, size=64)
    images = validation_images(run, dataset, 3)
    expected = load_run_model(Run.open(run)).eval()(torch.from_numpy(images)).detach().numpy()
    with heard([]) as said:
        export(run, tmp_path / "a.safetensors", ExportOptions("timm"))
        export(run, tmp_path / "hub", ExportOptions("hub-folder"))
    assert any("num_classes=5, img_size=64, checkpoint_path=" in line for line in said)
    path = tmp_path / "a.safetensors"
    made = timm.create_model(arch, num_classes=len(FINDINGS), img_size=64, checkpoint_path=path)
    np.testing.assert_allclose(logits(made, images), expected, rtol=1e-3, atol=1e-3)
    made = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True)
    np.testing.assert_allclose(logits(made, images), expected, rtol=1e-3, atol=1e-3)


def test_a_network_that_timm_has_under_another_name_loads_where_cxrdali_is_not(dataset, tmp_path):
    run = run_with_weights(tmp_path / "run", dataset, arch="eva_x_tiny_patch16", size=64)
    images = validation_images(run, dataset, 3)
    expected = load_run_model(Run.open(run)).eval()(torch.from_numpy(images)).detach().numpy()
    with heard([]) as said:
        export(run, tmp_path / "a.safetensors", ExportOptions("timm"))
        export(run, tmp_path / "hub", ExportOptions("hub-folder"))
    call = (
        next(line for line in said if "checkpoint_path" in line)
        .partition("load it with ")[2]
        .partition(", and give")[0]
    )
    np.save(tmp_path / "images.npy", ((torch.from_numpy(images).float().repeat(1, 3, 1, 1) / 255 - MEAN) / STD).numpy())
    code = f"""if True:
        import numpy, sys, timm, torch
        for made in ({call}, timm.create_model("local-dir:hub", pretrained=True)):
            numpy.save(sys.stdout.buffer, made.eval()(torch.from_numpy(numpy.load("images.npy"))).detach().numpy())
        assert not [name for name in sys.modules if name.startswith("cxrdali")]
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    given = io.BytesIO(done.stdout)
    for _ in range(2):
        np.testing.assert_allclose(np.load(given), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("to", ["timm", "hub-folder"])
def test_a_head_that_is_not_timms_is_refused_and_onnx_is_named(dataset, tmp_path, to):
    run = run_with_weights(tmp_path / "run", dataset, arch="test_byobnet", head="cosine", loss="ldam")
    with pytest.raises(
        UserError, match="has no place for this network .the head 'cosine' is none of timm's.; use --to onnx"
    ):
        export(run, tmp_path / ("a.safetensors" if to == "timm" else "a"), ExportOptions(to))
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


# ---------------------------------------------------------------- a folder


@pytest.fixture(scope="module")
def rules(run, dataset, tmp_path_factory):
    """A calibration of the run's validation, and thresholds of what it calibrates."""
    folder, labels = tmp_path_factory.mktemp("rules"), dataset.labels("cxr-lt-2023")
    predict(run, dataset, "val", PredictOptions(device="cpu")).write(folder / "val.parquet")
    made = calibration.fit(folder / "val.parquet", dataset, labels, "temperature", FitOptions(folds=2))
    made.write(folder / "rules.json")
    calibration.apply(folder / "val.parquet", made).write(folder / "calibrated.parquet")
    thresholds.fit(folder / "calibrated.parquet", dataset, labels, "f1", FitOptions(folds=2)).write(folder / "f1.json")
    return {"calibration": str(folder / "rules.json"), "thresholds": str(folder / "f1.json")}


@pytest.fixture(scope="module")
def hub(run, dataset, rules, tmp_path_factory):
    out = tmp_path_factory.mktemp("hub") / "a-hub"
    export(run, out, ExportOptions("hub-folder", **rules), dataset)
    return out


def test_a_folder_loads_as_from_the_hub(hub, run, dataset):
    files = ["README.json", "README.md", "calibration.json", "config.json", "model.safetensors", "thresholds.json"]
    assert sorted(each.name for each in hub.iterdir()) == files
    images = validation_images(run, dataset)
    made = timm.create_model(f"local-dir:{hub}", pretrained=True)
    expected = logits_by_hand(run, images, lambda _: timm.create_model("test_byobnet", num_classes=len(FINDINGS)))
    np.testing.assert_allclose(logits(made, images), expected, rtol=1e-4, atol=1e-4)
    config = json.loads((hub / "config.json").read_text())
    assert config["label_names"] == list(FINDINGS) == list(made.pretrained_cfg["label_names"])
    assert json.loads(json.dumps(timm.data.resolve_data_config(model=made))) == {
        "input_size": [3, 48, 48], "interpolation": "bilinear", "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "crop_pct": 1.0, "crop_mode": "squash",
    }  # fmt: skip


def test_timms_own_transform_comes_nearest_to_packed_pixels(hub):
    """Of large JPEGs with the grain of a film, beside the other ways that timm knows."""
    made = timm.create_model(f"local-dir:{hub}", pretrained=True)
    config = timm.data.resolve_data_config(model=made) | {"input_size": (3, 224, 224)}
    rng, far = np.random.default_rng(0), {}
    gray = smooth_image(rng, 1400, 1100) + rng.normal(0, 12, (1400, 1100))
    data = jpeg(np.clip(gray, 0, 255).astype(np.uint8))
    (packed,), _ = renditions(data, "a.jpg", RenditionOptions((Size(224),)))
    packed = np.asarray(Image.open(io.BytesIO(packed))).astype(float)
    for how in ("bilinear", "box", "bicubic", "lanczos"):
        transform = timm.data.create_transform(**config | {"interpolation": how})
        pixels = (transform(Image.open(io.BytesIO(data)).convert("RGB")) * STD + MEAN)[0] * 255
        far[how] = np.abs(pixels.numpy() - packed).mean()
    assert min(far, key=far.get) == config["interpolation"] and far[config["interpolation"]] < 1.5


def test_what_huggingface_hub_reads_from_disk(hub):
    card = ModelCard.load(hub / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == ("timm", "image-classification", "other")
    assert {"timm", "cxrdali", "chest-x-ray"} <= set(data["tags"]) and str(card).startswith("---\nlibrary_name: timm\n")

    class Network(torch.nn.Module, PyTorchModelHubMixin):
        """A class of somebody's own whose tensors have timm's keys."""

        def __init__(self, architecture, num_classes, **config):
            super().__init__()
            self.config = config
            for name, child in timm.create_model(architecture, num_classes=num_classes).named_children():
                self.add_module(name, child)

    made = Network.from_pretrained(hub)
    stored = load_file(hub / "model.safetensors")
    assert all(torch.equal(value, stored[key]) for key, value in made.state_dict().items())


def test_the_rules_in_a_folder_are_read_and_do_not_tell_which_images_they_were_fitted_to(hub, rules):
    read = {"calibration": calibration.read, "thresholds": thresholds.read}
    for name, path in rules.items():
        given, stored = (json.loads(Path(each).read_text()) for each in (path, hub / f"{name}.json"))
        assert given["made_from"].pop("hashes") and "hashes" not in stored["made_from"]
        del given["checksum"], stored["checksum"]
        assert given == stored
        assert read[name](hub / f"{name}.json").findings == FINDINGS


def test_two_folders_are_the_same_bytes(hub, run, dataset, rules, tmp_path):
    export(run, tmp_path / "a-hub", ExportOptions("hub-folder", **rules), dataset)
    for file in hub.iterdir():
        assert file.read_bytes() == (tmp_path / "a-hub" / file.name).read_bytes(), file.name


def test_init_is_told_which_file_of_a_folder_to_take(hub):
    with pytest.raises(UserError, match=r"a-hub: no run, but a folder .*; give its file, --init .*/model.safetensors$"):
        initial_weights(str(hub))


def test_the_folder_that_one_is_in_is_not_replaced(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^\.: is there already; move it away, or give another --out"):
        export(run, Path(), ExportOptions("hub-folder"))


def test_a_folder_that_is_not_empty_is_left_alone(hub, run):
    before = {file.name: file.read_bytes() for file in hub.iterdir()}
    with pytest.raises(UserError, match="a-hub: is there already; move it away, or give another --out"):
        export(run, hub, ExportOptions("hub-folder"))
    assert {file.name: file.read_bytes() for file in hub.iterdir()} == before


def test_a_killed_export_leaves_no_folder_and_the_next_one_goes_through(run, tmp_path):
    out = tmp_path / "hub"
    code = (
        "import sys, time; from pathlib import Path; from cxrdali.export import export, timm_files\n"
        "timm_files.check = lambda *_: (print('aside', flush=True), time.sleep(60))\n"
        "export.export(Path(sys.argv[1]), Path(sys.argv[2]), export.ExportOptions('hub-folder'))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, run, out], stdout=subprocess.PIPE, text=True)
    assert any(line == "aside\n" for line in child.stdout)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not out.exists() and len(list(tmp_path.glob(".hub.*.part/hub/model.safetensors"))) == 1
    export(run, out, ExportOptions("hub-folder"))
    assert sorted(each.name for each in out.iterdir()) == [
        "README.json",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
