"""Which findings of two releases are the same: by their spelling, by shipped synonyms, by a map of one's own.

A map is a TOML file whose lines change the shipped synonyms (synonyms.toml), for every pack or for one:

    "Lung tumor" = "Lung Lesion"
    "Effusion" = "Effusion"            # its own name: no synonym of anything

    [packs.vindr]
    "No finding" = "No Finding (VinDr-CXR)"
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from shards.errors import UserError
from shards.storage.toml_file import read_toml
from shards.words import choices

SHIPPED = Path(__file__).with_name("synonyms.toml")
NO_FINDING = "No Finding"
Names = dict[str, str]


@dataclass(frozen=True)
class FindingsMap:
    """Common names of findings. own: those of every pack; of_pack: those of one, by the pack's name, which count more.

    Both are beside the shipped synonyms, by the names as the releases have them.
    """

    own: Names = field(default_factory=dict)
    of_pack: dict[str, Names] = field(default_factory=dict)

    @classmethod
    def read(cls, given: str | None) -> "FindingsMap":
        """The path of a .toml, or the text that `text` gave; None: the shipped synonyms alone.

        Raises UserError if it is no map of findings.
        """
        if given is None:
            return cls()
        path = Path(given)
        try:
            if not given.endswith(".toml"):
                table = json.loads(given)
            else:
                _, table = read_toml(path)
            if not isinstance(table, dict):
                raise ValueError("no table")
            packs = table.pop("packs", {})
            if not isinstance(packs, dict):  # of a release that has a finding of that name, perhaps
                raise ValueError(f"packs is {packs!r}, not tables [packs.NAME]")
            for where, names in {"": table, **packs}.items():
                if not isinstance(names, dict):
                    raise ValueError(f"packs.{where} is {names!r}, not a table")
                for name, common in names.items():
                    if not isinstance(common, str) or not common.strip() or not name.strip():
                        raise ValueError(f"{name!r} = {common!r} gives no name to a finding")
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"findings {given!r}: no map of findings ({reason}); write a .toml file with lines such as "
                '"Effusion" = "Pleural Effusion"'
            ) from error
        return cls(table, packs)

    @property
    def text(self) -> str | None:
        """The map in one spelling, which `read` takes; None of the shipped synonyms alone."""
        packs = {name: names for name, names in self.of_pack.items() if names}
        whole = {**self.own, **({"packs": packs} if packs else {})}
        return json.dumps(whole, sort_keys=True, ensure_ascii=False) if whole else None

    def among(self, packs: Mapping[str, Sequence[str]]) -> "FindingsMap":
        """What it says of these packs' findings, by the packs' names."""
        known = {finding for findings in packs.values() for finding in findings}
        return FindingsMap(
            {name: common for name, common in self.own.items() if name in known},
            {pack: names for pack, names in self.of_pack.items() if pack in packs},
        )

    def common_name(self, finding: str, pack: str = "") -> str:
        """What a pack's finding is called among several packs."""
        asked = {**self.own, **self.of_pack.get(pack, {})}
        name = asked.get(finding, finding)
        kept = asked.get(name) == name  # said to be no synonym
        return name if kept else _shipped().get(_key(name), name)

    def renamed(self, findings: Sequence[str], pack: str = "") -> tuple[str, ...]:
        """Common names of a pack's findings. Raises UserError if two of them would become one."""
        found: dict[str, str] = {}
        for finding in findings:
            name = self.common_name(finding, pack)
            if before := found.get(_key(name)):
                raise UserError(
                    f"{pack or 'findings'}: {before!r} and {finding!r} of one pack would both be {name!r}; "
                    f'give one of them another name: --findings MAP.toml with "{finding}" = "{finding} (own)"'
                )
            found[_key(name)] = finding
        return tuple(self.common_name(finding, pack) for finding in findings)

    def check_known(self, packs: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError for a finding of the map that none of these packs, by name, has: it would do nothing."""
        every = [*dict.fromkeys(finding for findings in packs.values() for finding in findings)]
        for pack, names in {"": self.own, **self.of_pack}.items():
            if pack and pack not in packs:
                raise UserError(f"findings: packs.{pack}: no such pack; {choices(pack, packs, 'there are')}")
            known = packs[pack] if pack else every
            for name in names:
                if name not in known:
                    whose = f"{pack} has" if pack else "the packs have"
                    raise UserError(f"findings: {name!r}: no such finding; {choices(name, known, whose)}")


@dataclass(frozen=True)
class Common:
    """pairs: findings that a and b both know, by a's and b's own names, in a's order; only_a, only_b: the others, by
    their own names; words: what is taken as the same without being spelled alike, to be printed."""

    pairs: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    words: tuple[str, ...]


def common(
    a: Sequence[str], b: Sequence[str], names: FindingsMap, packs: tuple[str, str] = ("the run", "the pack")
) -> Common:
    """Which findings of a and b are the same. packs: what they are called in words, and in tables of `names`.

    Raises UserError if two findings of one side would become one, or for a map that fits neither.
    """
    both = together(dict(zip(packs, (a, b), strict=True)), names)
    here, there = (dict(zip(both.places[pack], own, strict=True)) for pack, own in zip(packs, (a, b), strict=True))
    shared = [place for place in here if place in there]
    called = {
        pack: {own[place]: both.findings[place] for place in shared}
        for pack, own in zip(packs, (here, there), strict=True)
    }
    return Common(
        tuple((here[place], there[place]) for place in shared),
        tuple(own for place, own in here.items() if place not in there),
        tuple(own for place, own in there.items() if place not in here),
        (*_spelled(called), *both.no_finding),
    )


@dataclass(frozen=True)
class Together:
    """findings: common names of all, in the order in which packs first have them; places: of each pack's own findings
    among these; spelled, no_finding: what is taken as the same, to be printed."""

    findings: tuple[str, ...]
    places: dict[str, tuple[int, ...]]
    spelled: tuple[str, ...]
    no_finding: tuple[str, ...]


def together(packs: Mapping[str, Sequence[str]], names: FindingsMap) -> Together:
    """The findings of several packs, by the packs' names. Raises UserError for a map that does not fit them."""
    names.check_known(packs)
    renamed = {pack: names.renamed(findings, pack) for pack, findings in packs.items()}
    first: Names = {}
    for name in (name for own in renamed.values() for name in own):
        first.setdefault(_key(name), name)
    place = {key: number for number, key in enumerate(first)}
    places = {pack: tuple(place[_key(name)] for name in own) for pack, own in renamed.items()}
    findings = tuple(first.values())
    called = {
        pack: {name: findings[at] for name, at in zip(own, places[pack], strict=True)} for pack, own in packs.items()
    }
    return Together(findings, places, _spelled(called), _no_finding(called))


def _spelled(packs: Mapping[str, Names]) -> tuple[str, ...]:
    """What is called otherwise than a pack spells it. packs: of each, own names and common ones."""
    found: dict[str, dict[str, list[str]]] = {}
    for pack, names in packs.items():
        for own, name in names.items():
            found.setdefault(name, {}).setdefault(own, []).append(pack)
    return tuple(
        f"{name}: " + ", ".join(f"{own!r} of {' and '.join(who)}" for own, who in spelled.items())
        for name, spelled in found.items()
        if any(own != name for own in spelled)
    )


def _no_finding(packs: Mapping[str, Names]) -> tuple[str, ...]:
    """That No Finding means something else in each of several packs, if they know other findings beside it."""
    beside = {pack: {*names.values()} - {NO_FINDING} for pack, names in packs.items() if NO_FINDING in names.values()}
    if len({frozenset(each) for each in beside.values()}) < 2:
        return ()
    last = [*beside][-1]
    own = next(own for own, name in packs[last].items() if name == NO_FINDING)
    return (
        f"{NO_FINDING}: one finding of {' and '.join(beside)}, though in each it means none of its own other findings, "
        f'which differ; to keep it apart: --findings with a .toml of "{own}" = "{NO_FINDING} ({last})" below '
        f"[packs.{last}]",
    )


def _key(name: str) -> str:
    """A name without what decides nothing: case, blanks, "_" and "-"."""
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()


@cache
def _shipped() -> Names:
    """Common names by the keys of all names."""
    _, table = read_toml(SHIPPED)
    return {_key(name): each["name"] for each in table["findings"] for name in (each["name"], *each["also"])}
