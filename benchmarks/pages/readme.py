"""Writes the README's section on speed, its two pictures and docs/benchmarks.md from the newest committed results.

    python -m benchmarks.pages.readme

No figure is typed by hand. A file of results may hold runs with a GPU and without: the newest of each counts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.pages import plots
from benchmarks.pages.markdown import BOUNDS, NOT_MEASURED, rows_of, table, where
from benchmarks.pages.page import page
from benchmarks.training import stages_report
from benchmarks.training.stages_report import FIGURE, NATIVE, THREE

ROOT = Path(__file__).parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
LOADING, STAGES = ROOT / "docs" / "loading.svg", ROOT / "docs" / "stages.svg"
BEGIN, END = "<!-- speed: written by python -m benchmarks.pages.readme -->\n", "<!-- /speed -->\n"
SHOWN = (224, 512)  # pixels: the columns of the README's table; the picture and the page have all sizes
# How a contender of benchmarks.loader begins, what the README calls it, and what kind of line it is in the picture. Of
# several with one beginning (2 and 4 workers) the fastest counts, as in the promises.
LOADERS = (
    ("raw", "ours, raw renditions", "ours"),
    ("JPEG", "ours, JPEG renditions", "ours"),
    ("read only", "read only", plots.CEILING),
    ("cached batches", "cached batches", plots.CEILING),
    ("decode only", "decode only", plots.CEILING),
    ("DALI's reader", "DALI's own reader", "theirs"),
    ("best-effort DataLoader", "best-effort DataLoader", "theirs"),
    ("WebDataset + OpenCV", "WebDataset + OpenCV", "theirs"),
    ("FFCV with our flips, gray arrays", "FFCV with our flips, gray arrays", "theirs"),
    ("FFCV with our flips, raw", "FFCV with our flips, raw, 3 channels", "theirs"),
    ("FFCV raw", "FFCV raw, 3 channels", "theirs"),
    ("FFCV with our flips, JPEG", "FFCV with our flips, JPEG, 3 channels", "theirs"),
    ("FFCV JPEG", "FFCV JPEG, 3 channels", "theirs"),
    ("paper, resized files", "the paper's, resized files", "theirs"),
    ("paper, native files", "the paper's, native files", "theirs"),
)
IN_TABLE = tuple(name for name, _, kind in LOADERS if name not in ("read only", "cached batches"))
PAIRS = {FIGURE: "Figure 2, small images and then large ones", THREE: "three equal stages, each larger"}


def section() -> str:
    """The README's section: a table and where its rows come from, thrice, and two pictures."""
    rows = {name: rows_of(name, gpu=False) for name in ("loader", "pack", "stages", "step")}
    gpu = {name: rows_of(name, gpu=True) for name in ("stages", "step")}
    return "\n".join(
        (
            "In brackets: what is promised on 2 cores. Every promise, every size and what a GPU has to show:\n"
            "[docs/benchmarks.md](docs/benchmarks.md).\n",
            "![Images per second of each loader at every size](docs/loading.svg)\n",
            _loading(rows["loader"]),
            _packing(rows["pack"]),
            _training(rows, gpu),
            "![Where the seconds of stage training go](docs/stages.svg)\n",
        )
    )


# ---------------------------------------------------------------- loading


def _best(rows: Sequence[dict], name: str, size: int) -> dict | None:
    """The fastest warm row of the contenders with that beginning."""
    found = [
        row for row in rows
        if row.get("images_per_second") and row.get("size") == size and row.get("cache", "warm") == "warm"
        and (row["contender"] == name or row["contender"].startswith(f"{name},"))
    ]  # fmt: skip
    return max(found, key=lambda row: row["images_per_second"]["median"], default=None)


