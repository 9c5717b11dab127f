"""What a study's models are there for: losses on one network, networks with one loss, retrained classifiers."""

from collections.abc import Mapping
from dataclasses import dataclass

from cxrdali.runs.layout import REFERENCE
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError


@dataclass(frozen=True)
class Roles:
    """Names of models. Roles follow from settings, never from results: nothing is chosen on the data that judges it.

    reference: `ld-ldam-drw`, or the first model where it is not there; losses: those on its network, for as many
    epochs; backbones: those with its loss, all parameters alike, and its kind of classifier; both with the reference in
    them. retrained: those whose backbone is frozen (cRT). main: the one that test-time augmentation and every
    calibration are shown on: the first of the backbones from which a retrained one starts, else the last of them.
    others: trained and evaluated, but compared at most with a retrained one.
    """

    reference: str
    losses: tuple[str, ...]
    backbones: tuple[str, ...]
    retrained: tuple[str, ...]
    main: str
    others: tuple[str, ...]


def roles(models: Mapping[str, tuple[TrainSettings, dict]]) -> Roles:
    """models: settings and recipe record by name. Raises UserError if every model is a retrained one."""
    retrained = tuple(name for name, (settings, _) in models.items() if settings.model.frozen)
    whole = [name for name in models if name not in retrained]
    if not whole:
        raise UserError(f"models {', '.join(models)}: all are frozen; add one that is trained as a whole to --models")
    reference = REFERENCE if REFERENCE in whole else whole[0]
    settings = models[reference][0]
    losses, backbones = (
        tuple(name for name in whole if of(models[name][0]) == of(settings))
        for of in (lambda its: (its.model.arch, its.optimizer.epochs), lambda its: (its.loss, its.model.head))
    )
    starts = [models[name][1]["starts_from"] for name in retrained]
    main = next((name for name in starts if name in backbones), backbones[-1])
    others = tuple(name for name in whole if name not in (*losses, *backbones))
    return Roles(reference, losses, backbones, retrained, main, others)
