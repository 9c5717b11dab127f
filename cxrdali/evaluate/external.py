"""A run judged at home, on images like those of its training, and away, in other hospitals.

Everything is in the result, plain JSON values (undefined ones None):

    run, strategy, refit, uncertain, level, draws, seed, fewest_patients, synthetic
    fitted_on       images of home's validation to which thresholds and calibration were fitted; cross_fitted: home is
                    judged by fits to its other patients; kept: findings without a calibration, and why
    home, away      name, labels, split, dataset, images, studies, patients, unit, seen, copies (of images that were
                    trained on), left_out (images that are not judged, by the reason), common
                    (cxrdali.postprocess.aligned.Shared); of each of away besides
        only_home, only_away    findings of the run that the other's labels do not have
        refitted_on             patients to whom rules were fitted again, on average
        means                   of SIDES, over the findings that have the score on both sides (scored: how many)
        findings                a row each: finding, in_labels (its name there), group and train_positives (by the run's
                                training), counts of positives and patients, and SIDES

SIDES: home; away, with what was fitted at home; refitted, with what was fitted to a small part of that pack's other
patients; difference, home - away; mended, refitted - away. Each has MEASURES with the ends of their intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrdali.data.splits import balanced_parts
from cxrdali.evaluate.carried import Carried, cross_fitted, refitted
from cxrdali.evaluate.differences import adjusted, as_difference
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.evaluate.place import Judged, Place, judge, same_image
from cxrdali.metrics.bootstrap import Images, resample
from cxrdali.metrics.intervals import ENOUGH, Estimate, Sampled
from cxrdali.metrics.longtail import groups
from cxrdali.metrics.ranking import ratio, score
from cxrdali.postprocess.aligned import check_map
from cxrdali.postprocess.crossfit import Parts, parts
from cxrdali.postprocess.options import parse_strategy
from cxrdali.predictions import sigmoid
from cxrdali.runs.reader import Run
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.files import write_bytes
from shards.storage.for_people import guarded_rows
from shards.storage.sealed import sealed_json

SEEN = ("recall", "specificity", "F1", "ECE", "Brier")  # what rules that are fitted again can change
MEASURES = ("prevalence", "AP", "AP_reweighted", "AUROC", *SEEN, "ECE_raw")
SIDES = ("home", "away", "refitted", "difference", "mended")
Scores = dict[str, Sampled]  # of MEASURES


def external(
    run: Run, home: Place, away: Sequence[Place], options: ExternalOptions, validation: Place | None = None
) -> dict:
    """The numbers of the module's text.

    Args:
        run: Whose training images make head, medium and tail.
        home: Of its own dataset.
        away: Of others.
        validation: Its validation images, if home are others: thresholds and calibration are fitted to these.

    Raises:
        UserError: Images that were trained on (unless allowed), or that are at home and away; no finding in common; too
            few patients for `options.refit`.
    """
    here, there = judge(home, options), [judge(each, options) for each in away]
    check_map(options.findings, {name: known for each in (here, *there) for name, known in each.sides.items()})
    for each in there:
        if same_image(here, each):
            raise UserError(f"{each.place.path}: has images that {home.path} has too; give another --away")
    strategy = parse_strategy(options.strategy)
    fit = here if validation is None else judge(validation, options).of(here.findings)
    carried = Carried.fit(fit.truth, fit.logits, strategy)
    if validation is None:
        part = parts(home.path, here.subjects, options.folds)
        used = cross_fitted(Parts(here.truth, here.logits, part), strategy)
    else:
        used = carried.use(here.logits)
    with progress_bar("bootstrap", options.draws * (2 + 3 * len(there)), " samples", hidden=not options.draws) as bar:
        at_home = _Home(run, here, _sampled(here, used, options, bar), carried)
        found = [
            _away(at_home, each, replace(options, seed=options.seed + number), bar)  # other samples than home's
            for number, each in enumerate(there, 1)
        ]
    kept = {name: why for name, (_, why, _) in zip(here.findings, carried.rules, strict=True) if why}
    return {
        "run": run.name,
        **{"strategy": str(strategy), "refit": options.refit, "uncertain": options.uncertain},
        **{"level": options.level, "draws": options.draws, "seed": options.seed, "fewest_patients": ENOUGH},
        "synthetic": any(each.place.dataset.synthetic for each in (here, *there)),
        "fitted_on": {"images": len(fit.rows), "cross_fitted": validation is None, "kept": kept},
        "home": here.about(),
        "away": found,
    }


def write(result: dict, json_path: Path) -> list[Path]:
    """NAME.json with everything, and NAME.csv with a row for each away pack, finding ("": means over them) and side."""
    rows = []
    for away in result["away"]:
        for row in ({"finding": "", **away["means"]}, *away["findings"]):
            about = {"away": away["name"], **{key: row.get(key) for key in ("finding", "in_labels", "group")}}
            for side in SIDES:
                rows.append({**about, "side": side, **_flat(row[side]), **row.get("counts", {}).get(side, {})})
        for where in ("home", "away"):
            left = {"away": away["name"], "side": f"left out, {where} only"}
            rows += [{**left, "finding": name} for name in away[f"only_{where}"]]
    table = pd.DataFrame(guarded_rows(rows), dtype=object)
    write_bytes(json_path, sealed_json(result))
    write_bytes(json_path.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n").encode())
    return [json_path, json_path.with_suffix(".csv")]


def _flat(scores: Mapping) -> dict:
    """Differences, which are objects, as columns: F1, F1_low, F1_high, F1_p, F1_p_holm."""
    flat: dict = {}
    for name, value in scores.items():
        ends = value if isinstance(value, Mapping) else {"difference": value}
        flat |= {name if end == "difference" else f"{name}_{end}": each for end, each in ends.items()}
    return flat


@dataclass(frozen=True)
class _Home:
    run: Run
    judged: Judged
    scores: Scores
    carried: Carried


def _images(judged: Judged, used: np.ndarray) -> Images:
    """used: of `Carried.use`."""
    probabilities, called = np.split(used, 2, axis=1)
    return Images(judged.truth, judged.logits, judged.patient, probabilities, called == 1)


def _sampled(
    judged: Judged, used: np.ndarray, options: ExternalOptions, bar: tqdm, odds: np.ndarray | None = None
) -> Scores:
    """All of MEASURES, with rules whose `used` it is. odds: of the findings here, divided by those at home."""
    images = replace(_images(judged, used), negative=odds)
    scores = score(judged.findings, images.truth, images.values)
    also = ("recall", "specificity", "prevalence")
    found = resample(images, scores, options.draws, options.seed, bar.update, also=also)
    raw = replace(images, probabilities=sigmoid(judged.logits), called=None)
    return found | {"ECE_raw": resample(raw, None, options.draws, options.seed, bar.update)["ECE"]}


def _sides(
    home: _Home, columns: Sequence[int], away: Judged, options: ExternalOptions, bar: tqdm
) -> tuple[dict[str, Scores], float]:
    """columns: of home's findings, those of `away`; also to how many patients rules were fitted again, on average.

    Raises UserError for fewer patients than parts.
    """
    here, carried = {name: of.at(columns) for name, of in home.scores.items()}, home.carried.at(columns)
    count, people = round(1 / options.refit), len(np.unique(away.subjects))
    if people < count:
        raise UserError(f"{away.place.path}: {people} patients, --refit {options.refit:g} needs at least {count}")
    # NaN, which reweights nothing, of a finding that all images have, or none
    odds = [_odds(each) for each in (away.truth, home.judged.truth[:, columns])]
    there = _sampled(away, carried.use(away.logits), options, bar, odds[0] / odds[1])
    data = Parts(away.truth, away.logits, balanced_parts(away.subjects, count))
    images = _images(away, refitted(data, parse_strategy(options.strategy), carried))
    again = resample(images, None, options.draws, options.seed, bar.update, also=("recall", "specificity"))
    again = {name: again[name] for name in SEEN}
    sides = {"home": here, "away": there, "refitted": again}
    sides["difference"] = {name: here["AP" if name == "AP_reweighted" else name] - of for name, of in there.items()}
    sides["mended"] = {name: of - there[name] for name, of in again.items()}
    return sides, people / count


def _odds(truth: np.ndarray) -> np.ndarray:
    """Of each finding, positive images by negative ones: float64 [F], NaN without both."""
    positive, negative = ((truth == label).sum(axis=0) for label in (1, 0))
    return ratio(positive, negative, (positive > 0) & (negative > 0))


def _away(home: _Home, there: Judged, options: ExternalOptions, bar: tqdm) -> dict:
    names = [name for name in home.judged.findings if name in there.findings]
    if not names:
        raise UserError(
            f"{there.place.path}: the run's findings that its labels know, {', '.join(there.findings)}, are not in the "
            f"labels of {home.judged.place.path}; say with --findings MAP.toml which are the same"
        )
    columns, away = [home.judged.findings.index(name) for name in names], there.of(names)
    sides, patients = _sides(home, columns, away, options, bar)
    train = [home.run.train_positives[name] for name in names]
    group = groups(train, home.run.needed("selection", "train_images"))
    in_labels = there.both.shared.same if there.both.shared else {}
    rows, level = [], options.level
    for place, name in enumerate(names):
        about = {"finding": name, "in_labels": in_labels.get(name, name)}
        about |= {"group": group[place], "train_positives": train[place]}
        counts = {"home": home.judged.counts(columns[place]), "away": away.counts(place)}
        scores = {side: {name: each.finding(place, level) for name, each in of.items()} for side, of in sides.items()}
        rows.append({**about, "counts": counts, **{side: _estimates(of, side) for side, of in scores.items()}})
    both = {name: ~np.isnan(of.value) for name, of in sides["difference"].items()}
    over = {side: {name: each.mean(both[name], level) for name, each in of.items()} for side, of in sides.items()}
    means = {side: _estimates(of, side) for side, of in over.items()}
    for side in ("difference", "mended"):
        adjusted(list(means[side].values()))
        for measure in sides[side]:
            adjusted([row[side][measure] for row in rows])
    return {
        **there.about(),
        "only_home": [name for name in home.judged.findings if name not in names],
        "only_away": [name for name in there.findings if name not in names],
        "refitted_on": patients,
        "means": {**means, "scored": {name: int(mask.sum()) for name, mask in both.items()}},
        "findings": rows,
    }


def _estimates(found: Mapping[str, Estimate], side: str) -> dict:
    """By measure, with the ends of intervals; of differences an object each."""
    if side in ("difference", "mended"):
        return {name: as_difference(each) for name, each in found.items()}
    return {key: value for name, each in found.items() for key, value in each.as_json(name).items()}
