"""One table of several folders of a study: each on data of its own, with seeds of its own, or from another machine.

A folder is a repeat of every run and of every table, ensembles and view rules too: differences are paired within
folders, and their spread over folders holds the sampling noise of training images, judged images and seeds alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cxrdali.metrics.intervals import holm
from cxrdali.studies.seeds import spread, tested, verdict
from cxrdali.studies.table import Entry, by_cell, found_in, over_repeats
from shards.errors import UserError

CELLS = dict[str, dict[str, dict[str, Entry]]]


def pooled_table(roots: Sequence[Path]) -> dict:
    """As `cxrdali.studies.table.study_table`, over several folders; claims are judged over them too, with p and p_holm.

    Raises UserError if two folders have one name, or hold different studies.
    """
    names = [root.resolve().name for root in roots]
    if len(set(names)) < len(names):
        raise UserError(f"folders {', '.join(map(str, roots))}: each is a repeat; rename those that are called alike")
    found = {name: found_in(root) for name, root in zip(names, roots, strict=True)}
    first = next(iter(found.values()))[0]
    cells = {name: {(run["name"], run["cell"]) for run in table["runs"]} for name, (table, _) in found.items()}
    for name, (table, _) in found.items():
        if table["title"] != first["title"] or cells[name] != cells[names[0]]:
            raise UserError(f"{name}: holds another study than {names[0]}, or other runs; pool folders of one file")
    # of a run that is trained once in a folder the folder says which: so ensembles, which have no seed, pair with it
    seeds = any(len({run["repeat"] for run in first["runs"] if run["cell"] == cell}) > 1 for _, cell in cells[names[0]])
    entries = [
        replace(each, repeat=f"{name} {each.repeat}".rstrip() if seeds else name)
        for name, (_, own) in found.items() for each in own
    ]  # fmt: skip
    baselines = list(dict.fromkeys(row["against"] for row in first["differences"]))
    named = {name: table for name, (table, _) in found.items()}
    return {
        **first,
        "synthetic": any(table["synthetic"] for table in named.values()),
        "runs": _marked(named, "runs", "name"),
        **over_repeats(entries, baselines),
        "by_patient": _marked(named, "by_patient", "comparison"),
        "missing": _marked(named, "missing", "name"),
        "matrix": None,
        "claims": _claims(first["claims"], by_cell(entries)),
        "notes": [f"{name}: {note}" for name, table in named.items() for note in table["notes"]],
        "seconds": {
            f"{name} {step}": spent for name, table in named.items() for step, spent in table["seconds"].items()
        },
    }


def _marked(tables: Mapping[str, dict], part: str, key: str) -> list[dict]:
    return [{**row, key: f"{name} {row[key]}"} for name, table in tables.items() for row in table[part]]


def _claims(claims: Sequence[dict], cells: CELLS) -> list[dict]:
    rows = []
    for claim in claims:
        sides = [cells.get(claim["split"], {}).get(claim[side], {}) for side in ("higher", "than")]
        both = {
            repeat: [side[repeat].scores.get(claim["metric"]) for side in sides]  # type: ignore[union-attr]
            for repeat in sides[0]
            if repeat in sides[1] and sides[0][repeat].images == sides[1][repeat].images
        }
        pairs = {repeat: pair for repeat, pair in both.items() if None not in pair}
        values = {repeat: one - other for repeat, (one, other) in pairs.items()}
        change = tested(list(values.values()))
        means = [spread([pair[side] for pair in pairs.values()])["mean"] for side in (0, 1)]
        about = {key: claim[key] for key in ("says", "higher", "than", "metric", "split", "printed")}
        more = {key: change[key] for key in ("low", "high", "n", "p")}
        word = verdict(claim["metric"], change["mean"], change["low"], change["high"])
        found = {"scores": means, "difference": change["mean"], **more, "unit": "seed", "values": values}
        rows.append({**about, **found, "verdict": word})
    adjusted = holm([row["p"] for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, adjusted, strict=True)]
