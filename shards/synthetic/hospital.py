"""Synthetic hospitals: who comes, how often what is found, how the machines show it, and what the tables call it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from cattrs.preconf.json import make_converter

from shards.errors import UserError
from shards.storage.toml_file import read_toml
from shards.synthetic import facts
from shards.synthetic.scanner import Scanner
from shards.words import choices

MIMIC, NIH, OWN = LAYOUTS = ("mimic-cxr-jpg", "chestx-ray14", "own")
FRONTAL = ("AP", "PA")
YOUNGEST, OLDEST = 18, 89  # years, on the day of a subject's first study; MIMIC-IV hides who is older


@dataclass(frozen=True)
class Failure:
    """A group in which a finding hardly shows, although the labels have it: what a model must fail on.

    sex: F or M, or blank for both; age: from so many years on; strength: what is left of the sign, 0 for nothing.
    """

    finding: str
    sex: str = ""
    age: int = 0
    strength: float = 0.0

    def __post_init__(self) -> None:
        _check(self.finding, facts.FREQUENCIES, "fails.finding")
        _check(self.sex, ("F", "M", ""), "fails.sex")
        if not 0 <= self.strength < np.inf:
            raise UserError(f"fails.strength is {self.strength}; give 0 or more")


@dataclass(frozen=True)
class Hospital:
    """How a hospital differs from the default release.

    Attributes:
        layout: One of LAYOUTS: whose folders and tables the release has.
        scanners: Its machines, of which each study has one.
        size: Side of the pictures in pixels, if none is asked for.
        findings: Of layout own: what the tables call a finding. The others are drawn too and stand in no table.
        shares: Share of the images that have a finding, instead of CXR-LT's.
        views: Views of a study, as "PA LATERAL", and their share of the studies.
        women: Share of the subjects; ages: mean and standard deviation in years.
        fails: Groups on which a model must fail.
    """

    layout: str
    scanners: tuple[Scanner, ...]
    size: int = 512
    findings: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    views: Mapping[str, float] = field(default_factory=lambda: {" ".join(views): p for views, p in facts.PROTOCOLS})
    women: float = 0.5
    ages: tuple[float, float] = (60, 17)
    fails: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        _check(self.layout, LAYOUTS, "layout")
        if bool(self.findings) != (self.layout == OWN):
            raise UserError(f'findings has {[*self.findings]}; name those of layout "{OWN}", and of no other')
        for finding in (*self.findings.values(), *self.shares):
            _check(finding, facts.FREQUENCIES, "findings and shares")
        for first, *others in (text.split(" ") for text in self.views):
            _check(first, FRONTAL, "views, the first of a study")  # whose frequencies findings have
            for view in others:
                _check(view, FRONTAL if self.layout == NIH else (*FRONTAL, "LATERAL"), "views")
        for name, shares in (("views", [*self.views.values()]), ("scanners", [each.share for each in self.scanners])):
            if not (min(shares, default=0) >= 0 and 0 < sum(shares) < np.inf):
                raise UserError(f"{name}: the shares are {shares}; give 0 or more, one of them above 0")
        if not all(0 <= each < np.inf for each in self.ages):
            raise UserError(f"ages is {[*self.ages]}; give mean and standard deviation, 0 or more")
        for name, share in {"women": self.women, **self.shares}.items():
            if not 0 <= share < 1:
                raise UserError(f"{name}: the share is {share}; give 0 or more, below 1")

    def person(self, rng: np.random.Generator) -> tuple[str, int]:
        """Sex and age of somebody who comes for the first time."""
        sex = "F" if rng.random() < self.women else "M"
        return sex, int(np.clip(rng.normal(*self.ages), YOUNGEST, OLDEST))

    def scanner(self, rng: np.random.Generator) -> Scanner:
        """One of the machines."""
        shares = np.array([each.share for each in self.scanners])
        return self.scanners[rng.choice(len(shares), p=shares / shares.sum())]


def _check(name: str, known: Iterable[str], where: str) -> None:
    if name not in known:
        raise UserError(f"{where}: {name!r} is none; {choices(name, known)}")


def open_hospital(name: str) -> Hospital:
    """A preset by its name, or the hospital in a TOML file.

    Raises UserError if there is neither, or naming what is wrong in the file.
    """
    _, presets = read_toml(Path(str(files(__package__).joinpath("hospitals.toml"))))
    try:
        if not name.lower().endswith(".toml"):
            _check(name, presets, "hospital")
        table = presets[name] if name in presets else read_toml(Path(name))[1]
        return structured(table, Hospital)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); give a TOML as in docs/synthetic.md") from error
    except (ValueError, UserError) as error:
        raise UserError(f"{name}: {error}") from error


def structured(table: Any, kind: type) -> Any:
    """A table of TOML or JSON as a dataclass. Raises UserError naming what is wrong."""
    try:
        return make_converter(forbid_extra_keys=True, detailed_validation=False).structure(table, kind)
    except UserError:
        raise
    except Exception as error:  # cattrs has many
        raise UserError(f"{error}; docs/synthetic.md says what there is") from error
