"""Checkpoints as other programs leave them: each gives the logits of the network that wrote it, or says why not."""

import argparse
import datetime
import functools
import json
import pathlib
import re
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from timm.models import register_model
from torch import nn

from cxrdali.models.checkpoint_file import read_weights
from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.weights import load_initial
from shards.errors import UserError
from tests.heard import heard

load_complete = functools.partial(load_initial, to_predict=True)
ARCH, FINDINGS = "test_efficientnet", ("A", "B", "C")
COUNT = sum("num_batches" not in key for key in timm.create_model(ARCH).state_dict())
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1, 64, 64), dtype=np.uint8))


def model(arch=ARCH, seed=0, findings=3, **options):
    """A network whose batch norms have seen something, so that every tensor counts."""
    torch.manual_seed(seed)
    made = create(ModelOptions(arch, 64, pretrained=False, **options), findings)
    for value in made.backbone.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) * 0.1)
    return made.eval()


def logits(made, images=IMAGES):
    with torch.inference_mode():
        return made.eval()(images)


@pytest.fixture(scope="module")
def source():
    return model()


@pytest.fixture
def state(source):
    return OrderedDict((key, value.clone(memory_format=torch.contiguous_format)) for key, value in
                       source.backbone.state_dict().items())  # fmt: skip


