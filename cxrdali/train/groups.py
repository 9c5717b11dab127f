"""Parameters in groups: rates of the classifier and of layers, and what weight decay spares."""

from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from cxrdali.models.classifier import Classifier
from cxrdali.models.weights import head_keys
from cxrdali.runs.optimizer import OptimizerSettings

SCALE = "lr_scale"  # timm's schedulers multiply a group's rate by it


def parameter_groups(model: Classifier, how: OptimizerSettings) -> list[dict[str, Any]]:
    """The parameters that are trained, as torch's optimizers take them: one group unless something asks for more."""
    backbone: Any = model.backbone
    if how.layer_decay is None and how.head_lr is None and how.decay_norms:
        return [{"params": [each for each in model.parameters() if each.requires_grad]}]
    spared = {"no_weight_decay_list": backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()}
    if how.layer_decay is not None:
        groups = param_groups_layer_decay(backbone, how.weight_decay, layer_decay=how.layer_decay, **spared)
    else:
        groups = param_groups_weight_decay(backbone, how.weight_decay, **spared)
    keys = set(head_keys(model))
    head = {id(each) for key, each in backbone.named_parameters() if key in keys}
    return [each for group in groups for each in _with_rates(group, head, how)]


def _with_rates(group: dict[str, Any], head: set[int], how: OptimizerSettings) -> list[dict[str, Any]]:
    """A group of timm's as that of the classifier and that of the rest, where there are parameters of both."""
    decay = {"weight_decay": how.weight_decay} if how.decay_norms else {}
    parts = (
        (how.rate_of_head / how.lr, [each for each in group["params"] if id(each) in head]),
        (group.get(SCALE, 1.0), [each for each in group["params"] if id(each) not in head]),
    )
    return [{**group, **decay, "params": each, SCALE: scale} for scale, each in parts if each]
