"""What `cxrdali.evaluate.matrix.matrix` found, as a part of a page (external/matrix.html.j2)."""

from pathlib import Path

import pandas as pd

from cxrdali.report.external import plots
from cxrdali.report.kit.page import Figure, render
from cxrdali.report.kit.tables import Table
from shards.storage.files import write_bytes


def write_matrix(result: dict, out: Path, title: str) -> Path:
    """A page of its own, self-contained; `result` itself is its numbers."""
    data = {"title": title, "matrix": matrix_part(result), "synthetic": result["synthetic"]}
    write_bytes(out, render("external/matrix_page.html.j2", data).encode(errors="backslashreplace"))
    return out


def matrix_part(result: dict, name: str = "matrix") -> dict:
    """For the template's macro `matrix`. result: of `cxrdali.evaluate.matrix.matrix`; name: keeps the ids of a page's
    drawings apart."""
    trained, columns = result["trained"], result["columns"]
    cells = {(each["trained"], column["judged"]): each for column in columns for each in column["cells"]}
    judged = [column["judged"] for column in columns]
    found = [[cells.get((run, place)) for place in judged] for run in trained]
    values = pd.DataFrame([[cell and cell["mAP"] for cell in row] for row in found], trained, judged, dtype=float)
    own = pd.DataFrame([[bool(cell and cell["own"]) for cell in row] for row in found], trained, judged)
    interval = [tuple(cell and cell[f"mAP{end}"] for end in ("", "_low", "_high")) for row in found for cell in row]
    rows = [(run, *interval[place * len(judged) : (place + 1) * len(judged)]) for place, run in enumerate(trained)]
    differences = [
        (run, *((cell and cell["difference"]) or ("own" if cell and cell["own"] else None) for cell in row))
        for run, row in zip(trained, found, strict=True)
    ]
    blank = {"difference": None, "low": None}
    return {
        "result": result,
        "figure": Figure(name, plots.heat, (values, own)),
        "scores": Table(
            "mAP of each run (rows: trained on) in each hospital (columns: judged on)",
            [("Trained on", "text"), *((place, "interval") for place in judged)],
            rows,
        ),
        "differences": Table(
            "Difference in mAP to the run that was trained there",
            [("Trained on", "text"), *((place, "difference") for place in judged)],
            [tuple(blank if cell is None else cell for cell in row) for row in differences],
        ),
        "columns": Table(
            "What each column is over",
            [("Judged on", "text"), ("Labels", "text"), ("Split", "text"), ("Images", "count"), ("Patients", "count"),
             ("Findings in common", "text"), ("Left out", "text")],
            [
                (each["judged"], each["labels"], each["split"], each["images"], each["patients"],
                 ", ".join(each["findings"]), ", ".join(each["left_out"]) or "none")
                for each in columns
            ],
            "text",
        ),
    }  # fmt: skip
