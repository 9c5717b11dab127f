"""What a study's steps keep in files, and read again."""

from pathlib import Path
from typing import Any

from cxrdali.fitted import KINDS, from_json
from cxrdali.postprocess.ensemble import Weights
from shards.errors import UserError
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


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def keep(rules: Any, path: Path) -> None:
    """Calibration or thresholds, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rules.write(path)
