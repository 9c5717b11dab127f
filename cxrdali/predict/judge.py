"""What one run, or several together, say of images: logits, probabilities and decisions.

Rules for calibration and thresholds are those of `cxrdali.postprocess`, and refused where these refuse them.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from cxrdali.fitted import joined
from cxrdali.models.classifier import Classifier
from cxrdali.models.inference import in_passes, merged
from cxrdali.models.tta import TTA
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.rules import check_findings
from cxrdali.predict.options import JudgeOptions
from cxrdali.predict.predict import load_run_model, weights_of, with_weights
from cxrdali.predictions import Predictions, Provenance, first_of, mean_logit
from cxrdali.runs.chosen import by_weights
from cxrdali.runs.reader import Run
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.full import NO_ROOM, smaller_batch, told_if_full
from shards.errors import UserError
from shards.words import counted

log = logging.getLogger(__name__)
R = TypeVar("R", calibration.Calibration, thresholds.Thresholds)


class Judge:
    """Judges images that are rendered for its runs (`cxrdali.predict.rendering`); one call at a time.

    runs; run: the first of them; findings: names, in its order; model: its network, on its device; hardware;
    calibration, thresholds: what is applied, with a rule per finding in that order (None: nothing); provenance: what a
    table of its logits says of them.
    """

    def __init__(self, runs: Sequence[Run], models: Sequence[Classifier], hardware: Hardware, options: JudgeOptions):
        self.runs, self.run, self.findings = tuple(runs), runs[0], runs[0].findings
        self.hardware, self.options, self.model = hardware, options, models[0]
        self._members = [  # with the place of each of the judge's findings among its own
            (model, [run.findings.index(name) for name in self.findings])
            for run, model in zip(runs, models, strict=True)
        ]
        self._before = _provenance(runs, options)
        self.calibration, self.thresholds = None, None
        blank = self._table(np.zeros((0, len(self.findings)), np.float32), ())
        if options.calibration is not None:
            rules = calibration.read(Path(options.calibration))
            self._remark = calibration.check(self.run.path, blank, rules, options.allow_other_run)
            self.calibration = _in_order(rules, self.findings)
            blank = self._calibrated(blank)
        self.provenance = blank.provenance
        if options.thresholds is not None:
            limits = thresholds.read_or_fixed(options.thresholds, self.findings)
            _check_calibrated(Path(options.thresholds), limits, blank.provenance)
            check_findings(self.run.path, blank, limits.findings, "thresholds")
            limits.decide(self.run.path, blank, options.allow_other_run)
            self.thresholds = _in_order(limits, self.findings)

    @classmethod
    def of(cls, runs: Sequence[Run], options: JudgeOptions | None = None) -> "Judge":
        """Load the runs' best weights, or `options.weights`, and what is to be applied.

        Raises UserError for runs of different findings, a run given twice, weights that are missing or of another
        network, rules that are of other findings, runs or TTA, or a GPU without room.
        """
        asked = options or JudgeOptions()
        _check_runs(runs, asked)
        hardware = Hardware.resolve(asked.device, asked.precision)
        hardware.begin()
        models = []
        for run in runs:
            model = load_run_model(run, weights_of(run, asked))
            if run.settings.study:
                log.info(f"{run.path}: sees whole studies; each file is a study of its own here, of unknown view")
            with told_if_full(NO_ROOM):
                models.append(model.to(hardware.device).eval())
        return cls(runs, models, hardware, asked)

    @property
    def words(self) -> str:
        """How images are judged, in a line."""
        sizes = ", ".join(dict.fromkeys(str(run.settings.data.size) for run in self.runs))
        passes, runs = counted(len(TTA[self.options.tta]), "pass"), counted(len(self.runs), "run")
        return (
            f"at {sizes} px, {self.hardware.precision} on {self.hardware.device}"
            + (f", TTA {self.options.tta}: {passes}" if self.options.tta != "none" else "")
            + (f", mean probability of {runs}" if len(self.runs) > 1 else "")
        )

    @property
    def batch(self) -> int:
        """Images at a time: as asked, or as many as `cxrdali predict` takes for the first run."""
        settings = self.run.settings
        return self.options.batch or settings.runtime.micro_batch or settings.optimizer.batch

    def judge(self, pixels: np.ndarray | Sequence[np.ndarray], names: Sequence[str] = ()) -> np.ndarray:
        """Judge a batch.

        Args:
            pixels: uint8 [B, S, S] as every run sees the images; or one such array per run.
            names: Of the images, for messages.

        Returns:
            Logits, float32 [B, F], calibrated where that was asked for.

        Raises:
            UserError: The network gives NaN or infinity, or the GPU is full.
        """
        each = [pixels] * len(self._members) if isinstance(pixels, np.ndarray) else pixels
        pairs = zip(self._members, each, strict=True)
        found = [self._logits(model, its, names)[:, columns] for (model, columns), its in pairs]
        logits = found[0] if len(found) == 1 else mean_logit(np.stack(found))
        return logits if self.calibration is None else self._calibrated(self._table(logits, names)).values

    def decide(self, logits: np.ndarray) -> np.ndarray | None:
        """Whether each finding is present, of logits [n, F] as `judge` returns them: bool [n, F]; None without
        thresholds."""
        made = self.thresholds
        return None if made is None else thresholds.decide(logits, [rule.threshold for rule in made.rules])

    @torch.inference_mode()
    def _logits(self, model: Classifier, pixels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """float32 [B, F]."""
        count, tta = len(pixels), self.options.tta
        full = f"the GPU is full with {counted(count, 'image')} of {pixels.shape[-1]} px at a time"
        with told_if_full(f"{full}; {smaller_batch(count)}"):
            images = torch.from_numpy(np.ascontiguousarray(pixels))[:, None].to(self.hardware.device)
            passes = torch.empty(len(TTA[tta]), count, len(self.findings), device=self.hardware.device)
            in_passes(model, images, tta, self.hardware, passes)
            values, finite = merged(passes.cpu().numpy())
        if not finite.all():
            image = f"image {names[int(np.argmin(finite))]!r}" if names else "an image"
            fix = "predict with other weights" if self.hardware.precision == "fp32" else "use --precision fp32"
            raise UserError(f"the network gives NaN or infinity for {image} in {self.hardware.precision}; {fix}")
        return values

    def _table(self, logits: np.ndarray, names: Sequence[str]) -> Predictions:
        names = names or [f"image {place}" for place in range(1, len(logits) + 1)]
        return Predictions(pd.DataFrame({"image_id": list(names)}), self.findings, logits, self._before)

    def _calibrated(self, table: Predictions) -> Predictions:
        return calibration.calibrated(self.run.path, table, self.calibration, self._remark)


def _in_order(rules: R, findings: Sequence[str]) -> R:
    by_name = {rule.finding: rule for rule in rules.rules}
    return replace(rules, rules=tuple(by_name[name] for name in findings))


def _check_runs(runs: Sequence[Run], asked: JudgeOptions) -> None:
    if len(runs) > 1 and asked.weights is not None:
        raise UserError(f"weights {asked.weights}: of which of {len(runs)} runs they are is not said; give one run")
    for place, run in enumerate(runs):
        if run.path.resolve() in [other.path.resolve() for other in runs[:place]]:
            raise UserError(f"{run.path}: is given twice; give each run once")
        only = sorted({*run.findings} ^ {*runs[0].findings})
        if only:
            raise UserError(
                f"{run.path}: finding {first_of(only)} is not in both it and {runs[0].path}; give runs that were "
                "trained on the same findings"
            )


def _provenance(runs: Sequence[Run], asked: JudgeOptions) -> Provenance:
    """What `cxrdali predict`, and `cxrdali ensemble` of several, would say of the logits."""
    labels = runs[0].labels if len({run.labels for run in runs}) == 1 else None
    about = Provenance("logit", runs[0].name, labels=labels, tta=asked.tta)
    if len(runs) == 1:
        return with_weights(about, runs[0], asked.weights)
    names, made = ", ".join(run.name for run in runs), joined(each for run in runs for each in by_weights(run.path))
    return replace(about, run=f"ensemble of {names}", history=(f"mean probability of {names}",), fitted=made or None)


def _check_calibrated(path: Path, rules: thresholds.Thresholds, about: Provenance) -> None:
    """Thresholds compare logits, so they are meant for those that went through the same calibration."""
    there = rules.made_from.get("calibrated")
    if there is not None and list(about.calibrated) != list(there):
        words = [", then ".join(each) or "not calibrated" for each in (there, about.calibrated)]
        raise UserError(
            f"{path}: fitted to logits that are {words[0]}, here they are {words[1]}; give the --calibration that came "
            "before these thresholds, or none if none did, or fit thresholds to a table that it was applied to"
        )
