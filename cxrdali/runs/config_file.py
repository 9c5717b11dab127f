"""config.json of a run: what may be in it, and reading it."""

from pathlib import Path

from cxrdali.runs.layout import CONFIG
from cxrdali.runs.names import flatten, under_present_names
from cxrdali.runs.settings import names
from shards.errors import UserError
from shards.storage.sealed import check_kinds, maybe, read_json

FORMAT = 2  # 1: without a "format"; its `ignore` is what `ignore-all` is today
_DATASET = {
    **{"id": str, "size?": int, "content?": maybe(int), "hashes?": maybe(str), "packed?": dict, "earlier?": [dict]},
    **dict.fromkeys(("train?", "val?", "train_sorted?", "val_sorted?", "shards?"), str),
}
_LABELS = {"name": str, "sha256?": maybe(str), "values?": str, "values_sorted?": str}
_PACK = {  # one of several
    **_DATASET,
    "name": str,
    "root": str,
    "labels": _LABELS,
    "findings": [str],
    "places": [int],
    "selection": {"train_images": int, "val_images": int, "train_sha256": str, "val_sha256": str},
    "train_positives": [int],
}
KINDS = {  # the kinds of settings are those of TrainSettings
    "format?": int,
    "settings": dict,
    "findings": [str],
    "train_positives?": [int],
    "dataset": {**_DATASET, "packs?": [_PACK]},
    "labels": _LABELS,
    "selection?": {"train_images?": int, "val_images?": int, "train_sha256?": str, "val_sha256?": str},
    "seen?": maybe([str]),
    "recipe?": maybe({"name?": maybe(str), "starts_from?": maybe(str), "overridden?": maybe(dict)}),
    "oversampling?": maybe(
        {"findings": [str], "without_ap": [str], "images_doubled": int, "epoch_images": int}
        | {"below": maybe(float), "from": maybe(str)}
    ),
    "excluded?": {"images": int, "sha256": str, "lists": [{"name": str, "sha256": str}]},
    "compile?": maybe({"on": bool}),
    "at_size?": int,
    "device?": str,
    "processes?": int,
    "synthetic?": bool,
    "versions?": {str: str},
    "began?": str,
    "command?": maybe(str),
    "continued?": [{"versions": {str: str}, "device": str, "processes": int, "epoch": int, "date": str}],
}


def read_config(path: Path) -> dict:
    """A run's config.json. Raises UserError if the folder holds no run."""
    file = path / CONFIG
    if not file.exists():
        raise UserError(f"{path}: no run (no {CONFIG} in it); give the folder that `cxrdali train` wrote")
    try:
        config = read_json(file)
        check_kinds(config, KINDS)
        findings, counts, selection = config["findings"], config.get("train_positives"), config.get("selection", {})
        if len(set(findings)) < len(findings) or len(findings) != len(findings if counts is None else counts):
            raise ValueError("a finding is duplicated, or without its count")
        if min([0, *(counts or []), *(selection.get(f"{part}_images", 0) for part in ("train", "val"))]) < 0:
            raise ValueError("a number of images is below 0")
        config["settings"] = under_present_names(config["settings"])
        for name, value in flatten(config["settings"]).items():
            if name in names().all() and value is not None:
                names().read(name, value)
        data = config["settings"].get("data")
        if config.get("format", 1) < FORMAT and isinstance(data, dict) and data.get("uncertain") == "ignore":
            data["uncertain"] = "ignore-all"
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{file}: not a run's settings ({error}); restore it, or train into another folder") from error
    return config
