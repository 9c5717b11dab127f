"""docs/effects.md and docs/effects-losses.md, table and picture, from the committed rows and nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import results
from benchmarks.effects.arms import ARMS, EFFECTS, FLOOR, MARGINS, REPLICATES, Effect
from benchmarks.effects.statistics import EQUIVALENT, HIGHER, LOWER, OPEN, Paired, paired, verdicts
from benchmarks.pages.markdown import NOT_MEASURED, table, where
from cxrdali.metrics.intervals import holm
from cxrdali.metrics.longtail import GROUPS, groups

DOCS = Path(__file__).parents[2] / "docs"
TITLES = {
    "effects": "Effects of the stage-training paper on synthetic images, as far as they were measured again",
    "effects-losses": "Effects of losses on synthetic images, by what is compared",
}
HEAD = (
    "effect | findings | before | difference | 95 % interval | p, Holm | without one finding | each replicate | verdict"
)
COLOURS = {HIGHER: "#0b6e4f", LOWER: "#b3450b", EQUIVALENT: "#0b4f9c", OPEN: "#6b6b6b"}


class Found(NamedTuple):
    """An effect on a part of the findings. each: by replicate; without: least and most with one finding left out."""

    effect: Effect
    part: str
    before: float
    each: np.ndarray
    without: tuple[float, float]
    paired: Paired
    p: float
    word: str


class Rows:
    """Rows of the arms that all replicates have, by arm; which findings count, and the group of each."""

    def __init__(self, rows: Sequence[dict]):
        by_arm = {arm: {row["replicate"]: row for row in rows if row["arm"] == arm} for arm in ARMS}
        self.of = {arm: [has[n] for n in REPLICATES] for arm, has in by_arm.items() if {*REPLICATES} <= has.keys()}
        counts = {name: [row["positives"][name] for row in self.of["bce"]] for name in self.of["bce"][0]["positives"]}
        self.training = {name: sum(each[0] for each in found) for name, found in counts.items()}
        self.fewest = {name: min(each[1] for each in found) for name, found in counts.items()}
        images = sum(row["train_images"] for row in self.of["bce"])
        self.groups = dict(zip(counts, groups(list(self.training.values()), images), strict=True))
        self.findings = sorted(counts, key=self.training.__getitem__, reverse=True)

    def ap(self, arm: str, part: str) -> np.ndarray:
        """float64 [replicates, counted findings of the part]: a group, a finding, or all."""
        names = [name for name in self.findings if self.fewest[name] >= FLOOR]
        names = [name for name in names if part in ("all", self.groups[name], name)]
        return np.array([[row["ap"][name] for name in names] for row in self.of[arm]])

    def found(self, page: str) -> list[Found]:
        """All effects of a page that were measured, Holm's adjustment over all of them."""
        asked = [each for each in EFFECTS if each.page == page and {each.before, each.after} <= self.of.keys()]
        effects = []
        for effect, part in ((each, part) for each in asked for part in MARGINS):
            before, apart = self.ap(effect.before, part), self.ap(effect.after, part) - self.ap(effect.before, part)
            rest = (apart.mean(axis=0).sum() - apart.mean(axis=0)) / (apart.shape[1] - 1)
            margin = (
                MARGINS[part] if before.mean() > 2 * MARGINS[part] else 0
            )  # no equivalence where it is half the score
            test = paired(apart.mean(axis=1), margin)
            effects.append((effect, part, before.mean(), apart.mean(axis=1), (rest.min(), rest.max()), test))
        tests = [each[-1] for each in effects]
        return [
            Found(*each, p, word)
            for each, p, word in zip(effects, holm([test.p for test in tests]), verdicts(tests), strict=True)
        ]