def under(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def loaded(path, arch=ARCH, load=load_initial, findings=FINDINGS):
    target, said = model(arch, seed=1, findings=len(findings)), []
    with heard(said):
        load(target, path, findings)
    return target, " ".join(said)


# ---------------------------------------------------------------- layouts


LAYOUTS = {
    "plain.bin": lambda state: state,
    "compiled.pth": lambda state: under("_orig_mod.", state),
    "ddp_compiled.pth": lambda state: under("module._orig_mod.", state),
    "compiled_ddp.tar": lambda state: {"model": under("_orig_mod.module.", state), "epoch": 3},
    "lightning.ckpt": lambda state: {"state_dict": under("model.", state), "pytorch-lightning_version": "2.4.0"},
    "lightning_net.ckpt": lambda state: {"state_dict": under("net.backbone._orig_mod.", state), "loops": {"fit": {}}},
    "own_attribute.ckpt": lambda state: {"state_dict": under("classifier_network.", state)},
    "params.pt": lambda state: {"params": state, "iter": 10},
    "model_state_dict.pt": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "half.pt": lambda state: {key: value.clone() for key, value in state.items()},
    "parameters.pt": lambda state: {key: nn.Parameter(each) if each.is_floating_point() else each
                                    for key, each in state.items()},
    "averaged.pt": lambda state: {"n_averaged": torch.tensor(5), **under("module.", state)},
    "before_counters.pt": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    "inner.pt": lambda state: {key.replace("blocks.0.", "blocks.0._orig_mod."): each for key, each in state.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_gives_the_logits_of_what_wrote_it(tmp_path, source, state, name):
    torch.save(LAYOUTS[name](state), tmp_path / name)
    for load in (load_initial, load_complete):
        target, said = loaded(tmp_path / name, load=load)
        torch.testing.assert_close(logits(target), logits(source), rtol=0, atol=0)
        counted = "" if load is load_complete else f"{COUNT} of {COUNT} tensors are loaded; "
        assert said == f"{tmp_path / name}: {counted}it names no findings: its classifier is taken by position"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pt", "safetensors", "bin"])
def test_other_numbers_and_suffixes(tmp_path, source, state, dtype, suffix):
    narrow = {f"net.{key}": each.to(dtype) if each.is_floating_point() else each for key, each in state.items()}
    path = tmp_path / f"w.{suffix}"
    torch.save(narrow, path) if suffix == "pt" else save_file(narrow, path)
    target, _ = loaded(path)
    expected = model(seed=2)
    expected.backbone.load_state_dict({key.removeprefix("net."): value.float() for key, value in narrow.items()})
    torch.testing.assert_close(logits(target), logits(expected), rtol=0, atol=0)
    torch.testing.assert_close(logits(target), logits(source), rtol=0.01, atol=0)


def test_timm_s_training_script(tmp_path, source, state):
    """As its CheckpointSaver writes: the average is taken, as timm does, and said; arguments are read without a class
    of theirs being made."""
    args = argparse.Namespace(model=ARCH, lr=0.1, output=pathlib.Path("out"), when=datetime.datetime(2026, 1, 1))
    other = {key: value + 1 for key, value in state.items()}
    saved = {
        "epoch": 3, "arch": ARCH, "state_dict": other, "state_dict_ema": under("module.", state), "args": args,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}, "version": 2,
        "metric": np.float64(0.5), "amp_scaler": {"scale": 65536.0},
    }  # fmt: skip
    for zipped in (True, False):
        path = tmp_path / f"checkpoint-3-{zipped}.pth.tar"
        if not zipped:
            args.output = args.when = None
        torch.save(saved, path, _use_new_zipfile_serialization=zipped)
        target, said = loaded(path)
        torch.testing.assert_close(logits(target), logits(source), rtol=0, atol=0)
        assert "of its tables of weights, 'state_dict_ema' is taken, not 'state_dict'" in said
        assert read_weights(path)[1] == {"arch": ARCH}
        with pytest.raises(UserError, match=f"holds weights of {ARCH}, this run is test_resnet; give --arch {ARCH}"):
            loaded(path, "test_resnet")


def lightning_class(name, base=object, **entries):
    """A class of a module that is gone when the file is read."""
    module = sys.modules.setdefault("their_training", types.ModuleType("their_training"))
    made = type(name, (base,), {"__module__": "their_training", **entries})
    setattr(module, name, made)
    return made


@pytest.fixture
def theirs():
    yield
    sys.modules.pop("their_training", None)


def test_lightning_s_hyper_parameters_of_classes_that_are_not_here(tmp_path, source, state, theirs):
    made = []
    config = lightning_class("Config", __init__=lambda self: made.append(1))()
    config.model, config.depth = ARCH, 3
    hyper = lightning_class("AttributeDict", dict)(backbone="resnet18_no_such", config=config)
    hyper["optimizer"] = functools.partial(torch.optim.AdamW, lr=1e-3)
    hyper["omegaconf"] = lightning_class("DictConfig")()  # as it keeps types and caches
    hyper["omegaconf"].__dict__ |= {"object_type": dict, "cache": defaultdict(dict), "seen": np.arange(3)}
    saved = {
        "state_dict": {**under("model.", state), "criterion.pos_weight": torch.ones(3), "auroc.seen": torch.zeros(2)},
        "hyper_parameters": hyper, "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}}, "global_step": 4,
    }  # fmt: skip
    torch.save(saved, tmp_path / "l.ckpt")
    del sys.modules["their_training"]
    target, said = loaded(tmp_path / "l.ckpt")
    torch.testing.assert_close(logits(target), logits(source), rtol=0, atol=0)
    assert "left out, not of the network: 'criterion.pos_weight' (and 1 more)" in said
    assert made == [1] and "their_training" not in sys.modules


def test_whole_models_say_how_to_write_their_weights(tmp_path, source, theirs):
    whole = lightning_class("TheirNet", nn.Sequential)(nn.Conv2d(3, 4, 3), nn.ReLU())
    for content in (whole, {"model": whole, "epoch": 3}):
        torch.save(content, tmp_path / "whole.pt")
        with pytest.raises(UserError) as error:
            read_weights(tmp_path / "whole.pt")
        line = str(error.value)
        assert line.startswith(f"{tmp_path / 'whole.pt'}: no weights file, or one that holds more than tensors (")
        assert "their_training.TheirNet" in line and line.isprintable()
        assert line.endswith("torch.save(model.state_dict(), 'weights.pt') and give that file")


class Evil:
    def __init__(self, function, *given):
        self.pickled = function, given

    def __reduce__(self):
        return self.pickled


@pytest.mark.parametrize("function", [print, eval, exec, "system", pathlib.Path.touch])
def test_functions_are_never_run_even_beside_sound_weights(tmp_path, state, capsys, function):
    mark = tmp_path / "mark"
    if function == "system":
        import os

        evil = Evil(os.system, f"touch {mark}")
    elif function == pathlib.Path.touch:
        evil = Evil(function, mark)
    else:
        evil = Evil(function, f"open({str(mark)!r}, 'w')")
    torch.save({"state_dict": state, "args": evil}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="evil.pt: no weights file, or one that holds more than tensors"):
        read_weights(tmp_path / "evil.pt")
    assert not mark.exists() and capsys.readouterr().out == ""


def test_a_class_with_effects_is_not_made(tmp_path, state):
    import subprocess

    torch.save(
        {"state_dict": state, "args": Evil(subprocess.Popen, ["touch", str(tmp_path / "mark")])}, tmp_path / "w.pt"
    )
    assert read_weights(tmp_path / "w.pt")[0].keys() == state.keys()
    assert not (tmp_path / "mark").exists()


def test_two_networks_in_one_table_are_named(tmp_path, state):
    torch.save({**under("student.", state), **under("teacher.", state)}, tmp_path / "w.pt")
    with pytest.raises(
        UserError, match="holds 2 networks that fit, under 'student.' and 'teacher.'; write the tensors"
    ):
        loaded(tmp_path / "w.pt")


@register_model
def checkpoints_nested(pretrained=False, num_classes=3, in_chans=3, **given):
    """A network whose own keys begin with "model."."""

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
            self.net = nn.Linear(4, num_classes)
            self.pretrained_cfg = {"first_conv": "model.0", "classifier": "net"}

        def get_classifier(self):
            return self.net

        def forward(self, images):
            return self.net(self.model(images).flatten(1))

    return Nested()


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "net.", "model.net.model."])
def test_a_network_whose_own_keys_begin_with_a_prefix_stays_whole(tmp_path, prefix):
    source = model("checkpoints_nested")
    torch.save({"state_dict": under(prefix, source.backbone.state_dict())}, tmp_path / "w.pt")
    target, _ = loaded(tmp_path / "w.pt", "checkpoints_nested")
    torch.testing.assert_close(logits(target), logits(source), rtol=0, atol=0)


