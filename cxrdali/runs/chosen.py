"""On which images a run's choices were made: its best epoch, the findings that it oversamples, those of earlier runs.

Its table of validation predictions says so, and whatever is predicted with its weights.
"""

import logging
from pathlib import Path

from cxrdali.fitted import KEPT, OVERSAMPLING, Fitted, check_sketch, joined, sketch
from cxrdali.predictions import read
from cxrdali.runs.layout import VAL_PREDICTIONS
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError
from shards.storage.files import read_regular
from shards.storage.sealed import check_kinds, maybe, parse_json, read_json
from shards.storage.sidecar import check_hash
from shards.storage.table_file import MOST

log = logging.getLogger(__name__)


def by_weights(path: Path) -> tuple[Fitted, ...]:
    """What was chosen for weights: of a run's folder, or a file in it. () if it has no table of predictions."""
    table = (path if path.is_dir() else path.resolve().parent) / VAL_PREDICTIONS
    return read(table).fitted if table.is_file() else ()


def before(settings: TrainSettings) -> tuple[Fitted, ...]:
    """What was chosen before a run begins: for its initial weights, and the findings that it oversamples."""
    found = list(by_weights(Path(settings.model.init))) if settings.model.init else []
    if settings.data.oversample_from and Path(settings.data.oversample_from).exists():
        found.append(_list(Path(settings.data.oversample_from)))
    return joined(found)


def _list(source: Path) -> Fitted:
    """Of a run, or what `cxrdali evaluate` wrote. `cxrdali.runs.oversampling` has read it before."""
    if source.is_dir():
        table = source / VAL_PREDICTIONS
        return Fitted((OVERSAMPLING,), sketch(read(table).ids) if table.is_file() else "", "val")
    try:
        data = source.suffix != ".json" and check_hash(source, read_regular(source, MOST))
        known = read_json(source) if source.suffix == ".json" else parse_json(data or "{}")
        check_kinds(known, {"hashes?": check_sketch, "split?": maybe(str)})
    except ValueError as error:
        raise UserError(f"{source}: does not say which images it is of ({error}); evaluate again") from error
    if known.get("split") in KEPT:
        log.info(
            f"note: {source} is of the {known['split']} split: scores of this run on these images are refused without "
            "--allow-same-images; oversample by an evaluation of val"
        )
    return Fitted((OVERSAMPLING,), known.get("hashes", ""), known.get("split"))
