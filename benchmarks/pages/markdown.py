"""Markdown from result rows: tables, where rows come from, and which rows count."""

from collections.abc import Iterable, Sequence

from benchmarks import results
from benchmarks.training.stages_report import FIGURE, TARGETS, THREE

NOT_MEASURED = "not measured"
BOUNDS = dict(zip((FIGURE, THREE), TARGETS.values(), strict=True))  # share of wall-clock to save, on a GPU


def rows_of(name: str, gpu: bool) -> list[dict]:
    """The newest run of a benchmark with a GPU, or without."""
    return results.newest(results.RESULTS / f"{name}.jsonl", gpu)


def where(name: str, rows: Sequence[dict], more: str = "") -> str:
    """The line under a table: machine, command, commit and file."""
    found = rows[-1]["environment"]
    machine = f"{found['cpu']}, {found['cores']} cores, {found['gpu'] or 'no GPU'}"
    commit = (found["commit"] or "unknown")[:9]
    return f"{machine}{more}; `{found['command']}`, commit {commit}, `benchmarks/results/{name}.jsonl`.\n"


def table(head: str, lines: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    columns = head.count("|")
    return "\n".join([f"| {head} |", "|---" + "|---:" * columns + "|", *(f"| {' | '.join(line)} |" for line in lines)])