# ---------------------------------------------------------------- heads and channels


@pytest.mark.parametrize("kind", ["none", "other"])
def test_a_backbone_gets_a_new_classifier(tmp_path, source, state, kind):
    saved = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    if kind == "other":
        saved |= {"classifier.weight": torch.ones(1000, 256), "classifier.bias": torch.ones(1000)}
    torch.save(under("backbone.", saved), tmp_path / "w.pt")
    target, said = loaded(tmp_path / "w.pt")
    fresh = model(seed=1).backbone.get_classifier()
    for key, value in target.backbone.state_dict().items():
        own = fresh.state_dict().get(key.removeprefix("classifier.")) if "classifier" in key else state[key]
        assert torch.equal(value, own), key
    words = {
        "none": "it has no classifier: there is a new one",
        "other": "it names no findings: the classifier is new (it has 'classifier.weight' of shape [1000, 256], not",
    }
    assert words[kind] in said
    with pytest.raises(UserError, match=r"so it cannot predict; start a run from it with `cxrdali train --init`"):
        loaded(tmp_path / "w.pt", load=load_complete)


def test_a_classifier_outside_of_the_network_is_said(tmp_path, state):
    saved = under("backbone.", {key: value for key, value in state.items() if not key.startswith("classifier.")})
    torch.save({**saved, "head.weight": torch.ones(3, 256), "head.bias": torch.ones(3)}, tmp_path / "w.pt")
    _, said = loaded(tmp_path / "w.pt")
    assert "left out, not of the network: 'head.weight' (and 1 more); it has no classifier" in said


def test_a_classifier_of_several_layers_is_left_for_a_new_one(tmp_path, state):
    """As CheXNet's densenet121.classifier, Linear and Sigmoid in a Sequential."""
    saved = {key.replace("classifier.", "classifier.0."): value for key, value in state.items()}
    torch.save({"state_dict": under("module.densenet121.", saved)}, tmp_path / "w.pth.tar")
    target, said = loaded(tmp_path / "w.pth.tar")
    fresh = model(seed=1).backbone.state_dict()
    for key, value in target.backbone.state_dict().items():
        assert torch.equal(value, (fresh if "classifier" in key else state)[key]), key
    assert "its classifier is of another kind (it has 'classifier.0.bias' (and 3 more)): there is a new one" in said


