"""Files of rules fitted to predictions (calibration, thresholds, views): read, and checked against a table."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cxrdali.fitted import KEPT, Fitted, check_sketch
from cxrdali.predictions import Predictions, Provenance, first_of
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import check_kinds, maybe, read_json, sealed_json

log = logging.getLogger(__name__)

FORMAT = 1
ALLOWED = " (allowed: "  # in a step of a table's history: its rules are another run's or TTA's
SAME_RUN = "fit to validation predictions of this run with this --tta"
CROSS_FITTED = ("predictions", "run", "split", "tta", "calibrated", "folds")  # what such rules must say of their origin
MADE_FROM = {
    "predictions?": maybe(str), "run?": maybe(str), "split?": maybe(str), "tta?": maybe(str),
    "calibrated?": maybe([str]), "seen?": maybe([str]), "hashes?": check_sketch,
    "labels?": maybe(str), "dataset?": maybe(str), "uncertain?": maybe(str), "images?": int, "folds?": int,
    "synthetic?": bool,
}  # fmt: skip
T = TypeVar("T")


class Rules:
    """Base of what a file of rules holds: dataclasses with one rule per finding, and what they were fitted to."""

    rules: tuple[Any, ...]
    made_from: dict

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(rule.finding for rule in self.rules)

    def content(self) -> dict:
        """What the file holds beside its format, as JSON's types."""
        raise NotImplementedError

    def write(self, path: Path) -> None:
        write_bytes(path, sealed_json({"format": FORMAT, **self.content()}))


def check_derived(finding: str, name: str, given: float | None, right: float | None, why: str) -> None:
    """Raises ValueError if a stored number is not what the others say (`why`)."""
    if (given is None) != (right is None) or (given is not None and abs(given - right) > 1e-6):
        raise ValueError(f"{finding}: {name} is {given!r}, but its {why} {right}")


def read_rules(
    path: Path, parse: Callable[[dict], T], kinds: dict, what: str, fix: str, origin: Sequence[str] = CROSS_FITTED
) -> T:
    """parse(JSON content) of a file of rules.

    Args:
        path: The file.
        parse: Makes the rules; may raise what JSON of another form raises.
        kinds: What a finding's entry holds, as `check_kinds` takes it.
        what: What the file should hold, for messages.
        fix: How to get a file that can be read, for messages.
        origin: Names that its "made_from" must have.

    Raises:
        UserError: Not what was written, another format, no finding or one twice, or an entry of another kind.
    """
    try:
        stored = read_json(path)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']!r}, this cxrdali reads {FORMAT}")
        check_kinds(stored, {"made_from": MADE_FROM, "findings": [kinds]})
        for name in origin:
            stored["made_from"][name]
        names = [row["finding"] for row in stored["findings"]]
        if not names or len(set(names)) < len(names):
            raise ValueError("no finding, or one that is duplicated")
        return parse(stored)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {fix}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: no {what} ({reason}); {fix}") from error


def check_findings(path: Path, table: Predictions, findings: Sequence[str], what: str) -> None:
    """Raises UserError if one of the table's findings has none of the rules (`what`), which are of `findings`."""
    only = [name for name in table.findings if name not in findings]
    if only:
        raise UserError(
            f"{path}: finding {first_of(only)} is unknown to the {what}; fit to predictions of the same findings"
        )


def with_rules(path: Path, table: Predictions, findings: Sequence[str], what: str) -> list[str]:
    """The table's findings that have rules (`what`), which are of `findings`; says which others have none, and which
    rules are of no finding of the table. Raises UserError if no finding has one.

    Rules fitted on another hospital's labels are of the findings that these have in common with the run.
    """
    known = [name for name in table.findings if name in findings]
    if not known:
        check_findings(path, table, findings, what)
    left = [name for name in table.findings if name not in findings]
    if left:
        log.info(f"note: {path}: unknown to the {what}: {', '.join(left)}")
    if unused := [name for name in findings if name not in table.findings]:
        log.info(f"note: in the {what}, but not in {path}: {', '.join(unused)}")
    return known


def check_alike(
    path: Path, about: Provenance, made_from: dict, what: str, allow_other_run: bool, fix: str = SAME_RUN
) -> str:
    """What the history of a table says of the rules' origin: that they are another run's or TTA's, or "".

    Raises UserError, with the `fix`, if they are, unless that is allowed, or if the table did not go through the
    calibrations of the one fitted to. A CSV of another program does not say what was done to it, and rules of an older
    version may not: they are taken as they are, noted.
    """
    here, there = list(about.calibrated), made_from.get("calibrated")
    if about.says_nothing or there is None:
        silent = path.name if about.says_nothing else made_from.get("predictions", "what it was fitted to")
        log.info(f"note: whether {silent} was calibrated is not known: the {what} may be meant for other logits")
    elif here != there:
        raise UserError(
            f"{path}: its logits are {_in_words(here)}, those of {made_from['predictions']}, used to fit the {what}, "
            f"are {_in_words(there)}; give tables that went through the same calibration"
        )
    found = "; ".join(differences(about, made_from))
    if found and not allow_other_run:
        raise UserError(f"{path}: {found}; {fix}, or allow it with --allow-other-run")
    return f"{ALLOWED}{found})" if found else ""


def fitted(what: str, made_from: dict) -> Fitted:
    """What is fitted to the images that rules were made from. Of an older version, these are known by their split."""
    return Fitted((what,), made_from.get("hashes", ""), made_from.get("split"))


def differences(about: Provenance, made_from: dict) -> list[str]:
    """That a table is of another run or TTA than the one that rules were fitted to, in words."""
    notes = []
    for name, what in (("run", "run"), ("tta", "test-time augmentation")):
        here, there = getattr(about, name), made_from.get(name)
        if None not in (here, there) and here != there:
            notes.append(
                f"{what} {here!r} here, {there!r} in {made_from.get('predictions')}, to which the rules were fitted"
            )
    return notes


def doubtful_split(made_from: dict) -> str:
    """A warning if nobody can tell whether the rules were fitted to images that were trained on, or if they were
    fitted to a split that is there to be scored; else ""."""
    name, split = made_from["predictions"], made_from["split"]
    if made_from.get("seen"):
        return f"{name}: {'; '.join(made_from['seen'])}: with rules fitted to them, scores flatter"
    if split is None:
        return f"{name} does not say which split it holds: images that were trained on look better"
    if split in KEPT:
        return (
            f"{name} holds the {split} split: with rules fitted to it, its own scores flatter, and are refused without "
            "--allow-same-images; fit to val"
        )
    return ""


def _in_words(texts: Sequence[str]) -> str:
    return ", then ".join(texts) if texts else "not calibrated"
