"""What the rows of benchmarks.stages say: pairs of one seed, what was saved, the table and the picture.

Pure arithmetic over rows. "cheap" is the arm that is meant to save time, "dear" the one that it is compared with.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev

FIGURE, THREE, NATIVE = "figure 2", "three stages", "native files"
TARGETS = {
    ((224, 320), (320, 320)): 0.22,
    ((224, 320, 512), (512, 512, 512)): 0.42,
}  # sides of the cheap and of the dear arm's stages, equal epochs -> share of wall-clock to save, on a GPU
TOLERANCE = 0.01  # of a total
SLACK = 0.03  # seconds that may be missing whatever the total: what tiny runs lose between two clocks
REST = "set-up, saving, closing"
COLOURS = {
    "training": "#1f4e79",
    "waiting": "#f2b46b",
    "validation": "#5b9a76",
    "compiling": "#c9a3c9",
    REST: "#dfe3e8",
}  # neighbours differ in lightness too, for print


@dataclass(frozen=True)
class Values:
    """Several seeds' values. sd is the sample's standard deviation, None for a single seed."""

    median: float
    low: float
    high: float
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Values":
        sd = stdev(values) if len(values) > 1 else None
        return cls(median(values), min(values), max(values), fmean(values), sd)


def check_sum(what: str, parts: Sequence[float], total: float) -> None:
    """Raises ValueError unless the parts, in seconds, add up to the total within 1 % (or SLACK, if that is more)."""
    off = sum(parts) - total
    if abs(off) > max(TOLERANCE * total, SLACK):
        raise ValueError(
            f"{what}: the parts add up to {sum(parts):.3f} s, the total is {total:.3f} s; more than 1 % off"
        )


def saving(arms: Sequence[dict], cheap: str, dear: str, scored: bool = True, at_least: float | None = None) -> dict:
    """The row of one comparison from its arms' rows: a pair per seed, and how far the pairs spread.

    saved_share is of the dear arm's wall-clock seconds; saved_later_share of what the epochs after each stage's first
    took, where there are any: what a long run tends to; ideal_share of its pixels. at_least is what is promised of the
    first. map_difference is cheap less dear. scored: whether final mAP is compared. Raises ValueError if a seed has not
    exactly one run of both arms.
    """
    pairs = []
    for seed in dict.fromkeys(row["seed"] for row in arms):
        runs = {name: [row for row in arms if (row["seed"], row["arm"]) == (seed, name)] for name in (cheap, dear)}
        if any(len(found) != 1 for found in runs.values()):
            counts = ", ".join(f"{len(found)} of {name!r}" for name, found in runs.items())
            raise ValueError(f"{arms[0]['comparison']}, seed {seed}: {counts}; one of each makes a pair")
        ours, theirs = runs[cheap][0], runs[dear][0]
        pairs.append(
            {
                "seed": seed,
                "cheap_seconds": ours["seconds"],
                "dear_seconds": theirs["seconds"],
                "saved_seconds": theirs["seconds"] - ours["seconds"],
                "saved_share": 1 - ours["seconds"] / theirs["seconds"],
                "saved_later_share": 1 - _later(ours) / _later(theirs) if _later(theirs) else None,
                "cheap_waiting_share": waiting_share(ours),
                "dear_waiting_share": waiting_share(theirs),
                "cheap_map": ours["final_map"],
                "dear_map": theirs["final_map"],
                "map_difference": ours["final_map"] - theirs["final_map"],
            }
        )
    names = ["saved_seconds", "saved_share", "cheap_waiting_share", "dear_waiting_share"]
    names += ["saved_later_share"] if None not in [pair["saved_later_share"] for pair in pairs] else []
    names += ["cheap_map", "dear_map", "map_difference"] if scored else []
    spread = {name: asdict(Values.of([pair[name] for pair in pairs])) for name in names}
    sides = (
        [one["size"] for one in next(row for row in arms if row["arm"] == name)["stages"]] for name in (cheap, dear)
    )
    met = None if at_least is None else spread["saved_share"]["median"] >= at_least
    promised = {"ideal_share": ideal_share(*sides), "at_least": at_least, "met": met}
    return {"comparison": arms[0]["comparison"], "cheap": cheap, "dear": dear, "pairs": pairs, **spread, **promised}


def ideal_share(cheap: Sequence[int], dear: Sequence[int]) -> float:
    """What is saved, of 1, if time goes by pixels alone; sides of the stages, of equal epochs."""
    return 1 - sum(side**2 for side in cheap) / sum(side**2 for side in dear)


def waiting_share(arm: dict) -> float:
    """How much of the training epochs' seconds the training waited for data; validation and compiling do not count."""
    waiting, training = (sum(stage["seconds"][kind] for stage in arm["stages"]) for kind in ("waiting", "training"))
    return waiting / (waiting + training)


def _later(arm: dict) -> float:
    """Seconds of training, waiting and validation in an arm's epochs after the first of each stage."""
    return sum(sum(epoch) for stage in arm["stages"] for epoch in stage["epoch_seconds"][1:])


# ---------------------------------------------------------------- table


