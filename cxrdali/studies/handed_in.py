"""The files that a study hands in: of which table, in which form; checked before anything is trained."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cxrdali.postprocess.forms import FORMS
from cxrdali.postprocess.submission import match
from cxrdali.runs.steps import Step
from cxrdali.studies.ground import Base
from shards.errors import UserError

if TYPE_CHECKING:
    from cxrdali.studies.plan import Planner


def submissions(names: "Planner") -> Iterable[Step]:
    """Their steps. names: knows the tables. Raises UserError if they cannot be in the form that is asked for."""
    wanted = names.study.submission
    if wanted is None:
        return
    found, _ = names.tables(wanted.of, ("submission", "of"))
    final = (found or [table.name for table in names.made.tables[-1:]])[:1]
    form = None if names.options.synthetic else wanted.form
    if form != wanted.form:
        names.notes.append(f"submissions are in the labels' own form: synthetic findings are not {wanted.form}'s")
    for name in final:
        _check(names, names.made.bases[name], form)
        yield from (
            names.results.submission(name, split, form)
            for split in ("dev", "test")
            if (name, split) in names.made.makers
        )


def _check(names: "Planner", base: Base, form: str | None) -> None:
    known, asked = base.labels, FORMS[form] if form else None
    if asked:
        with names.study.source.at(("submission", "form")):
            asked.check(known.findings, f"labels {known.name}")
    for split, path in names.options.templates.items():
        if split not in base.splits:
            raise UserError(f"{path}: labels {known.name!r} have no {split} images here; leave out --template {split}=")
        images = base.dataset.catalog["image_id"].iloc[base.splits[split]]
        match(path, Path(f"{split} split of {known.name}"), images, known.findings, asked)
