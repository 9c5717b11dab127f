"""Weights as other programs name them, made here by their published naming: each gives the logits of timm's network."""

import re

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from cxrdali.models.namings import as_in_timm
from tests.cxrdali.models.test_checkpoints import FINDINGS, loaded, logits, model, under


@register_model
def namings_dinov2(pretrained=False, num_classes=3, img_size=64, **given):
    """A small DINOv2: layer scale, and a patch of 16."""
    made = VisionTransformer(img_size, 16, 3, num_classes, "token", 32, 2, 2, init_values=1e-5)
    made.pretrained_cfg = {"first_conv": "patch_embed.proj", "classifier": "head"}
    return made


@register_model
def namings_vit(pretrained=False, num_classes=3, img_size=64, **given):
    made = VisionTransformer(img_size, 16, 3, num_classes, "token", 32, 2, 2)
    made.pretrained_cfg = {"first_conv": "patch_embed.proj", "classifier": "head"}
    return made


@register_model
def namings_swiglu(pretrained=False, num_classes=3, img_size=64, **given):
    """As DINOv2's giant one."""
    swiglu = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    made = VisionTransformer(img_size, 16, 3, num_classes, "token", 32, 2, 2, init_values=1e-5, **swiglu)
    made.pretrained_cfg = {"first_conv": "patch_embed.proj", "classifier": "head"}
    return made


def saved(state, path):
    torch.save(state, path)
    return path


def headless(made):
    """A network's state without its classifier, cloned."""
    heads = ("head.", "fc.", "classifier.")
    return {key: value.clone() for key, value in made.backbone.state_dict().items() if not key.startswith(heads)}


def same_backbone(target, source):
    """All but the classifier is the source's, tensor for tensor; what the network makes of an image is, too."""
    own = target.backbone.state_dict()
    for key, value in headless(source).items():
        assert torch.equal(own[key], value) or key.endswith("num_batches_tracked"), key
    target.backbone.load_state_dict({**own, **source.backbone.state_dict()})
    torch.testing.assert_close(logits(target), logits(source), rtol=0, atol=0)


def as_transformers(state, before="norm1", after="norm2", hidden=("mlp.fc1", "mlp.fc2")):
    """The inverse of transformers' conversion scripts (convert_dinov2_to_hf.py, convert_vit_timm_to_pytorch.py)."""
    rename = {
        "cls_token": "embeddings.cls_token", "dist_token": "embeddings.distillation_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
    }  # fmt: skip
    found = {}
    for key, value in state.items():
        if block := re.fullmatch(r"blocks\.(\d+)\.(.*)", key):
            inside, outer = block[2], f"encoder.layer.{block[1]}"
            if inside.startswith("attn.qkv."):
                for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    found[f"{outer}.attention.attention.{name}.{inside[9:]}"] = part.clone()
                continue
            for old, new in [
                ("attn.proj.", "attention.output.dense."), ("norm1.", f"{before}."), ("norm2.", f"{after}."),
                ("mlp.fc1.", f"{hidden[0]}."), ("mlp.fc2.", f"{hidden[1]}."), ("ls1.gamma", "layer_scale1.lambda1"),
                ("ls2.gamma", "layer_scale2.lambda1"),
            ]:  # fmt: skip
                if inside.startswith(old):
                    inside = new + inside.removeprefix(old)
                    break
            found[f"{outer}.{inside}"] = value
            continue
        stem, _, kind = key.rpartition(".")
        found[rename[key] if key in rename else f"{rename[stem]}.{kind}"] = value
    return found


