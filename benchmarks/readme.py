"""Writes the README's section on speed, its two pictures and docs/benchmarks.md from the newest committed results.

    python -m benchmarks.readme

No figure is typed by hand. A file of results may hold runs with a GPU and without: the newest of each counts.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import plots, stages_report
from benchmarks.results import RESULTS, newest
from benchmarks.stages_report import FIGURE, NATIVE, TARGETS, THREE

ROOT = Path(__file__).parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
LOADING, STAGES = ROOT / "docs" / "loading.svg", ROOT / "docs" / "stages.svg"
BEGIN, END = "<!-- speed: written by python -m benchmarks.readme -->\n", "<!-- /speed -->\n"
NOT_MEASURED = "not measured"
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
    ("FFCV raw", "FFCV raw, 3 channels", "theirs"),
    ("FFCV JPEG", "FFCV JPEG, 3 channels", "theirs"),
    ("paper, resized files", "the paper's, resized files", "theirs"),
    ("paper, native files", "the paper's, native files", "theirs"),
)
IN_TABLE = tuple(name for name, _, kind in LOADERS if name not in ("read only", "cached batches"))
PAIRS = {FIGURE: "Figure 2 (224, 320 px)", THREE: "three equal stages (224, 320, 512 px)"}
BOUNDS = dict(zip((FIGURE, THREE), TARGETS.values(), strict=True))  # share of wall-clock to save, on a GPU
# What only a GPU can show, by the file that has it: named in the page as long as no run with one is there.
ON_A_GPU = (
    ("stages", f"{THREE}: wall-clock saved", f"at least {BOUNDS[THREE]:g}"),
    ("stages", f"{FIGURE}: wall-clock saved", f"at least {BOUNDS[FIGURE]:g}"),
    ("demand", "training that waits for data, at every stage", "at most 0.01"),
    ("step", "images/s from the loader / on cached batches, at every stage", "at least 0.98"),
    ("step", "images/s / timm's at equal settings", "at least 0.98"),
    ("step", "the paper's four shapes fit 24 GB", "yes"),
    ("step", "--micro-batch auto / uncapped images/s", "at least 0.9"),
)


def section() -> str:
    """The README's section: a table and where its rows come from, thrice, and two pictures."""
    rows = {name: newest(RESULTS / f"{name}.jsonl", gpu=False) for name in ("loader", "pack", "stages", "step")}
    gpu = {name: newest(RESULTS / f"{name}.jsonl", gpu=True) for name in ("stages", "step")}
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


def page() -> str:
    """docs/benchmarks.md: every promise with what was measured of it, and the whole tables."""
    parts = [
        "# Benchmarks: what is promised, and what was measured\n",
        "Written by `python -m benchmarks.readme` from `benchmarks/results/`; how it was measured: "
        "[benchmarks/README.md](../benchmarks/README.md), what was tried: [benchmarks/LOG.md](../benchmarks/LOG.md).\n",
        "## Promises\n",
        _promises(),
    ]
    for gpu, words in ((False, "without a GPU"), (True, "with a GPU")):
        rows = newest(RESULTS / "loader.jsonl", gpu)
        parts += [f"## Loading, {words}\n", _all_loaders(rows) if rows else "Not measured yet.\n"]
        rows = newest(RESULTS / "demand.jsonl", gpu)
        parts += [f"## Threads against the training step, {words}\n", _demand(rows) if rows else "Not measured yet.\n"]
        rows = newest(RESULTS / "stages.jsonl", gpu)
        text = _where("stages", rows) + "\n" + stages_report.table(rows) if rows else "Not measured yet.\n"
        parts += [f"## Stage training, {words}\n", text]
    return "\n".join(parts)


def _where(name: str, rows: Sequence[dict], more: str = "") -> str:
    """The line under a table: machine, command, commit and file."""
    where = rows[-1]["environment"]
    machine = f"{where['cpu']}, {where['cores']} cores, {where['gpu'] or 'no GPU'}"
    commit = (where["commit"] or "unknown")[:9]
    return f"{machine}{more}; `{where['command']}`, commit {commit}, `benchmarks/results/{name}.jsonl`.\n"


