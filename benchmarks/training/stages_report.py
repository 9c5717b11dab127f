"""What the rows of `benchmarks.training.stages` say: pairs of one seed, what was saved, and the table.

Pure arithmetic over rows. "cheap" is the arm that is meant to save time, "dear" the one that it is compared with.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev

from scipy.stats import t

FIGURE, THREE, NATIVE = "figure 2", "three stages", "native files"
TARGETS = {FIGURE: 0.22, THREE: 0.42}  # share of wall-clock to save on a GPU, with the sides below and equal epochs
SIDES = {FIGURE: ((224, 320), (320, 320)), THREE: ((224, 320, 512), (512, 512, 512))}  # pixels, of cheap and dear
TOLERANCE = 0.01  # of a total
SLACK = 0.03  # seconds that may be missing whatever the total: what tiny runs lose between two clocks
REST = "set-up, saving, closing"
KINDS = ("training", "waiting", "validation", "compiling", REST)  # of seconds: columns of the table


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
        found = f"the parts add up to {sum(parts):.3f} s, the total is {total:.3f} s"
        raise ValueError(f"{what}: {found}; more than 1 % off")


def saving(arms: Sequence[dict], cheap: str, dear: str, scored: bool = True, at_least: float | None = None) -> dict:
    """The row of one comparison from its arms' rows: a pair per seed, and how far the pairs spread.

    saved_share is of the dear arm's wall-clock seconds; saved_later_share of what the epochs after each stage's first
    took, where there are any: what a long run tends to; ideal_share of its pixels. at_least is the target of the
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
    target = {"ideal_share": ideal_share(*sides), "at_least": at_least, "met": met}
    return {"comparison": arms[0]["comparison"], "cheap": cheap, "dear": dear, "pairs": pairs, **spread, **target}


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
            f"{one['val_images']:,} to validate; epochs a stage: {one['epochs']}; "
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
        cells = [f"{median(grouped(one)[kind] for one in same):.1f}" for kind in KINDS]
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
    later = found.get("saved_later_share")
    words = f"saved of the epochs after each stage's first: {_range(later, '.1%')}; " if later else ""
    lines.append(f"- {words}ideal by pixels: {found['ideal_share']:.1%}")
    if found["at_least"] is not None:
        verdict = "PASS" if found["met"] else "MISS"
        lines.append(f"- target: {found['at_least']:.0%} of the wall-clock time: {verdict}")
    if "map_difference" in found:
        gap = found["map_difference"]
        spread = f" ({_by_chance(gap, seeds)})" if gap["sd"] else ""
        lines.append(
            f"- final mAP (the last stage's best epoch) {found['cheap_map']['mean']:.4f} against "
            f"{found['dear_map']['mean']:.4f}, means; paired difference {gap['mean']:+.4f}{spread}"
        )
    return lines


def _by_chance(gap: dict, seeds: int) -> str:
    """How far the pairs spread, and what their mean says of other seeds."""
    half = float(t.ppf(0.975, seeds - 1)) * gap["sd"] / seeds**0.5
    low, high = gap["mean"] - half, gap["mean"] + half
    verdict = "higher" if low > 0 else "lower" if high < 0 else "not separable"
    return (
        f"lowest to highest {gap['low']:+.4f} to {gap['high']:+.4f}; 95 % interval by Student's t over {seeds} seeds "
        f"{low:+.4f} to {high:+.4f}: {verdict}"
    )


def _range(values: dict, form: str) -> str:
    if values["sd"] is None:
        return f"{values['median']:{form}}"
    return f"{values['median']:{form}} ({values['low']:{form}} to {values['high']:{form}})"


def grouped(stage: dict) -> dict[str, float]:
    """A stage's seconds by the table's kinds; they add up to its total."""
    seconds = stage["seconds"]
    kinds = {kind: seconds[kind] for kind in KINDS if kind != REST}
    return kinds | {REST: stage["total"] - sum(kinds.values())}
