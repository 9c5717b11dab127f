"""The table of docs/architectures.md: what a walk over timm's families found."""

import json

from benchmarks import results
from benchmarks.pages.markdown import table

HEAD = "family | network | million parameters | px | trains | predicts | explains | keeps features | next stage's px"
SAID = {"smaller": "px", "caches": "keeps features", "other_size": "next stage's px"}  # steps and their columns


def section() -> str:
    """The newest row of every family, where they come from, and the reasons of what was refused."""
    path = results.RESULTS / "families.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not (rows := [row for _, row in sorted({row["family"]: row for row in rows}.items())]):
        return "Not measured yet.\n"
    lines, reasons = [], []
    for row in rows:
        done = [row["trains"] and row["saves"], row["predicts"], row["explains"], row["caches"]]
        about = (row["family"], f"`{row['model']}`", f"{row['parameters'] / 1e6:,.1f}", str(row["size"]))
        lines.append((*about, *("yes" if each else "no" for each in done), str(row["other"]) if row["other"] else "no"))
        reasons += [f"| {row['family']} | {SAID.get(step, step)} | {said} |" for step, said in row["reasons"].items()]
    found = rows[-1]["environment"]
    commits = ", ".join(sorted({row["environment"]["commit"][:9] for row in rows}))
    machine = f"{found['cpu']}, {found['cores']} cores, no GPU"
    where = f"{len(rows)} families of timm {found['versions']['timm']}, {machine}; "
    where += f"commits {commits}, `benchmarks/results/families.jsonl`.\n\n| family | what | why not |\n|---|---|---|"
    return "\n".join([table(HEAD, lines), where, *reasons]) + "\n"
