"""What `cxrdali evaluate` wrote, read and checked: the page is made from it without another look."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shards.errors import UserError

T = TypeVar("T")
WHOLE = ("images", "studies", "labels", "all")
PART_NUMBERS = ("images", "studies", "mAP", "macro_AUROC", "LRAP")
GROUP_NUMBERS = ("mAP", "mAP_low", "mAP_high", "macro_AUROC")
FINDING_NUMBERS = ("positives", "prevalence", "AP", "AUROC")
LATER_NUMBERS = ("ECE", "Brier", "F1", "precision", "recall", "specificity", "threshold")  # absent from older files


@dataclass(frozen=True)
class Evaluation:
    """name: for headings. content: the whole .json."""

    name: str
    content: dict

    @property
    def mean(self) -> float | None:
        """mAP of all views; None: no finding has a positive image."""
        return self.content["all"]["mAP"]


def read_json(path: Path, parse: Callable[[dict], T], wrong: str) -> T:
    """What `parse` makes of a JSON file.

    Raises:
        UserError: with `wrong`, where {} is the reason, if the file is not as `parse` needs it.
        FileNotFoundError: there is no such file.
    """
    try:
        return parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: {wrong.format(reason)}") from error


def read_evaluation(path: Path) -> Evaluation:
    """Raises UserError if the file is not what `cxrdali evaluate` writes."""

    def parse(content: dict) -> Evaluation:
        for key in WHOLE:
            content[key]
        for view in ("all", "frontal", "lateral"):
            if view == "all" or content.get(view) is not None:
                _check_part(content[view])
        _check_thresholds(content.get("thresholds"))
        name = content.get("run") or Path(content.get("predictions") or path.name).stem
        split = content.get("split")
        return Evaluation(f"{name}, {split} split" if split else str(name), content)

    try:
        return read_json(path, parse, "not an evaluation ({}); give a .json that `cxrdali evaluate` wrote")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `cxrdali evaluate` writes one") from None


def _check_part(part: Mapping) -> None:
    _check_numbers(part, PART_NUMBERS)
    _check_numbers(part, tuple(f"macro_{name}" for name in LATER_NUMBERS if f"macro_{name}" in part))
    for group in (part.get("groups") or {}).values():
        _check_numbers(group, tuple(name for name in GROUP_NUMBERS if name in group))
    if not isinstance(part["findings"], list) or not isinstance(part["without_positives"], list):
        raise ValueError("'findings' is not a list")
    names = [row["finding"] for row in part["findings"]]
    if len(set(names)) < len(names):
        raise ValueError("a finding is duplicated")
    for row in part["findings"]:
        _check_numbers(row, FINDING_NUMBERS)
        _check_numbers(row, tuple(name for name in LATER_NUMBERS if name in row))


def _check_thresholds(about: Mapping | None) -> None:
    """None: decisions were not evaluated."""
    if about is None:
        return
    texts = [about["strategy"], *about.get("remarks", []), *about.get("without_threshold", [])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("'thresholds' holds something that is no text")


def _check_numbers(values: Mapping, names: tuple[str, ...]) -> None:
    for name in names:
        if values[name] is not None and not isinstance(values[name], int | float):
            raise ValueError(f"{name!r} is {values[name]!r}, not a number")