def table(rows: Sequence[dict]) -> str:
    """Markdown: per comparison a line per stage of either arm, medians over seeds, and what was saved."""
    lines = [f"All rows: {rows[0]['scale']}.", ""]
    for found in (row for row in rows if "pairs" in row):
        arms = [row for row in rows if "stages" in row and row["comparison"] == found["comparison"]]
        one, seeds = arms[0], len(found["pairs"])
        lines += [
            f"**{found['comparison']}**: {one['loader']}; {one['train_images']:,} images to train, "
            f"{one['val_images']:,} to validate; {_several(one['epochs'], 'epoch')} a stage; "
            f"seconds{'' if seeds == 1 else f', medians of {seeds} seeds'}",
            "",
            f"| arm | stage | training | waiting | validation | compiling | {REST} | total | images/s |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name in (found["cheap"], found["dear"]):
            lines += _arm_lines(name, [row for row in arms if row["arm"] == name])
        lines += ["", *_verdict(found, seeds), ""]
    return "\n".join(lines).rstrip() + "\n"


def _arm_lines(name: str, runs: Sequence[dict]) -> list[str]:
    lines = []
    for place, stage in enumerate(runs[0]["stages"]):
        same = [run["stages"][place] for run in runs]
        cells = [f"{median(grouped(one)[kind] for one in same):.1f}" for kind in COLOURS]
        total, rate = (median(one[key] for one in same) for key in ("total", "images_per_second"))
        lines.append(
            f"| {name if place == 0 else ''} | {stage['size']} px, batch {stage['batch']} | "
            f"{' | '.join(cells)} | {total:.1f} | {rate:,.0f} |"
        )
    whole = median(run["seconds"] for run in runs)
    return [*lines, f"| | in all | | | | | | **{whole:.1f}** | |"]


def _verdict(found: dict, seeds: int) -> list[str]:
    share, seconds = found["saved_share"], found["saved_seconds"]
    lines = [
        f"- saved by {found['cheap']}: {_range(share, '.1%')} of the wall-clock time, {_range(seconds, '.1f')} s; "
        f"{'one pair' if seeds == 1 else 'median (lowest to highest) of the pairs'}",
        f"- waiting for data: {_range(found['cheap_waiting_share'], '.0%')} of the training with {found['cheap']}, "
        f"{_range(found['dear_waiting_share'], '.0%')} with {found['dear']}",
    ]
    if "ideal_share" in found:
        later = found.get("saved_later_share")
        words = f"saved of the epochs after each stage's first: {_range(later, '.1%')}; " if later else ""
        lines.append(f"- {words}ideal by pixels: {found['ideal_share']:.1%}")
        if found["at_least"] is not None:
            lines.append(
                f"- promised: {found['at_least']:.0%} of the wall-clock time: {'PASS' if found['met'] else 'MISS'}"
            )
    if "map_difference" in found:
        difference = found["map_difference"]
        spread = ""
        if difference["sd"] is not None:
            spread = (
                f" ({difference['low']:+.4f} to {difference['high']:+.4f}, standard deviation {difference['sd']:.4f})"
            )
        lines.append(
            f"- final mAP (the last stage's best epoch) {found['cheap_map']['mean']:.4f} against "
            f"{found['dear_map']['mean']:.4f}, means; paired difference {difference['mean']:+.4f}{spread}"
        )
    return lines


def _range(values: dict, form: str) -> str:
    if values["sd"] is None:
        return f"{values['median']:{form}}"
    return f"{values['median']:{form}} ({values['low']:{form}} to {values['high']:{form}})"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# ---------------------------------------------------------------- picture


def grouped(stage: dict) -> dict[str, float]:
    """A stage's seconds by the picture's and the table's kinds; they add up to its total."""
    seconds = stage["seconds"]
    kinds = {kind: seconds[kind] for kind in COLOURS if kind != REST}
    return kinds | {REST: stage["total"] - sum(kinds.values())}


def plot(rows: Sequence[dict], path: Path) -> None:
    """A bar per arm, in stages from left to right, each divided by what its seconds went into: medians over seeds."""
    import matplotlib  # a second of import time, and workers need no picture
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "stages"  # the same rows are the same bytes

    found = [row for row in rows if "pairs" in row]
    figure = Figure(figsize=(9, 0.5 + 1.55 * len(found)), layout="constrained")
    # a scale of its own for each comparison: they differ in length by their number of images and epochs
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for panel, one in zip(panels, found, strict=True):
        names = (one["cheap"], one["dear"])
        for height, name in zip((1, 0), names, strict=True):
            _bar(panel, height, [row for row in rows if row.get("arm") == name and _same(row, one)])
        panel.set_yticks((1, 0), names)
        panel.set_ylim(-0.5, 1.65)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        saved = _range(one["saved_share"], "z.0%")
        ideal = ideal_share(*([stage["size"] for stage in _first_run(rows, one, name)["stages"]] for name in names))
        panel.set_title(f"{one['comparison']}: saved {saved}; by pixels {ideal:.0%}", loc="left", fontsize=10)
    panels[-1].set_xlabel(f"wall-clock seconds, medians over seeds; {rows[0]['scale']}", fontsize=8)
    handles = {}
    for panel in panels:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(
        [handles[kind] for kind in COLOURS if kind in handles], [kind for kind in COLOURS if kind in handles],
        loc="outside upper right", ncols=len(COLOURS), frameon=False, fontsize=8,
    )  # fmt: skip
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _first_run(rows: Sequence[dict], comparison: dict, arm: str) -> dict:
    return next(row for row in rows if row.get("arm") == arm and _same(row, comparison))


def _same(row: dict, comparison: dict) -> bool:
    return row["comparison"] == comparison["comparison"]


def _bar(panel, height: int, runs: Sequence[dict]) -> None:
    left = 0.0
    for place, stage in enumerate(runs[0]["stages"]):
        start, kinds = left, [grouped(run["stages"][place]) for run in runs]
        for kind, colour in COLOURS.items():
            width = median(one[kind] for one in kinds)
            if width > 0:
                panel.barh(height, width, 0.55, left, color=colour, label=kind)
                left += width
        panel.plot((left, left), (height - 0.36, height + 0.36), color="#1b1f24", linewidth=1.2)
        panel.text((start + left) / 2, height + 0.36, f"{stage['size']} px", ha="center", va="bottom", fontsize=8)
