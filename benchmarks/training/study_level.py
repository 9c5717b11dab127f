"""What do study-level models gain over single images and postprocessing, and does their loader keep up?

Each fold of a synthetic release is a replicate, with a seed of its own: every arm has the same images, and is compared
with the view postprocess on that fold's validation images, by patient, and over the folds.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from benchmarks import datasets, results
from benchmarks.options import Options, option, parse
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.studies import pixels
from cxrdali.data.study_loader import StudyLoader
from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.options import CompareOptions
from cxrdali.models.fusion_options import FUSIONS, StudyOptions
from cxrdali.postprocess import study_mean, views
from cxrdali.runs.settings import settings_of
from cxrdali.train.study import study_settings
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

FINDINGS = "Pneumothorax,Enlarged Cardiomediastinum,Edema,Lung Opacity,Pleural Effusion,Cardiomegaly,Fracture"
BASELINE = "view postprocess"
SMALL = {"size": 64, "batch": 32, "arch": "resnet10t", "pretrained": False, "flips": "horizontal", "cutout": "off"}


@dataclass(frozen=True)
class StudyLevel(Options):
    studies: int = option(1000, "studies of the release")
    folds: int = option(3, "folds, each a replicate; 0: no trial")
    epochs: int = option(12, "epochs of the network of single images")
    rounds: int = option(0, "runs of each loader")


def arms(dataset: PackedDataset, folder: Path, how: dict) -> list[Path]:
    """Train and predict everything of one fold: runs, and tables of its validation images."""
    run = folder / "single images"
    train(settings_of(stage=1, device="cpu", **SMALL, **how), dataset, run)
    own, found = run / "val_predictions.parquet", [run]
    rules = views.fit(own, dataset, dataset.labels())
    for name, table in (
        (BASELINE, views.apply(own, rules, dataset)[0]),
        ("study mean", study_mean.apply(own, dataset)[0]),
    ):
        found.append(folder / f"{name}.parquet")
        table.write(found[-1])
    for fusion, frozen in (*((each, True) for each in FUSIONS), ("attention", False)):
        found.append(folder / (fusion if frozen else f"{fusion}, backbone trained too"))
        asked = study_settings(run, dataset, StudyOptions(fusion=fusion), {"frozen": frozen, "device": "cpu"})
        train(asked, dataset, found[-1])
    return found


def trial(dataset: PackedDataset, folder: Path, options: StudyLevel) -> list[dict]:
    """A row for each arm: its mAP on every fold, and what it has over the view postprocess there and over all folds."""
    rows: dict[str, dict[str, list]] = {}
    for fold in range(options.folds):
        how = {"fold": fold, "folds": options.folds, "seed": fold, "epochs": options.epochs}
        found = arms(dataset, folder / str(fold), how)
        scored = compare(found, dataset, CompareOptions(baseline=BASELINE, allow_same_images=True))
        for run in scored["runs"]:
            rows.setdefault(run["name"], {"mAP": [], "over": []})["mAP"].append(run["mAP"])
        for each in (each for each in scored["differences"] if each["metric"] == "mAP"):
            rows[each["run"]]["over"].append([each[key] for key in ("difference", "low", "high")])
    for row in rows.values():
        by_fold = [difference for difference, *_ in row["over"]]
        mean, error = sum(by_fold) / max(1, len(by_fold)), float(stats.sem(by_fold)) if by_fold else 0
        row["over_folds"] = [
            mean,
            *(map(float, stats.t.interval(0.95, len(by_fold) - 1, mean, error)) if error else ()),
        ]
    return [{"section": "trial", "arm": name, **row} for name, row in rows.items()]


def loading(dataset: PackedDataset, rounds: int) -> list[dict]:
    every, options = dataset.packed.nonzero()[0], LoaderOptions(224, 64)
    loaders = {
        "loader": Loader(dataset, every, options, shuffle=True),
        "loader of studies": StudyLoader(dataset, every, options, most=8, shuffle=True),
    }
    asked = {name: lambda each=each: sum(len(pixels(batch)) for batch, _ in each) for name, each in loaders.items()}
    rows = [results.rate_row(name, runs) for name, runs in results.interleaved(asked, rounds).items()]
    rates = {row["baseline"]: results.median_rate(row) for row in rows}
    found = results.Target("loader of studies", ("loader",), 0.9).check(rates)
    return [{"section": "loading", **row} for row in (*rows, found)]


def main() -> None:
    options = parse(StudyLevel, "benchmarks.training.study_level", __doc__.split("\n")[0])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_release(folder / "release", SyntheticOptions(options.studies, 256, only=tuple(FINDINGS.split(","))))
        dataset = datasets.packed(folder / "release", folder / "pack", (64, 224))
        rows = loading(dataset, options.rounds) if options.rounds else trial(dataset, folder, options)
        results.save(rows, results.environment("benchmarks.training.study_level"), options.save, "study_level")
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()