def _loading(rows: Sequence[dict]) -> str:
    if not rows:
        return "**Loading.** Not measured yet.\n"
    lines = []
    for name, label, kind in LOADERS:
        if name not in IN_TABLE:
            continue
        found = [_best(rows, name, size) for size in SHOWN]
        rates = [f"{row['images_per_second']['median']:,.0f}" if row else NOT_MEASURED for row in found]
        cost = [f"{row['cpu_seconds_per_1000']:.2f}" for row in found if row]
        label = {"ours": f"**{label}**", plots.CEILING: f"*{label}, the ceiling of JPEG*"}.get(kind, label)
        lines.append((label, *rates, " / ".join(cost) or NOT_MEASURED, _against(rows, name)))
    head = f"loader, images/s | {SHOWN[0]} px | {SHOWN[1]} px | CPU s per 1,000 | ours are times as fast"
    more = "; medians of interleaved runs, synthetic images, warm cache"
    return f"**Loading**\n\n{table(head, lines)}\n\n{where('loader', rows, more)}"


def _against(rows: Sequence[dict], name: str) -> str:
    """How many times as fast ours are, at the sizes shown, and what is promised: "JPEG 1.25 / 1.12 (1.2 / 1.1)"."""
    cells = []
    for ours in ("JPEG", "raw"):
        found = [
            row for size in SHOWN for row in rows
            if row.get("ours") == ours and row["size"] == size and row["theirs"].startswith(name)
            and row.get("cache", "warm") == "warm"
        ]  # fmt: skip
        bounds = [row for row in found if row["at_least"] is not None]
        if not bounds and not any(row["ratio"] for row in found):
            continue
        text = f"{ours} {' / '.join(_ratio(row['ratio']) if row['ratio'] else NOT_MEASURED for row in found)}"
        if bounds:
            missed = [row["size"] for row in bounds if row["met"] is False]
            where = f" at {missed[0]}" if len(missed) == 1 and len(bounds) > 1 else ""
            text += f" ({_promised(bounds)}{f', **missed**{where}' if missed else ''})"
        cells.append(text)
    return "; ".join(cells)


def _promised(rows: Sequence[dict]) -> str:
    """Bounds of several sizes, once where they are equal."""
    bounds = [f"{row['at_least']:g}" for row in rows]
    return bounds[0] if len(set(bounds)) == 1 else " / ".join(bounds)


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 3 else f"{value:.2f}"


# ---------------------------------------------------------------- packing


def _packing(rows: Sequence[dict]) -> str:
    if not rows:
        return "**Packing.** Not measured yet.\n"
    lines = []
    for row in rows:
        if row.get("images_per_second") and row.get("cpu_seconds_per_1000"):
            ours = [one for one in rows if one.get("theirs") == row["contender"] and one.get("ratio")]
            cells = [f"{_own(one)}{_ratio(one['ratio'])}{_bracket(one)}" for one in ours]
            rate = row["images_per_second"]["median"]
            lines.append((row["contender"], f"{rate:,.1f}", f"{row['cpu_seconds_per_1000']:.1f}", "; ".join(cells)))
    sizes = next((row["sizes"] for row in rows if row.get("sizes")), ())
    head = f"packing into {', '.join(map(str, sizes))} px | images/s | CPU s per 1,000 | ours are times as fast"
    more = "; medians of interleaved runs, synthetic JPEGs of 2544 x 3056, warm cache"
    return f"**Packing**\n\n{table(head, lines)}\n\n{where('pack', rows, more)}"


def _own(ratio: dict) -> str:
    """Said where a contender is compared with itself, by the number of jobs: "whole packing, 2 jobs"."""
    name, _, jobs = ratio["ours"].partition(", ")
    return f"with {jobs} " if ratio["theirs"].startswith(f"{name}, ") else ""


def _bracket(row: dict) -> str:
    if row.get("at_least") is None:
        return ""
    return f" ({row['at_least']:g}{'' if row['met'] else ', **missed**'})"


# ---------------------------------------------------------------- training


