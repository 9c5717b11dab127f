"""Weights from files into a model: of a run, of another size, with other findings, as another program has them."""

import contextlib
import logging
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cxrdali.models import identity
from cxrdali.models.checkpoint_file import read_weights
from cxrdali.models.fusion_options import PLACE
from cxrdali.models.namings import as_in_timm, prefixes
from cxrdali.predictions import first_of
from shards.errors import UserError
from shards.words import counted

if TYPE_CHECKING:
    from cxrdali.models.classifier import Classifier

log = logging.getLogger(__name__)

WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")  # torch puts them anywhere
FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")  # timm's, of a model's module
COUNTERS = ("num_batches_tracked", "n_averaged")  # of no use to a network that is trained from here, or predicts


def load_initial(
    model: "Classifier", path: Path, findings: tuple[str, ...], new_head: bool = False, to_predict: bool = False
) -> dict[str, str]:
    """Load a run's weights, or a checkpoint that another program wrote, into the backbone.

    Findings are matched by name: the same ones in another order are put in order, others are refused. A file that
    names none (timm's own, say) keeps its head only if the shapes agree; else, or with new_head, the head stays new.
    A head from a model of another logit scale is scaled so that its logits stay. What is loaded, new, resized and left
    out is logged. to_predict: refuse what only a training can start from: no head, another size, one input channel; log
    only what is not taken as it is. Returns the file's metadata. No code is unpickled.
    """
    state, about = read_weights(path)
    own, head = model.backbone.state_dict(), _head_names(model)
    identity.check(path, about, model.identity, not new_head, identity.IN_THE_RUN if to_predict else "")
    size = model.identity.get("size")
    if to_predict and about.get("size", size) != size:
        raise UserError(f"{path}: was trained at {about['size']} px, this run at {size}; {identity.IN_THE_RUN}")
    given, said = _unwrapped(state, own, path)
    state = resampled(model.backbone, given, head)
    said = _changes(given, state) + said
    refused = said_of_pixels = _three_channels(model, state)
    is_new, said_of_head = (True, "") if new_head else _judge_head(state, own, head, about)
    if is_new:
        state = {key: value for key, value in state.items() if not key.startswith(head)}
        state |= {key: value for key, value in own.items() if key.startswith(head)}
        refused = refused or said_of_head
        if new_head and "findings" in about:
            said_of_head = _other_findings(tuple(about["findings"].split("\n")), findings)
    else:
        if "findings" in about:
            _match_findings(model, state, tuple(about["findings"].split("\n")), findings, path, to_predict)
        factor = float(about.get("logit_scale", 1)) / model.logit_scale
        if factor != 1 and not model.options.head.scales:
            name = model.options.head.name
            said_of_head = f"its logits are {factor:g} times those here: the head {name} has no weights to scale them"
            refused = refused or said_of_head
        state |= {key: state[key] * factor for key in output_keys(model) if factor != 1 and key in state}
    state = {key: value for key, value in state.items() if not key.endswith(COUNTERS) or key in own}
    state |= {key: value for key, value in own.items() if key.endswith(COUNTERS) and key not in state}
    if own.keys() <= state.keys():  # what the network has no place for, as thresholds
        left = [key for key in state if not hasattr(model.backbone, key.partition(".")[0])]
        said += [f"left out, not of the network: {first_of(left)}"] if left else []
        state = {key: value for key, value in state.items() if key not in left}
    _check_fit(model, state, about, path, to_predict)
    if to_predict and refused:
        raise UserError(f"{path}: {refused}, so it cannot predict; start a run from it with `cxrdali train --init`")
    _check_numbers(state, own, path)
    if not to_predict:
        said = [_counted(own, head if is_new else ()), *said]
    model.backbone.load_state_dict(state)
    if words := [each for each in (*said, said_of_pixels, said_of_head) if each]:
        log.info(f"{path}: {'; '.join(words)}")
    return about


