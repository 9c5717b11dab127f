"""Fusions against NumPy in float64, one study at a time; and the network around them."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import erf, expit, softmax

from cxrdali.data.studies import StudyBatch
from cxrdali.models.classifier import create
from cxrdali.models.fusion import fusion_of
from cxrdali.models.fusion_options import FUSIONS, HEADS, PLACE, StudyOptions
from cxrdali.models.options import ModelOptions
from cxrdali.models.study import StudyClassifier
from cxrdali.models.weights import head_keys
from shards.errors import UserError

WIDTH, INSIDE = 12, 16
SIZES = (1, 3, 5, 2, 1)


def made(fusion):
    """Every weight is random, also those that begin at 0; in evaluation mode."""
    torch.manual_seed(1)
    found = fusion_of(StudyOptions(fusion=fusion, fusion_width=INSIDE), WIDTH).eval()
    with torch.no_grad():
        for each in found.parameters():
            each.copy_(torch.randn_like(each) * 0.5)
    return found


def batch():
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(sum(SIZES), WIDTH, generator=generator)
    views = torch.randint(0, 3, (sum(SIZES),), generator=generator)
    return StudyBatch(features, views, torch.tensor([0, *np.cumsum(SIZES)]))


def normalised(x, weights, name):
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attended(x, weights, name):
    """Self-attention of the images of a study, x float64 [M, W]."""
    parts = (x @ weights[f"{name}.in_proj_weight"].T + weights[f"{name}.in_proj_bias"]).reshape(len(x), 3, HEADS, -1)
    query, key, value = (parts[:, place].transpose(1, 0, 2) for place in range(3))
    mixed = softmax(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]), axis=-1) @ value
    return linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), weights, f"{name}.out_proj")


def reference(fusion, images, w):
    """One study: images float64 [M, D], w: its weights by name; [D]."""
    if fusion == "mean":
        return images.mean(axis=0)
    if fusion == "max":
        return images.max(axis=0)
    if fusion == "attention":
        scores = (np.tanh(linear(images, w, "content")) * expit(linear(images, w, "gate"))) @ w["weight.weight"][0]
        return softmax(scores) @ images
    x = linear(images, w, "into")
    for layer in ("layers.layers.0", "layers.layers.1"):
        x = x + attended(normalised(x, w, f"{layer}.norm1"), w, f"{layer}.self_attn")
        wide = linear(normalised(x, w, f"{layer}.norm2"), w, f"{layer}.linear1")
        x = x + linear(wide * (1 + erf(wide / math.sqrt(2))) / 2, w, f"{layer}.linear2")
    return (images + linear(normalised(x, w, "layers.norm"), w, "back")).mean(axis=0)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("training", [False, True])
def test_every_fusion_is_the_one_of_numpy_study_by_study(fusion, training):
    """In training mode torch takes another path through the transformer; dropout is off."""
    given, module = batch(), made(fusion).train(training)
    for each in module.modules():
        each.p = 0.0 if isinstance(each, torch.nn.Dropout) else getattr(each, "p", None)
        each.dropout = 0.0 if isinstance(each, torch.nn.MultiheadAttention) else getattr(each, "dropout", None)
    weights = {name: value.numpy().astype(np.float64) for name, value in module.state_dict().items()}
    with torch.no_grad():
        found = module(given.images, given).numpy()
    images = given.images.numpy().astype(np.float64) + weights["of_view"][given.views.numpy()]
    expected = [reference(fusion, each, weights) for each in np.split(images, np.cumsum(SIZES)[:-1])]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_neither_the_order_of_images_nor_the_other_studies_of_a_batch_change_anything(fusion):
    given, module = batch(), made(fusion)
    with torch.no_grad():
        whole = module(given.images, given)
        turned = torch.cat([torch.arange(start, stop).flip(0) for start, stop in itertools.pairwise(given.offsets)])
        again = StudyBatch(given.images[turned], given.views[turned], given.offsets)
        torch.testing.assert_close(module(again.images, again), whole, rtol=1e-5, atol=1e-5)
        for number in range(len(given)):
            alone = given[number : number + 1]
            torch.testing.assert_close(module(alone.images, alone)[0], whole[number], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_every_weight_and_no_place_without_an_image(fusion):
    given, module = batch(), made(fusion)
    images = given.images.clone().requires_grad_()
    module(images, given).square().sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() and each.grad.any() for each in module.parameters())
    assert images.grad.isfinite().all() and (fusion == "max" or images.grad.any(dim=1).all())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create(ModelOptions("test_efficientnet", 32, pretrained=False), 3, StudyClassifier).eval()


def fused(network, fusion):
    torch.manual_seed(0)
    network.fuse(StudyOptions(fusion=fusion, fusion_width=INSIDE))
    return network.eval()


@pytest.mark.parametrize("fusion", ["mean", "transformer"])
def test_a_new_fusion_of_a_linear_classifier_is_the_mean_of_the_images_logits(network, fusion):
    """Where each image has a view of its own and all of them are a study."""
    images = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8)
    given = StudyBatch(images, torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 3, 5]))
    with torch.no_grad():
        single = StudyClassifier.__mro__[1].forward(network, images)
        found = fused(network, fusion)(given)
        torch.testing.assert_close(found, torch.stack([single[:3].mean(0), single[3:].mean(0)]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(images), single, rtol=1e-4, atol=1e-5)  # a study each
        features = network.features(images)
        torch.testing.assert_close(network(StudyBatch(features, given.views, given.offsets)), found)


def test_a_frozen_network_trains_fusion_and_classifier(network):
    fused(network, "attention")
    assert {key for key in head_keys(network) if not key.startswith(PLACE)} == {"classifier.weight", "classifier.bias"}
    assert len(head_keys(network)) == 2 + len(list(network.fusion.parameters()))
    network.to_train(frozen=True)
    assert network.fusion.training and not network.backbone.training
    assert network.identity["fusion"] == '{"fusion": "attention", "width": 16}'


def test_a_network_without_vectors_and_odd_options_are_refused(network):
    network.seen, before = network.seen.__class__(why="a classifier sees [8, 7, 7] of an image"), network.seen
    with pytest.raises(UserError, match=r"one for each image: a classifier sees \[8, 7, 7\] of an image; use another"):
        network.fuse(StudyOptions())
    network.seen = before
    for wrong, words in (
        ({"fusion_width": 20}, "a multiple of 8"), ({"fusion": "sum"}, "choose one of mean, max"),
        ({"study_images": 0}, "at least 1"), ({"fusion_layers": 0}, "at least 1"), ({"fusion_dropout": 1.0}, "below 1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            StudyOptions(**wrong)
