"""From how many positives does a calibration help, and isotonic regression more than Platt's method?

Each method is fitted to sampled labels, and judged by how many per cent its expected log loss and Brier score are above
those of the true probabilities. The logits are calibrated, shifted or stretched (a line corrects both), bent or kinked.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from benchmarks.options import Options, listed, option, parse
from benchmarks.results import environment, save
from cxrdali.postprocess import calibration_maps as maps

MODULE = "benchmarks.statistics.calibration"
KINDS = {  # from a standard normal and the true logits, of which it is the random part (AUROC about 0.87)
    "calibrated": lambda normal, true: true,
    "shifted": lambda normal, true: true + 0.5,
    "stretched": lambda normal, true: 1.5 * true + 2,
    "bent": lambda normal, true: 2 * np.sign(normal) * np.sqrt(np.abs(normal)) - 1,
    "kinked": lambda normal, true: np.where(normal > 1, 1 + (normal - 1) / 4, normal),
}
METHODS = {"none": None, "temperature": maps.fit_temperature, "platt": maps.fit_platt, "isotonic": maps.fit_isotonic}


@dataclass(frozen=True)
class CalibrationOptions(Options):
    repeats: int = option(40, "fits of each kind, prevalence and number of positives")
    positives: tuple = option("5,10,20,30,50,100,200,500,1000,2000", "expected positives, a list", listed(int))
    prevalences: tuple = option("0.002,0.01,0.05,0.3", "shares of positives, a list", listed(float))


def losses(true: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Expected log loss and Brier score of logits where the `true` ones are these."""
    share, found = expit(true), expit(logits)
    return (np.logaddexp(0, logits) - share * logits).mean(), (share - 2 * share * found + found**2).mean()


def row(kind: str, prevalence: float, positives: int, repeats: int, generator: np.random.Generator) -> dict:
    normal, images = generator.normal(size=20_000), round(positives / prevalence)
    centre = brentq(lambda at: expit(at + 1.8 * normal).mean() - prevalence, -30, 10)
    true, found = centre + 1.8 * normal, {name: [] for name in METHODS}
    given = KINDS[kind](normal, true)
    for _ in range(repeats):
        sampled = generator.normal(size=images)
        labels = (generator.random(images) < expit(centre + 1.8 * sampled)).astype(np.float32)
        logits = KINDS[kind](sampled, centre + 1.8 * sampled)
        for name, fit in METHODS.items():
            found[name].append(losses(true, fit(labels, logits)[0](given) if fit else given))
    above = {name: (100 * np.mean(each, axis=0) / losses(true, true) - 100).round(3) for name, each in found.items()}
    about = {"logits": kind, "prevalence": prevalence, "positives": positives, "images": images, "repeats": repeats}
    scores = ("log_loss_percent_above", "brier_percent_above")
    return about | {score: {name: float(each[at]) for name, each in above.items()} for at, score in enumerate(scores)}


def main() -> None:
    options = parse(CalibrationOptions, MODULE, __doc__.partition("\n")[0])
    about, generator, rows = environment(MODULE), np.random.default_rng(0), []
    maps.LEAST = 1  # what is lost below it is a part of the question
    sizes = [(share, positives) for share in options.prevalences for positives in options.positives]
    for kind in KINDS:
        for share, positives in sizes:
            if positives / share <= 100_000:
                rows.append(row(kind, share, positives, options.repeats, generator))
                print(f"{kind:11} {share:6} {positives:6}", rows[-1]["log_loss_percent_above"], flush=True)
    save(rows, about, options.save, "calibration")


if __name__ == "__main__":
    main()
