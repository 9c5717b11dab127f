"""Networks of timm whose classifiers are not one linear layer on a vector, and sizes that a network cannot take."""

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models import register_model
from torch import nn

from cxrdali.models.classifier import create
from cxrdali.models.head import Head
from cxrdali.models.options import ModelOptions
from cxrdali.models.weights import load_initial
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.predictions import read
from cxrdali.runs.layout import BEST, VAL_PREDICTIONS
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from shards.errors import UserError

pytestmark = pytest.mark.slow

FINDINGS = ("Mass", "Nodule", "Edema", "Hernia", "Fibrosis")


class Small(nn.Module):
    """A hidden layer with as many units as there are findings, on a vector with axes for places."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 8, 8)
        self.same = self.stem  # CoaT has tensors under several names, too
        self.head = nn.Sequential(nn.Conv2d(5, 5, 1), nn.ReLU(), nn.Conv2d(5, num_classes, 1))

    def get_classifier(self):
        return self.head

    def forward_features(self, images):
        return self.stem(images).mean(dim=(2, 3), keepdim=True)

    def forward(self, images):
        return self.head(self.forward_features(images)).flatten(1)


class Named(Small):
    """Its classifier gets its input by name; a second one, of which timm does not know, counts half."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.head, self.other = nn.Linear(5, num_classes), nn.Linear(5, num_classes)

    def forward(self, images):
        features = self.forward_features(images).flatten(1)
        return self.head(input=features) + 0.5 * self.other(features)


@register_model
def cxrdali_test_hidden(pretrained=False, num_classes=10, **_):
    return Small(num_classes)


@register_model
def cxrdali_test_named(pretrained=False, num_classes=10, **_):
    return Named(num_classes)


@dataclass(frozen=True)
class Normed(Head):
    """A norm behind the linear layer: its rows are findings too."""

    name: ClassVar[str] = "normed"

    def attach(self, backbone, num_findings):
        backbone.fc = nn.Sequential(nn.Linear(backbone.fc.in_features, num_findings), nn.BatchNorm1d(num_findings))


def options(arch: str, size: int = 64, **more) -> ModelOptions:
    return ModelOptions(arch, size, pretrained=False, **more)


def trained(how: ModelOptions):
    """A model none of whose numbers is as a new one has it."""
    torch.manual_seed(0)
    made = create(how, len(FINDINGS)).eval()
    with torch.no_grad():
        for value in made.backbone.parameters():
            value.add_(0.02 * torch.randn(value.shape))
        for value in made.backbone.buffers():
            if value.is_floating_point():
                value.mul_(1 + torch.rand(value.shape)).add_(0.02 * torch.rand(value.shape))
    return made


def saved(made, path, **metadata):
    state = {key: value.clone().contiguous() for key, value in made.backbone.state_dict().items()}
    how = made.options
    about = {"arch": how.arch, "size": str(how.size), "norm": how.norm, "logit_scale": repr(how.logit_scale)}
    save_file(state, path, about | {"findings": "\n".join(FINDINGS)} | metadata)
    return path