def test_what_the_network_has_no_place_for_is_left_out_and_said(tmp_path, source, state):
    """As torchxrayvision's thresholds; what lies inside the network's own modules is of another network."""
    torch.save({**state, "op_threshs": torch.ones(18)}, tmp_path / "w.pt")
    target, said = loaded(tmp_path / "w.pt")
    assert "left out, not of the network: 'op_threshs'" in said
    torch.testing.assert_close(logits(target), logits(source), rtol=0, atol=0)
    torch.save({**state, "bn1.extra": torch.ones(3)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="has unknown 'bn1.extra'.*or a file without them if they are of no use"):
        loaded(tmp_path / "w.pt")


def test_keys_of_torch_0_3_are_those_of_today(tmp_path):
    source = model("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", key): value
        for key, value in source.backbone.state_dict().items()
    }
    assert len(old.keys() - source.backbone.state_dict().keys()) > 500
    torch.save({"state_dict": under("module.densenet121.", old)}, tmp_path / "w.pt")
    target, _ = loaded(tmp_path / "w.pt", "densenet121")
    here, there = (each.backbone.state_dict() for each in (target, source))
    assert all(torch.equal(here[key], there[key]) for key in there if not key.endswith("num_batches_tracked"))


def test_tables_are_told_from_counters_and_from_one_another(tmp_path, source, state):
    torch.save({"swa_model": under("module.", state), "n_averaged": torch.tensor(3)}, tmp_path / "w.pt")
    torch.testing.assert_close(logits(loaded(tmp_path / "w.pt")[0]), logits(source), rtol=0, atol=0)
    torch.save({"left": state, "right": state, "optimizer": {"state": {}}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"several tables of weights \('left', 'right'\); write those of one"):
        loaded(tmp_path / "w.pt")


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda each: each.to("meta"), torch.Tensor.cfloat,
                                    torch.Tensor.char])  # fmt: skip
def test_what_is_no_plain_number_is_refused(tmp_path, state, change):
    torch.save({**state, "classifier.weight": change(state["classifier.weight"])}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="'classifier.weight' holds no plain floating-point numbers"):
        loaded(tmp_path / "w.pt")


def test_parameters_without_buffers_say_so(tmp_path, state):
    torch.save({key: value for key, value in state.items() if "running" not in key}, tmp_path / "w.pt")
    for load in (load_initial, load_complete):
        with pytest.raises(UserError, match="it holds parameters alone: give a file of the whole state_dict"):
            loaded(tmp_path / "w.pt", load=load)


@pytest.mark.parametrize("arch", [ARCH, "resnet10t", "test_vit"])
@pytest.mark.parametrize("norm", ["imagenet", "weights"])
def test_one_channel_is_spread_so_that_a_grey_image_gives_the_same_output(tmp_path, arch, norm):
    target = model(arch, seed=1, norm=norm)
    torch.manual_seed(0)
    grey = timm.create_model(arch, in_chans=1, num_classes=3, **({"img_size": 64} if arch == "test_vit" else {})).eval()
    torch.save({"state_dict": under("model.", grey.state_dict())}, tmp_path / "one.pt")
    said = []
    with heard(said):
        load_initial(target, tmp_path / "one.pt", FINDINGS)
    mean, std = (np.array(json.loads(target.identity[name])) for name in ("mean", "std"))
    s = 1 / (1 / std).mean()
    m = (mean / std).mean() * s
    with torch.inference_mode():
        expected = grey(((IMAGES.double() / 255 - m) / s).float())
    torch.testing.assert_close(logits(target), expected, rtol=1e-3, atol=1e-4)
    assert (
        f"its one input channel is spread over three, as trained on pixels of mean {m:.3f} and std {s:.3f}" in said[0]
    )
    with pytest.raises(UserError, match="so it cannot predict"):
        load_complete(target, tmp_path / "one.pt", FINDINGS)


def test_a_standardised_convolution_of_one_channel_is_refused(tmp_path):
    grey = timm.create_model("resnetv2_50x1_bit", in_chans=1, num_classes=3)
    torch.save(grey.state_dict(), tmp_path / "one.pt")
    with pytest.raises(UserError, match=r"has 'stem.conv.weight' of shape \[64, 1, 7, 7\], not \[64, 3, 7, 7\]; "):
        loaded(tmp_path / "one.pt", "resnetv2_50x1_bit")