def test_rad_dino_s_names_are_dinov2_s(tmp_path):
    """transformers' Dinov2Model, as microsoft/rad-dino holds it: model.safetensors."""
    source = model("namings_dinov2")
    state = as_transformers(headless(source)) | {"embeddings.mask_token": torch.zeros(1, 32)}
    assert "encoder.layer.1.attention.attention.value.bias" in state and "layernorm.bias" in state
    target, said = loaded(saved(state, tmp_path / "pytorch_model.bin"), "namings_dinov2")
    same_backbone(target, source)
    count = len(source.backbone.state_dict())
    assert f"{count - 2} of {count} tensors are loaded, new: 'head.weight' (and 1 more); " in said
    assert "left out, not of the network: 'mask_token'; it has no classifier: there is a new one" in said


@pytest.mark.parametrize("prefix", ["", "vit.", "model.vit."])
def test_transformers_vit_is_timm_s(tmp_path, prefix):
    source = model("namings_vit")
    names = {"before": "layernorm_before", "after": "layernorm_after", "hidden": ("intermediate.dense", "output.dense")}
    state = under(prefix, as_transformers(headless(source), **names))
    state |= {"classifier.weight": torch.ones(14, 32), "classifier.bias": torch.ones(14)} if prefix else {}
    target, said = loaded(saved(state, tmp_path / "w.bin"), "namings_vit")
    same_backbone(target, source)
    assert ("left out, not of the network: 'classifier.weight' (and 1 more)" in said) is bool(prefix)


def test_deit_has_a_second_token(tmp_path):
    arch = "deit_tiny_distilled_patch16_224"
    source = timm.create_model(arch, img_size=64, num_classes=0)
    names = {"before": "layernorm_before", "after": "layernorm_after", "hidden": ("intermediate.dense", "output.dense")}
    state = {key: torch.rand_like(value) for key, value in source.state_dict().items()}
    path = saved(under("deit.", as_transformers(state, **names)), tmp_path / "w.bin")
    target, _ = loaded_at(path, arch, 64)
    assert all(torch.equal(target.backbone.state_dict()[key], value) for key, value in state.items())


def test_dinov2_s_largest_has_another_mlp(tmp_path):
    source = model("namings_swiglu")
    state = as_transformers(headless(source), hidden=("mlp.weights_in", "mlp.weights_out"))
    state["embeddings.mask_token"] = torch.zeros(1, 32)
    target, _ = loaded(saved(state, tmp_path / "w.bin"), "namings_swiglu")
    same_backbone(target, source)


