"""An exported model compared with what cxrdali itself computes, before anything is written.

An output is right if it lies between those that the calibration (NumPy's, in float64) makes of logits that are BOUND
lower and higher than torch's. A bound on the outputs alone would refuse every steep step of an isotonic calibration.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models.checkpoint_file import first_line
from cxrdali.postprocess.calibration_maps import Map
from cxrdali.predict.judge import Judge
from cxrdali.predictions import sigmoid
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of, run_rows
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.words import counted

log = logging.getLogger(__name__)

BOUND = 1e-3  # of a logit; of one beyond 1 or below -1, that part of it
ROUNDING = {True: 1e-6, False: 1e-4}  # of float32 probabilities, and of calibrated logits
IMAGES, FIRST, MORE = 16, 1, 3  # a batch of one image, then batches of three
_FIX = "nothing was written; try another target, or another version of torch or timm"


@dataclass(frozen=True, eq=False)
class Expected:
    """images: uint8 [n, 1, S, S]; logits: float32 [n, F], as cxrdali predicts them on the CPU in float32; words: which
    images. maps: a calibration (none: empty); probabilities: what is compared, else logits."""

    images: np.ndarray
    logits: np.ndarray
    words: str
    maps: tuple[Map, ...] = ()
    probabilities: bool = False

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        """float64 [n, F]: what is to come out for these logits."""
        if self.maps:
            logits = np.stack([each(column) for each, column in zip(self.maps, logits.T, strict=True)], axis=1)
        return sigmoid(logits) if self.probabilities else logits.astype(np.float64)

    def check(self, run: Callable[[np.ndarray], np.ndarray], what: str) -> None:
        """Log the largest difference. Raises UserError if one is too large.

        run: images uint8 [N, 1, S, S] -> outputs [N, F]; what: for messages.
        """
        try:
            batches = np.split(self.images, range(FIRST, len(self.images), MORE))
            outputs = np.concatenate([run(batch) for batch in batches])
        except Exception as error:  # of any runtime
            why = f"it does not run in batches of {FIRST} and {MORE} ({first_line(error)})"
            raise UserError(f"{what}: {why}; {_FIX}") from error
        span, rounding = BOUND * np.maximum(np.abs(self.logits), 1), ROUNDING[self.probabilities]
        low, high = self.outputs(self.logits - span) - rounding, self.outputs(self.logits + span) + rounding
        if outputs.shape != low.shape:
            raise UserError(f"{what}: it gives {list(outputs.shape)}, not {list(low.shape)}; {_FIX}")
        found = f"a {'probability' if self.probabilities else 'logit'} of "
        found += f"{np.abs(outputs - self.outputs(self.logits)).max():.2g}, on {self.words}"
        if not ((outputs >= low) & (outputs <= high)).all():
            raise UserError(f"{what}: differs from torch by up to {found}; {_FIX}")
        log.info(
            f"{what}: the largest difference from torch is {found}, in batches of {FIRST} and {MORE} (refused: more "
            f"than logits make that are {BOUND:g}, or {BOUND:.1%}, off)"
        )


def expected(judge: Judge, dataset: PackedDataset | None) -> Expected:
    """Of images of the run's validation in `dataset`, or of generated ones. Raises UserError if it is not the run's."""
    size = judge.run.settings.data.size
    if dataset is None:
        images, words = _generated(size), f"{IMAGES} generated images (no --data)"
    else:
        rows = rows_of(judge.run, dataset)[1]
        rows = rows[:: max(1, len(rows) // IMAGES)][:IMAGES]
        images = next(iter(Loader(dataset, rows, LoaderOptions(size, len(rows), threads=1)))).images.numpy()
        words = f"{counted(len(rows), 'validation image')} of {dataset.root}"
    images = images[np.arange(max(len(images), FIRST + MORE)) % len(images)]
    with torch.inference_mode():
        logits = judge.model(torch.from_numpy(images)).float().numpy()
    if not np.isfinite(logits).all():
        raise UserError(f"{judge.run.path}: its network gives NaN or infinity for {words}; train it again")
    return Expected(images, logits, words)


def rows_of(run: Run, dataset: PackedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Catalog rows of its training and validation images. Raises UserError if the dataset is not the run's."""
    fix = "; give the pack that it was trained on with --data, or none"
    return run_rows(run, dataset, labels_of(run, dataset), fix)


def _generated(size: int) -> np.ndarray:
    """uint8 [IMAGES, 1, S, S]: noise, every second image of squares of 8 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, size, size), dtype=np.uint8)
    images[::2] = images[::2, :, ::8, ::8].repeat(8, axis=2).repeat(8, axis=3)[..., :size, :size]
    return images
