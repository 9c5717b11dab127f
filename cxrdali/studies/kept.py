"""What a study's steps keep in files, and read again."""

from pathlib import Path
from typing import Any

from cxrdali.fitted import KINDS, from_json
from cxrdali.postprocess.ensemble import Weights
from cxrdali.runs import layout as runs
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from shards.errors import UserError
from shards.storage.files import sha256_file
from shards.storage.sealed import check_kinds, maybe, read_json


def read_weights(path: Path) -> Weights:
    """Raises UserError if the file is not as a study's step writes it."""
    try:
        stored = read_json(path)
        check_kinds(
            stored,
            {"how": str, "values": [float], "runs": [maybe(str)], "maps": [float], "ttas?": [maybe(str)]}
            | {"calibrated?": [maybe([str])], "fitted?": KINDS},
        )
        known = {name: tuple(stored.get(name, ())) for name in ("values", "runs", "maps", "ttas", "calibrated")}
        known["calibrated"] = tuple(None if each is None else tuple(each) for each in known["calibrated"])
        fitted = {"fitted": from_json(stored["fitted"])} if "fitted" in stored else {}  # not of an older version
        return Weights(how=stored["how"], **known, **fitted)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no weights of an ensemble ({error}); delete it and run the same command") from error


def content(path: Path) -> str:
    """A fingerprint of a file, or of the best weights of a run; raises UserError if it is not there."""
    file = path / runs.BEST if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: no such file or run; give another")
    return sha256_file(file)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def keep(rules: Any, path: Path) -> None:
    """Calibration or thresholds, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rules.write(path)


def precision(run: Path, settings: TrainSettings) -> str:
    """The setting, spelled as the run that is there began with it (auto, perhaps) if it means the same."""
    asked = settings.runtime.precision
    try:
        there = Run.open(run)
        same = there.config["precision"] == Hardware.resolve(settings.runtime.device, asked).precision
        return there.settings.runtime.precision if same else asked
    except (KeyError, UserError):
        return asked
