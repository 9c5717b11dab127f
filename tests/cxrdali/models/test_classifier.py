"""The classifier: what it makes of images, its weights from files, its head."""

import copy
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.cosine import CosineLinear
from cxrdali.models.head import HEADS, Head
from cxrdali.models.weights import head_keys, load_initial, read_weights
from cxrdali.runs import recipes
from shards.errors import UserError
from tests.heard import heard

pytestmark = pytest.mark.slow

FINDINGS = ("A", "B", "C")


def model(arch="test_efficientnet", size=64, findings=3, **options):
    torch.manual_seed(0)
    return create(ModelOptions(arch, size, pretrained=False, **options), findings)


def weights_file(path, source, findings=FINDINGS):
    state = {key: value.contiguous() for key, value in source.backbone.state_dict().items()}
    save_file(state, path, {"findings": "\n".join(findings)})
    return path


@pytest.mark.parametrize("norm", ["imagenet", "weights"])
def test_normalisation_is_the_model_s_first_step(norm):
    wrapped = model("test_vit", norm=norm).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1, 64, 64), dtype=np.uint8))
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if norm == "weights":
        mean, std = wrapped.backbone.pretrained_cfg["mean"], wrapped.backbone.pretrained_cfg["std"]
    reference = (images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(wrapped(images), wrapped.backbone(reference.float()), rtol=1e-4, atol=1e-5)


def test_the_state_has_timm_s_own_keys():
    assert set(model().backbone.state_dict()) == set(timm.create_model("test_efficientnet", num_classes=3).state_dict())
    assert set(model().state_dict()) == {f"backbone.{key}" for key in model().backbone.state_dict()}


def test_models_that_need_the_image_size_get_it():
    with torch.no_grad():
        assert model("test_vit", size=96).eval()(torch.zeros(2, 1, 96, 96, dtype=torch.uint8)).shape == (2, 3)


def test_weights_of_another_image_size_are_resampled(tmp_path):
    small, large = model("test_vit", size=64), model("test_vit", size=96)
    load_initial(large, weights_file(tmp_path / "w.safetensors", small), FINDINGS)
    assert large.backbone.pos_embed.shape != small.backbone.pos_embed.shape
    torch.testing.assert_close(large.backbone.head.weight, small.backbone.head.weight)
    # the resampled grid keeps the embedding's mean
    assert (large.backbone.pos_embed.mean() - small.backbone.pos_embed.mean()).abs() < 0.01


def test_findings_in_another_order_are_put_in_order(tmp_path):
    source, target = model(), model()
    load_initial(target, weights_file(tmp_path / "w.safetensors", source), ("C", "A", "B"))
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    source.eval(), target.eval()
    with torch.no_grad():
        torch.testing.assert_close(target(images), source(images)[:, [2, 0, 1]])


def test_other_findings_are_refused_by_name(tmp_path):
    path = weights_file(tmp_path / "w.safetensors", model())
    with pytest.raises(UserError, match=r"w.safetensors: finding 'C' \(and 1 more\) is only in these weights"):
        load_initial(model(), path, ("A", "B", "D"))


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(model().backbone.state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="w.pt: lacks 'conv1.0.weight'"):
        load_initial(model("test_resnet"), tmp_path / "w.pt", FINDINGS)


def test_a_file_without_findings_gives_the_backbone_and_leaves_the_head_new(tmp_path):
    """As timm's own weights with their 1,000 classes."""
    source, target = model(), model(findings=4)
    torch.save(source.backbone.state_dict(), tmp_path / "w.pt")
    said = []
    with heard(said):
        assert load_initial(target, tmp_path / "w.pt", tuple("ABCD")) == {}
    assert "it names no findings: the classifier is new" in said[0]
    torch.testing.assert_close(target.backbone.conv_stem.weight, source.backbone.conv_stem.weight)
    assert target.backbone.classifier.weight.shape[0] == 4


def test_a_run_s_findings_are_matched_in_its_last_pt_too(tmp_path):
    torch.save({"model": model().backbone.state_dict(), "finding_names": ["A", "B", "X"]}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="finding 'C' .* is only in the dataset's labels"):
        load_initial(model(), tmp_path / "last.pt", FINDINGS)


def test_weights_for_other_pixels_are_refused(tmp_path):
    path, state = tmp_path / "w.safetensors", model().backbone.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, path, {"findings": "A\nB\nC", "norm": "weights"})
    with pytest.raises(UserError, match="was trained with --norm weights, this run has --norm imagenet"):
        load_initial(model(), path, FINDINGS)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"a": 1}])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match="w.pt: holds no table of weights"):
        load_initial(model(), tmp_path / "w.pt", FINDINGS)


