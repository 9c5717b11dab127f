"""Whatever was fitted to images with labels on the way to a table of predictions, and whether these are among its own.

A score on images that something was fitted to is too good. Images are known by hashes of their ids, whatever file,
split, fold or pack they come from: of many images by the MOST smallest hashes, so that a set takes a few kilobytes.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.storage.sealed import check_kinds, maybe

BEFORE = "what was done to it before"
BEST_EPOCH, OVERSAMPLING, WEIGHTS = "best epoch", "oversampling list", "ensemble weights"
CALIBRATION, VIEW_RULES, THRESHOLDS = "calibration", "view rules", "thresholds"
KEPT = ("dev", "test")  # splits that are there to be scored
APPLY = "apply what was fitted on val"
OF_SEVERAL = r"^[\w.-]+:"  # how ids begin where several packs are one dataset
MOST = 4096  # of 54,000 images, these miss an overlap of 100 once in 2,000 times


@dataclass(frozen=True)
class Fitted:
    """what: was fitted; images: to which, as `sketch` returns it ("": not known); split: theirs (None: not known)."""

    what: tuple[str, ...]
    images: str = ""
    split: str | None = None


@dataclass(frozen=True)
class Here:
    """words: what was fitted on images that are scored; unknown: what nobody knows it of; kept: those of `words` that
    were fitted on images of a split that is there to be scored."""

    words: tuple[str, ...]
    unknown: tuple[str, ...]
    kept: tuple[str, ...]

    def check(self, path: Path, allow: bool, fix: str = "score other images") -> None:
        """Raises UserError if something was fitted on dev or test images that are scored, unless that is allowed."""
        if self.kept and not allow:
            raise UserError(
                f"{path}: {', '.join(self.kept)} fitted on these very images, which are there to be scored; {fix}, or "
                "say --allow-same-images: all scores then say so"
            )


def in_words(result: Mapping) -> str | None:
    """Of what `evaluate` or `compare` wrote: what was fitted on the images of its scores; None if nothing was."""
    old = [BEST_EPOCH] if result.get("split") == "val" else []  # of before this was noted
    unknown = [f"not known of {what}" for what in result.get("fitted_unknown", ())]
    return ", ".join([*result.get("fitted_here", old), *unknown]) or None


def sketch(ids: pd.DataFrame) -> str:
    """Which images these are, of the columns image_id and study_id: base64 of up to MOST hashes, ascending."""
    return base64.b64encode(np.unique(_hashes(ids))[:MOST].astype("<u8").tobytes()).decode()


def from_json(stored: dict) -> Fitted:
    """Of KINDS."""
    return Fitted(tuple(stored["what"]), stored["images"], stored["split"])


def joined(entries: Iterable[Fitted]) -> tuple[Fitted, ...]:
    """An entry for each set of images."""
    found: dict[tuple, tuple] = {}
    for each in entries:
        key = (each.images, each.split)
        found[key] = (*found.get(key, ()), *each.what)
    return tuple(Fitted(tuple(dict.fromkeys(what)), *key) for key, what in found.items())


def here(entries: Iterable[Fitted], ids: pd.DataFrame, split: str | None) -> Here:
    """ids, split: of the images that are scored. Where images are not known, equal splits count as the same ones."""
    own, words, unknown, kept = _hashes(ids), {}, {}, {}
    for each in entries:
        share = _share(own, each) if each.images else float(each.split is not None and each.split == split)
        if not each.images and None in (each.split, split):
            unknown |= dict.fromkeys(each.what)
        elif share:
            named = [what if share == 1 else f"{what} (on a part of them)" for what in each.what]
            words |= dict.fromkeys(named)
            kept |= dict.fromkeys(named if each.split in KEPT else ())
    return Here(tuple(words), tuple(unknown), tuple(kept))


def check_sketch(value: object, where: str) -> None:
    """For `check_kinds`. Raises ValueError if it is none."""
    check_kinds(value, str, where)
    data = base64.b64decode(str(value), validate=True)
    if len(data) % 8 or len(data) > 8 * MOST:
        raise ValueError(f"{where} is of {len(data)} bytes, no hashes of images")


KINDS = {"what": [str], "images": check_sketch, "split": maybe(str)}


def _share(own: np.ndarray, fitted: Fitted) -> float:
    """Which part of images was fitted to, 0 to 1; estimated where `sketch` left some out."""
    known = np.frombuffer(base64.b64decode(fitted.images), dtype="<u8")
    met = np.isin(own, known)
    told = own <= known[-1] if len(known) == MOST else np.ones(len(own), dtype=bool)
    return float(met[told].mean()) if told.any() else 0.0


def _hashes(ids: pd.DataFrame) -> np.ndarray:
    """An image has the same in its own pack and among several, where its ids begin with the pack's name."""
    image, study = (ids[name].astype(str) for name in ("image_id", "study_id"))
    if all(len(each) and re.match(OF_SEVERAL, each.iloc[0]) for each in (image, study)):
        image, study = (each.str.replace(OF_SEVERAL, "", regex=True) for each in (image, study))
    texts = (image + "/" + study).to_numpy(dtype=object)
    return pd.util.hash_array(texts, categorize=False)


def overlap(one: str, other: str) -> bool:
    """Whether two sets of images, as `sketch` returns them, are known to have one in common."""
    known, others = (np.frombuffer(base64.b64decode(each), dtype="<u8") for each in (one, other))
    return bool(np.isin(known, others).any())
