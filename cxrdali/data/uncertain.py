"""What uncertain labels count as: one choice for all findings, or a policy with one for each, as one line of text.

    negative; Atelectasis=ignore; Edema=positive

A TOML file is another way to write a policy (`default = "negative"`, and a table [findings]). It is read at once: what
runs, rules and results keep and compare is the text, in which `canonical` gives every policy one spelling.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from shards.errors import UserError
from shards.storage.toml_file import read_toml
from shards.words import choices

# What the training loss sees of a smoothed -1, and as what it counts everywhere else (class counts, samplers, scores).
# Pham et al. 2021 draw the first from U(0.55, 0.85) and U(0, 0.3). These are the means: a loss is linear in the target,
# so it is the mean of theirs, without the noise.
SMOOTHED = {"smooth": (0.7, 1.0), "smooth-zeros": (0.15, 0.0)}
UNCERTAIN = ("negative", "positive", "ignore", "ignore-all", *SMOOTHED)


def canonical(given: str) -> str:
    """A choice, a policy's text, or the path of a .toml, as the text that is kept: findings by name, without those that
    count as the default does.

    Raises UserError for a file that is no policy, or what is none of UNCERTAIN.
    """
    default, findings = _from_toml(Path(given)) if given.endswith(".toml") else _parsed(given)
    for name, value in (("default", default), *findings.items()):
        if value not in UNCERTAIN:
            where = "" if value == given else f"{name} = {value!r}: "
            policy = "; for a policy give a .toml file, or text such as 'negative; Edema=positive'"
            raise UserError(f"uncertain {given!r}: {where}{choices(value, UNCERTAIN)}{policy}")
    others = sorted((name, value) for name, value in findings.items() if value != default)
    return "; ".join([default, *(f"{_quoted(name)}={value}" for name, value in others)])


def by_finding(uncertain: str, findings: Sequence[str]) -> list[str]:
    """One of UNCERTAIN for each finding, in their order. Raises UserError if a policy names another finding."""
    default, others = _parsed(canonical(uncertain))
    for name in others:
        if name not in findings:
            raise UserError(f"uncertain {name!r}: no such finding; {choices(name, findings, 'the labels have')}")
    return [others.get(name, default) for name in findings]


def smoothed(uncertain: str) -> list[str]:
    """Those of SMOOTHED that a policy has for any finding."""
    default, findings = _parsed(canonical(uncertain))
    return [name for name in SMOOTHED if name in (default, *findings.values())]


def _parsed(text: str) -> tuple[str, dict[str, str]]:
    default, *entries = text.split(";")
    pairs = [entry.rpartition("=") for entry in entries if entry.strip()]
    findings = {unquote(name.strip()): value.strip() for name, _, value in pairs}
    if len(findings) < len(pairs) or "" in findings:
        raise UserError(f"uncertain {text!r}: give every finding once, as in 'negative; Edema=positive'")
    return default.strip(), findings


def _from_toml(path: Path) -> tuple[str, Mapping[str, Any]]:
    try:
        _, table = read_toml(path)
        findings = table.pop("findings", {})
        default = table.pop("default", UNCERTAIN[0])
        if table or not isinstance(findings, dict):
            raise ValueError(f"{next(iter(table), 'findings')!r} is no part of one")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f'uncertain {str(path)!r}: no policy ({reason}); write default = "negative" and, below [findings], '
            'lines such as "Edema" = "positive"'
        ) from error
    return default, findings


def _quoted(name: str) -> str:
    """A name in which `;` does not end an entry, and spaces around it stay."""
    return re.sub(r"^\s+|\s+$|[%;]", lambda found: quote(found[0]), name)
