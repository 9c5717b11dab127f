"""The tables of docs/benchmarks.md: every target with what was measured of it, and every rate.

Pure text from rows; `benchmarks.pages.readme` writes it.
"""

from collections.abc import Callable, Sequence

from benchmarks import results
from benchmarks.pages.markdown import NOT_MEASURED, table, where
from benchmarks.training import stages_report
from benchmarks.training.stages_report import FIGURE, TARGETS, THREE

# What only a GPU can show, by the file that has it: named in the page as long as no run with one is there.
ON_A_GPU = (
    *(("stages", f"{name}: wall-clock saved", f"at least {TARGETS[name]:g}") for name in (THREE, FIGURE)),
    ("step", "training that waits for data, at every stage", "at most 0.01"),
    ("step", "images/s from the loader / on cached batches, at every stage", "at least 0.98"),
    ("step", "images/s / timm's at equal settings", "at least 0.98"),
)


def tables() -> str:
    """All of them, each with where its rows come from."""
    parts = ["## Targets and ratios\n", _targets()]
    for gpu, words in ((False, "without a GPU"), (True, "with a GPU")):
        for name, (title, text) in TABLES.items():
            rows = results.newest(name, gpu)
            parts += [f"## {title}, {words}\n", f"{where(name, rows)}\n{text(rows)}" if rows else "Not measured yet.\n"]
    return "\n".join(parts)


# ---------------------------------------------------------------- targets


def _targets() -> str:
    """A line per row of any benchmark that has a bound or is a ratio, in the newest runs with and without a GPU."""
    lines, measured = [], set()
    for path in sorted(results.RESULTS.glob("*.jsonl")):
        for gpu in (False, True):
            rows = results.newest(path.stem, gpu)
            measured |= {(path.stem, gpu)} if rows else set()
            for row in rows:
                if not {"at_least", "at_most"} & row.keys() or ("pairs" in row and row["at_least"] is None):
                    continue
                found = row["environment"]
                machine = found["gpu"] or f"{found['cpu']}, {found['cores']} cores"
                lines.append((path.stem, *_target(row), machine))
    for name, what, bound in ON_A_GPU:
        if (name, True) not in measured:
            lines.append((name, what, "", bound, NOT_MEASURED, "a GPU"))
    return table("benchmark | what | measured | target | reached | machine", lines)


def _target(row: dict) -> tuple[str, str, str, str]:
    """What is to be reached, what was measured, the bound, and whether it was reached."""
    if "ours" in row and "theirs" in row:
        what = f"{row['ours']} / {row['theirs']}"
    elif "comparison" in row:
        what = f"{row['comparison']}: wall-clock saved"
    elif "waiting_share" in row:
        what = f"{row['baseline']}: training that waits for data"
    else:
        what = row.get("target") or row.get("baseline") or row.get("what") or row["benchmark"]
    places = [f"{row['size']} px"] if "size" in row else []
    places += ["cold"] if row.get("cache") == "cold" else []
    low, high = row.get("at_least"), row.get("at_most")
    bound = f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""
    reached = {None: NOT_MEASURED if bound else "", True: "yes", False: "**missed**"}[row.get("met")]
    return ", ".join((what, *places)), _measured(row), bound, reached


def _measured(row: dict) -> str:
    """The figure that the bound is about: a ratio, a share, seconds, or what the row calls `value`."""
    for key in ("ratio", "saved_share", "waiting_share", "share", "seconds", "value", "peak_mib", "gib", "growth"):
        value = row.get(key)
        value = value.get("median") if isinstance(value, dict) else value
        if value is not None:
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return row.get("not_measured") or ("" if row.get("met") is not None else NOT_MEASURED)


# ---------------------------------------------------------------- rates


def _count(key: str, places: int = 0) -> Callable[[dict], str]:
    return lambda row: "" if row.get(key) is None else f"{row[key]:,.{places}f}"


COLUMNS: dict[str, Callable[[dict], str]] = {
    "px": lambda row: str(row.get("size", "")),
    "images/s": lambda row: _spread(row, "{median:,.{places}f}"),
    "lowest to highest": lambda row: _spread(row, "{low:,.{places}f} to {high:,.{places}f}"),
    "CPU s per 1,000": _count("cpu_seconds_per_1000", 3),
    "peak MiB": _count("peak_mib"),
    "bytes an image": lambda row: _count("read_bytes_per_image" if "read_bytes_per_image" in row else STORED)(row),
    "waiting": lambda row: f"{row['waiting_share']['median']:.2%}" if "waiting_share" in row else "",
    "cache": lambda row: row.get("cache", "warm"),
}
STORED = "stored_bytes_per_image"


def _spread(row: dict, form: str) -> str:
    spread = row.get("images_per_second")
    return form.format(**spread, places=0 if spread["median"] >= 100 else 1) if spread else ""


def _rates(*names: str) -> Callable[[Sequence[dict]], str]:
    """A table with a line per baseline (with its size and the state of the page cache), and these columns."""

    def text(rows: Sequence[dict]) -> str:
        lines = []
        for row in rows:
            if row.get("images_per_second"):
                lines.append((row["baseline"], *(COLUMNS[name](row) for name in names)))
            elif row.get("not_measured") and "baseline" in row:
                lines.append((f"{row['baseline']}: {NOT_MEASURED} ({row['not_measured']})", *[""] * len(names)))
        return table(" | ".join(("", *names)).strip(), lines)

    return text


RATE = ("images/s", "lowest to highest")
TABLES = {
    "loader": ("Loading", _rates("px", *RATE, "CPU s per 1,000", "peak MiB", "bytes an image", "cache")),
    "augment": ("Augmentation", _rates("px", *RATE)),
    "pack": ("Packing", _rates(*RATE, "CPU s per 1,000", "peak MiB")),
    "dicom": ("Packing DICOMs", _rates(*RATE, "CPU s per 1,000")),
    "step": ("The training step", _rates("px", *RATE, "waiting")),
    "stages": ("Stage training", stages_report.table),
}  # result file -> title, and what writes its rows