def _training(cpu: dict[str, Sequence[dict]], gpu: dict[str, Sequence[dict]]) -> str:
    """Two columns: what the CPU study of small models shows, and what a GPU has to."""
    lines = []

    def line(words: str, of: Callable, promised: str = "") -> None:
        lines.append((words, of(cpu), of(gpu), promised))

    for name in (THREE, FIGURE):
        line(f"{PAIRS[name]}: saved", lambda rows, name=name: _saved(rows["stages"], name), f"{BOUNDS[name]:.0%}")
    for name in (f"{NATIVE}, the paper's loader", f"{NATIVE}, our loader, packed"):
        line(f"Figure 2, {name}: saved", lambda rows, name=name: _saved(rows["stages"], name))
    line("three stages: waiting for data, of training", lambda rows: _waiting(rows["stages"]), "1%")
    line("three stages: mAP, small first less all large", lambda rows: _map(rows["stages"]))
    line("step: images/s from the loader / on cached batches", lambda rows: _step(rows["step"]), "0.98")
    sources = []
    for name in ("stages", "step"):
        sources += [where(name, rows[name]).rstrip() for rows in (cpu, gpu) if rows[name]]
    head = "training | CPU, small model, small images | GPU, EfficientNetV2-S, 224 to 512 px | promised on a GPU"
    text = f"**Training**\n\n{table(head, lines)}\n"
    return "\n".join((text, *(f"{line}\n" for line in sources)))


def _comparison(rows: Sequence[dict], name: str) -> dict | None:
    return next((row for row in rows if "pairs" in row and row["comparison"] == name), None)


def _saved(rows: Sequence[dict], name: str) -> str:
    found = _comparison(rows, name)
    if found is None:
        return NOT_MEASURED
    share = found["saved_share"]
    sizes = [_sides(rows, name, found[arm]) for arm in ("cheap", "dear")]
    spread = "" if share["sd"] is None else f"{share['low']:z.0%} to {share['high']:z.0%}, "
    missed = ", **missed**" if found.get("met") is False else ""
    return f"{share['median']:z.0%} ({spread}by pixels {stages_report.ideal_share(*sizes):.0%}){missed}"


def _sides(rows: Sequence[dict], name: str, arm: str) -> list[int]:
    return [
        one["size"]
        for one in next(row for row in rows if row.get("arm") == arm and row["comparison"] == name)["stages"]
    ]


def _waiting(rows: Sequence[dict]) -> str:
    found = _comparison(rows, THREE)
    return NOT_MEASURED if found is None else f"{found['cheap_waiting_share']['median']:.0%}"


def _map(rows: Sequence[dict]) -> str:
    found = _comparison(rows, THREE)
    if found is None:
        return NOT_MEASURED
    gap = found.get("map_difference")
    return f"{gap['mean']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})" if gap else "not compared"


def _step(rows: Sequence[dict]) -> str:
    """Ratios by size, from the rows that promise one of the loader against cached batches."""
    found = [
        row for row in rows if row.get("ratio") and (row["ours"], row["theirs"]) == ("ours, loader", "ours, cached")
    ]
    if not found:
        return NOT_MEASURED
    return ", ".join(
        f"{row['ratio']:.3f} at {row['size']}{' **missed**' if row['met'] is False else ''}" for row in found
    )


# ---------------------------------------------------------------- pictures


def loading_lines(rows: Sequence[dict]) -> list[plots.Line]:
    """What the picture of loading shows: the fastest warm row of each loader at every size."""
    sizes = sorted({row["size"] for row in rows if row.get("images_per_second")})
    found = []
    for name, label, kind in LOADERS:
        best = {size: row for size in sizes if (row := _best(rows, name, size))}
        if best:
            found.append(
                plots.Line(label, kind, {size: row["images_per_second"]["median"] for size, row in best.items()})
            )
    return found


def pictures(loading: Path = LOADING, stages: Path = STAGES) -> None:
    rows = rows_of("loader", gpu=False)
    machine = rows[-1]["environment"]
    plots.loading(loading_lines(rows), f"{machine['cpu']}, {machine['cores']} cores, warm cache", loading)
    stages_report.plot(rows_of("stages", gpu=False), stages)


def main() -> None:
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + BEGIN + section() + END + after)
    PAGE.write_text(page())
    pictures()


if __name__ == "__main__":
    main()