def section(rows: Sequence[dict], page: str) -> str:
    """The text between the marks: effects, verdicts, AP by arm and finding, where the rows are from."""
    read = Rows(rows)
    found, asked = read.found(page), [each for each in EFFECTS if each.page == page]
    lines = [
        (
            f"**{each.effect.name}** ({each.effect.after} less {each.effect.before})", each.part, f"{each.before:.4f}",
            _signed(each.paired.mean), f"{_signed(each.paired.low)} to {_signed(each.paired.high)}", _p(each.p),
            " to ".join(map(_signed, each.without)), ", ".join(map(_signed, each.each)), each.word,
        )
        for each in found
    ]  # fmt: skip
    said = [(each.word, f"{each.effect.name} ({each.part})") for each in found]
    said += [(NOT_MEASURED, each.name) for each in asked if each not in [one.effect for one in found]]
    words = ((word, [name for known, name in said if known == word]) for word in (*COLOURS, NOT_MEASURED))
    sentences = [f"**{word.capitalize()}:** {'; '.join(names)}." for word, names in words if names]
    arms = [arm for arm in ARMS if arm in read.of and any(arm in (each.before, each.after) for each in asked)]
    aps = [("learning rate", "", "", *(f"{read.of[arm][0]['rate'] or '':}" for arm in arms))]
    for part in ("all", *GROUPS, *(name for name in read.findings if read.fewest[name] >= FLOOR)):
        counts = (
            (f"{read.training[part] / len(REPLICATES):,.0f}", f"{read.fewest[part]}")
            if part in read.groups
            else ("", "")
        )
        name = f"{part}, {read.groups[part]}" if part in read.groups else f"**{part}**"
        aps.append((name, *counts, *(f"{read.ap(arm, part).mean():.3f}" for arm in arms)))
    left = ", ".join(f"{name} ({read.fewest[name]})" for name in read.findings if read.fewest[name] < FLOOR)
    last = f"Not counted, fewer than {FLOOR} held-out positives in a replicate: {left or 'none'}.\n"
    head = f"mean AP | training images with it | fewest held-out positives | {' | '.join(arms)}"
    return "\n".join([table(HEAD, lines), "\n\n".join(sentences), "", table(head, aps), last, where("effects", rows)])


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 5e-4 else "< 0.001"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def picture(rows: Sequence[dict], page: str, path: Path) -> None:
    """Mean and interval of every effect, a tick per replicate, the margin shaded; all findings left, the tail right."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "effects"  # the same rows are the same bytes
    from matplotlib.figure import Figure

    found, title = Rows(rows).found(page), TITLES[page]
    figure = Figure(figsize=(9.5, 0.2 * len(found) + 2.4), layout="constrained")
    for axes, (part, margin) in zip(figure.subplots(1, 2, sharex=True, sharey=True), MARGINS.items(), strict=True):
        axes.axvspan(-margin, margin, color="#e4e4e4", label="within the margin")
        for word, colour in COLOURS.items():
            axes.plot([], [], "o-", color=colour, label=word)
        shown = [each for each in found if each.part == part]
        for place, each in enumerate(shown):
            axes.plot([each.paired.low, each.paired.high], [place] * 2, color=COLOURS[each.word], linewidth=2)
            axes.plot(each.paired.mean, place, "o", color=COLOURS[each.word])
            axes.plot(each.each, [place] * len(each.each), "|", color="#1b1b1b", label="" if place else "a replicate")
        axes.set_title(
            f"{part} findings" if part == "all" else f"{part}: below 1 % of images", loc="left", fontsize=9.5
        )
        axes.set_xlabel("difference of mAP")
        axes.locator_params(axis="x", nbins=6)
        axes.set_yticks(range(len(shown)), [each.effect.name for each in shown])
        axes.spines[["top", "right", "left"]].set_visible(False)
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle(
        f"{title}\nmean and 95 % interval of five replicates, coloured by verdict", x=0.01, ha="left", fontsize=10.5
    )
    figure.savefig(path, metadata={"Date": None, "Title": f"{title}: difference of mAP"})


def main() -> None:
    rows = [json.loads(line) for line in (results.RESULTS / "effects.jsonl").read_text().splitlines()]
    for page in TITLES:
        path = DOCS / f"{page}.md"
        before, rest = path.read_text().split("<!-- table -->\n")
        path.write_text(
            f"{before}<!-- table -->\n{section(rows, page)}<!-- /table -->{rest.split('<!-- /table -->')[1]}"
        )
        picture(rows, page, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
