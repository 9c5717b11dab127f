"""Writes the README's few figures on speed, the tables of docs/benchmarks.md, docs/architectures.md and
docs/statistics.md, docs/gpu.md, and the picture of loading.

    python -m benchmarks.pages.readme

Every figure comes from the newest committed results; none is typed by hand. A file of results may hold runs with a GPU
and without: the newest of each counts. What stands outside of the markers is written by hand and stays.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.pages import coverage, families, gpu, parts, plots
from benchmarks.pages.markdown import NOT_MEASURED, fastest, table, where
from benchmarks.pages.page import tables

ROOT = Path(__file__).parents[2]
README, PAGE, LOADING = ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "loading.svg"
ARCHITECTURES, STATISTICS, GPU, RECIPES = (
    ROOT / "docs" / f"{name}.md" for name in ("architectures", "statistics", "gpu", "recipes")
)
BEGIN, END = "<!-- speed: written by python -m benchmarks.pages.readme -->\n", "<!-- /speed -->\n"
SHOWN = (224, 512)  # pixels: the columns of the README's table; the picture and the page have all sizes
IN_README = (
    "JPEG", "raw", "DALI's decoder alone", "SPDL", "best-effort DataLoader", "FFCV JPEG",
    "FFCV with our flips, gray arrays", "stage-training paper, native files",
)  # fmt: skip
# How a baseline of benchmarks.peers begins, its name for readers, and its kind of line in the picture.
LOADERS = (
    ("raw", "ours, raw renditions", "ours"),
    ("JPEG", "ours, JPEG renditions", "ours"),
    ("read only", "read only", plots.CEILING),
    ("cached batches", "cached batches", plots.CEILING),
    ("decode only", "ours, JPEG, without augmentation", plots.CEILING),
    ("DALI's decoder alone", "DALI's decoder alone", "theirs"),
    ("DALI's reader", "DALI's own reader", "theirs"),
    ("best-effort DataLoader", "best-effort DataLoader", "theirs"),
    ("torchvision", "torchvision", "theirs"),
    ("WebDataset", "WebDataset", "theirs"),
    ("litData", "litData", "theirs"),
    ("Streaming", "Streaming", "theirs"),
    ("SPDL", "SPDL", "theirs"),
    ("FFCV with our flips, gray arrays", "FFCV with our flips, gray arrays", "theirs"),
    ("FFCV with our flips, raw", "FFCV with our flips, raw, 3 channels", "theirs"),
    ("FFCV raw", "FFCV raw, 3 channels", "theirs"),
    ("FFCV with our flips, JPEG", "FFCV with our flips, JPEG, 3 channels", "theirs"),
    ("FFCV JPEG", "FFCV JPEG, 3 channels", "theirs"),
    ("stage-training paper, resized files", "stage-training paper's loader, resized files", "theirs"),
    ("stage-training paper, native files", "stage-training paper's loader, native files", "theirs"),
)


def section() -> str:
    """The README's table of six loaders, and where its rows come from."""
    rows = results.newest("loader", gpu=False)
    if not rows:
        return "Not measured yet.\n"
    labels, lines = {name: (label, kind) for name, label, kind in LOADERS}, []
    for name in IN_README:
        label, kind = labels[name]
        found = [fastest(rows, name, size) for size in SHOWN]
        rates = [f"{results.median_rate(row):,.0f}" if row else NOT_MEASURED for row in found]
        lines.append((f"**{label}**" if kind == "ours" else label, *rates))
    head = f"augmented images/s | {SHOWN[0]} px | {SHOWN[1]} px"
    more = "; medians of interleaved runs, synthetic images, warm cache"
    return f"{table(head, lines)}\n{where('loader', rows, more)}"


def loading_lines(rows: Sequence[dict]) -> list[plots.Line]:
    """What the picture of loading shows: the fastest warm row of each loader at every size."""
    sizes = sorted({row["size"] for row in rows if row.get("images_per_second")})
    found = []
    for name, label, kind in LOADERS:
        rates = {size: results.median_rate(row) for size in sizes if (row := fastest(rows, name, size))}
        if rates:
            found.append(plots.Line(label, kind, rates))
    return found


def written(text: str, new: str, name: str = "speed") -> str:
    """The text with what stands between the markers replaced."""
    begin, end = BEGIN.replace("speed", name, 1), END.replace("speed", name)
    return text.split(begin)[0] + begin + new + end + text.split(end)[1]


def main() -> None:
    README.write_text(written(README.read_text(), section()))
    PAGE.write_text(written(PAGE.read_text(), tables()))
    ARCHITECTURES.write_text(written(ARCHITECTURES.read_text(), families.section(), "families"))
    STATISTICS.write_text(written(STATISTICS.read_text(), coverage.section(), "coverage"))
    GPU.write_text(written(GPU.read_text(), gpu.section(), "gpu"))
    RECIPES.write_text(written(RECIPES.read_text(), parts.section(), "parts"))
    rows = results.newest("loader", gpu=False)
    machine = rows[-1]["environment"]
    words = f"{machine['cpu']}, {machine['cores']} cores, no GPU; synthetic images, warm cache; {machine['date'][:10]}"
    plots.loading(loading_lines(rows), words, LOADING)


if __name__ == "__main__":
    main()
