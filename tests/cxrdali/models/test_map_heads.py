"""Heads and poolings that see a feature map: against the papers' formulas in float64, and on networks of all kinds."""

import copy
import json
import math

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cxrdali.models.classifier import create
from cxrdali.models.cosine import CosineLinear
from cxrdali.models.csra import CsraHead
from cxrdali.models.head import HEADS
from cxrdali.models.map_head import MapHead
from cxrdali.models.ml_decoder import MlDecoderHead
from cxrdali.models.options import ModelOptions, ModelSettings
from cxrdali.models.pooling import Gem, Pooled
from cxrdali.models.weights import head_keys, load_initial
from shards.errors import UserError
from tests.heard import heard

FINDINGS = tuple("ABCDE")


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.detach().numpy() for key, value in module.state_dict().items()}


def places(batch: int = 2, count: int = 6, width: int = 4) -> torch.Tensor:
    return torch.randn(batch, count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


# ---------------------------------------------------------------- the formulas


CSRA = {
    "one temperature": ((1.0,), False, False),
    "several": ((1.0, 2.0, 4.0, 99.0), False, False),
    "the maximum": ((math.inf,), False, False),
    "several with it": ((2.0, math.inf), False, False),
    "own attention": ((1.0, 2.0), True, False),
    "normalised": ((1.0,), True, True),
}


@pytest.mark.parametrize(("temperatures", "own", "norm"), CSRA.values(), ids=CSRA)
def test_csra_is_the_paper_s_formula(temperatures, own, norm):
    torch.manual_seed(1)
    head = CsraHead(4, 3, 0.3, temperatures, own, norm).double().eval()
    head.bias.data.normal_()
    if norm:
        head.norm.running_mean.normal_(), head.norm.running_var.uniform_(0.5, 2)
    given, state = places(), numbers(head)
    found, attention = head.logits(given).detach().numpy(), head.attention(given).detach().numpy()
    for image, x in enumerate(given.numpy()):
        if norm:
            x = (x - state["norm.running_mean"]) / np.sqrt(state["norm.running_var"] + 1e-5)
            x = x * state["norm.weight"] + state["norm.bias"]
        for finding in range(3):
            logit, looks = state["bias"][finding], []
            for number, temperature in enumerate(temperatures):
                m = state[f"classifiers.{number}.weight"][finding]
                asked = state[f"attentions.{number}.weight"][finding] if own else m
                a = np.eye(6)[np.argmax(x @ asked)] if math.isinf(temperature) else softmax(temperature * (x @ asked))
                logit += m @ x.mean(axis=0) + 0.3 * (m @ (a @ x))
                looks.append(a)
            np.testing.assert_allclose(found[image, finding], logit, rtol=1e-10)
            np.testing.assert_allclose(attention[image, finding], np.mean(looks, axis=0), rtol=1e-10, atol=1e-12)


def test_csra_without_a_share_of_attention_is_the_linear_classifier_of_the_mean():
    head = CsraHead(4, 3, 0.0, (1.0,), False, False).double()
    given = places()
    expected = nn.functional.linear(given.mean(dim=1), head.classifiers[0].weight, head.bias)
    torch.testing.assert_close(head.logits(given), expected)


def attended(head: MlDecoderHead, x: np.ndarray, state: dict) -> tuple[np.ndarray, np.ndarray]:
    """Output of each query, [Q, E], and where it looks, [Q, K], by hand."""

    def norm(values, number):
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * state[f"norms.{number}.weight"] + state[f"norms.{number}.bias"]

    memory = np.maximum(x @ state["places_in.weight"].T + state["places_in.bias"], 0)
    asked = norm(2 * state["queries"], 0)
    query, key, value = (
        part @ weight.T + bias
        for part, weight, bias in zip(
            (asked, memory, memory), np.split(state["cross.in_proj_weight"], 3),
            np.split(state["cross.in_proj_bias"], 3), strict=True,
        )
    )  # fmt: skip
    width = query.shape[1] // 8
    heads, looks = [], []
    for each in range(8):
        part = slice(each * width, (each + 1) * width)
        scores = query[:, part] @ key[:, part].T / np.sqrt(width)
        weights = np.stack([softmax(row) for row in scores])
        heads.append(weights @ value[:, part])
        looks.append(weights)
    out = np.concatenate(heads, axis=1) @ state["cross.out_proj.weight"].T + state["cross.out_proj.bias"]
    found = norm(asked + out, 1)
    hidden = np.maximum(found @ state["hidden.weight"].T + state["hidden.bias"], 0)
    return norm(found + hidden @ state["out.weight"].T + state["out.bias"], 2), np.mean(looks, axis=0)


@pytest.mark.parametrize(("groups", "query_of"), [(None, [0, 1, 2, 3, 4]), (2, [0, 0, 0, 1, 1]), (5, [0, 1, 2, 3, 4])])
def test_ml_decoder_is_the_paper_s_layer_with_a_row_of_weights_for_each_finding(groups, query_of):
    torch.manual_seed(2)
    head = MlDecoderHead(4, 5, 16, groups).double().eval()
    for each in (*head.norms.parameters(), head.bias, head.cross.in_proj_bias, head.cross.out_proj.bias):
        each.data.normal_()
    given, state = places(), numbers(head)
    logits, attention = head.logits(given).detach().numpy(), head.attention(given).detach().numpy()
    for image, x in enumerate(given.numpy()):
        found, looks = attended(head, x, state)
        for finding, query in enumerate(query_of):
            expected = found[query] @ state["weight"][finding] + state["bias"][finding]
            np.testing.assert_allclose(logits[image, finding], expected, rtol=1e-9)
            np.testing.assert_allclose(attention[image, finding], looks[query], rtol=1e-9)
    assert "queries" not in dict(head.named_parameters()), "fixed, as published"


def test_a_generalised_mean_is_the_mean_at_1_and_near_the_maximum_for_a_large_exponent():
    given = places().abs()
    for p, expected in ((1.0, given.mean(dim=1)), (3.0, (given**3).mean(dim=1) ** (1 / 3))):
        torch.testing.assert_close(Gem(p).double()(given), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(Gem(400.0).double()(given), given.amax(dim=1), rtol=6e-3, atol=1e-6)
    assert Gem(3.0).double()(-given).max().item() == pytest.approx(1e-6), "what is below counts as the least"


@pytest.mark.parametrize("scale", [-1.0, 1e-5, 1e5])
def test_a_generalised_mean_of_any_values_has_finite_gradients_in_float32(scale):
    pool, given = Gem(100.0), (scale * places().abs()).float().requires_grad_()
    pool(given).sum().backward()
    assert given.grad.isfinite().all() and pool.p.grad.isfinite().all()
    logs = np.log(np.maximum(given.detach().double().numpy(), 1e-6))
    expected = np.exp((np.logaddexp.reduce(100 * logs, axis=1) - np.log(logs.shape[1])) / 100)
    np.testing.assert_allclose(pool(given).detach(), expected, rtol=1e-4)


@pytest.mark.parametrize("pool", ["avg", "max", "gem"])
def test_a_pooling_is_before_the_classifier(pool):
    head = Pooled(4, pool, 2.0, nn.Linear(4, 3)).double()
    x = places().numpy()
    vector = {"avg": x.mean(axis=1), "max": x.max(axis=1), "gem": np.sqrt((np.maximum(x, 1e-6) ** 2).mean(axis=1))}[
        pool
    ]
    state = numbers(head.classifier)
    np.testing.assert_allclose(head.logits(places()).detach(), vector @ state["weight"].T + state["bias"], rtol=1e-7)


MADE = {
    "csra": lambda: CsraHead(4, 3, 0.3, (1.0, 4.0), False, False),
    "csra own": lambda: CsraHead(4, 3, 0.3, (2.0,), True, True),
    "csra maximum": lambda: CsraHead(4, 3, 0.3, (math.inf,), False, False),
    "ml-decoder": lambda: MlDecoderHead(4, 3, 8, 2),
    "gem": lambda: Pooled(4, "gem", 3.0, nn.Linear(4, 3)),
}


@pytest.mark.parametrize("name", MADE)
def test_gradients_are_those_of_finite_differences(name):
    torch.manual_seed(3)
    head = MADE[name]().double().eval()
    given = places(2, 3).abs().add(0.1).requires_grad_()  # away from the corner of the generalised mean
    free = [each for key, each in head.named_parameters() if "hidden" not in key and "out." not in key]

    def logits(x, *_):
        return head.logits(x)

    assert torch.autograd.gradcheck(logits, (given, *free), fast_mode=True)


# ---------------------------------------------------------------- the features' layouts


def test_places_of_every_layout_are_the_same():
    torch.manual_seed(0)
    head = CsraHead(5, 2, 0.1, (1.0,), False, False)
    rows = torch.randn(3, 16, 5)
    maps = rows.mT.unflatten(2, (4, 4))
    prefixed = [torch.cat([torch.full((3, n, 5), 100.0), rows], dim=1) for n in (1, 2)]
    for given in (maps, maps.permute(0, 2, 3, 1), rows, *prefixed):
        assert torch.equal(head.places(given), rows)
    head.prefix = 5
    assert torch.equal(head.places(torch.cat([torch.zeros(3, 5, 5), rows], dim=1)), rows)
    square = torch.randn(2, 5, 5, 5)  # as many channels as rows: only the backbone can say which
    assert torch.equal(head.places(square), square.flatten(2).mT)
    head.channels_last = True
    assert torch.equal(head.places(square), square.flatten(1, 2))


@pytest.mark.parametrize("shape", [(2, 5), (2, 1, 5), (2, 5, 1, 1), (2, 3, 4, 4)])
def test_what_is_no_map_is_refused(shape):
    head = CsraHead(5, 2, 0.1, (1.0,), False, False)
    with pytest.raises(ValueError, match="before its classifier are no map of several places"):
        head.places(torch.zeros(shape))


def kind(name: str, **given):
    return HEADS[name](**given)


HEADED = {
    "csra": {"head": kind("csra", csra_temperatures="1,inf", csra_norm=True)},
    "ml-decoder": {"head": kind("ml-decoder", ml_decoder_width=16)},
    "groups": {"head": kind("ml-decoder", ml_decoder_width=16, ml_decoder_groups=2)},
    "gem": {"pool": "gem"},
    "cosine gem": {"pool": "gem", "head": kind("cosine"), "logit_scale": 30.0},
}
NETWORKS = {
    "test_convnext": [64, 2, 2],
    "test_vit": [17, 64],
    "test_mambaout": [2, 2, 256],  # channels last
    "sequencer2d_s": [4, 4, 384],
}


def made(arch: str, size: int = 64, findings: int = 5, **more):
    torch.manual_seed(0)
    return create(ModelOptions(arch, size, pretrained=False, **more), findings)


def images(size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("arch", NETWORKS)
def test_a_head_sees_the_unpooled_features_of_every_kind_of_network(arch):
    """They are what timm gives without classifier and pooling; the head's logits are the network's."""
    model = made(arch, **HEADED["csra"]).eval()
    assert [list(each) for each in model.seen.shapes] == [NETWORKS[arch]]
    assert isinstance(model.heads[0], MapHead) and len(model.heads) == 1
    assert "a classifier of" in model.seen.why and "not a vector" in model.seen.why
    with torch.no_grad():
        logits, (given,) = model.inputs(images())
        torch.testing.assert_close(model.heads[0](given), logits)
        size = {"img_size": 64} if "vit" in arch else {}
        same = timm.create_model(arch, num_classes=0, global_pool="", **size).eval()
        left = same.load_state_dict(model.backbone.state_dict(), strict=False)
        assert not left.missing_keys and all(key.startswith("head") for key in left.unexpected_keys)
        normalised = images().float() * model.scale + model.shift
        torch.testing.assert_close(same(normalised), given, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "head", "classifier"),
    [
        ("efficientformerv2_s0", "cosine", CosineLinear),
        ("inception_next_atto", "cosine", CosineLinear),
        ("dla46x_c", "linear", nn.Linear),
        ("test_vit", "cosine", CosineLinear),
    ],
)
def test_a_pooling_keeps_the_kind_of_classifier(arch, head, classifier):
    model = made(arch, head=kind(head), pool="gem", logit_scale=30.0).eval()
    (pooled,) = model.heads
    assert type(pooled.classifier) is classifier
    with torch.no_grad():
        logits, (given,) = model.inputs(images())
        vector = pooled.pool(pooled.places(given))
        torch.testing.assert_close(30 * pooled.classifier(vector), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["efficientformerv2_s0", "deit_tiny_distilled_patch16_224", "inception_next_atto"])
def test_where_timm_has_no_place_for_it_a_head_is_behind_the_features(arch):
    """Two classifiers, or a pooling inside of the classifier: no parameter without a use is left, copies are whole."""
    model = made(arch, **HEADED["csra"])
    model(images()).square().sum().backward()
    assert all(each.grad is not None for each in model.parameters())
    other, before = copy.deepcopy(model).eval(), model.eval()(images()).detach()
    with torch.no_grad():
        features = model.backbone.forward_features(images().float() * model.scale + model.shift)
        torch.testing.assert_close(model.heads[0](features), before, rtol=1e-4, atol=1e-4)
        for each in other.heads[0].parameters():
            each.fill_(0)
        assert not other(images()).any()
        torch.testing.assert_close(model(images()), before, rtol=0, atol=0)


REFUSED = {
    "pit_ti_224": "head csra: 'pit_ti_224' has no place for it ([1, 256] before its classifier are no map of several "
    "places); use --head linear or cosine, or another --arch",
    "test_resnet": "'test_resnet' cannot take 32 px ([96, 1, 1] before its classifier are no map of several places); "
    "use another --size, as 64",
    "coat_tiny": "pool gem: 'coat_tiny' has no place for it ('list' object has no attribute 'device'); use --pool own, "
    "or another --arch",
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", REFUSED)
def test_a_network_without_a_map_is_refused_with_the_heads_that_it_can_have(arch):
    given = {"pool": "gem"} if arch == "coat_tiny" else {"head": kind("csra")}
    with pytest.raises(UserError) as refused:
        made(arch, 32 if arch == "test_resnet" else 64, **given)
    assert str(refused.value) == REFUSED[arch]


# ---------------------------------------------------------------- as other heads


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADED)
def test_weights_are_read_back_in_another_order_of_findings(name, tmp_path):
    model = made("test_convnext", **HEADED[name]).eval()
    with torch.no_grad():
        for each in model.heads[0].parameters():
            each.add_(0.1 * torch.randn(each.shape))
        before = model(images())
    state = {key: value.contiguous() for key, value in model.backbone.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", {**model.identity, "findings": "\n".join(FINDINGS)})
    again = made("test_convnext", **HEADED[name])
    load_initial(again, tmp_path / "w.safetensors", FINDINGS[::-1])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images()), before.flip(1), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_backbone_goes_from_head_to_head_with_a_new_head_alone(tmp_path):
    linear, csra = made("test_convnext"), made("test_convnext", **HEADED["csra"])
    pooled = made("test_convnext", pool="gem")
    state = {key: value.contiguous() for key, value in linear.backbone.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", {**linear.identity, "findings": "\n".join(FINDINGS)})
    assert json.loads(pooled.identity["head"]) == {"name": "linear", "pool": "gem"}
    for other in (csra, pooled):
        with pytest.raises(UserError, match='its classifier is {"name": "linear"}, this run.s is .*--new-head'):
            load_initial(other, tmp_path / "w.safetensors", FINDINGS)
        for each in other.backbone.parameters():
            each.data.add_(1.0)
        head = {key: value.clone() for key, value in other.heads[0].state_dict().items()}
        load_initial(other, tmp_path / "w.safetensors", FINDINGS, new_head=True)
        assert all(torch.equal(value, head[key]) for key, value in other.heads[0].state_dict().items())
        rest = {key: value for key, value in other.backbone.state_dict().items() if "head.fc" not in key}
        assert rest and all(torch.equal(value, state[key]) for key, value in rest.items())


@pytest.mark.slow
def test_weights_of_another_scale_that_csra_cannot_take_over_are_said_and_do_not_predict(tmp_path):
    model = made("test_convnext", head=kind("csra"), logit_scale=30.0)
    state = {key: value.contiguous() for key, value in model.backbone.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", {**model.identity, "findings": "\n".join(FINDINGS)})
    said = []
    with heard(said):
        load_initial(made("test_convnext", head=kind("csra")), tmp_path / "w.safetensors", FINDINGS)
    assert "its logits are 30 times those here: the head csra has no weights to scale them" in said[-1]
    with pytest.raises(UserError, match="its logits are 30 times those here.*, so it cannot predict"):
        load_initial(made("test_convnext", head=kind("csra")), tmp_path / "w.safetensors", FINDINGS, to_predict=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADED)
def test_a_head_computes_in_float32_and_alone_is_trained_on_a_frozen_backbone(name):
    model = made("test_convnext", **HEADED[name])
    model.to_train(frozen=True)
    inside = {id(each) for each in model.heads[0].modules()}
    assert all(each.training == (id(each) in inside) for each in model.backbone.modules() if each is not model.backbone)
    assert set(head_keys(model)) == {f"head.fc.{key}" for key, _ in model.heads[0].named_parameters()}
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        values = model(images())
    assert values.dtype == torch.float32 and not torch.equal(values, values.bfloat16().float())


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"csra_temperatures": "1,0"}, "csra-temperatures '1,0': numbers above 0 with commas between them"),
        ({"csra_temperatures": "1,,2"}, "csra-temperatures '1,,2': numbers above 0"),
        ({"csra_temperatures": "nan"}, "csra-temperatures 'nan': numbers above 0"),
        ({"csra_temperatures": "1,inf", "csra_attention": "own"}, "csra-attention own: a maximum gives its weights no"),
        ({"csra_lambda": -0.1}, "csra-lambda -0.1: 0 or more, below 100"),
        ({"csra_attention": "other"}, "csra-attention 'other': choose one of classifier, own"),
    ],
)
def test_parameters_that_csra_cannot_have_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        HEADS["csra"](**given)


def test_temperatures_are_kept_as_they_are_meant():
    assert HEADS["csra"](csra_temperatures=" 1.0, 2.50,99 ,INF").csra_temperatures == "1,2.5,99,inf"


def test_parameters_that_ml_decoder_cannot_have_are_refused():
    with pytest.raises(UserError, match="ml-decoder-width 12: a multiple of 8"):
        HEADS["ml-decoder"](ml_decoder_width=12)
    with pytest.raises(UserError, match="ml-decoder-groups 6: at most as many as findings, 5"):
        made("test_convnext", head=kind("ml-decoder", ml_decoder_groups=6))


@pytest.mark.parametrize("name", ["csra", "ml-decoder"])
def test_nothing_pools_for_a_head_that_sees_the_map(name):
    with pytest.raises(UserError, match=f"pool gem: only linear and cosine heads, not {name}; use --pool own"):
        ModelSettings(head=HEADS[name](), pool="gem")
