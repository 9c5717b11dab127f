"""The report's section on provenance: dataset, labels, code, seed and every setting."""

from collections.abc import Callable, Sequence

from cxrdali.report.kit.numbers import count, text
from cxrdali.report.kit.tables import Table
from cxrdali.report.training.sources import Sources
from cxrdali.runs.names import flatten
from cxrdali.runs.reader import Run


def provenance(sources: Sources) -> dict:
    """What is needed to say which data, labels, code and seed a number came from."""
    runs = sources.runs
    if not runs:
        return {"missing": "No run was given, so there is no dataset, seed or version to name."}
    rows = [(name, *_once([value(run) for run in runs])) for name, value in PROVENANCE.items()]
    settings = sorted({name for run in runs for name in flatten(run.config["settings"])})
    of_runs = [(name, *_once([text(run.setting(name)) for run in runs])) for name in settings]
    columns = [("", "text"), *((run.name, "text") for run in runs)]
    return {
        "origins": Table("Where the numbers come from", columns, rows, "text"),
        "settings": Table("Settings", columns, of_runs, "text"),
    }


def _once(values: Sequence[str]) -> Sequence[str]:
    """What is the same for every run is said once."""
    return values if len(set(values)) > 1 else values[:1]


def _from_config(*keys: str) -> Callable[[Run], str]:
    def value(run: Run) -> str:
        found = run.config
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return text(found)

    return value


def _images_and_hash(part: str) -> Callable[[Run], str]:
    def value(run: Run) -> str:
        selection = run.config.get("selection", {})
        return f"{count(selection.get(f'{part}_images'))} (rows {text(selection.get(f'{part}_sha256'))[:12]})"

    return value


PROVENANCE: dict[str, Callable[[Run], str]] = {
    "Run": lambda run: run.path.resolve().name,
    "Recipe": _from_config("recipe", "name"),
    "Starts from": lambda run: run.origin,
    "Overridden": lambda run: text(run.recipe.get("overridden") or None),
    "Dataset": _from_config("dataset", "id"),
    "Labels": _from_config("labels", "name"),
    "Labels, SHA-256": _from_config("labels", "sha256"),
    "Training images": _images_and_hash("train"),
    "Validation images": _images_and_hash("val"),
    "Fold": lambda run: f"{run.fold.fold} of {run.fold.folds}, by {run.fold.group}",
    "Seed": lambda run: text(run.setting("seed")),
    "Model": lambda run: text(run.setting("arch")),
    "Initial weights": lambda run: text(run.setting("init")),
    "Versions": _from_config("versions"),
}