def test_torch_checkpoints_load_with_common_wrappings(tmp_path):
    source, target = model(), model()
    target.backbone.conv_stem.weight.data.zero_()
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.backbone.state_dict().items()}}, tmp_path / "w.pth")
    load_initial(target, tmp_path / "w.pth", FINDINGS)
    torch.testing.assert_close(target.backbone.state_dict(), source.backbone.state_dict(), rtol=0, atol=0)


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


def test_code_in_a_weights_file_is_not_run(tmp_path, capsys):
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="evil.pt: no weights file, or one that holds more than tensors"):
        read_weights(tmp_path / "evil.pt")
    assert "code was run" not in capsys.readouterr().out


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.pt: no such weights file"):
        read_weights(tmp_path / "none.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match="cut.safetensors: not a weights file"):
        read_weights(tmp_path / "cut.safetensors")


def test_an_unknown_model_is_named_with_some_alike():
    with pytest.raises(UserError, match=r"arch 'efficientnet_s7' is no timm model \(alike: .*efficientnet"):
        create(ModelOptions("efficientnet_s7", 64), 3)


def test_weights_that_cannot_be_downloaded_name_the_way_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # at once, instead of its retries
    with pytest.raises(UserError, match="weights of 'resnet10t.c3_in1k' cannot be had .*--no-pretrained"):
        create(ModelOptions("resnet10t.c3_in1k", 64, pretrained=True), 3)


# ---------------------------------------------------------------- the loss-design paper's backbones


BACKBONES = sorted({recipe.settings["arch"] for recipe in recipes.load().values() if recipe.name.startswith("ld-")})


@pytest.mark.parametrize("arch", BACKBONES)
def test_every_backbone_of_the_recipes_is_built_at_its_size(arch):
    """Without memory for its weights: shapes alone."""
    options = ModelOptions(arch, 512, pretrained=False, checkpointing=True)
    with torch.device("meta"):
        made = create(options, 30)
        assert [head.out_features for head in made.heads] == [30] * len(made.heads)
        map_ = made.backbone.forward_features(torch.zeros(1, 3, 512, 512))
    assert map_.shape == (1, made.heads[0].in_features, 16, 16)
    assert timm.get_pretrained_cfg(arch).hf_hub_id


def test_timm_s_weights_are_fitted_to_the_image_size(tmp_path, monkeypatch):
    """EfficientFormerV2 holds attention biases per offset between patches, which timm loads as they are, or fails."""
    torch.manual_seed(0)
    native = timm.create_model("efficientformerv2_s0")
    torch.save(native.state_dict(), tmp_path / "weights.pt")
    whole = timm.create_model

    def create_model(arch, pretrained=False, **arguments):
        overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pt")}} if pretrained else {}
        return whole(arch, pretrained=pretrained, **arguments, **overlay)

    monkeypatch.setattr(timm, "create_model", create_model)
    made = create(ModelOptions("efficientformerv2_s0", 128, pretrained=True), 3).eval()
    with torch.inference_mode():
        assert made(torch.zeros(1, 1, 128, 128, dtype=torch.uint8)).shape == (1, 3)
    name = "stages.3.downsample.attn.attention_biases"
    before, after = native.state_dict()[name], made.backbone.state_dict()[name]
    assert (before.shape[1], after.shape[1]) == (14 * 14, 8 * 8)
    for head in range(3):  # OpenCV has no such corners: NumPy, one axis after the other
        grid, places = before[head].view(14, 14).numpy(), np.linspace(0, 13, 8)
        rows = np.stack([np.interp(places, np.arange(14), column) for column in grid.T], axis=1)
        expected = np.stack([np.interp(places, np.arange(14), row) for row in rows])
        np.testing.assert_allclose(after[head].view(8, 8).numpy(), expected, atol=1e-5)
    torch.testing.assert_close(made.backbone.stem.conv1.conv.weight, native.stem.conv1.conv.weight)


def test_checkpointing_changes_memory_and_not_gradients():
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    gradients = []
    for checkpointing in (False, True):
        made = model("test_convnext", checkpointing=checkpointing).train()
        made(images).square().sum().backward()
        gradients.append([each.grad for each in made.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_copy_has_a_classifier_of_its_own():
    """As moving averages of weights are made."""
    one = model("test_convnext").eval()
    other = copy.deepcopy(one)
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        before = one(images)
        for head in other.heads:
            head.weight.zero_()
            head.bias.fill_(2)
        assert (other(images) == 2).all()
        torch.testing.assert_close(one(images), before, rtol=0, atol=0)


def test_a_model_without_checkpointing_is_named():
    with pytest.raises(UserError, match="'vgg11' has no gradient checkpointing; use --micro-batch instead"):
        model("vgg11", checkpointing=True)


def test_memory_formats():
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    last, first = (model("test_resnet", channels_last=flag).eval() for flag in (True, False))
    assert last.backbone.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert first.backbone.conv1[0].weight.is_contiguous()
    with torch.inference_mode():
        torch.testing.assert_close(last(images), first(images), rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Dropout(Head):
    name: ClassVar[str] = "dropout"

    def attach(self, backbone, num_findings):
        room, _, last = backbone.pretrained_cfg["classifier"].rpartition(".")
        setattr(backbone.get_submodule(room), last, nn.Sequential(nn.Dropout(0.5), backbone.get_classifier()))


def test_a_head_takes_the_place_of_timm_s_classifier():
    plain, ours = model("test_byobnet").eval(), model("test_byobnet", head=Dropout()).eval()
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(ours(images), plain(images))
    assert [type(head) for head in ours.heads] == [nn.Sequential]
    assert head_keys(ours) == ["head.fc.1.weight", "head.fc.1.bias"]


def test_the_heads_of_a_name():
    assert [*HEADS] == ["cosine", "csra", "linear", "ml-decoder"] and ModelOptions("test_byobnet", 64).head == HEADS[
        "linear"
    ]()


@pytest.mark.parametrize("arch", ["test_byobnet", "test_convnext", "deit_tiny_distilled_patch16_224"])
def test_a_cosine_head_is_in_the_place_of_every_linear_one(arch):
    """The logits are the scale times the cosine by hand, from the features that the classifiers see."""
    size = 224 if "224" in arch else 64
    made = create(ModelOptions(arch, size, False, head=HEADS["cosine"](), logit_scale=30.0), 5).eval()
    assert all(isinstance(head, CosineLinear) and head.bias is None for head in made.heads) and not made.seen.why
    assert set(made.finding_keys) == set(head_keys(made)) and len(made.heads) == 1 + ("distilled" in arch)
    images = torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        logits, given = made.inputs(images)
    parts = []
    for head, features in zip(made.heads, given, strict=True):
        x, w = features.double().numpy(), head.weight.detach().double().numpy()
        parts.append(x @ w.T / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)))
    np.testing.assert_allclose(logits, 30 * np.mean(parts, axis=0), atol=1e-4)
    assert json.loads(made.identity["head"]) == {"name": "cosine"}


def test_a_network_without_a_linear_classifier_has_no_cosine_head():
    with pytest.raises(UserError, match="head cosine: the classifier of .* is no plain linear layer; use --head lin"):
        create(ModelOptions("levit_128s", 224, False, head=HEADS["cosine"]()), 5)


def test_weights_go_between_heads_without_the_classifier_alone(tmp_path):
    linear, cosine = (
        create(ModelOptions("test_byobnet", 64, False, head=HEADS[name]()), 2) for name in ("linear", "cosine")
    )
    tensors = {key: value.contiguous() for key, value in linear.backbone.state_dict().items()}
    save_file(tensors, tmp_path / "linear.safetensors", linear.identity)
    with pytest.raises(UserError, match="its classifier is .*linear.*, this run's is .*cosine.*; give the same --head"):
        load_initial(cosine, tmp_path / "linear.safetensors", ("a", "b"))
    head = cosine.heads[0].weight.clone()
    load_initial(cosine, tmp_path / "linear.safetensors", ("a", "b"), new_head=True)
    assert torch.equal(head, cosine.heads[0].weight)
    stem = next(iter(linear.backbone.state_dict()))
    assert torch.equal(linear.backbone.state_dict()[stem], cosine.backbone.state_dict()[stem])


@pytest.mark.parametrize("frozen", [False, True])
def test_dropout_is_of_what_the_classifier_sees_and_of_training_alone(frozen):
    made = create(ModelOptions("test_convnext", 64, False, dropout=0.5), 3)
    features = torch.ones(4000, sum(shape.numel() for shape in made.seen.shapes))
    head = made.heads[0]
    head.weight.data.fill_(1 / features.shape[1])
    head.bias.data.zero_()
    made.eval()
    assert torch.allclose(made.classify(features), torch.ones(4000, 3), atol=1e-5)
    made.to_train(frozen)
    assert made.backbone.training is not frozen and head.training
    out = made.classify(features).detach()
    # half of the inputs are 0, the others doubled: mean 1, variance 1 / D
    assert abs(float(out[:, 0].mean()) - 1) < 0.02
    assert float(out[:, 0].var()) == pytest.approx(1 / features.shape[1], rel=0.15)
    made.eval()
    assert not head.training and torch.allclose(made.classify(features), torch.ones(4000, 3), atol=1e-5)
