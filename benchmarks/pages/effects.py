"""docs/effects.md and docs/effects-losses.md, tables and pictures, from results/effects.json and nothing else.

python -m benchmarks.pages.effects
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.pages.markdown import NOT_MEASURED, table, where
from cxrdali.metrics.intervals import holm
from shards.storage.sealed import read_json

ROOT = Path(__file__).parents[2]
STAGES = ("bce-views", "ensemble", "large-images", "large-steps")  # what the page of the first paper asks about
TITLES = {
    "effects": "Effects of the stage-training paper on synthetic images, as far as they were measured again",
    "effects-losses": "Effects of losses on synthetic images, by what is compared",
}
PARTS = {"mAP": "all", "mAP_tail": "tail"}
HEAD = "effect | findings | before | difference | 95 % interval | p, Holm | each replicate | verdict"
LEVEL = 0.05
COLOURS = {"higher": "#0b6e4f", "lower": "#b3450b", "not separable": "#6b6b6b"}
BEGIN, END = "<!-- table -->\n", "<!-- /table -->"


def verdict(claim: Mapping) -> str:
    """By Holm's adjustment over the claims of the page."""
    if claim["p_holm"] is None:
        return NOT_MEASURED
    return "not separable" if claim["p_holm"] >= LEVEL else "higher" if claim["difference"] > 0 else "lower"


def claims_of(found: Mapping, page: str) -> list[dict]:
    """Those of a page, which are one family for Holm's adjustment."""
    claims = [each for each in found["claims"] if (each["higher"] in STAGES) == (page == "effects")]
    adjusted = holm([each["p"] for each in claims])
    return [{**each, "p_holm": p} for each, p in zip(claims, adjusted, strict=True)]


def section(found: Mapping, page: str) -> str:
    """The text between the marks: effects, verdicts, mean AP by run, where the numbers are from."""
    claims = claims_of(found, page)
    lines = [
        (
            f"**{each['says']}** ({each['higher']} less {each['than']})", PARTS[each["metric"]],
            *_numbers(each), verdict(each),
        )
        for each in claims
    ]  # fmt: skip
    said = [(verdict(each), f"{each['says']} ({PARTS[each['metric']]})") for each in claims]
    words = ((word, [name for known, name in said if known == word]) for word in (*COLOURS, NOT_MEASURED))
    sentences = [f"**{word.capitalize()}:** {'; '.join(names)}." for word, names in words if names]
    runs = list(dict.fromkeys(each[side] for each in claims for side in ("than", "higher")))
    metrics = ("mAP", "mAP_head", "mAP_medium", "mAP_tail")
    scores = {(row["run"], row["metric"]): row for row in found["scores"] if row["split"] == "test"}
    aps = [
        (metric.removeprefix("mAP_").replace("mAP", "all"), *(_spread(scores.get((run, metric))) for run in runs))
        for metric in metrics
    ]
    head = f"mean AP ± sd, n = {len(claims[0]['values'])} | {' | '.join(runs)}"
    last = where("effects", [found]).replace(".jsonl", ".json")
    return "\n".join([table(HEAD, lines), "\n\n".join(sentences), "", table(head, aps), last])


def _numbers(claim: Mapping) -> tuple[str, ...]:
    if claim["low"] is None:
        return (NOT_MEASURED,) * 5
    ends = f"{_signed(claim['low'])} to {_signed(claim['high'])}"
    p = f"{claim['p_holm']:.3f}" if claim["p_holm"] >= 5e-4 else "< 0.001"
    each = ", ".join(map(_signed, claim["values"].values()))
    return f"{claim['scores'][1]:.4f}", _signed(claim["difference"]), ends, p, each


def _spread(row: Mapping | None) -> str:
    return NOT_MEASURED if row is None or row["sd"] is None else f"{row['mean']:.3f} ± {row['sd']:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def picture(found: Mapping, page: str, path: Path) -> None:
    """Mean and interval of every effect, a tick per replicate; all findings left, the tail right."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "effects"  # the same numbers are the same bytes
    from matplotlib.figure import Figure

    claims, title = [each for each in claims_of(found, page) if each["low"] is not None], TITLES[page]
    figure = Figure(figsize=(9.5, 0.2 * len(claims) + 2.4), layout="constrained")
    for axes, (metric, part) in zip(figure.subplots(1, 2, sharey=True), PARTS.items(), strict=True):
        _panel(axes, [each for each in claims if each["metric"] == metric])
        axes.set_title(f"{part} findings" if part == "all" else "below 1 % of images", loc="left", fontsize=9.5)
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    told = f"{title}\nmean and 95 % interval over replicates, coloured by verdict"
    figure.suptitle(told, x=0.01, ha="left", fontsize=10.5)
    figure.savefig(path, metadata={"Date": None, "Title": f"{title}: difference of mAP"})


def _panel(axes, claims: Sequence[Mapping]) -> None:
    axes.axvline(0, color="#9a9a9a", linewidth=1)
    for word, colour in COLOURS.items():
        axes.plot([], [], "o-", color=colour, label=word)
    for place, each in enumerate(claims):
        colour, values = COLOURS[verdict(each)], list(each["values"].values())
        axes.plot([each["low"], each["high"]], [place] * 2, color=colour, linewidth=2)
        axes.plot(each["difference"], place, "o", color=colour)
        axes.plot(values, [place] * len(values), "|", color="#1b1b1b", label="" if place else "a replicate")
    axes.set_xlabel("difference of mAP")
    axes.locator_params(axis="x", nbins=6)
    axes.set_yticks(range(len(claims)), [each["says"] for each in claims])
    axes.spines[["top", "right", "left"]].set_visible(False)


def main() -> None:
    found = read_json(results.RESULTS / "effects.json")
    for page in TITLES:
        path = ROOT / "docs" / f"{page}.md"
        before, rest = path.read_text().split(BEGIN)
        path.write_text(f"{before}{BEGIN}{section(found, page)}{END}{rest.split(END)[1]}")
        picture(found, page, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
