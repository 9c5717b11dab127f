"""Steps that train a study's runs: runs/NAME."""

from pathlib import Path

from cxrdali.runs import layout as runs
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import MAY_DIFFER, TrainSettings
from cxrdali.runs.steps import Step
from cxrdali.runtime.device import Hardware
from cxrdali.studies.ground import Ground
from cxrdali.train.hooks import Hooks
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.files import sha256_file

RUN_FILES = (runs.CONFIG, runs.METRICS, runs.FINDINGS, runs.PROGRESS, runs.BEST, runs.VAL_PREDICTIONS)


def train_step(root: Path, ground: Ground, name: str) -> Step:
    """The step that trains a run of the study, or continues it."""
    settings, about = ground.models[name]
    folder, base = f"runs/{name}", ground.of(name)
    kept = {key: value for key, value in settings.flat(without_before=True).items() if key not in MAY_DIFFER}
    kept["precision"] = _precision(root / folder, settings)
    # a path is spelled in many ways
    places = {key: Path(kept[key]).resolve() for key in ("init", "oversample_from") if kept[key]}
    ours = {place: place.name for place in places.values() if place.parent == (root / "runs").resolve()}
    given = {key: ours[place] if ours.get(place) in ground.models else None for key, place in places.items()}
    needs = [other for other in given.values() if other]
    late = [other for other in needs if list(ground.models).index(other) >= list(ground.models).index(name)]
    if late:
        raise UserError(f"{name}: needs {late[0]}, which is not trained before it; choose an earlier model's run")
    # a run of ours is known by its step, another file by its content
    for key, other in given.items():
        kept[key] = other or content(Path(kept[key]))
    if kept.get("exclude"):
        kept["exclude"] = [content(Path(each)) for each in kept["exclude"]]

    def do() -> None:
        out = root / folder
        out.parent.mkdir(parents=True, exist_ok=True)
        train(settings, base.dataset, out, recipe=about, hooks=Hooks(group=root.resolve().name))

    known = {**kept, **base.known("train", *settings.sizes)}
    outputs = tuple(f"{folder}/{file}" for file in RUN_FILES)
    return Step(f"train {name}", outputs, known, tuple(f"train {other}" for other in dict.fromkeys(needs)), do, folder)


def content(path: Path) -> str:
    """A fingerprint of a file, or of the best weights of a run; raises UserError if it is not there."""
    file = path / runs.BEST if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: no such file or run; give another")
    return sha256_file(file)


def _precision(run: Path, settings: TrainSettings) -> str:
    """The setting, spelled as the run that is there began with it (auto, perhaps) if it means the same."""
    asked = settings.runtime.precision
    try:
        there = Run.open(run)
        same = there.config["precision"] == Hardware.resolve(settings.runtime.device, asked).precision
        return there.settings.runtime.precision if same else asked
    except (KeyError, UserError):
        return asked
