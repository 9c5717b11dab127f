"""Markdown from result rows: tables, and where rows come from."""

from collections.abc import Iterable, Sequence

from benchmarks import results

NOT_MEASURED = "not measured"


def where(name: str, rows: Sequence[dict], more: str = "") -> str:
    """The line under a table: machine, command, commit and file."""
    found = rows[-1]["environment"]
    machine = f"{found['cpu']}, {found['cores']} cores, {found['gpu'] or 'no GPU'}"
    commit = (found["commit"] or "unknown")[:9]
    return f"{machine}{more}; `{found['command']}`, commit {commit}, `benchmarks/results/{name}.jsonl`.\n"


def table(head: str, lines: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    columns = head.count("|")
    lines = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([f"| {head} |", "|---" + "|---:" * columns + "|", *lines]) + "\n"


def fastest(rows: Sequence[dict], name: str, size: int) -> dict | None:
    """The fastest warm row of the baselines that begin with `name`: of 2 and 4 workers the better one."""
    found = [
        row for row in rows
        if row.get("images_per_second") and row.get("size") == size and row.get("cache", "warm") == "warm"
        and (row["baseline"] == name or row["baseline"].startswith(f"{name},"))
    ]  # fmt: skip
    return max(found, key=results.median_rate, default=None)
