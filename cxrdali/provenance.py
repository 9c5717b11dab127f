"""What a table of predictions says of itself: what its values are, and how they came about."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum

from cxrdali.fitted import KINDS, Fitted
from cxrdali.fitted import from_json as fitted_from_json
from shards.storage.sealed import check_kinds, maybe


class Kind(StrEnum):
    """What a table's values are. All but probabilities are on the scale of logits, and can be pooled."""

    LOGIT = "logit"
    PROBABILITY = "probability"
    CALIBRATED = "calibrated"  # logits that went through a calibration
    RANK = "rank"  # logits of mean ranks among the table's images, which say nothing of how probable a finding is


@dataclass(frozen=True)
class Home:
    """What a run was trained on, if its predictions are of another dataset: images, and (finding, images with it)."""

    images: int
    positives: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Provenance:
    """Where a table came from; fields that are not known are None.

    tta: test-time augmentation, a name of `cxrdali.models.tta.TTA`; history: one sentence per later step,
    such as pooling; calibrated: the calibrations among them; thresholds apply only to tables with the same ones;
    images: which ones they are, whatever the dataset's shards (`cxrdali.runs.same_data`); seen: sentences on how many
    of the images were trained on (none: not one was); fitted: what was fitted to which images on its way; home: how
    often its run's training images have the findings (None: they are of this dataset, or it is not known).
    """

    kind: Kind | None = None
    run: str | None = None
    split: str | None = None
    labels: str | None = None
    dataset: str | None = None
    tta: str | None = None
    history: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()
    images: str | None = None
    seen: tuple[str, ...] | None = None
    fitted: tuple[Fitted, ...] | None = None
    home: Home | None = None

    def as_json(self) -> dict:
        """A table of its own dataset says nothing of a home, and is the file that it always was."""
        return {name: value for name, value in asdict(self).items() if name != "home" or value is not None}

    @property
    def says_nothing(self) -> bool:
        """As that of a CSV of another program."""
        return replace(self, kind=None) == Provenance()


def from_json(stored: object) -> Provenance:
    """From a file's metadata. Fields that it does not have, as in an older file, are not known."""
    if not isinstance(stored, dict):
        raise ValueError("its metadata is damaged")
    known = {field.name: stored[field.name] for field in fields(Provenance) if field.name in stored}
    history, calibrated, seen = known.pop("history", []), known.pop("calibrated", None), known.pop("seen", None)
    for name, texts in (("history", history), ("calibrated", calibrated or []), ("seen", seen or [])):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"its metadata is damaged: {name} {texts!r}")
    fitted, home = known.pop("fitted", None), known.pop("home", None)
    check_kinds(home, maybe({"images": int, "positives": [[object]]}), "its metadata is damaged: home")
    check_kinds(fitted, maybe([KINDS]), "its metadata is damaged: fitted")
    for name, value in known.items():
        if not isinstance(value, str | None):
            raise ValueError(f"its metadata is damaged: {name} {value!r}")
    kind = known.pop("kind", None)
    if kind not in (None, *Kind):
        raise ValueError(f"its values are {kind!r}, not one of {', '.join(Kind)}")
    if calibrated is None:
        kind, calibrated = _from_history(kind, history)
    listed = {"history": tuple(history), "calibrated": tuple(calibrated), "seen": None if seen is None else tuple(seen)}
    entries = fitted and tuple(map(fitted_from_json, fitted))
    trained = home and Home(home["images"], tuple((str(name), int(count)) for name, count in home["positives"]))
    return Provenance(kind and Kind(kind), **known, **listed, fitted=() if fitted == [] else entries, home=trained)


def _from_history(kind: str | None, history: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Kind and calibrations of a table from before `calibrated` was stored: its steps alone say what it holds."""
    calibrated = [text for text in history if text.startswith("calibrated: ")]
    last = [text for text in history if text in calibrated or text.startswith("mean rank among ")][-1:]
    if kind == Kind.LOGIT and last:
        kind = Kind.CALIBRATED if last[0] in calibrated else Kind.RANK
    return kind, calibrated
