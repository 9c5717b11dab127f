"""Findings that predictions and labels have in common, where a run is judged on another hospital's labels."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxrdali.predictions import Predictions
from shards.dataset.labels import Labels
from shards.dataset.synonyms import FindingsMap, common
from shards.errors import UserError
from shards.words import near

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What predictions and labels of other findings have in common, by which alone they are scored.

    same: the labels' name of each, by the predictions'; only_predictions, only_labels: what is left out; words: what
    counts as the same though it is not spelled alike.
    """

    same: dict[str, str]
    only_predictions: tuple[str, ...]
    only_labels: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """For people."""
        left = (("labels", self.only_predictions), ("predictions", self.only_labels))
        return [
            f"findings in common with the labels, which alone count: {', '.join(self.same)}",
            *(f"taken as one finding: {text}" for text in self.words),
            *(f"left out, unknown to the {where}: {', '.join(names)}" for where, names in left if names),
        ]


@dataclass(frozen=True)
class Aligned:
    """Predictions and labels of the same findings, under the same names. places: of these in the labels as they were;
    shared: what was left out (None: nothing, both had the same findings)."""

    table: Predictions
    labels: Labels
    places: Sequence[int]
    shared: Shared | None = None

    def tell(self) -> None:
        for line in self.shared.lines if self.shared else ():
            log.info(line)


def of_places(labels: Labels, places: Sequence[int], called: Sequence[str] = ()) -> Labels:
    """The findings at these places alone. called: how, if not as the labels do."""
    if not called and [*places] == [*range(len(labels.findings))]:
        return labels
    names = called or [labels.findings[place] for place in places]
    soft = None if labels.soft is None else labels.soft[:, [*places]]
    return replace(labels, findings=tuple(names), values=labels.values[:, [*places]], soft=soft)


def check_map(names: str | None, sides: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError for a finding of a map that none of several sides, by name, has: it would do nothing."""
    FindingsMap.read(names).check_known(sides)


def _of_sides(names: FindingsMap, sides: Mapping[str, Sequence[str]]) -> FindingsMap:
    """What a map for further sides says of these."""
    every = {name for findings in sides.values() for name in findings}
    own = {name: called for name, called in names.own.items() if name in every}
    return FindingsMap(own, {side: of for side, of in names.of_pack.items() if side in sides})


def aligned(
    path: Path, table: Predictions, labels: Labels, names: str | None = None, by_labels: bool = False, pack: str = ""
) -> Aligned:
    """Both as they are if they have the same findings, else those that they have in common.

    Args:
        path: For messages.
        names: A map of findings, as `FindingsMap.read` takes it, beside the shipped synonyms.
        by_labels: Findings are then called as the labels have them, not as the predictions do.
        pack: What the map calls the labels' side, if it is one for further sides too, whose findings it may name: the
            caller checks it (`check_map`).

    Raises:
        UserError: They have none in common, or two findings of one side would become one.
    """
    if set(table.findings) == set(labels.findings):
        return Aligned(table, labels, range(len(labels.findings)))
    sides = {path.name: table.findings, pack or labels.name: labels.findings}
    wanted = _of_sides(FindingsMap.read(names), sides) if pack else FindingsMap.read(names)
    found = common(*sides.values(), wanted, (path.name, pack or labels.name))
    if not found.pairs:
        alike = [f"{name!r} and {each!r}" for name in table.findings for each in near(name, labels.findings)]
        hint = f"perhaps {', '.join(alike[:3])}" if alike else f"the labels have {', '.join(labels.findings)}"
        raise UserError(
            f"{path}: none of its findings is in labels {labels.name!r} ({hint}); say with --findings MAP.toml which "
            "are the same, or choose other labels with --labels"
        )
    places = [labels.findings.index(other) for _, other in found.pairs]
    called = tuple(pair[by_labels] for pair in found.pairs)
    narrowed = replace(table.of([own for own, _ in found.pairs]), findings=called)
    shared = Shared(dict(found.pairs), found.only_a, found.only_b, found.words)
    return Aligned(narrowed, of_places(labels, places, called), places, shared)