# ---------------------------------------------------------------- what is refused, and why


def test_shapes_and_keys_that_differ_are_counted(tmp_path, state):
    count = len(state)
    torch.save(under("model.", {**state, "conv_stem.weight": torch.ones(24, 4, 3, 3)}), tmp_path / "four.pt")
    with pytest.raises(UserError) as error:
        loaded(tmp_path / "four.pt")
    assert str(error.value).endswith(
        f"has 'conv_stem.weight' of shape [24, 4, 3, 3], not [24, 3, 3, 3]; {count - 1} of {count} tensors fit {ARCH}; "
        "it takes images of 4 channels; give weights for 3, or for 1, which can be spread"
    )
    state.pop("bn1.weight")
    torch.save({**state, "bn1.extra": torch.ones(3)}, tmp_path / "key.pt")
    with pytest.raises(UserError, match=f"lacks 'bn1.weight', has unknown 'bn1.extra'; {count - 1} of {count} tensors "
                                        f"fit {ARCH}; give the --arch that they are of"):  # fmt: skip
        loaded(tmp_path / "key.pt")
    with pytest.raises(UserError, match="give the run that these weights belong to with --run"):
        loaded(tmp_path / "key.pt", load=load_complete)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_that_are_not_finite_are_named(tmp_path, state, value):
    state["bn1.weight"][1:3] = value
    torch.save(state, tmp_path / "w.pt")
    for load in (load_initial, load_complete):
        with pytest.raises(UserError, match="w.pt: 'bn1.weight' is NaN or infinite in 2 of 24 numbers"):
            loaded(tmp_path / "w.pt", load=load)


def test_float64_that_float32_cannot_hold_is_named(tmp_path, state):
    state["bn1.bias"] = state["bn1.bias"].double() + 1e300
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match="'bn1.bias' is NaN or infinite in 24 of 24 numbers"):
        loaded(tmp_path / "w.pt")


def write_zip(path, name):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")


def write_tar(path):
    (path.parent / "inside.txt").write_text("x")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "inside.txt", "inside.txt")


OTHERS = {
    "empty.pt": (lambda path: path.write_bytes(b""), "it is empty"),
    "page.pt": (lambda path: path.write_text("<!DOCTYPE html><p>no"), "it is text that begins with '<!DOCTYPE html>"),
    "w.pth": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "`git lfs pull`"),
    "model.safetensors.index.json": (lambda path: path.write_text('{"weight_map": {}}'), "it is text that begins with"),
    "lfs.safetensors": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "`git lfs pull`"),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "it is empty"),
    "keras.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "it is HDF5, as Keras writes"),
    "net.onnx": (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch" + bytes(90)), "it is ONNX"),
    "model.ckpt.data-00000-of-00001": (lambda path: path.write_bytes(bytes(90)), "it is TensorFlow"),
    "flax.npz": (lambda path: write_zip(path, "params.npy"), "it is an archive of 'params.npy' and others"),
    "w.tar": (write_tar, "it is a tar archive; unpack it first"),
    "w.pt.gz": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(90)), "it is compressed"),
    "script.pt": (lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path), "it is TorchScript"),
    "noise.pt": (lambda path: path.write_bytes(bytes(range(256))), "no weights file"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_kinds_are_named_in_one_line(tmp_path, name):
    write, words = OTHERS[name]
    write(tmp_path / name)
    with pytest.raises(UserError) as error:
        read_weights(tmp_path / name)
    line = str(error.value)
    assert line.startswith(f"{tmp_path / name}: ") and words in line and line.isprintable() and len(line) < 500


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="no such weights file; give a run folder or a .safetensors or .pt file"):
        read_weights(tmp_path)


# ---------------------------------------------------------------- identity


TWINS = [("efficientnet_b0", "tf_efficientnet_b0"), ("test_efficientnet_gn", "test_efficientnet_ln")]


