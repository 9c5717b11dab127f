"""Which images of a dataset a run has trained on, by hashes of their ids and pixels, and a sentence on how many."""

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from shards.dataset.packed import PackedDataset

if TYPE_CHECKING:
    from cxrdali.runs.seen import Trained

log = logging.getLogger(__name__)

IDS = ["image", "study", "patient", "pixels"]


def met(
    own: pd.DataFrame, its: pd.DataFrame, run: "Trained", dataset: PackedDataset, group: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Which of a dataset's images a run trained on, bool [rows], of which others it knows study or patient, bool
    [rows], and words for what that is known by, where ids alone say so."""
    same, study, patient = (np.isin(own[name], its[name]) for name in IDS[:3])
    words = ""
    if run.dataset != dataset.id:
        equal = np.zeros(len(own), dtype=bool)
        if run.hashed is not None and run.hashed == dataset.info.get("hashed"):
            equal = np.isin(own["pixels"], its.loc[its["pixels"] != 0, "pixels"])
            there = its.drop_duplicates("image").set_index("image")["pixels"]
            compared = np.stack([own["pixels"][same], there.reindex(own["image"][same])])
            compared = compared[:, (compared != 0).all(axis=0)]
            differing = int((compared[0] != compared[1]).sum())
            if 2 * differing > compared.shape[1]:
                log.info(
                    f"note: {differing:,} images have ids of images that {run.name} was trained on, and other pixels: "
                    "they count as others"
                )
                same[:] = study[:] = False
        elif same.any():
            words = ", by their ids: pixels of other sizes do not compare"
        if not (same | study).any():  # other hospitals have a patient 1, too
            patient[:] = False
        same |= equal
        if not same.any():
            words = ", by the ids of studies alone"
    study |= np.isin(own["study"], own["study"][same])
    patient |= np.isin(own["patient"], own["patient"][same])
    return same, (study | patient if group == "subject" else study) & ~same, words


def sentence(itself: np.ndarray, related: np.ndarray, found: list[tuple[int, str]], group: str, what: str) -> str:
    """itself, related: bool [n]; found: how many images each run trained on, and its words."""
    trained, others, of = int(itself.sum()), int(related.sum()), f"{len(itself):,} {what}"
    related_to = f"other images of {'patients' if group == 'subject' else 'studies'} that were trained on"
    if not trained:
        return f"{others:,} of {of} are {related_to} by {', '.join(words for _, words in found)}"
    runs = [(count, words) for count, words in found if count]
    by = f" by {runs[0][1]}" if len(runs) == 1 else ": " + ", ".join(f"{count:,} by {words}" for count, words in runs)
    return f"{trained:,} of {of} were trained on{by}" + (f", and {others:,} more are {related_to}" if others else "")
