"""A timm classifier that takes what the loader yields: uint8 [B, 1, S, S].

Normalisation is the model's first step, on its device and in its precision: the loader stays a quarter of the
size, and a checkpoint's numbers cannot be fed with pixels scaled for another one.
"""

from dataclasses import replace
from types import MethodType
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.nn import functional

from cxrdali.models import architectures  # noqa: F401  it names networks
from cxrdali.models.checkpoint_file import first_line
from cxrdali.models.head import HEADS
from cxrdali.models.identity import identity_of
from cxrdali.models.map_head import MapHead, flat
from cxrdali.models.options import ModelOptions
from cxrdali.models.pooling import attach_pool
from cxrdali.models.probe import Seen, look
from cxrdali.models.weights import resampled
from cxrdali.runtime.device import exact_products
from shards.errors import UserError
from shards.words import near

SIZES = range(32, 577, 32)  # pixels that a refusal may advise, beside the network's own


class Classifier(nn.Module):
    """uint8 [B, 1, S, S], 0..255 -> float32 logits [B, F]. `backbone` is the timm model with its own keys.

    The classifier at its end computes in float32 also under autocast and beside TF32: in bf16, thousands of images
    would share a logit.
    finding_keys: the tensors of the backbone with a row per finding; seen: what `cxrdali.models.probe` found.
    """

    backbone: Any  # timm's models share methods, not a type
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        options: ModelOptions,
        finding_keys: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        super().__init__()
        self.backbone, self.options, self.finding_keys, self.seen = backbone, options, finding_keys, Seen()
        self.norm, self.logit_scale = options.norm, options.logit_scale
        self.identity: dict[str, str] = {}  # what its weights files say of it
        self.memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
        for head in self.heads:
            head.input_dropout = options.dropout  # type: ignore[assignment]
            head.forward = MethodType(_wide, head)  # bound: a copy of the model computes with its own classifier
        scale = 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1)
        shift = -(torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1)
        # not persistent: a checkpoint holds timm's keys alone
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised = images.to(self.scale.dtype) * self.scale + self.shift  # one channel broadcasts to three
        return self._scaled(self.backbone(normalised.contiguous(memory_format=self.memory_format)))

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The backbone's classifiers: timm's own, and what else has rows per finding (VOLO's auxiliary one)."""
        found = flat(self.backbone.get_classifier())
        known = {id(self.backbone), *(id(inner) for head in found for inner in head.modules())}
        owners = dict.fromkeys(self.backbone.get_submodule(key.rpartition(".")[0]) for key in self.finding_keys)
        return (*found, *(owner for owner in owners if id(owner) not in known))

    def to_train(self, frozen: bool) -> None:
        """The mode of training steps. frozen: the backbone stays in evaluation mode, norms in its classifier too."""
        self.train(not frozen)
        for head in self.heads:
            if isinstance(head, MapHead):
                head.train()  # none of its layers came with the backbone
            head.training = True  # of this module alone: its dropout (`_wide`)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifiers see of uint8 [B, 1, S, S]: float [B, D]. In evaluation mode,
        `classify(features(images))` is `forward(images)`. Raises UserError if `seen.why` says why there is none."""
        if self.seen.why:
            raise UserError(f"no features to keep: {self.seen.why}")
        return torch.cat([given.flatten(1) for given in self.inputs(images)[1]], dim=1)

    def inputs(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The logits, and the input of each classifier that is called."""
        given: dict[nn.Module, torch.Tensor] = {}

        def keep(head: nn.Module, arguments: tuple, named: dict) -> None:
            given[head] = next(iter((*arguments, *named.values())))

        handles = [head.register_forward_pre_hook(keep, with_kwargs=True) for head in self.heads]
        try:
            logits = Classifier.forward(self, images)  # of images also where the model is of studies
        finally:
            for handle in handles:
                handle.remove()
        return logits, [given[head] for head in self.heads if head in given]

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """float [B, D] -> float32 logits [B, F]: the mean over the classifiers."""
        parts = features.split([shape.numel() for shape in self.seen.shapes], dim=1)
        inputs = [part.unflatten(1, shape) for part, shape in zip(parts, self.seen.shapes, strict=True)]
        outputs = [head(given).flatten(1) for head, given in zip(self.heads, inputs, strict=True)]
        return self._scaled(torch.stack(outputs).mean(dim=0))

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.logit_scale == 1 else logits * self.logit_scale


def _wide(head: nn.Module, *arguments: Any, **named: Any) -> torch.Tensor:
    """A classifier's forward, outside of autocast and from float32, with dropout of its inputs."""
    with torch.autocast((*arguments, *named.values())[0].device.type, enabled=False), exact_products():
        given = {name: _input(head, each) for name, each in named.items()}
        return type(head).forward(head, *(_input(head, each) for each in arguments), **given)


def _input(head: nn.Module, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    dropout: Any = head.input_dropout  # a number, which torch takes for a module
    return functional.dropout(value.float(), dropout, head.training) if dropout else value.float()


def check_arch(arch: str) -> None:
    """Raises UserError, with names that are alike, if timm has no such model."""
    if not timm.is_model(arch.split(".")[0]):
        known = timm.list_models()
        alike = near(arch.split(".")[0], known) or near(arch.split(".")[0].split("_")[0], known)
        raise UserError(f"arch {arch!r} is no timm model (alike: {', '.join(alike) or 'none'}); see timm.list_models()")


def create(options: ModelOptions, num_findings: int, kind: type[Classifier] = Classifier) -> Classifier:
    """A classifier on the CPU.

    Args:
        options: Architecture, image size and what else decides its form.
        num_findings: Width of its output.
        kind: Of which class it is.

    Raises:
        UserError: timm has no such model, its weights cannot be had, or it takes no images of this size.
    """
    check_arch(options.arch)
    backbone = _backbone(options, num_findings)
    if not hasattr(backbone, "get_classifier"):
        raise UserError(f"{options.arch!r} is an encoder that has no classifier; use another --arch")
    _attach(backbone, options, num_findings)
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if options.norm == "weights":
        mean, std = tuple(backbone.pretrained_cfg["mean"]), tuple(backbone.pretrained_cfg["std"])
    # with one finding more, what has rows per finding is longer
    longer = _outline(options, num_findings + 1).state_dict()
    keys = tuple(
        key for key, value in backbone.state_dict().items() if key in longer and value.shape != longer[key].shape
    )
    made = kind(backbone, options, keys, mean, std)
    made.identity = identity_of(options, mean, std)
    made = made.to(memory_format=made.memory_format)
    try:
        made.seen = look(made, num_findings)
    except Exception as error:  # of any layer
        raise _refusal(options, num_findings, error) from error
    return made


def _backbone(options: ModelOptions, num_findings: int) -> Any:
    """The timm model with its linear classifier."""
    arguments = _arguments(options, num_findings)
    before = torch.get_rng_state()
    try:
        try:
            backbone = timm.create_model(options.arch, pretrained=options.pretrained, **arguments)
        except RuntimeError:  # of weights that timm does not fit to this image size
            if not options.pretrained or "img_size" not in arguments:
                raise
            torch.set_rng_state(before)
            config: Any = timm.get_pretrained_cfg(options.arch)  # there is one, with weights
            native = timm.create_model(
                options.arch, pretrained=True, **{**arguments, "img_size": config.input_size[-1]}
            )
            backbone = timm.create_model(options.arch, **arguments)
            backbone.load_state_dict(resampled(backbone, native.state_dict()))
        if options.checkpointing:
            _checkpoint(backbone, options.arch)
    except UserError:
        raise
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise UserError(
            f"drop-path {options.drop_path}: {options.arch!r} has no residual branches to leave out (timm's "
            "drop_path_rate); leave it out, or give --dropout, or another --arch"
        ) from error
    except Exception as error:  # timm and its hub raise their own kinds for a missing network, file or tag
        fault = _fault(options, num_findings) if options.pretrained else error
        if fault is None:
            raise UserError(
                f"weights of {options.arch!r} cannot be had ({first_line(error)}); download them where there is a "
                "network (they are cached), give a file with --init, or train from scratch with --no-pretrained"
            ) from error
        raise _refusal(options, num_findings, fault) from error
    return backbone


def _arguments(options: ModelOptions, num_findings: int) -> dict[str, Any]:
    """Of timm's model, beside `pretrained`; it resamples most position embeddings to `img_size`."""
    config = timm.get_pretrained_cfg(options.arch, allow_unregistered=True)
    sized = {"img_size": options.size} if config is not None and config.fixed_input_size else {}
    deep = {"drop_path_rate": options.drop_path} if options.drop_path else {}
    return {"num_classes": num_findings, "in_chans": 3, **sized, **deep}


def _attach(backbone: Any, options: ModelOptions, num_findings: int) -> None:
    options.head.attach(backbone, num_findings)
    if options.pool != "own":
        attach_pool(backbone, options.pool, options.gem_p, num_findings)


def _outline(options: ModelOptions, num_findings: int) -> Any:
    """The backbone with its classifier, without memory for its weights. torch's generators stay as they are."""

    def built() -> Any:
        backbone = timm.create_model(options.arch, **_arguments(options, num_findings))
        _attach(backbone, options, num_findings)
        return backbone

    with torch.random.fork_rng([]):
        try:
            with torch.device("meta"):
                return built()
        except Exception:  # a layer that looks at values while it is built
            return built()


@torch.no_grad()
def _fault(options: ModelOptions, num_findings: int) -> Exception | None:
    """What goes wrong, whatever the weights, when a network is built and sees images of a size."""
    try:
        with torch.device("meta"):
            logits = _outline(options, num_findings).eval()(torch.zeros(2, 3, options.size, options.size))
        return None if logits.shape == (2, num_findings) else ValueError("it has another output")
    except Exception as error:
        return error


def _refusal(options: ModelOptions, num_findings: int, error: Exception) -> UserError:
    """Names the nearest size that the network takes, if there is one."""
    config = timm.get_pretrained_cfg(options.arch, allow_unregistered=True)
    sizes = {*SIZES, *(config.input_size[1:] if config else ())} - {options.size}
    plain, said = replace(options, head=HEADS["linear"](), pool="own"), first_line(error)
    of_head = plain != options and _fault(plain, num_findings) is None
    if of_head:  # it may see one place alone, and several of a larger image
        sizes = {2 * options.size, 4 * options.size}
    for size in sorted(sizes, key=lambda size: abs(size - options.size)):
        if _fault(replace(options, size=size), num_findings) is None:
            return UserError(f"{options.arch!r} cannot take {options.size} px ({said}); use another --size, as {size}")
    if of_head:
        what = f"head {options.head.name}" if options.pool == "own" else f"pool {options.pool}"
        others = "" if _fault(replace(plain, head=HEADS["cosine"]()), num_findings) else " or cosine"
        instead = f"--head linear{others}" if options.pool == "own" else "--pool own"
        return UserError(f"{what}: {options.arch!r} has no place for it ({said}); use {instead}, or another --arch")
    return UserError(f"{options.arch!r} is no classifier of images ({said}); use another --arch")


def _checkpoint(backbone: Any, arch: str) -> None:
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise UserError(f"{arch!r} has no gradient checkpointing; use --micro-batch instead") from error