@pytest.mark.parametrize("one, other", TWINS)
def test_twins_with_equal_tensors_are_told_apart(tmp_path, one, other):
    mine, twin = (timm.create_model(arch, num_classes=3) for arch in (one, other))
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in twin.state_dict().items()}
    about = {"findings": "A\nB\nC", "arch": f"{one}.some_tag"}
    save_file({key: each.contiguous() for key, each in mine.state_dict().items()}, tmp_path / "w.safetensors", about)
    for load, fix in (
        (load_initial, f"give --arch {one}.some_tag"),
        (load_complete, "give the run that these weights"),
    ):
        with pytest.raises(UserError, match=f"holds weights of {one}.some_tag, this run is {other}; {fix}"):
            loaded(tmp_path / "w.safetensors", other, load)
    target, _ = loaded(tmp_path / "w.safetensors", one)
    torch.testing.assert_close(target.backbone.state_dict(), mine.state_dict(), rtol=0, atol=0)


def test_a_tag_is_compared_by_the_pixels_that_it_means(tmp_path):
    """Of one network, two tags: other mean and std only matter where the run takes those of the weights."""
    one, two = "vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224"
    assert timm.get_pretrained_cfg(one).mean == (0.5, 0.5, 0.5)
    for norm, older in (("weights", False), ("weights", True), ("imagenet", False)):
        made = model(one, norm=norm)
        about = {**made.identity, "findings": "A\nB\nC"}
        if older:
            about = {key: about[key] for key in ("arch", "norm", "size", "findings")}
        save_file(
            {key: each.contiguous() for key, each in made.backbone.state_dict().items()},
            tmp_path / "w.safetensors",
            about,
        )
        load_initial(model(two, 1, norm=norm), tmp_path / "w.safetensors", FINDINGS)  # its own tag means 0.5 as well
        if norm == "weights":
            with pytest.raises(
                UserError, match=r"trained with --norm weights \(mean \[0.5, 0.5, 0.5\].*--norm imagenet"
            ):
                load_initial(model(two, 1), tmp_path / "w.safetensors", FINDINGS)


def test_sizes_and_kinds_of_heads_are_compared(tmp_path, source, state):
    about = {**source.identity, "findings": "A\nB\nC"}
    save_file(state, tmp_path / "w.safetensors", {**about, "size": "96"})
    torch.testing.assert_close(logits(loaded(tmp_path / "w.safetensors")[0]), logits(source), rtol=0, atol=0)
    with pytest.raises(UserError, match="was trained at 96 px, this run at 64; give the run that these weights"):
        loaded(tmp_path / "w.safetensors", load=load_complete)
    save_file(state, tmp_path / "w.safetensors", {**about, "head": '{"name": "cosine"}'})
    with pytest.raises(
        UserError, match='its classifier is {"name": "cosine"}, this run\'s is {"name": "linear"}; give'
    ):
        loaded(tmp_path / "w.safetensors")
    target = model(seed=1)
    load_initial(target, tmp_path / "w.safetensors", FINDINGS, new_head=True)
    assert torch.equal(target.backbone.conv_stem.weight, source.backbone.conv_stem.weight)


def test_a_damaged_file_is_refused_in_one_line(tmp_path, state):
    """Cut, flipped, shortened, lengthened: torch and zipfile raise a dozen kinds, and never alike."""
    few = dict([*state.items()][:6])
    args = argparse.Namespace(model=ARCH)
    seeds = {}
    for zipped in (True, False):
        torch.save({"state_dict": few, "args": args}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        seeds[f"{zipped}.pt"] = (tmp_path / "w.pt").read_bytes()
    seeds["w.safetensors"] = save(few, {"arch": ARCH})
    random, target = np.random.default_rng(0), model(seed=1)
    for number in range(150):
        name = [*seeds][number % 3]
        data, at = bytearray(seeds[name]), int(random.integers(len(seeds[name])))
        if number % 4 == 0:
            data = data[:at]
        elif number % 4 == 1:
            data[at] ^= 1 << int(random.integers(8))
        elif number % 4 == 2:
            del data[at : at + int(random.integers(1, 30))]
        else:
            data[at:at] = random.bytes(3)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError) as error:  # what stays whole lacks the rest of the network
            load_initial(target, tmp_path / name, FINDINGS)
        assert "\n" not in str(error.value) and len(str(error.value)) < 900
