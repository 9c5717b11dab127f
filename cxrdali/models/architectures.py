"""Networks of open weights for chest X-rays that timm builds but has no name for: importing this names them."""

from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model

_EVA_X = {"patch_size": 16, "ref_feat_shape": (14, 14)}
_EVA_X_PIXELS = {"mean": (0.49185243,) * 3, "std": (0.28509309,) * 3}  # as its authors' training has them
# name: the network of timm that it is like, what it has otherwise, side in pixels of its training, scaling of pixels
_KNOWN: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "eva_x_tiny_patch16": ("eva02_tiny_patch14_224", _EVA_X, 224, _EVA_X_PIXELS),
    "eva_x_small_patch16": ("eva02_small_patch14_224", _EVA_X, 224, _EVA_X_PIXELS),
    "eva_x_base_patch16": ("eva02_base_patch14_224", _EVA_X, 224, _EVA_X_PIXELS),
    "vit_large_patch16_dinov2": ("vit_large_patch14_dinov2", {"patch_size": 16}, 512, {}),  # XRay-DINO
}


def in_timm(arch: str) -> tuple[str, dict[str, Any]]:
    """What timm itself calls a network, and what makes it this one, for programs that do not import this."""
    return _KNOWN.get(arch, (arch, {}, 0, {}))[:2]


default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, size, size), "fixed_input_size": True, "num_classes": 0, "first_conv": "patch_embed.proj",
            "classifier": "head", **pixels,
        }
        for name, (_, _, size, pixels) in _KNOWN.items()
    }
)  # fmt: skip


def _register(name: str) -> None:
    like, otherwise, size, _ = _KNOWN[name]

    def entry(pretrained: bool = False, **given: Any) -> Any:
        given["pretrained_cfg"] = given.get("pretrained_cfg") or timm.get_pretrained_cfg(name)
        return timm.create_model(like, pretrained=pretrained, **{"img_size": size, **otherwise, **given})

    entry.__name__ = name
    register_model(entry)


for _name in _KNOWN:
    _register(_name)