def _check_numbers(state: dict, own: dict, path: Path) -> None:
    """Raises UserError for what is no plain, finite number; casts the others to the network's kinds, in place."""
    for key, value in state.items():
        plain = value.layout == torch.strided and not value.is_meta
        if not plain or own[key].is_floating_point() > value.is_floating_point():
            what = f"{value.dtype}, {value.layout}, on {value.device}"
            raise UserError(f"{path}: {key!r} holds no plain floating-point numbers ({what}); give unquantised weights")
        value = state[key] = value.to(own[key].dtype)
        if not value.isfinite().all() and own[key].isfinite().all():  # some masks are infinite
            bad = f"{int((~value.isfinite()).sum()):,} of {value.numel():,} numbers"
            raise UserError(
                f"{path}: {key!r} is NaN or infinite in {bad}; give weights of a training that did not fail"
            )


def _counted(own: dict, new: tuple[str, ...]) -> str:
    """How many of the network's tensors come from a file. new: what keys of those begin with that do not."""
    every = [key for key in own if not key.endswith(COUNTERS)]
    fresh = [key for key in every if new and key.startswith(new)]
    words = f"{len(every) - len(fresh):,} of {len(every):,} tensors are loaded"
    return f"{words}, new: {first_of(fresh)}" if fresh else words


def _changes(given: dict, state: dict) -> list[str]:
    """What fitting a file's tensors to the network resized, and what it left out, in words."""

    def place(value: torch.Tensor) -> int:
        return value.data_ptr() if value.layout == torch.strided else id(value)

    there = {place(value) for value in state.values()}  # under another name, say
    left = [key for key, value in given.items() if key not in state and place(value) not in there]
    resized = [key for key in state if key in given and given[key].shape != state[key].shape]
    said = [f"left out, of no use here: {first_of(left)}"] if left else []
    if resized:
        before, after = (list(each[resized[0]].shape) for each in (given, state))
        said.insert(0, f"resized: {first_of(resized)}, from {before} to {after}")
    return said


def _unwrapped(state: dict, own: dict, path: Path) -> tuple[dict, list[str]]:
    """The network's tensors by its own keys, from under the prefix ("module.model.") under which most of them lie, and
    what is said of the rest. Raises UserError if several networks fit, as a model and its moving average."""
    state = as_in_timm({WRAPPERS.sub("", key): value for key, value in state.items()}, own)
    fitting = prefixes(state, own)
    whole = [prefix for prefix, count in fitting.items() if count >= 0.9 * len(own)]
    if len(whole) > 1:
        raise UserError(
            f"{path}: holds {len(whole)} networks that fit, under {' and '.join(map(repr, whole))}; "
            "write the tensors of one of them to a file of their own"
        )
    prefix = max(fitting, key=lambda each: fitting[each], default="")
    if fitting[prefix] < len(own) / 2:  # another network, or one whose keys a filter of timm's may know
        prefix = os.path.commonprefix(list(state)).rpartition(".")[0]
        prefix += "." if prefix else ""
    left = [key for key in state if not key.startswith(prefix) and not key.endswith(COUNTERS)]
    said = [f"left out, not of the network: {first_of(left)}"] if left else []
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, said


def _three_channels(model: "Classifier", state: dict) -> str:
    """Spread first convolutions of one input channel over three, in place; what is assumed of them, or nothing.

    A third each: with w (x - m) / s for a grey x, the sum over channels is that of one channel whose 1 / s and m / s
    are the means of the three.
    """
    own, found = model.backbone.state_dict(), False
    names = getattr(model.backbone, "pretrained_cfg", {}).get("first_conv") or ()  # a plugin's network has none
    for name in (names,) if isinstance(names, str) else names:
        key = f"{name}.weight"
        # a standardised convolution makes the same weights of a third
        plain = key in own and "Std" not in type(model.backbone.get_submodule(name)).__name__
        if plain and key in state and state[key].dim() == 4 and (own[key].shape[1], state[key].shape[1]) == (3, 1):
            state[key] = state[key].float().expand(-1, 3, *state[key].shape[2:]) / 3
            found = True
    inverse, shift = float(model.scale.mean()) * 255, float(model.shift.mean())
    mean, std = -shift / inverse, 1 / inverse
    assumed = f"pixels of mean {mean:.3f} and std {std:.3f}, the means of --norm {model.norm}"
    return f"its one input channel is spread over three, as trained on {assumed}" if found else ""


