"""Steps that end a study: comparisons, claims, the file to hand in, and the page.

comparisons/NAME.json, comparisons/NAME.SPLIT.json    claims.json    submission.zip, submission-dev.zip    report.html
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.differences import adjusted
from cxrdali.evaluate.options import CompareOptions
from cxrdali.postprocess.forms import FORMS
from cxrdali.postprocess.submission import submit
from cxrdali.postprocess.template import template_of
from cxrdali.report.training.page import write_report
from cxrdali.report.training.sources import ReportOptions
from cxrdali.runs.layout import VAL_PREDICTIONS
from cxrdali.runs.steps import Book, Step
from cxrdali.studies.ground import FIT
from cxrdali.studies.schema import Claim, Comparison
from cxrdali.studies.seeds import judged, over_seeds
from cxrdali.studies.table import study_table
from cxrdali.studies.table_files import FILES, write_files
from cxrdali.studies.tables import Tables
from cxrdali.studies.training import content
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import sealed_json

Pairs = Sequence[tuple[str, str]]


class Results:
    """Makes those steps, of the tables that there are."""

    def __init__(self, tables: Tables):
        self.made, self.root, self.models = tables, tables.root, tables.models

    def write(self, file: str, make: Callable[[], Any]) -> Callable[[], None]:
        """To be done by a step: a JSON file of what `make` returns."""

        def do() -> None:
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.root / file, sealed_json(make()))

        return do

    # ------------------------------------------------------------ comparisons

    def of_runs(self, what: str, names: Sequence[str]) -> Step:
        """Runs on their validation images, against the first."""
        out, base = f"comparisons/{what}.json", self.made.ground.of(names[0])
        options = CompareOptions(draws=self.made.draws, folds=max(2, base.folds), uncertain=base.uncertain)
        paths = [self.root / "runs" / name for name in names]
        settings = {"runs": list(names), "draws": options.draws, "uncertain": base.uncertain, "folds": base.folds}
        needs = tuple(f"train {name}" for name in names)
        do = self.write(out, lambda: compare(paths, base.dataset, options))
        return Step(f"compare {what}", (out,), {**settings, **base.data}, needs, do)

    def of_tables(self, wanted: Comparison, names: Sequence[str], split: str) -> Step:
        """Tables of a split, against the first."""
        name, base, what = f"{wanted.name}.{split}", self.made.bases[names[0]], f"{wanted.name} {split}"
        options = CompareOptions(
            draws=self.made.draws, folds=max(2, base.folds), uncertain=base.uncertain, allow_leak=True
        )
        paths = [self.made.file(each, split) for each in names]
        do = self.write(f"comparisons/{name}.json", lambda: compare(paths, base.dataset, options, base.labels.name))
        settings = {"tables": list(names), "draws": options.draws, **self.made.fitted_by(names[0])}
        needs = tuple(self.made.makers[each, split] for each in names)
        return Step(f"compare {what}", (f"comparisons/{name}.json",), settings, needs, do)

    def of_pairs(self, wanted: Comparison, pairs: Pairs, split: str) -> Step:
        """mAP of the first of each pair less that of the second, with an interval."""
        name, what = (f"{wanted.name}.{split}", f"{wanted.name} {split}") if wanted.name else (split, split)
        base = self.made.bases[pairs[0][0]]
        options = CompareOptions(
            draws=self.made.draws, folds=max(2, base.folds), uncertain=base.uncertain, allow_leak=True
        )

        def found() -> dict:
            rows = []
            for other in dict.fromkeys(other for _, other in pairs):
                names = [other, *(name for name, against in pairs if against == other)]
                files = [self.made.file(name, split) for name in names]
                own = {f"{name}.{split}": name for name in names}
                for row in compare(files, base.dataset, options, base.labels.name)["differences"]:
                    if row["metric"] == "mAP":
                        numbers = {key: row[key] for key in ("difference", "low", "high", "p")}
                        rows.append({"run": own[row["run"]], "against": other, **numbers})
            return {"draws": options.draws, "level": options.level, "differences": adjusted(rows)}

        settings = {"pairs": pairs, "draws": options.draws, "uncertain": base.uncertain, **base.data}
        needs = tuple(dict.fromkeys(self.made.makers[name, split] for pair in pairs for name in pair))
        file = f"comparisons/{name}.json"
        return Step(f"compare {what}", (file,), settings, needs, self.write(file, found))

    def of_seeds(self, name: str, cells: Mapping[str, Mapping[str, str]], split: str | None) -> Step:
        """Cells of grids over their seeds, against the first. cells: runs or tables by repeat; split: None: the
        runs' own validation images."""
        file, first = f"comparisons/{name}.json", next(iter(next(iter(cells.values())).values()))
        paths = {each: self.scored(each, split) for cell in cells.values() for each in cell.values()}
        bases = {each: self.made.ground.of(each) if split is None else self.made.bases[each] for each in paths}
        base = bases[first]
        needs = tuple(path[1] for path in paths.values())

        def found() -> dict:
            return over_seeds(cells, {each: path for each, (path, _) in paths.items()}, bases, split or FIT)

        settings = {"cells": cells, "split": split, "uncertain": base.uncertain, **base.data}
        return Step(f"compare {name}", (file,), settings, needs, self.write(file, found))

    def scored(self, name: str, split: str | None) -> tuple[Path, str]:
        """The table of a split, or of a run's own validation images (None, or no other there), and the step that makes
        it. Raises UserError if there is none."""
        if name in self.models and (split is None or (split == FIT and (name, split) not in self.made.makers)):
            return self.root / "runs" / name / VAL_PREDICTIONS, f"train {name}"
        if split is None or (name, split) not in self.made.makers:
            raise UserError(f"{name} has no table of {split or FIT}; predict it on that split too")
        return self.made.file(name, split), self.made.makers[name, split]

    def claims(self, wanted: Sequence[tuple[Claim, list[str], list[str]]]) -> Step:
        """Each with the tables on either side, a pair for every seed."""
        files = [[[self.scored(name, claim.split) for name in side] for side in sides] for claim, *sides in wanted]
        bases = [self.made.bases.get(higher[0]) or self.made.ground.of(higher[0]) for _, higher, _ in wanted]

        def found() -> dict:
            paths = [[[path for path, _ in side] for side in sides] for sides in files]
            each = [judged(claim, *sides, base, self.made.draws)
                    for (claim, *_), sides, base in zip(wanted, paths, bases, strict=True)]  # fmt: skip
            return {"draws": self.made.draws, "claims": each}

        settings = {
            "claims": [[vars(claim), *sides] for claim, *sides in wanted],
            "draws": self.made.draws,
            **bases[0].data,
        }
        needs = tuple(dict.fromkeys(step for sides in files for side in sides for _, step in side))
        return Step("claims", ("claims.json",), settings, needs, self.write("claims.json", found))

    # ------------------------------------------------------------ files to hand in, and to look at

    def submission(self, name: str, split: str, wanted: str | None) -> Step:
        """wanted: a challenge's form."""
        out = "submission.zip" if split == "test" else f"submission-{split}.zip"
        template, base = self.made.options.templates.get(split), self.made.bases[name]
        form = FORMS[wanted] if wanted else None
        if template is None and form is None:
            text = f"{out} is in the labels' own form; give the challenge's with --template {split}=FILE"
            self.made.notes.append(text)

        def do() -> None:
            like = template
            if like is None and form is None:
                like = self.root / "predictions" / f"template.{split}.csv"
                write_bytes(like, template_of(base.dataset, base.labels, split))
            submit(self.made.file(name, split), like, self.root / out, form=form)

        settings = {"template": content(template) if template else None, **base.data}
        settings |= {"form": wanted} if wanted else {}
        return Step(f"submit {split}", (out,), settings, (self.made.makers[name, split],), do)

    def report(self, title: str, page: str, steps: Sequence[Step]) -> Step:
        synthetic, base = self.made.options.synthetic, self.made.base  # then its pictures show nobody
        # a page is of one dataset: what it shows of the images themselves is left out where runs have several
        pack = base.dataset if len({self.made.ground.of(name).dataset.id for name in self.models}) == 1 else None

        def do() -> None:
            if page == "stage-training":
                book = Book(self.root)
                done = [{"name": step.name, "status": "done", "seconds": book.seconds(step)} for step in steps]
                tables = [table.name for table in self.made.tables]
                record = {"models": list(self.models), "tables": tables, "steps": done, "synthetic": synthetic}
                write_bytes(self.root / "paper.json", sealed_json(record))
            if page == "study":
                write_files(study_table(self.root), self.root)
            options = ReportOptions(title, synthetic=synthetic, images=synthetic)
            write_report(self.root / "report.html", [self.root], pack=pack, options=options)

        more = {"stage-training": ("paper.json",), "study": FILES}
        outputs = ("report.html", *more.get(page, ()))
        settings = {"title": title, "synthetic": synthetic, **base.data}
        return Step("report", outputs, settings, tuple(step.name for step in steps), do)