def images(size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


KINDS = {
    "levit_128s": "",  # a norm before each of two linear layers
    "repvit_m0_9": "",  # the same within one classifier
    "deit_tiny_distilled_patch16_224": "",  # two classifiers of two tokens
    "inception_next_atto": "",  # a hidden layer and a norm
    "cxrdali_test_hidden": "",
    "cxrdali_test_named": "the output of 'cxrdali_test_named' is not the mean of its classifiers' outputs",
    "volo_d1_224": "a classifier of 'volo_d1_224' sees [16, 384] of an image, not a vector",
}


@pytest.mark.parametrize("arch", KINDS)
@torch.no_grad()
def test_weights_are_read_back_in_any_order_of_findings_and_at_any_scale(arch, tmp_path):
    made = trained(options(arch, logit_scale=30.0))
    before = made(images())
    path = saved(made, tmp_path / "weights.safetensors")
    for order, scale in ((FINDINGS, 30.0), (FINDINGS[2:] + FINDINGS[:2], 1.0)):
        again = create(options(arch, logit_scale=scale), len(FINDINGS))
        load_initial(again, path, order)
        expected = before[:, [FINDINGS.index(name) for name in order]]
        # of the same numbers, sums come in another order
        close = {"rtol": 0, "atol": 0 if scale == 30 else 1e-5 * before.abs().max().item()}
        torch.testing.assert_close(again.eval()(images()), expected, **close)


@pytest.mark.parametrize("arch", KINDS)
@torch.no_grad()
def test_the_classifier_of_features_is_the_whole_model_or_says_why_not(arch):
    made = trained(options(arch, logit_scale=2.0))
    assert made.seen.why == KINDS[arch]
    if KINDS[arch]:
        with pytest.raises(UserError, match="no features to keep: "):
            made.features(images())
        return
    torch.testing.assert_close(made.classify(made.features(images())), made(images()), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = made(images())
        torch.testing.assert_close(made.classify(made.features(images())), values)
    assert values.dtype == torch.float32 and not torch.equal(values, values.bfloat16().float())


@torch.no_grad()
def test_a_norm_behind_the_linear_layer_is_reordered_and_scaled_alone(tmp_path):
    made = trained(options("test_resnet", logit_scale=30.0, head=Normed()))
    assert set(made.finding_keys) == {
        *("fc.0.weight", "fc.0.bias", "fc.1.weight", "fc.1.bias", "fc.1.running_mean", "fc.1.running_var"),
    }
    path, before = saved(made, tmp_path / "weights.safetensors"), made(images())
    again = create(options("test_resnet", head=Normed()), len(FINDINGS))
    load_initial(again, path, FINDINGS[::-1])
    torch.testing.assert_close(again.eval()(images()), before.flip(1), rtol=1e-4, atol=1e-4)


def test_a_pass_of_black_images_changes_nothing(monkeypatch):
    """The same weights, statistics, generators and first steps as without it."""
    found = []
    for looked in (True, False):
        if not looked:
            monkeypatch.setattr("cxrdali.models.classifier.look", lambda *_: None)
        torch.manual_seed(0)
        made = create(options("repvit_m0_9"), 5)
        optimizer = torch.optim.AdamW(made.parameters(), 1e-3)
        assert all(each.training for each in made.modules())
        for _ in range(2):
            made(images()).square().mean().backward()
            optimizer.step()
        found.append((torch.rand(3), made.eval()(images()), list(made.state_dict().values())))
    (one, logits, state), (other, logits_, state_) = found
    assert torch.equal(one, other) and torch.equal(logits, logits_)
    assert all(itertools.starmap(torch.equal, zip(state, state_, strict=True)))


def test_biases_that_layers_keep_in_evaluation_mode_are_those_of_the_weights_that_were_read(tmp_path):
    """LeViT keeps a table of its attention biases: not that of the pass of black images."""
    made = trained(options("levit_128s"))
    again = create(options("levit_128s"), 5).eval()
    load_initial(again, saved(made, tmp_path / "weights.safetensors"), FINDINGS)
    with torch.no_grad():
        assert torch.equal(again(images()), made(images()))


# ---------------------------------------------------------------- another size


@pytest.mark.parametrize("arch", ["deit_tiny_patch16_224", "pit_ti_224", "visformer_tiny", "cait_xxs24_224"])
def test_position_embeddings_are_resampled_to_another_size(arch, tmp_path):
    made = trained(options(arch))
    path = saved(made, tmp_path / "weights.safetensors")
    larger = create(options(arch, 96), len(FINDINGS))
    load_initial(larger, path, FINDINGS)
    own, stored = larger.backbone.state_dict(), made.backbone.state_dict()
    changed = [key for key in own if own[key].shape != stored[key].shape]
    assert changed == [key for key in own if key.startswith("pos_embed")]
    for key in changed:
        before, after = stored[key], own[key]
        if before.ndim == 4:  # channels first
            before, after = (each.flatten(2).mT for each in (before, after))
        prefix = int(arch.startswith("deit"))
        side = round((after.shape[1] - prefix) ** 0.5)
        expected = resample_abs_pos_embed(before, [side, side], num_prefix_tokens=prefix)
        torch.testing.assert_close(after, expected)
    assert all(torch.equal(own[key], stored[key]) for key in own if key not in changed)
    with torch.no_grad():
        assert larger.eval()(images(96)).isfinite().all()


def test_biases_by_offset_keep_their_corners_and_centre(tmp_path):
    made = trained(options("gcvit_xxtiny"))
    larger = create(options("gcvit_xxtiny", 96), len(FINDINGS))
    load_initial(larger, saved(made, tmp_path / "weights.safetensors"), FINDINGS)
    key = "stages.0.blocks.0.attn.rel_pos.relative_position_bias_table"
    before, after = (each.backbone.state_dict()[key] for each in (made, larger))
    assert (before.shape, after.shape) == ((9, 2), (25, 2))
    for head in range(2):
        rows = [np.interp(np.linspace(0, 2, 5), range(3), row) for row in before[:, head].view(3, 3).numpy()]
        expected = [np.interp(np.linspace(0, 2, 5), range(3), column) for column in np.transpose(rows)]
        np.testing.assert_allclose(after[:, head].view(5, 5).numpy(), np.transpose(expected), atol=1e-6)


def test_a_network_whose_weights_belong_to_a_size_names_both(tmp_path):
    path = saved(create(options("gmlp_ti16_224"), len(FINDINGS)), tmp_path / "weights.safetensors")
    larger = create(options("gmlp_ti16_224", 96), len(FINDINGS))
    with pytest.raises(UserError) as refused:
        load_initial(larger, path, FINDINGS)
    assert str(refused.value) == (
        f"{path}: has 'blocks.0.mlp_channels.gate.proj.bias' (and 59 more) of shape [16], not [36]; 246 of 306 tensors "
        "fit gmlp_ti16_224; was trained at 64 px, this run is at 96, and gmlp_ti16_224 cannot change its size; "
        "give --size 64"
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arch", "size", "reason", "fits"),
    [
        ("inception_v3", 64, "Kernel size can't be greater than actual input size", 96),
        ("efficientformer_l1", 96, r"size of tensor a \(9\) must match the size of tensor b \(49\)", 224),
    ],
)
def test_a_size_that_a_network_cannot_take_is_refused_with_one_that_it_takes(arch, size, reason, fits):
    with pytest.raises(UserError, match=reason) as refused:
        create(options(arch, size), 5)
    said = str(refused.value)
    assert said.startswith(f"{arch!r} cannot take {size} px (") and said.endswith(f"); use another --size, as {fits}")
    assert "\n" not in said
    create(replace(options(arch), size=fits), 5)


@register_model
def cxrdali_test_map(pretrained=False, num_classes=10, **_):
    made = Small(num_classes)
    made.forward = lambda images: made.head(made.stem(images))
    return made


def test_a_network_that_gives_no_row_of_logits_is_refused():
    with pytest.raises(UserError, match=r"'cxrdali_test_map' is no classifier .*\[2, 5, 8, 8\] for 2 images and 5 f"):
        create(options("cxrdali_test_map"), 5)


@pytest.mark.parametrize(("more", "advice"), [({"micro_batch": 1}, "--micro-batch"), ({"batch": 1}, "--batch")])
def test_single_values_for_batch_normalisation_are_refused_before_anything_is_written(dataset, tmp_path, more, advice):
    """With 2 images at a time the same run trains."""
    start = {"stage": 1, "arch": "repvit_m0_9", "pretrained": False, "size": 48, "batch": 2, "epochs": 1}
    start |= {"device": "cpu"}
    with pytest.raises(UserError) as refused:
        train(settings_of(start, more), dataset, tmp_path / "run")
    assert str(refused.value) == (
        "'repvit_m0_9' cannot train on 1 image of 48 px at a time: its batch normalisation 'head.head.bn' would see 1 "
        f"value of each channel; use a larger {advice}"
    )
    assert not any(path.suffix for path in (tmp_path / "run").iterdir())
    train(settings_of(start, limit_batches=15), dataset, tmp_path / "run")


def test_a_size_is_refused_before_anything_is_written(dataset, tmp_path):
    given = settings_of(stage=1, arch="inception_v3", pretrained=False, size=48, batch=4, epochs=1, device="cpu")
    with pytest.raises(UserError, match="'inception_v3' cannot take 48 px"):
        train(given, dataset, tmp_path / "run")
    assert not any(path.suffix for path in (tmp_path / "run").iterdir())


def test_a_tensor_under_two_names_is_saved_under_both(dataset, tmp_path):
    run = tmp_path / "run"
    given = {"stage": 1, "arch": "cxrdali_test_hidden", "pretrained": False, "size": 48, "batch": 4, "epochs": 1}
    train(settings_of(given, device="cpu"), dataset, run)
    stored = load_file(run / BEST)
    assert torch.equal(stored["stem.weight"], stored["same.weight"])
    np.testing.assert_allclose(
        predict(run, dataset, "val", PredictOptions(device="cpu")).values, read(run / VAL_PREDICTIONS).values, rtol=1e-4
    )