def _judge_head(state: dict, own: dict, names: tuple[str, ...], about: dict[str, str]) -> tuple[bool, str]:
    """Whether the file's classifier cannot be taken, so that there is a new one; and what is to be said of it."""
    here, there = ({key for key in each if key.startswith(names)} for each in (own, state))
    if not there:
        return True, "it has no classifier: there is a new one"
    if "findings" in about:
        return False, ""
    if odd := sorted(key for key in here ^ there if not key.endswith(COUNTERS)):
        word = "has" if odd[0] in there else "lacks"
        return True, f"its classifier is of another kind (it {word} {first_of(odd)}): there is a new one"
    for key in (key for key in own if key in here & there):
        if state[key].shape != own[key].shape:
            shapes = [list(each[key].shape) for each in (state, own)]
            words = "it has {!r} of shape {}, not {}".format(key, *shapes)
            return True, f"it names no findings: the classifier is new ({words})"
    return False, "it names no findings: its classifier is taken by position"


def _check_fit(model: "Classifier", state: dict, about: dict[str, str], path: Path, to_predict: bool) -> None:
    """Raises UserError that says what does not fit, unless all of it does."""
    own = model.backbone.state_dict()
    lacking, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = sorted(key for key in set(own) & set(state) if own[key].shape != state[key].shape)
    if not (lacking or unknown or shapes):
        return
    arch = model.identity.get("arch", type(model.backbone).__name__)
    words = [f"{kind} {first_of(keys)}" for kind, keys in (("lacks", lacking), ("has unknown", unknown)) if keys]
    if shapes:
        there, here = (list(each[shapes[0]].shape) for each in (state, own))
        words.append(f"has {first_of(shapes)} of shape {there}, not {here}")
    same_keys, size = not (lacking or unknown), about.get("size")
    inputs = {tuple(state[key].shape[1:2]) for key in shapes if own[key].dim() == 4 and own[key].shape[1] == 3}
    if not (unknown or shapes) and not set(lacking) & set(dict(model.backbone.named_parameters())):
        fix = "it holds parameters alone: give a file of the whole state_dict(), with the buffers"
    elif to_predict:
        fix = identity.IN_THE_RUN
    elif same_keys and len(shapes) == len(inputs):
        fix = f"it takes images of {inputs.pop()[0]} channels; give weights for 3, or for 1, which can be spread"
    elif same_keys and size and size != model.identity.get("size") and about.get("arch") == arch:
        own_size = f"this run is at {model.identity['size']}"
        fix = f"was trained at {size} px, {own_size}, and {arch} cannot change its size; give --size {size}"
    elif same_keys and set(shapes) <= set(head_keys(model)):
        fix = "leave its classifier out with --new-head"
    elif not (lacking or shapes):
        fix = "give the --arch that they are of, or a file without them if they are of no use"
    elif lacking and unknown:
        fix = f"give the --arch that they are of; if that is {arch}, rename them to the keys of timm's model"
    else:
        fix = "give the --arch that they are of" + (", and its --size" if same_keys else "")
    fitting = len(own) - len(lacking) - len(shapes)
    raise UserError(f"{path}: {', '.join(words)}; {fitting:,} of {len(own):,} tensors fit {arch}; {fix}")


