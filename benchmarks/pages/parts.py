"""The table of docs/recipes.md: what each part costs (`benchmarks.training.parts`) and what it is worth on synthetic
images (the shipped study `parts`, whose table.json is benchmarks/results/parts.json)."""

import json

from benchmarks import results
from benchmarks.pages.markdown import NOT_MEASURED, table, where

HEAD = "part | seconds of a step, of plain's | more memory, MiB | mAP | mAP less plain's | 95 % | p, Holm"
STUDY = "parts.json"


def section() -> str:
    """A line for each part: the newest row of its cost without a GPU, and the paired differences over seeds."""
    cost = {row["part"]: row for row in results.committed("parts") if not row["environment"]["gpu"]}
    study = (
        json.loads(path.read_text())
        if (path := results.RESULTS / STUDY).exists()
        else {"scores": [], "differences": []}
    )
    means, less = (_of(study[key]) for key in ("scores", "differences"))
    if not cost and not means:
        return "Not measured yet.\n"
    lines = []
    for name in dict.fromkeys([*means, *cost]):
        lines.append((name, *_costs(cost.get(name)), *_worth(means.get(name), less.get(name))))
    said = [table(HEAD, lines)]
    if means:
        one = next(iter(means.values()))
        apart = [name for name, row in less.items() if row["low"] > 0]
        below = [name for name, row in less.items() if row["high"] < 0]
        said.append(
            f"mAP of the synthetic test images, means of {one['n']} seeds; differences paired by seed, with t "
            "intervals that are not adjusted for how many there are; p adjusted by Holm over the parts. Higher with an "
            f"interval above zero: {_named(apart)}. Lower with one below zero: {_named(below)}. The others show "
            "neither. `cxrdali study parts --scale demo`, `benchmarks/results/parts.json`.\n"
        )
    if cost:
        last = [*cost.values()][-1]
        more = f"; {last['arch']} at {last['size']} px, batches of {last['batch']}; plain: "
        plain = cost["plain"]
        more += f"{plain['step_seconds']:.3f} s a step, {plain['peak_mib']:,.0f} MiB of the whole process"
        said.append(f"Cost: {where('parts', [last], more)}")
    return "\n".join(said)


def _of(rows: list[dict]) -> dict[str, dict]:
    return {row["run"]: row for row in rows if (row["split"], row["metric"]) == ("test", "mAP")}


def _costs(row: dict | None) -> tuple[str, str]:
    return (NOT_MEASURED, NOT_MEASURED) if row is None else (f"{row['ratio']:.2f} x", f"{row['more_mib']:+,.0f}")


def _worth(score: dict | None, less: dict | None) -> tuple[str, str, str, str]:
    if score is None:
        return (NOT_MEASURED,) * 4
    mean = f"{score['mean']:.3f} ± {score['sd']:.3f}"
    if less is None:
        return mean, "", "", ""
    p = less.get("p_holm")
    ends = f"{less['low']:+.3f} to {less['high']:+.3f}"
    return mean, f"{less['mean']:+.3f}", ends, "" if p is None else f"{p:.2g}"


def _named(names: list[str]) -> str:
    return ", ".join(names) or "none"