def test_positions_of_another_size_are_resized_and_said(tmp_path):
    source = model("namings_vit")
    state = as_transformers(headless(source))
    grid = torch.rand(1, 1 + 6 * 6, 32)
    state["embeddings.position_embeddings"] = grid
    target, said = loaded(saved(state, tmp_path / "w.pt"), "namings_vit")
    assert "; resized: 'pos_embed', from [1, 37, 32] to [1, 17, 32]; " in said
    expected = torch.nn.functional.interpolate(
        grid[:, 1:].reshape(1, 6, 6, 32).permute(0, 3, 1, 2), (4, 4), mode="bicubic", antialias=True
    )
    found = target.backbone.pos_embed[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_s_training_keeps_blocks_in_chunks_under_its_teacher(tmp_path, registers):
    """As CheXFound's teacher_checkpoint.pth; with registers, timm adds the class token's position to the token."""
    arch = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    torch.manual_seed(0)
    source = timm.create_model(arch, img_size=70, num_classes=0)
    state = dict(source.state_dict())
    chunked = {re.sub(r"^blocks\.(\d+)\.", lambda found: f"blocks.{int(found[1]) // 3}.{found[1]}.", key): value
               for key, value in state.items()}  # fmt: skip
    assert "blocks.3.11.norm1.bias" in chunked
    if registers:
        position = torch.rand(1, 1, 384)
        chunked["register_tokens"] = chunked.pop("reg_token")
        chunked["pos_embed"] = torch.cat([position, chunked["pos_embed"]], dim=1)
        chunked["cls_token"] = chunked["cls_token"] - position
    teacher = under("backbone.", chunked | {"mask_token": torch.zeros(1, 384)})
    teacher["dino_head.mlp.0.weight"] = torch.zeros(3, 3)
    student = {key: value + 1 for key, value in teacher.items()}
    path = saved({"student": student, "teacher": teacher, "iteration": 5}, tmp_path / "teacher_checkpoint.pth")
    target, said = loaded_at(path, arch, 70)
    for key, value in state.items():
        torch.testing.assert_close(target.backbone.state_dict()[key], value, rtol=1e-6, atol=1e-6)
    assert "of its tables of weights, 'teacher' is taken, not 'student'" in said
    assert "'backbone.mask_token'" in said or "'mask_token'" in said
    assert "'dino_head.mlp.0.weight'" in said


def loaded_at(path, arch, size):
    from cxrdali.models.classifier import ModelOptions, create
    from cxrdali.models.weights import load_initial
    from tests.heard import heard

    torch.manual_seed(1)
    target, said = create(ModelOptions(arch, size, pretrained=False), 3), []
    with heard(said):
        load_initial(target, path, FINDINGS)
    return target, " ".join(said)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.res_features."])
def test_a_resnet_as_the_list_of_its_children(tmp_path, prefix):
    """As RadImageNet's ResNet50.pt: nn.Sequential(*list(resnet50().children())[:9])."""
    source = model("resnet18")
    children = torch.nn.Sequential(*list(source.backbone.children())[:-2])
    state = under(prefix, children.state_dict())
    assert f"{prefix}5.0.downsample.0.weight" in state
    target, said = loaded(saved(state, tmp_path / "ResNet18.pt"), "resnet18")
    same_backbone(target, source)
    assert "it has no classifier: there is a new one" in said


def test_half_a_resnet_lacks_its_last_stage(tmp_path):
    """As MedKLIP's, which ends before it."""
    from shards.errors import UserError

    source = model("resnet18")
    state = under("res_features.", torch.nn.Sequential(*list(source.backbone.children())[:-3]).state_dict())
    with pytest.raises(UserError, match=r"w\.pt: lacks 'layer4\.0\.bn1\.bias' \(and"):
        loaded(saved(state, tmp_path / "w.pt"), "resnet18")


def test_ark_s_swin_of_an_older_timm_is_today_s(tmp_path):
    """Ark+: timm 0.5.4's Swin, which reduces at the end of a stage, with a projector and a head per data set."""
    arch = "swin_tiny_patch4_window7_224"
    torch.manual_seed(0)
    source = timm.create_model(arch, img_size=56, window_size=7, num_classes=0)
    old = {}
    for key, value in source.state_dict().items():
        old[re.sub(r"layers\.(\d)\.downsample", lambda at: f"layers.{int(at[1]) - 1}.downsample", key)] = value.clone()
    assert "layers.0.downsample.reduction.weight" in old and "layers.3.downsample.reduction.weight" not in old
    ark = old | {
        "head.weight": torch.ones(1000, 768), "head.bias": torch.ones(1000), "projector.weight": torch.ones(1376, 768),
        "omni_heads.0.weight": torch.ones(14, 1376), "omni_heads.1.bias": torch.ones(5),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long),
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49),
    }  # fmt: skip
    path = saved(
        {"teacher": under("module.", ark), "student": under("module.", ark), "epoch": 200}, tmp_path / "Ark6.pth.tar"
    )
    target, said = loaded_at(path, arch, 56)
    for key, value in source.state_dict().items():
        assert torch.equal(target.backbone.state_dict()[key], value), key
    assert "projector" in said and "'teacher' is taken, not 'student'" in said and "the classifier is new" in said


def test_a_masked_autoencoder_leaves_its_decoder(tmp_path):
    """As Medical MAE's checkpoints ("model"), in timm's own names."""
    source = model("namings_vit")
    state = headless(source) | {
        "mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, 32),
        "decoder_blocks.0.norm1.weight": torch.zeros(16), "decoder_pred.bias": torch.zeros(3),
    }  # fmt: skip
    target, said = loaded(saved({"model": state, "optimizer": {}, "epoch": 1}, tmp_path / "w.pth"), "namings_vit")
    same_backbone(target, source)
    assert "left out, not of the network: 'mask_token' (and 3 more)" in said