def _table(head: str, lines: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    columns = head.count("|")
    return "\n".join([f"| {head} |", "|---" + "|---:" * columns + "|", *(f"| {' | '.join(line)} |" for line in lines)])


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
    return f"**Loading**\n\n{_table(head, lines)}\n\n{_where('loader', rows, more)}"


def _against(rows: Sequence[dict], name: str) -> str:
    """How many times as fast ours are, at the sizes shown, and what is promised: "JPEG 1.25 / 1.12 (1.2 / 1.1)"."""
    cells = []
    for ours in ("JPEG", "raw"):
        found = [
            row for size in SHOWN for row in rows
            if row.get("ours") == ours and row["size"] == size and row["theirs"].startswith(name) and row["ratio"]
        ]  # fmt: skip
        if not found:
            continue
        bounds = [row for row in found if row["at_least"] is not None]
        text = f"{ours} {' / '.join(_ratio(row['ratio']) for row in found)}"
        if bounds:
            missed = [row["size"] for row in bounds if not row["met"]]
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


def _all_loaders(rows: Sequence[dict]) -> str:
    """A line per contender, size and state of the page cache, with all that was measured."""
    lines = []
    for row in rows:
        if not row.get("images_per_second"):
            if row.get("not_measured") and "contender" in row:
                lines.append(
                    (row["contender"], str(row.get("size", "")), f"{NOT_MEASURED}: {row['not_measured']}", *[""] * 6)
                )
            continue
        rate = row["images_per_second"]
        pixels, stored, read = (
            row.get(key) for key in ("megapixels_per_second", "stored_bytes_per_image", "read_bytes_per_image")
        )
        pixels = pixels["median"] if isinstance(pixels, dict) else pixels
        pixels = rate["median"] * row["size"] ** 2 / 1e6 if pixels is None else pixels
        lines.append(
            (
                row["contender"],
                f"{row['size']}",
                f"{rate['median']:,.0f}",
                f"{rate['low']:,.0f} to {rate['high']:,.0f}",
                f"{pixels:,.0f}",
                f"{row['cpu_seconds_per_1000']:.3f}",
                _number(row.get("peak_mib")),
                _number(read if read is not None else stored),
                row.get("cache", "warm"),
            )  # fmt: skip
        )
    head = "loader | px | images/s | lowest to highest | MP/s | CPU s per 1,000 | peak MiB | bytes an image | cache"
    return _where("loader", rows) + "\n" + _table(head, lines) + "\n"


def _number(value: object) -> str:
    """A count, the median of a spread, or nothing."""
    value = value.get("median") if isinstance(value, dict) else value
    return "" if value is None else f"{value:,.0f}"


# ---------------------------------------------------------------- packing


def _packing(rows: Sequence[dict]) -> str:
    if not rows:
        return "**Packing.** Not measured yet.\n"
    lines = []
    for row in rows:
        if row.get("images_per_second") and row.get("cpu_seconds_per_1000"):
            ours = [one for one in rows if one.get("theirs") == row["contender"] and one.get("ratio")]
            cells = [f"{_ratio(one['ratio'])}{_bracket(one)}" for one in ours]
            rate = row["images_per_second"]["median"]
            lines.append((row["contender"], f"{rate:,.1f}", f"{row['cpu_seconds_per_1000']:.1f}", "; ".join(cells)))
    sizes = next((row["sizes"] for row in rows if row.get("sizes")), ())
    head = f"packing into {', '.join(map(str, sizes))} px | images/s | CPU s per 1,000 | ours are times as fast"
    more = "; medians of interleaved runs, synthetic JPEGs of 2544 x 3056, warm cache"
    return f"**Packing**\n\n{_table(head, lines)}\n\n{_where('pack', rows, more)}"


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
    where = []
    for name in ("stages", "step"):
        where += [_where(name, rows[name]).rstrip() for rows in (cpu, gpu) if rows[name]]
    head = "training | CPU, small model, small sizes | GPU, EfficientNetV2-S, 224 to 512 px | promised on a GPU"
    text = f"**Training**\n\n{_table(head, lines)}\n"
    return "\n".join((text, *(f"{line}\n" for line in where)))


def _comparison(rows: Sequence[dict], name: str) -> dict | None:
    return next((row for row in rows if "pairs" in row and row["comparison"] == name), None)


def _saved(rows: Sequence[dict], name: str) -> str:
    found = _comparison(rows, name)
    if found is None:
        return NOT_MEASURED
    share = found["saved_share"]
    sizes = [_sides(rows, name, found[arm]) for arm in ("cheap", "dear")]
    spread = "" if share["sd"] is None else f"{share['low']:.0%} to {share['high']:.0%}, "
    missed = ", **missed**" if found.get("met") is False else ""
    return f"{share['median']:.0%} ({spread}by pixels {stages_report.ideal_share(*sizes):.0%}){missed}"


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
    found = [row for row in rows if row.get("ratio") and "cached" in str(row.get("theirs"))]
    if not found:
        return NOT_MEASURED
    missed = ", **missed**" if any(row.get("met") is False for row in found) else ""
    return ", ".join(f"{row['ratio']:.2f} at {row['size']}" for row in found) + missed


# ---------------------------------------------------------------- every promise


def _promises() -> str:
    """A line per row of any benchmark that has a bound, in the newest runs with and without a GPU."""
    lines, measured = [], set()
    for path in sorted(RESULTS.glob("*.jsonl")):
        for gpu in (False, True):
            rows = newest(path, gpu)
            measured |= {(path.stem, gpu)} if rows else set()
            for row in [row for row in rows if {row.get("at_least"), row.get("at_most")} != {None}]:
                if "beside" not in row or row is _least_waiting(rows, row["size"]):
                    where = row["environment"]
                    machine = where["gpu"] or f"{where['cpu']}, {where['cores']} cores"
                    lines.append((path.stem, *_promise(row), machine))
    for name, what, bound in ON_A_GPU:
        if (name, True) not in measured:
            lines.append((name, what, "", bound, NOT_MEASURED, "a GPU"))
    return _table("benchmark | promise | measured | bound | reached | machine", lines) + "\n"


def _least_waiting(rows: Sequence[dict], size: int) -> dict:
    """Of the loaders beside a training step at that size."""
    beside = [row for row in rows if "beside" in row and row["size"] == size]
    return min(beside, key=lambda row: row["waiting_share"]["median"])


def _promise(row: dict) -> tuple[str, str, str, str]:
    """What is promised, what was measured, the bound, and whether it was reached."""
    if "ours" in row and "theirs" in row:
        what = f"{row['ours']} / {row['theirs']}"
    elif "comparison" in row:
        what = f"{row['comparison']}: wall-clock saved"
    elif "beside" in row:
        what = f"{row['beside']}: training that waits for data"
    else:
        what = row.get("promise") or row.get("contender") or row.get("what") or row["benchmark"]
    places = [f"{row['size']} px"] if "size" in row else []
    places += ["cold"] if row.get("cache") == "cold" else []
    bound = f"at least {row['at_least']:g}" if row.get("at_least") is not None else f"at most {row['at_most']:g}"
    reached = {None: NOT_MEASURED, True: "yes", False: "**missed**"}[row["met"]]
    return ", ".join((what, *places)), _measured(row), bound, reached


def _measured(row: dict) -> str:
    """The figure that the bound is about: a ratio, a share, seconds, or what the row calls `value`."""
    for key in ("ratio", "saved_share", "waiting_share", "share", "seconds", "value", "peak_mib", "gib", "growth"):
        value = row.get(key)
        value = value.get("median") if isinstance(value, dict) else value
        if value is not None:
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return row.get("not_measured") or ("" if row["met"] is not None else NOT_MEASURED)


def _demand(rows: Sequence[dict]) -> str:
    """Supply by threads, and the threads that each demand needs."""
    threads = sorted({row["threads"] for row in rows if "contender" in row})
    lines = []
    for size in dict.fromkeys(row["size"] for row in rows):
        here = [row for row in rows if row["size"] == size]
        rules = [row for row in here if "rule" in row]
        for feed in dict.fromkeys(row["feed"] for row in here if "contender" in row):
            rates = {
                row["threads"]: row["images_per_second"]["median"]
                for row in here
                if row.get("contender") and row["feed"] == feed
            }
            needed = [f"{row['rule']}, {row['demanded']:,.0f}: {row['threads'][feed] or 'more'}" for row in rules]
            beside = [row for row in here if row.get("beside") and row["feed"] == feed]
            waits = min((row["waiting_share"]["median"] for row in beside), default=None)
            lines.append(
                (
                    f"{size} px, {feed}",
                    *(f"{rates[count]:,.0f}" if count in rates else "" for count in threads),
                    "; ".join(needed),
                    NOT_MEASURED if waits is None else f"{waits:.1%}",
                )  # fmt: skip
            )
    head = (
        "images/s by threads | "
        + " | ".join(map(str, threads))
        + " | demand, images/s: threads for twice that | least waiting beside a step"
    )
    return _where("demand", rows) + "\n" + _table(head, lines) + "\n"


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
    rows = newest(RESULTS / "loader.jsonl", gpu=False)
    where = rows[-1]["environment"]
    plots.loading(loading_lines(rows), f"{where['cpu']}, {where['cores']} cores, warm cache", loading)
    stages_report.plot(newest(RESULTS / "stages.jsonl", gpu=False), stages)


def main() -> None:
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + BEGIN + section() + END + after)
    PAGE.write_text(page())
    pictures()


if __name__ == "__main__":
    main()
