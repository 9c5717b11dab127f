"""The report's section on provenance: dataset, labels, code, seed and every setting."""

from collections.abc import Callable

from cxrdali.report.kit import html as page
from cxrdali.report.kit.html import Html, count, join, missing
from cxrdali.report.training.sources import Sources
from cxrdali.runs.names import flatten
from cxrdali.runs.reader import Run


def provenance(sources: Sources) -> Html:
    """What is needed to say which data, labels, code and seed a number came from."""
    runs = sources.runs
    if not runs:
        return missing("No run was given, so there is no dataset, seed or version to name.")
    rows = [(name, *_once([value(run) for run in runs])) for name, value in PROVENANCE.items()]
    settings = sorted({name for run in runs for name in flatten(run.config["settings"])})
    all_settings = [(name, *_once([_plain(run.setting(name)) for run in runs])) for name in settings]
    columns = ("", *(run.name for run in runs))
    return join(
        page.table("Where the numbers come from", columns, rows, kind="text"),
        page.details("Every setting of the runs", page.table("Settings", columns, all_settings, kind="text")),
    )


def _once(values: list[str]) -> list[str]:
    """What is the same for every run is said once."""
    return values if len(set(values)) > 1 else values[:1]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items()) or page.NOTHING
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or page.NOTHING
    return page.NOTHING if value is None else str(value)


def _from_config(*keys: str) -> Callable[[Run], str]:
    def value(run: Run) -> str:
        found = run.config
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return _plain(found)

    return value


def _images_and_hash(part: str) -> Callable[[Run], str]:
    def value(run: Run) -> str:
        selection = run.config.get("selection", {})
        return f"{count(selection.get(f'{part}_images'))} (rows {_plain(selection.get(f'{part}_sha256'))[:12]})"

    return value


PROVENANCE: dict[str, Callable[[Run], str]] = {
    "Run": lambda run: run.path.resolve().name,
    "Recipe": _from_config("recipe", "name"),
    "Starts from": lambda run: run.origin,
    "Overridden": lambda run: _plain(run.recipe.get("overridden") or None),
    "Dataset": _from_config("dataset", "id"),
    "Labels": _from_config("labels", "name"),
    "Labels, SHA-256": _from_config("labels", "sha256"),
    "Training images": _images_and_hash("train"),
    "Validation images": _images_and_hash("val"),
    "Fold": lambda run: f"{run.fold.fold} of {run.fold.folds}, by {run.fold.group}",
    "Seed": lambda run: _plain(run.setting("seed")),
    "Model": lambda run: _plain(run.setting("arch")),
    "Initial weights": lambda run: _plain(run.setting("init")),
    "Versions": _from_config("versions"),
}