def _other_findings(stored: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """Of weights whose classifier is left out: what it was of and what the new one is of; "" if of the same."""
    lacking, added = (
        [name for name in one if name not in other] for one, other in ((stored, wanted), (wanted, stored))
    )
    words = [f"only {where}: {first_of(names)}" for where, names in (("there", lacking), ("here", added)) if names]
    its = f"its classifier is of {counted(len(stored), 'finding')}, the new one of {len(wanted)}"
    return f"{its} ({'; '.join(words)})" if words else ""


def _match_findings(
    model: "Classifier", state: dict, stored: tuple[str, ...], wanted: tuple[str, ...], path: Path, to_predict: bool
) -> None:
    differing = sorted(set(stored) ^ set(wanted))
    if differing:
        where = "these weights" if differing[0] in stored else "the dataset's labels"
        fix = (
            "leave its classifier out with --new-head, or train on the same --labels (several packs: in the same "
            "order, since the first spells a finding)"
        )
        raise UserError(
            f"{path}: finding {differing[0]!r} (and {len(differing) - 1} more) is only in {where}; "
            + (identity.IN_THE_RUN if to_predict else fix)
        )
    places = torch.tensor([stored.index(name) for name in wanted])
    for key in model.finding_keys:
        if key in state and len(state[key]) == len(places):
            state[key] = state[key][places]


def output_keys(model: "Classifier") -> list[str]:
    """Keys of the parameters by which logits grow with a factor: rows per finding, of which those of a norm (one number
    each) come last, and alone."""
    found, parameters = [], dict(model.backbone.named_parameters())
    for head in model.heads:
        inside = {id(parameter) for parameter in head.parameters()}
        rows = [key for key in model.finding_keys if key in parameters and id(parameters[key]) in inside]
        norms = {key.rpartition(".")[0] for key in rows if key.endswith("weight") and parameters[key].ndim == 1}
        found += [key for key in rows if not norms or key.rpartition(".")[0] in norms]
    return found


def head_keys(model: "Classifier") -> list[str]:
    """Keys of the parameters of the backbone's classifiers, all their layers, and of a fusion in front of them."""
    inside = {id(parameter) for head in model.heads for parameter in head.parameters()}
    every = model.backbone.named_parameters()
    return [key for key, parameter in every if id(parameter) in inside or key.startswith(f"{PLACE}.")]


def _head_names(model: "Classifier") -> tuple[str, ...]:
    """What the keys of the backbone's classifiers begin with."""
    heads = {id(head) for head in model.heads}
    return tuple(f"{name}." for name, module in model.backbone.named_modules() if id(module) in heads)


def resampled(backbone: nn.Module, state: dict, head: tuple[str, ...] = ()) -> dict:
    """A checkpoint of another image size, or of the network's first authors, fitted to this one: by timm's filter for
    the model, where it brings one, and what that leaves as it was by `_resampled`. head: keys beginning so may differ.
    """
    every = backbone.state_dict()
    own = {key: value for key, value in every.items() if not (key.startswith(head) or key.endswith(COUNTERS))}

    def unfit(state: dict) -> int:
        return sum(key not in state or state[key].shape != value.shape for key, value in own.items())

    module = sys.modules[type(backbone).__module__]
    filters = [getattr(module, name) for name in FILTERS if hasattr(module, name)]
    for each in filters if unfit(state) else ():
        with contextlib.suppress(Exception):  # it is of another network, which is said where it is compared
            state = min(state, each(dict(state), *[backbone][: each.__code__.co_argcount - 1]), key=unfit)
    return {key: _resampled(key, value, every.get(key)) for key, value in state.items()} if unfit(state) else state


def _resampled(key: str, stored: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """Embeddings and biases by position, on a square grid along one axis (behind tokens without a place) or along two.

    Anything else stays as it is.
    """
    named = re.search("pos|attention_biases", key)
    if own is None or not named or stored.ndim != own.ndim or not stored.is_floating_point():
        return stored
    axes = [axis for axis in range(own.ndim) if stored.shape[axis] != own.shape[axis]]
    if not axes or axes != list(range(axes[0], axes[0] + len(axes))) or len(axes) > 2:
        return stored
    moved = stored.float().movedim(axes, list(range(-len(axes), 0))).flatten(-len(axes))  # [..., places]
    before, after = moved.shape[-1], math.prod(own.shape[axis] for axis in axes)
    if re.search("rel_pos_[hw]$", key):  # offsets along one axis
        line = nn.functional.interpolate(moved[None], size=after, mode="linear", align_corners=True)[0]
        return line.movedim(-1, axes[0]).to(stored.dtype)
    # prefix: the fewest tokens without a place
    prefix = next((n for n in range(4) if all(math.isqrt(each - n) ** 2 == each - n for each in (before, after))), None)
    if prefix is None:
        return stored
    old, new = math.isqrt(before - prefix), math.isqrt(after - prefix)
    grid = moved[..., prefix:].reshape(1, -1, old, old)
    # between biases of offsets, corners are aligned: offset 0 stays offset 0
    offsets = key.endswith("attention_biases") or "rel" in key
    how: dict[str, Any] = (
        {"mode": "bilinear", "align_corners": True} if offsets else {"mode": "bicubic", "antialias": True}
    )
    grid = nn.functional.interpolate(grid, size=(new, new), **how).view(*moved.shape[:-1], new * new)
    placed = torch.cat([moved[..., :prefix], grid], dim=-1)
    sizes = [own.shape[axis] for axis in axes]
    return placed.unflatten(-1, sizes).movedim(list(range(-len(axes), 0)), axes).to(stored.dtype)
