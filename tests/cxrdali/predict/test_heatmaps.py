"""Heat maps against Grad-CAM worked by hand in float64, at places that are known, and for the families of backbones."""

import numpy as np
import pytest
import torch
from torch import nn

from cxrdali.models.classifier import Classifier, ModelOptions, create
from cxrdali.predict.heatmaps import heat_maps, map_layer
from shards.errors import UserError

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # 0..255 becomes -1..1


class Small(nn.Module):
    """Channels of patches of 8 x 8, their mean over the image, a linear classifier."""

    def __init__(self, channels: int, findings: int):
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 8, stride=8)
        self.fc = nn.Linear(channels, findings)

    def forward_features(self, images):
        return self.patches(images)

    def forward(self, images):
        return self.fc(torch.relu(self.forward_features(images)).mean(dim=(2, 3)))

    def get_classifier(self):
        return self.fc


def classifier(channels: int, findings: int, scale: float = 1.0) -> Classifier:
    torch.manual_seed(0)
    options = ModelOptions("small", 40, logit_scale=scale)
    return Classifier(Small(channels, findings), options, ("fc.weight", "fc.bias"), MEAN, STD).eval()


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 40, 40), dtype=np.uint8))


def worked(model: Classifier, image: np.ndarray, finding: int) -> np.ndarray:
    """Grad-CAM of the patches' output in float64, before the last ReLU: the mean gradient is the share of places
    that are above zero, times the classifier's weight, over the places."""
    weight, bias = (each.detach().numpy().astype(np.float64) for each in model.backbone.patches.parameters())
    pixels = image.astype(np.float64) / 127.5 - 1
    side = len(pixels) // 8
    patches = pixels.reshape(side, 8, side, 8).transpose(0, 2, 1, 3)
    maps = np.einsum("hwij,cij->chw", patches, weight.sum(axis=1)) + bias[:, None, None]
    head = model.backbone.fc.weight.detach().numpy().astype(np.float64)[finding] * model.logit_scale
    gradient = head * (maps > 0).mean(axis=(1, 2)) / side**2
    return np.einsum("c,chw->hw", gradient, maps)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_heat_map_is_grad_cam_worked_by_hand(images, scale):
    model = classifier(6, 4, scale)
    findings = torch.tensor([2, 0, 3])
    heat = heat_maps(model, "patches", images, findings)
    expected = [
        np.maximum(worked(model, image[0].numpy(), finding), 0)
        for image, finding in zip(images, findings.tolist(), strict=True)
    ]
    assert heat.shape == (3, 5, 5) and heat.dtype == np.float32
    np.testing.assert_allclose(heat, expected, rtol=1e-4, atol=1e-6 * scale)
    assert all((each > 0).any() and (each == 0).any() for each in heat)


def test_nothing_of_the_model_is_changed(images):
    model = classifier(6, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        heat_maps(model, "patches", images, torch.tensor([0, 1, 2]))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())  # noqa: SLF001 -- of torch


def test_the_evidence_is_found_where_it_is():
    """Finding 0 is a bright patch and finding 1 a dark one; both are in one image, on gray."""
    model = classifier(2, 2)
    with torch.no_grad():
        for channel, sign in enumerate((1, -1)):
            model.backbone.patches.weight[channel] = sign / (3 * 64)
        model.backbone.patches.bias.fill_(-0.2)
        model.backbone.fc.weight.copy_(torch.eye(2))
    image = np.full((48, 48), 128, dtype=np.uint8)
    image[8:16, 32:40] = 250  # the second row of patches, the fifth column
    image[32:40, 0:8] = 5  # the fifth row, the first column
    pair = torch.from_numpy(np.stack([image, image]))[:, None]
    heat = heat_maps(model, map_layer(model, 48), pair, torch.tensor([0, 1]))
    for each, place in zip(heat, [(1, 4), (4, 0)], strict=True):
        assert np.unravel_index(each.argmax(), each.shape) == place
        assert (each > 0).sum() == 1, "and nowhere else"
    moved = heat_maps(model, "patches", torch.roll(pair, (8, -16), (2, 3)), torch.tensor([0, 1]))
    np.testing.assert_allclose(moved, np.roll(heat, (1, -2), (1, 2)), atol=1e-7)


FAMILIES = {
    "resnet10t": "layer4",
    "densenet121": "features",
    "tf_efficientnetv2_b0": "bn2",
    "convnext_atto": "norm_pre",
    "efficientformerv2_s0": "norm",
    "test_byobnet": "final_conv",
}


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_last_map_of_every_family_is_found_and_gives_a_map(arch):
    torch.manual_seed(0)
    model = create(ModelOptions(arch, 96, pretrained=False), 8)
    layer = map_layer(model, 96)
    assert layer == FAMILIES[arch]
    images = torch.randint(0, 256, (1, 1, 96, 96), dtype=torch.uint8)
    seen = []
    handle = model.backbone.get_submodule(layer).register_forward_hook(
        lambda module, given, output: seen.append(output)
    )
    heat = heat_maps(model, layer, images.expand(8, -1, -1, -1), torch.arange(8))
    handle.remove()
    assert seen[0].shape[0] == 8 and seen[0].shape[2:] == (3, 3), "96 px over 32"
    assert heat.shape == (8, 3, 3) and np.isfinite(heat).all() and (heat >= 0).all()
    assert (heat.max(axis=(1, 2)) > 0).any(), "random weights raise at least one of eight findings somewhere"


def test_another_layer_has_more_places():
    model = create(ModelOptions("test_byobnet", 64, pretrained=False), 5)
    assert map_layer(model, 64, "stages.1") == "stages.1"
    some = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    assert heat_maps(model, "stages.1", some, torch.tensor([0, 4])).shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("arch", "size", "layer", "message"),
    [
        ("test_byobnet", 64, "stage.1", r"layer 'stage.1': the model has none of this name; .* --layer, as stages.1"),
        ("test_byobnet", 64, "head", r"layer 'head': its output is no map .* --layer, as final_conv, stages, stages.3"),
        (
            "test_byobnet",
            32,
            None,
            r"ByobNet: what it hands to its classifier at 32 px, 256 x 1 x 1, is no map .* as st",
        ),
        ("test_vit", 160, None, r"VisionTransformer: .* 101 x 64, is no map .* with --layer, as patch_embed.proj$"),
        ("swin_s3_tiny_224", 224, None, r"SwinTransformer: its maps have their channels last, .*; explain a run of a"),
    ],
)
def test_a_model_without_a_map_is_named_with_the_way_out(arch, size, layer, message):
    model = create(ModelOptions(arch, size, pretrained=False), 5)
    with pytest.raises(UserError, match=message):
        map_layer(model, size, layer)
    assert not any(module._forward_hooks for module in model.modules())  # noqa: SLF001 -- of torch
