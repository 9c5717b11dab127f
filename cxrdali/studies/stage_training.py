"""The study of Yamagishi & Hanaoka (2023) as steps: models, predictions, ensemble, views, scores, files to hand in.

    runs/model0 ... model7        predictions/NAME.SPLIT.parquet        evaluations/NAME.SPLIT.json
    comparisons/SPLIT.json        submission.zip, submission-dev.zip    report.html, paper.json, views.json

NAME is a model, model3-views, ensemble, or ensemble-views, the final one. Models 3, 5, 6 and 7 make the ensemble; the
rules of the views are fitted to model3 on validation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.differences import adjusted
from cxrdali.evaluate.options import CompareOptions
from cxrdali.postprocess import views
from cxrdali.postprocess.options import FitOptions
from cxrdali.postprocess.submission import match, submit, template_of
from cxrdali.report.training.steps import pairs
from cxrdali.runs.layout import MEMBERS, VIEWS_FROM
from cxrdali.runs.recipes import Recipe
from cxrdali.runs.steps import Book, Step
from cxrdali.studies.flow import Flow, Plan, content, ground
from cxrdali.studies.options import PaperOptions
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import sealed_json


def make_plan(root: Path, dataset: PackedDataset, recipes: Mapping[str, Recipe], options: PaperOptions) -> Plan:
    """Raises UserError for an unknown model or setting, or a dataset without a training split."""
    found = ground(root, dataset, recipes, options)
    labels = found.labels
    for name, path in options.templates.items():
        if name not in found.splits:
            raise UserError(f"{path}: labels {labels.name!r} have no {name} images here; leave out --template {name}=")
        # now, not after days of training
        images = dataset.catalog["image_id"].iloc[found.splits[name]]
        match(path, Path(f"{name} split of {labels.name}"), images, labels.findings)
    flow = _Paper(root, found, options)
    return flow.plan(flow.steps())


class _Paper(Flow):
    def steps(self) -> tuple[Step, ...]:
        steps = [self.train(name) for name in self.models]
        tables = list(self.models)
        steps += [self.predict(name, split, self.options.tta) for name in self.models for split in self.splits]
        members = [name for name in MEMBERS if name in self.models]
        if len(members) > 1:
            steps += [self.pool("ensemble", split, members) for split in self.splits]
            tables.append("ensemble")
        missing = [name for name in MEMBERS if name not in members]
        if missing:
            self.notes.append(f"the ensemble is without {', '.join(missing)}" if len(members) > 1 else "no ensemble")
        frontal = self.dataset.catalog["view"].iloc[self.splits["val"]] == "frontal"
        if VIEWS_FROM in self.models and frontal.nunique() == 2:
            steps.append(self._fit_views())
            for name in (VIEWS_FROM, "ensemble"):
                if name in tables:
                    steps += [self._apply_views(name, split) for split in self.splits]
                    tables.append(f"{name}-views")
        elif VIEWS_FROM in self.models:
            self.notes.append("no view postprocess: validation has not both frontal and lateral images")
        else:
            self.notes.append(f"no view postprocess: {VIEWS_FROM} is not among the models")
        labelled = self.labelled_splits()
        steps += [self.evaluate(name, split, (self.makers[name, split],)) for name in tables for split in labelled]
        if pairs(tables):
            steps += [self._compare(pairs(tables), split) for split in labelled]
        final = next(name for name in ("ensemble-views", f"{VIEWS_FROM}-views", tables[-1]) if name in tables)
        steps += [self._submit(final, split) for split in ("dev", "test") if split in self.splits]
        return (*steps, self._report(steps, tables))

    # ------------------------------------------------------------ tables

    def _fit_views(self) -> Step:
        def do() -> None:
            rules = views.fit(self.file(VIEWS_FROM, "val"), self.dataset, self.labels, FitOptions(self.uncertain))
            rules.write(self.root / "views.json")

        settings = {"uncertain": self.uncertain, **self.data}
        return Step("views", ("views.json",), settings, (self.makers[VIEWS_FROM, "val"],), do)

    def _apply_views(self, name: str, split: str) -> Step:
        def do(out: Path) -> None:
            rules = views.read(self.root / "views.json")
            # Yamagishi & Hanaoka use model3's rules on the ensemble too; the table's history says so
            table, _ = views.apply(self.file(name, split), rules, self.dataset, allow_other_run=name != VIEWS_FROM)
            table.write(out)

        return self.table(f"views {name} {split}", f"{name}-views", split, {}, ("views", self.makers[name, split]), do)

    def _compare(self, wanted: Sequence[tuple[str, str]], split: str) -> Step:
        """mAP of the first of each pair less that of the second, with an interval."""
        out = self.root / "comparisons" / f"{split}.json"
        options = CompareOptions(draws=self.options.draws, uncertain=self.uncertain, allow_leak=True)

        def do() -> None:
            found = []
            for base in dict.fromkeys(base for _, base in wanted):
                names = [base, *(name for name, other in wanted if other == base)]
                result = compare([self.file(name, split) for name in names], self.dataset, options, self.labels.name)
                own = {f"{name}.{split}": name for name in names}
                for row in result["differences"]:
                    if row["metric"] == "mAP":
                        numbers = {key: row[key] for key in ("difference", "low", "high", "p")}
                        found.append({"run": own[row["run"]], "against": base, **numbers})
            out.parent.mkdir(parents=True, exist_ok=True)
            content = {"draws": options.draws, "level": options.level, "differences": adjusted(found)}
            write_bytes(out, sealed_json(content))

        settings = {"pairs": wanted, "draws": options.draws, "uncertain": self.uncertain, **self.data}
        needs = dict.fromkeys(self.makers[name, split] for pair in wanted for name in pair)
        return Step(f"compare {split}", (f"comparisons/{split}.json",), settings, tuple(needs), do)

    # ------------------------------------------------------------ files to hand in, and to look at

    def _submit(self, name: str, split: str) -> Step:
        out = "submission.zip" if split == "test" else f"submission-{split}.zip"
        template = self.options.templates.get(split)
        if template is None:
            self.notes.append(f"{out} is in the labels' own form; give the challenge's with --template {split}=FILE")

        def do() -> None:
            form = template
            if form is None:
                form = self.root / "predictions" / f"template.{split}.csv"
                write_bytes(form, template_of(self.dataset, self.labels, split))
            submit(self.file(name, split), form, self.root / out)

        settings = {"template": content(template) if template else None, **self.data}
        return Step(f"submit {split}", (out,), settings, (self.makers[name, split],), do)

    def _report(self, steps: Sequence[Step], tables: list[str]) -> Step:
        def do() -> None:
            book = Book(self.root)
            done = [{"name": step.name, "status": "done", "seconds": book.seconds(step)} for step in steps]
            record = {"models": list(self.models), "tables": tables, "steps": done, "synthetic": self.options.synthetic}
            write_bytes(self.root / "paper.json", sealed_json(record))
            self.write_report()

        return Step("report", ("report.html", "paper.json"), self.reported_by, tuple(step.name for step in steps), do)
