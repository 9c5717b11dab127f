"""What `cxrdali.studies.table` found for people: as text, CSV, LaTeX and Markdown."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrdali.report.kit.tables import Table
from cxrdali.report.study.table import parts
from shards.storage.files import write_bytes
from shards.storage.for_people import guarded_rows
from shards.storage.sealed import sealed_json

FILES = ("table.json", "table.csv", "table.tex", "table.md")
COLUMNS = ("kind", "run", "against", "split", "metric", "mean", "sd", "n", "low", "high", "p", "p_holm", "why")
WIDEST, LONG = 84, 32  # letters: of a line in small print; of a cell that is not broken into lines
TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
    "–": "--", "—": "---", "<": "$<$", ">": "$>$", "|": "$|$", "≤": r"$\leq$", "≥": r"$\geq$", "×": r"$\times$",
    "→": r"$\to$", **{each: f"\\{each}" for each in "&%$#_{}"},
}  # fmt: skip


def write_files(result: dict, root: Path) -> list[Path]:
    """table.json, .csv (a row per number, before rounding), .tex (booktabs) and .md; returns their paths."""
    shown = parts(result)
    title = result["title"] + (" (synthetic data)" if result["synthetic"] else "")
    contents = (sealed_json(result), _csv(result), latex(title, shown).encode(), markdown(title, shown).encode())
    paths = [root / name for name in FILES]
    for path, content in zip(paths, contents, strict=True):
        write_bytes(path, content)
    return paths


def markdown(title: str, shown: Sequence[Table]) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(re.sub(r"([\\|*_`<])", r"\\\1", cell) for cell in cells) + " |"

    lines = [f"# {title}"]
    for each in shown:
        heads = [name for name, _ in each.columns]
        rule = "|" + "|".join("---" if kind == "text" else "---:" for _, kind in each.columns) + "|"
        lines += ["", each.caption, "", row(heads), rule, *map(row, each.texts())]
    return "\n".join([*lines, ""])


def latex(title: str, shown: Sequence[Table]) -> str:
    """As many columns beside each other as a page of one column of text holds, the others below them."""
    lines = [f"% {title}".replace("\n", " "), r"% \usepackage{booktabs}"]
    for each in shown:
        body = [[name for name, _ in each.columns], *each.texts()]
        lines += ["", r"\begin{table}", r"\centering\footnotesize", rf"\caption{{{escaped(each.caption)}}}"]
        for number, places in enumerate(_side_by_side(body, [kind for _, kind in each.columns])):
            ways = "".join(_way([row[place] for row in body], each.columns[place][1]) for place in places)
            head, *rows = [" & ".join(escaped(row[place]) for place in places) + r" \\" for row in body]
            lines += [r"\par\medskip"] * (number > 0)
            lines += [rf"\begin{{tabular}}{{{ways}}}", r"\toprule", head, r"\midrule", *rows]
            lines += [r"\bottomrule", r"\end{tabular}"]
        lines.append(r"\end{table}")
    return "\n".join([*lines, ""])


def _side_by_side(body: Sequence[Sequence[str]], kinds: Sequence[str]) -> list[list[int]]:
    """Places of the columns of each part of a table; what names its rows is in all of them."""
    widths = [min(LONG, max(len(row[place]) for row in body)) + 2 for place in range(len(kinds))]
    leading = next((place for place, kind in enumerate(kinds) if kind not in ("text", "count")), 1)
    own, parts = list(range(leading)), [list(range(leading))]
    for place in range(leading, len(kinds)):
        if len(parts[-1]) > leading and sum(widths[each] for each in [*parts[-1], place]) > WIDEST:
            parts.append(own.copy())
        parts[-1].append(place)
    return parts


def _way(cells: Sequence[str], kind: str) -> str:
    if max(map(len, cells)) > LONG:
        return r"p{0.35\linewidth}"
    return "l" if kind == "text" else "r"


def escaped(text: str) -> str:
    """As LaTeX prints it letter by letter."""
    return "".join(TEX.get(letter, letter) for letter in text)


def _csv(result: dict) -> bytes:
    rows = [{"kind": "score", **row} for row in result["scores"]]
    rows += [{"kind": "difference over seeds", **row} for row in result["differences"]]
    rows += [{"kind": "difference over patients", **row, "mean": row["difference"]} for row in result["by_patient"]]
    rows += [
        {"kind": "missing", "run": row["name"], "split": row["split"], "why": row["why"]} for row in result["missing"]
    ]
    table = pd.DataFrame(guarded_rows(rows), columns=list(COLUMNS), dtype=object)
    return table.to_csv(index=False, lineterminator="\n").encode()
