"""docs/benchmarks.md: every promise with what was measured of it, and the whole tables. benchmarks.readme writes it."""

from collections.abc import Sequence

from benchmarks import results
from benchmarks.pages.markdown import BOUNDS, NOT_MEASURED, rows_of, table, where
from benchmarks.training import stages_report
from benchmarks.training.stages_report import FIGURE, THREE

MISSING = "Not measured yet.\n"
# What only a GPU can show, by the file that has it: named in the page as long as no run with one is there.
ON_A_GPU = (
    ("stages", f"{THREE}: wall-clock saved", f"at least {BOUNDS[THREE]:g}"),
    ("stages", f"{FIGURE}: wall-clock saved", f"at least {BOUNDS[FIGURE]:g}"),
    ("demand", "training that waits for data, at every stage", "at most 0.01"),
    ("step", "images/s from the loader / on cached batches, at every stage", "at least 0.98"),
    ("step", "images/s / timm's at equal settings", "at least 0.98"),
)


def page() -> str:
    """docs/benchmarks.md: every promise with what was measured of it, and the whole tables."""
    parts = [
        "# Benchmarks: what is promised, and what was measured\n",
        "Written by `python -m benchmarks.pages.readme` from `benchmarks/results/`; how it was measured: "
        "[benchmarks/README.md](../benchmarks/README.md), what was tried: [benchmarks/LOG.md](../benchmarks/LOG.md).\n",
        "## Promises\n",
        _promises(),
    ]
    for gpu, words in ((False, "without a GPU"), (True, "with a GPU")):
        for name, (title, text) in TABLES.items():
            rows = rows_of(name, gpu)
            parts += [f"## {title}, {words}\n", f"{where(name, rows)}\n{text(rows)}" if rows else MISSING]
    return "\n".join(parts)


# ---------------------------------------------------------------- promises


def _promises() -> str:
    """A line per row of any benchmark that has a bound, in the newest runs with and without a GPU."""
    lines, measured = [], set()
    for path in sorted(results.RESULTS.glob("*.jsonl")):
        for gpu in (False, True):
            rows = rows_of(path.stem, gpu)
            measured |= {(path.stem, gpu)} if rows else set()
            for row in [row for row in rows if {row.get("at_least"), row.get("at_most")} != {None}]:
                if "beside" not in row or row is _least_waiting(rows, row["size"]):
                    found = row["environment"]
                    machine = found["gpu"] or f"{found['cpu']}, {found['cores']} cores"
                    lines.append((path.stem, *_promise(row), machine))
    for name, what, bound in ON_A_GPU:
        if (name, True) not in measured:
            lines.append((name, what, "", bound, NOT_MEASURED, "a GPU"))
    return table("benchmark | promise | measured | bound | reached | machine", lines) + "\n"


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
    reached = {None: NOT_MEASURED, True: "yes", False: "**missed**"}[row.get("met")]
    return ", ".join((what, *places)), _measured(row), bound, reached


def _measured(row: dict) -> str:
    """The figure that the bound is about: a ratio, a share, seconds, or what the row calls `value`."""
    for key in ("ratio", "saved_share", "waiting_share", "share", "seconds", "value", "peak_mib", "gib", "growth"):
        value = row.get(key)
        value = value.get("median") if isinstance(value, dict) else value
        if value is not None:
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return row.get("not_measured") or ("" if row.get("met") is not None else NOT_MEASURED)


# ---------------------------------------------------------------- tables


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
    return table(head, lines) + "\n"


def _number(value: object) -> str:
    """A count, the median of a spread, or nothing."""
    value = value.get("median") if isinstance(value, dict) else value
    return "" if value is None else f"{value:,.0f}"


def _demand(rows: Sequence[dict]) -> str:
    """Supply by threads, and the threads that each demand needs."""
    threads = sorted({row["threads"] for row in rows if "contender" in row})
    lines = []
    for size, feed in dict.fromkeys((row["size"], row["feed"]) for row in rows if "contender" in row):
        own = [row for row in rows if (row["size"], row.get("feed")) == (size, feed)]
        rates = {row["threads"]: row["images_per_second"]["median"] for row in own if "contender" in row}
        needed = [
            f"{row['rule']}, {row['demanded']:,.0f}: {row['threads_needed'] or 'more'}, {row['cores_busy']:.2f} cores"
            for row in own
            if "rule" in row
        ]
        waits = min((row["waiting_share"]["median"] for row in own if "beside" in row), default=None)
        cells = (f"{rates[count]:,.0f}" if count in rates else "" for count in threads)
        waiting = NOT_MEASURED if waits is None else f"{waits:.1%}"
        lines.append((f"{size} px, {feed}", *cells, "; ".join(needed), waiting))
    head = " | ".join(f"{count} threads" if count > 1 else "1 thread" for count in threads)
    rest = "demand, images/s: threads for twice that, cores busy at it | least waiting beside a step"
    return table(f"images/s | {head} | {rest}", lines) + "\n"


TABLES = {
    "loader": ("Loading", _all_loaders),
    "demand": ("Threads against the training step", _demand),
    "stages": ("Stage training", stages_report.table),
}  # result file -> title, and what writes its rows
