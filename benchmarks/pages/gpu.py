"""The tables of docs/gpu.md, and of the page beside a run's JSON lines (`benchmarks.gpu`)."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.pages.markdown import NOT_MEASURED, table, where

AIMS = (  # a section, its fact, and what is to be reached
    ("pixels", "pixels", "all as on the CPU"),
    ("lifetime", "a dropped batch keeps its pixels", "all"),
    ("stages", "GPU idle", "at most 0.01 of the time"),
    ("stages", "images/s of the loader / cached", "at least 0.98"),
    ("stages", "a stage of MIMIC-CXR-JPG, hours", ""),
    ("stages", "saved by three equal stages", "at least 0.42 of 512 px alone"),
    ("memory", "a stage fits 24 GiB", "all"),
    ("memory", "micro-batch that is found", ""),
    ("feeding", "milliseconds of the training thread for a batch", ""),
    ("full", "a full GPU is known", "all"),
    ("runs", "a command", "all"),
    ("ranks", "a shared step", "all"),
    ("supply", "supply, share of linear", "at least 0.8"),
    ("predicting", "predicted, images/s", ""),
    ("predicting", "explained, images/s", ""),
    ("precision", "images/s by precision", ""),
    ("compiling", "gain of --compile", ""),
    ("tests", "tests pass", "all"),
)


def newest(path: Path) -> list[dict]:
    """The rows of each section's last run, on the GPU that was used last if there was one."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if gpus := [row["environment"]["gpu"] for row in rows if row["environment"]["gpu"]]:
        rows = [row for row in rows if row["environment"]["gpu"] == gpus[-1]]
    last = {row["section"]: row["environment"]["date"] for row in rows}
    return [row for row in rows if row["environment"]["date"] == last[row["section"]]]


def section() -> str:
    """What stands between the marks of docs/gpu.md: of runs on a GPU alone."""
    return text([row for row in newest(results.RESULTS / "gpu.jsonl") if row["environment"]["gpu"]])


def text(rows: Sequence[dict]) -> str:
    """The aims, then all facts that are not true or have figures; without rows, that nothing was measured yet."""
    own = {name: [row for row in rows if row["section"] == name] for name, _, _ in AIMS}
    lines = [(name, fact, *_aim(own[name], fact, bound)) for name, fact, bound in AIMS]
    aims = table("section | what | measured | to reach | reached", lines)
    if not rows:
        return f"{aims}\nNot measured yet: no GPU was at hand.\n"
    ok = {True: "yes", False: "**no**", None: ""}
    shown = [row for row in rows if row["ok"] is not True or "value" in row["values"]]
    facts = table(
        "section | fact | true | values", [(row["section"], row["fact"], ok[row["ok"]], _values(row)) for row in shown]
    )
    return f"{aims}\n{where('gpu', rows)}\n{facts}"


def counted(rows: Sequence[dict]) -> str:
    """How many facts are true, are not and are figures, in words; then each that is not true."""
    known = [row["ok"] for row in rows]
    words = f"{known.count(True)} true, {known.count(False)} not, {known.count(None)} without a verdict"
    missing = [f"; {NOT_MEASURED}: {row['values']['not_measured']}" for row in rows if "not_measured" in row["values"]]
    return "".join([words, *missing, *(f"\n  {row['fact']}: {_values(row)}" for row in rows if row["ok"] is False)])


def _aim(rows: Sequence[dict], fact: str, bound: str) -> tuple[str, str, str]:
    """What was measured, the bound, and whether it was reached; rows: of the section, which may have broken off."""
    broken = any(row["ok"] is False and "error" in row["values"] for row in rows)
    found = [row for row in rows if row["fact"].partition(": ")[0] == fact]
    known = [row["ok"] for row in found if row["ok"] is not None]
    figures = [
        f"{row['fact'].partition(': ')[2]} {_short(row['values']['value'])}".strip()
        for row in found if row["values"].get("value") is not None
    ]  # fmt: skip
    reached = "yes" if known else "" if figures and not bound else NOT_MEASURED
    reached = "**missed**" if False in known else "**failed**" if broken else reached
    return "; ".join(figures) or (f"{sum(known)} of {len(known)}" if known else ""), bound, reached


def _values(row: dict) -> str:
    words = [f"{name} {_short(value)}" for name, value in row["values"].items() if value not in (None, [], {})]
    return "; ".join(words).replace("|", "/").replace("\n", " ")[:400]


def _short(value: object) -> str:
    return str(value) if not isinstance(value, float) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
