"""The report's section on provenance: dataset, labels, code, seed and every setting."""

from collections.abc import Callable, Mapping, Sequence

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
    rows = [(name, *_once([text(value(run)) for run in runs])) for name, value in PROVENANCE.items()]
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


def _images_and_hash(run: Run, part: str) -> str:
    return f"{count(run.selection.get(f'{part}_images'))} (rows {text(run.selection.get(f'{part}_sha256'))[:12]})"


def _continued(run: Run) -> list[str]:
    """Each later start: after which epoch, when and where."""
    return [
        f"after epoch {text(each.get('epoch'))}, {text(each.get('date'))}, {text(each.get('device'))}"
        for each in run.config.get("continued") or ()
    ]


def _versions(began: Mapping, continued: Sequence[Mapping]) -> str:
    """Those that a run began with, and whatever it was continued with."""
    words, have = [text(began)], began
    for each in continued:
        changed = {name: version for name, version in each["versions"].items() if have.get(name) != version}
        words += [f"continued with {text(changed)} after epoch {each['epoch']}"] if changed else []
        have = each["versions"]
    return "; ".join(words)


PROVENANCE: dict[str, Callable[[Run], object]] = {
    "Run": lambda run: run.path.resolve().name,
    "Began (UTC)": lambda run: run.config.get("began"),
    "Command": lambda run: run.config.get("command"),
    "Device": lambda run: run.device,
    "Continued": _continued,
    "Recipe": lambda run: run.recipe.get("name"),
    "Starts from": lambda run: run.origin,
    "Overridden": lambda run: run.recipe.get("overridden"),
    "Dataset": lambda run: run.dataset_id,
    "Labels": lambda run: run.labels,
    "Labels, SHA-256": lambda run: run.labels_sha256,
    "Training images": lambda run: _images_and_hash(run, "train"),
    "Validation images": lambda run: _images_and_hash(run, "val"),
    "Fold": lambda run: f"{run.fold.fold} of {run.fold.folds}, by {run.fold.group}{run.fold.how}",
    "Seed": lambda run: run.setting("seed"),
    "Model": lambda run: run.setting("arch"),
    "Initial weights": lambda run: run.setting("init"),
    "Versions": lambda run: _versions(run.config.get("versions", {}), run.config.get("continued", [])),
}