def test_biovil_s_resnet_leaves_its_projector(tmp_path):
    """As hi-ml's ImageModel: encoder.encoder is torchvision's ResNet, projector is not of it."""
    source = model("resnet18")
    state = under("encoder.encoder.", headless(source)) | {"projector.model.0.weight": torch.zeros(128, 512, 1, 1)}
    target, said = loaded(saved(state, tmp_path / "biovil.pt"), "resnet18")
    same_backbone(target, source)
    assert "left out, not of the network: 'projector.model.0.weight'" in said


@pytest.mark.parametrize("kind", ["tiny", pytest.param("base", marks=pytest.mark.slow)])
def test_eva_x_is_eva02_with_a_patch_of_16(tmp_path, kind):
    """As its _mim.pt: EVA's own names, pre-training's mask token and head, and a norm that becomes the one before the
    classifier (hustvl/EVA-X, eva_x.py)."""
    torch.manual_seed(0)
    source = timm.create_model(f"eva_x_{kind}_patch16", img_size=64, num_classes=0)
    assert source.patch_embed.patch_size == (16, 16) and source.pretrained_cfg["mean"] == (0.49185243,) * 3
    names = [("fc_norm.", "norm."), ("mlp.fc1_g.", "mlp.w1."), ("mlp.fc1_x.", "mlp.w2."), ("mlp.norm.", "mlp.ffn_ln.")]
    names += [("mlp.fc1.", "mlp.w12."), ("mlp.fc2.", "mlp.w3."), ("q_proj.bias", "q_bias"), ("v_proj.bias", "v_bias")]
    state = {}
    for key, value in source.state_dict().items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        state[key] = torch.rand_like(value)
    assert "blocks.11.attn.q_bias" in state and ("blocks.0.mlp.w1.weight" in state) is (kind == "base")
    width = source.num_features
    more = {
        "mask_token": torch.zeros(1, 1, width),
        "lm_head.weight": torch.zeros(9, width),
        "rope.freqs_cos": torch.zeros(9),
    }
    path = saved({"module": state | more}, tmp_path / f"eva_x_{kind}_patch16_merged520k_mim.pt")
    target, said = loaded_at(path, f"eva_x_{kind}_patch16", 64)
    own = target.backbone.state_dict()
    for ours, theirs in [("fc_norm.bias", "norm.bias"), ("blocks.3.mlp.fc2.weight", "blocks.3.mlp.w3.weight"), *(
        [("blocks.2.attn.v_proj.bias", "blocks.2.attn.v_bias"), ("blocks.5.mlp.fc1_x.bias", "blocks.5.mlp.w2.bias")]
        if kind == "base" else [("blocks.5.mlp.fc1.bias", "blocks.5.mlp.w12.bias")]
    )]:  # fmt: skip
        assert torch.equal(own[ours], state[theirs]), ours
    count = len(source.state_dict())
    assert f"{count} of {count + 2} tensors are loaded, new: 'head.weight' (and 1 more); left out, of no use" in said
    assert ": 'mask_token' (and 2 more); " in said


def test_networks_that_only_we_name_have_no_weights_to_load(tmp_path):
    from cxrdali.models.classifier import ModelOptions, create
    from shards.errors import UserError

    with pytest.raises(UserError, match="weights of .eva_x_tiny_patch16. cannot be had .*give a file with --init"):
        create(ModelOptions("eva_x_tiny_patch16", 64, pretrained=True), 3)


def test_names_that_fit_stay(tmp_path):
    """EfficientNet's blocks.0.0 is no chunk."""
    state = dict(timm.create_model("test_efficientnet").state_dict())
    assert as_in_timm(state, state) is state
    behind = under("net.", state)
    assert as_in_timm(behind, state) is behind
