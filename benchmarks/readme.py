"""Writes the README's section on speed from the newest committed results: no figure is typed by hand.

python -m benchmarks.readme
"""

from pathlib import Path
from statistics import median

from benchmarks.results import RESULTS, newest

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- speed: written by python -m benchmarks.readme -->\n", "<!-- /speed -->\n"


def section() -> str:
    """The section's Markdown: a table per benchmark, its targets, and where the rows came from."""
    parts = []
    for name, title, table in (("loader", "Loading", _loader), ("pack", "Packing", _pack)):
        rows = newest(RESULTS / f"{name}.jsonl")
        if not rows:
            parts.append(f"**{title}.** Not measured yet.\n")
            continue
        where = rows[-1]["environment"]
        parts.append(
            f"**{title}**, {where['cpu']}, {where['cores']} cores, no GPU; medians of interleaved runs, synthetic "
            f"images, warm cache (`{where['command']}`, commit {where['commit'][:9]}, "
            f"`benchmarks/results/{name}.jsonl`):\n"
        )
        parts.append(table(rows))
        parts.append(_targets(rows))
    parts.append(_stages(newest(RESULTS / "stages.jsonl")))
    parts.append("**GPU.** Not measured yet.\n")
    return "\n".join(parts)


def _loader(rows: list[dict]) -> str:
    rates = {(row["contender"], row["size"]): row for row in rows if "images_per_second" in row}
    sizes = sorted({size for _, size in rates})
    head = "".join(f" | {size} px, images/s | CPU s per 1,000" for size in sizes)
    lines = [f"| loader{head} |", "|---" + "|---:|---:" * len(sizes) + "|"]
    for name in dict.fromkeys(name for name, _ in rates):
        cells = ""
        for size in sizes:
            row = rates[name, size]
            cells += f" | {row['images_per_second']['median']:,.0f} | {row['cpu_seconds_per_1000']:.3f}"
        lines.append(f"| {name}{cells} |")
    return "\n".join(lines) + "\n"


def _pack(rows: list[dict]) -> str:
    lines = ["| packing into 224, 320, 384 and 512 px | images/s | CPU s per 1,000 |", "|---|---:|---:|"]
    for row in rows:
        if "images_per_second" in row:
            rate = row["images_per_second"]["median"]
            lines.append(f"| {row['contender']} | {rate:,.1f} | {row['cpu_seconds_per_1000']:.1f} |")
    return "\n".join(lines) + "\n"


def _stages(rows: list[dict]) -> str:
    """What small images first save, a line per pair of arms; the seconds of every stage are --table's."""
    found = [row for row in rows if "pairs" in row]
    if not found:
        return "**Stage training.** Not measured yet.\n"
    where, seeds = found[0]["environment"], len(found[0]["pairs"])
    lines = [
        f"**Stage training**, {where['cpu']}, {where['cores']} cores, no GPU: {found[0]['scale']}. Small images first "
        f"against the largest in every stage, both run, {seeds} paired seeds (`{where['command']}`, commit "
        f"{where['commit'][:9]}, `benchmarks/results/stages.jsonl`; `python -m benchmarks.stages --table` has the "
        "seconds of every stage):\n",
        "| pair | all large, s | small first, s | saved | waiting for data | mAP, small first - all large |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        cheap, dear = ([pair[f"{arm}_seconds"] for pair in row["pairs"]] for arm in ("cheap", "dear"))
        saved, gap = row["saved_share"], row.get("map_difference")
        mean = f"{gap['mean']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})" if gap else "not compared"
        lines.append(
            f"| {row['comparison']} | {median(dear):.1f} | {median(cheap):.1f} | {saved['median']:.0%} "
            f"({saved['low']:.0%} to {saved['high']:.0%}) | {row['cheap_waiting_share']['median']:.0%} | {mean} |"
        )
    return "\n".join(lines) + "\n"


def _targets(rows: list[dict]) -> str:
    """Every promised ratio with its target, missed ones too."""
    lines = []
    for row in rows:
        if row.get("at_least") is not None:
            place = f" at {row['size']} px" if "size" in row else ""
            met = "" if row["met"] else ", **missed**"
            lines.append(
                f"- {row['ours']} / {row['theirs']}{place}: {row['ratio']:.2f} (target {row['at_least']:g}{met})"
            )
        if "epoch_rows" in row:
            seconds = row["seconds"]["median"]
            lines.append(f"- an epoch over {row['epoch_rows']:,} rows starts in {seconds:.2f} s (target 1)")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + BEGIN + section() + END + after)


if __name__ == "__main__":
    main()
