"""The step that judges runs of several packs on each of them: matrix.json and its page, matrix.html."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence

from cxrdali.evaluate.matrix import Cell, matrix
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.evaluate.overlap import OverlapOptions
from cxrdali.evaluate.place import Place
from cxrdali.evaluate.strangers import strangers
from cxrdali.report.external.matrix import write_matrix
from cxrdali.runs.reader import Run
from cxrdali.runs.steps import Step
from cxrdali.studies.ground import Base
from cxrdali.studies.schema import Matrix
from cxrdali.studies.tables import Tables
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import sealed_json

FILES = ("matrix.json", "matrix.html")


def matrix_step(made: Tables, wanted: Matrix, title: str) -> Step:
    """Every run's table of a pack on this split.

    Raises UserError if there is none, or two runs were trained on the same packs: then a cell would be of both.
    """
    ground, split = made.ground, wanted.split
    cells: dict[tuple[str, str], tuple[str, str]] = {}
    for table in made.tables:
        judged = next((name for name, pack in ground.packs.items() if pack is made.bases[table.name].dataset), None)
        if judged is None or table.kind not in ("model", "tta") or (table.name, split) not in made.makers:
            continue
        trained = "+".join(ground.runs[table.of].packs or tuple(ground.packs))
        before = cells.setdefault((trained, judged), (table.of, table.name))
        if before[1] != table.name:
            raise UserError(f"{before[1]} and {table.name} are both of {trained} on {judged}; leave one of them out")
    if not cells:
        raise UserError(f'no run is predicted on {split} of a pack; give [[predict]] pack = "each", splits = "{split}"')
    first = next(iter(cells.values()))
    settings, _ = made.models[first[0]]

    def do() -> None:
        found, checked = [], {}
        for (trained, judged), (name, table) in cells.items():
            base, home = made.bases[table], ground.runs[name].packs or tuple(ground.packs)
            copies = None
            if judged not in home:
                packs = {each: ground.packs[each] for each in home}
                run = Run.open(made.root / "runs" / name)
                copies = _copies(run, base, split, wanted.allow_overlap, packs)
                checked[f"{trained} on {judged}"] = copies
            found.append(Cell(trained, Place(judged, made.file(table, split), base.dataset, base.labels, copies)))
        options = ExternalOptions(draws=made.draws, uncertain=made.uncertain, findings=settings.data.findings)
        result = {**matrix(found, options), "copies": checked}
        write_bytes(made.root / FILES[0], sealed_json(result))
        write_matrix(result, made.root / FILES[1], title)

    decided = {"cells": [[*key, *value] for key, value in cells.items()], "split": split, "draws": made.draws}
    decided["allow_overlap"] = wanted.allow_overlap
    needs = tuple(dict.fromkeys(made.makers[table, split] for _, table in cells.values()))
    return Step("matrix", FILES, {**decided, "uncertain": made.uncertain, **made.bases[first[1]].data}, needs, do)


def _copies(run: Run, base: Base, split: str, allow: bool, home: Mapping[str, PackedDataset]) -> dict:
    """Raises UserError if a run was trained on copies of these images, unless allowed."""
    try:
        found = strangers(run, base.dataset, base.splits[split], allow, home, OverlapOptions.kept())
    except UserError as error:  # which names options of `cxrdali external`
        said = re.sub("`cxrdali train --exclude ([^`]+)`", _in_settings, str(error))
        raise UserError(said.replace("say --allow-overlap", "say allow_overlap = true in [matrix]")) from error
    return found.as_json()


def _in_settings(option: re.Match) -> str:
    lists = shlex.split(option[1])[0].split(",")
    return f"data.exclude = {json.dumps(lists)} in [settings]"


def missing(made: Tables, split: str) -> Sequence[str]:
    """Packs without images of a split, as notes."""
    packs = {
        name: [base for base in made.bases.values() if base.dataset is pack] for name, pack in made.ground.packs.items()
    }
    return [
        f"no column of {name}: it has no {split} images"
        for name, bases in packs.items()
        if bases and not any(split in base.splits for base in bases)
    ]
