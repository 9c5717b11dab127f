"""The table of docs/recipes.md: what each part costs (`benchmarks.training.parts`), and what it is worth on synthetic
images: the table.json of the shipped study `parts`, on the demo's images and on a release of 20,000 studies."""

import json

from benchmarks import results
from benchmarks.pages.markdown import NOT_MEASURED, table, where

COST = "part | seconds of a step, of plain's | more memory, MiB"
STUDIES = {"parts.json": "demo", "parts-large.json": "20,000 studies"}
WORTH = "{}: mAP less plain's, 95 % | p, Holm"


def section() -> str:
    """A line for each part: the newest row of its cost without a GPU, and the paired differences over seeds."""
    cost = {row["part"]: row for row in results.committed("parts") if not row["environment"]["gpu"]}
    studies = {
        name: json.loads((results.RESULTS / file).read_text())
        for file, name in STUDIES.items() if (results.RESULTS / file).exists()
    }  # fmt: skip
    less = {name: _of(study["differences"]) for name, study in studies.items()}
    means = {name: _of(study["scores"]) for name, study in studies.items()}
    names = dict.fromkeys(part for of in (*means.values(), cost) for part in of)
    if not names:
        return "Not measured yet.\n"
    head = " | ".join([COST, *(WORTH.format(name) for name in studies)])
    lines = [
        (part, *_costs(cost.get(part)), *(cell for name in studies for cell in _worth(part, means[name], less[name])))
        for part in names
    ]
    return "\n".join([table(head, lines), *(_said(name, means[name], less[name]) for name in studies), *_where(cost)])


def _said(name: str, means: dict[str, dict], less: dict[str, dict]) -> str:
    plain = next(iter(means.values()))
    apart = [part for part, row in less.items() if row["low"] > 0]
    below = [part for part, row in less.items() if row["high"] < 0]
    return (
        f"**{name}**: mAP of the synthetic test images, plain {plain['mean']:.3f} ± {plain['sd']:.3f}, {plain['n']} "
        f"seeds; differences paired by seed, with t intervals that are not adjusted for how many there are, p adjusted "
        f"by Holm over the {len(less)} parts. Higher with an interval above zero: {_named(apart)}. Lower with one "
        f"below zero: {_named(below)}. The others show neither.\n"
    )


def _where(cost: dict[str, dict]) -> list[str]:
    if not cost:
        return []
    last = [*cost.values()][-1]
    more = f"; {last['arch']} at {last['size']} px, batches of {last['batch']}; plain: "
    plain = cost["plain"]
    more += f"{plain['step_seconds']:.3f} s a step, {plain['peak_mib']:,.0f} MiB of the whole process"
    return [f"Cost: {where('parts', [last], more)}"]


def _of(rows: list[dict]) -> dict[str, dict]:
    return {row["run"]: row for row in rows if (row["split"], row["metric"]) == ("test", "mAP")}


def _costs(row: dict | None) -> tuple[str, str]:
    return (NOT_MEASURED, NOT_MEASURED) if row is None else (f"{row['ratio']:.2f} x", f"{row['more_mib']:+,.0f}")


def _worth(part: str, means: dict[str, dict], less: dict[str, dict]) -> tuple[str, str]:
    if part not in means:
        return (NOT_MEASURED,) * 2
    if part not in less:
        return "", ""
    row = less[part]
    p = row.get("p_holm")
    return f"{row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})", "" if p is None else f"{p:.2g}"


def _named(names: list[str]) -> str:
    return ", ".join(names) or "none"
