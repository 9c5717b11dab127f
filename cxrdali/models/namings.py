"""Names under which other programs keep the tensors of networks that timm has, put into those of timm's own files."""

import re
from collections import Counter
from collections.abc import Collection

import torch

State = dict[str, torch.Tensor]

# Hugging Face's transformers: ViT, DeiT, DINOv2 (RAD-DINO)
_TRANSFORMERS = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"embeddings\.distillation_token$", "dist_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"(^|\.)layernorm\.", r"\1norm."),
)
# DINOv2's own training, whose blocks lie in chunks: blocks.2.17 is the 18th (CheXFound)
_CHUNKS = ((r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2."),)
# a ResNet as the list of its children (RadImageNet, MedKLIP)
_OUTSIDE = r"^((?:[A-Za-z_]\w*\.)*)"
_CHILDREN = (
    (rf"{_OUTSIDE}0\.(weight)$", r"\1conv1.\2"),
    (rf"{_OUTSIDE}1\.(weight|bias|running_mean|running_var|num_batches_tracked)$", r"\1bn1.\2"),
    *((rf"{_OUTSIDE}{place}\.(\d+\.(?:conv|bn|downsample))", rf"\1layer{place - 3}.\2") for place in (4, 5, 6, 7)),
)


def as_in_timm(state: State, wanted: Collection[str]) -> State:
    """The same tensors under the names that fit best; as they are if no other names fit better.

    Args:
        state: A checkpoint's tensors.
        wanted: Keys of the network, which may stand behind any prefix in the checkpoint.
    """

    def fits(state: State) -> int:
        return max(prefixes(state, wanted).values(), default=0)

    others = (_with_qkv(_renamed(state, _TRANSFORMERS)), _renamed(state, _CHUNKS), _renamed(state, _CHILDREN))
    return max((state, *others), key=fits)


def prefixes(state: State, wanted: Collection[str]) -> Counter[str]:
    """How many of the keys that are wanted stand behind each prefix ("module.model.")."""
    fitting: Counter[str] = Counter()
    for key in state:
        starts = [0, *(place.end() for place in re.finditer(r"\.", key))]
        fitting.update(key[:start] for start in starts if key[start:] in wanted)
    return fitting


def _renamed(state: State, rules: tuple[tuple[str, str], ...]) -> State:
    """By every rule in turn; as they are if two tensors would get the same name."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed if len(renamed) == len(state) else state


def _with_qkv(state: State) -> State:
    """Queries, keys and values as one tensor, in this order."""
    joined = {}
    for key, value in state.items():
        if not (found := re.fullmatch(r"(.*)\.attention\.attention\.(query|key|value)\.(weight|bias)", key)):
            joined[key] = value
            continue
        block, _, kind = found.groups()  # each block thrice, to the same end
        names = [f"{block}.attention.attention.{name}.{kind}" for name in ("query", "key", "value")]
        if all(name in state for name in names):
            joined[f"{block}.attn.qkv.{kind}"] = torch.cat([state[name] for name in names])
    return joined
