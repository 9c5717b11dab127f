"""Names of what lies in a run's folder, and in the folders of the two papers' studies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONFIG, PROGRESS, METRICS, FINDINGS, LAST = "config.json", "progress.json", "metrics.csv", "findings.csv", "last.pt"
BEST, VAL_PREDICTIONS, EVENTS = "best.safetensors", "val_predictions.parquet", "tensorboard"
TRACKED, LIVE = "tracked.json", ".live.json"  # `cxrdali.train.tracking`, `cxrdali.runs.live`
SEEN = "seen.parquet"  # `cxrdali.runs.seen`
EXCLUDED = "excluded.txt"  # `cxrdali.runs.exclusion`
REFERENCE_JSON, REFERENCE_ARRAYS = "reference.json", "reference.safetensors"  # `cxrdali.predict.reference`
NEW = {  # complete, but not yet of the run: `cxrdali.runs.folder`
    BEST: "best.new.safetensors",
    VAL_PREDICTIONS: "val_predictions.new.parquet",
    METRICS: "metrics.new.csv",
    FINDINGS: "findings.new.csv",
    PROGRESS: "progress.new.json",
}
METRIC_COLUMNS = (
    "epoch", "lr", "train_loss", "val_loss", "mAP", "LRAP", "macro_AUROC", "images", "images_per_second",
    "train_seconds", "wait_seconds", "val_seconds", "reweighted",
)  # fmt: skip
FINDING_COLUMNS = ("epoch", "finding", "AP", "AUROC", "positives", "negatives")


EMA = "ema_"  # begins columns of metrics.csv that are of the moving average of weights
RAW, AVERAGED = "raw", "ema"  # whose weights are the best: progress.json, and the metadata of weights


def candidate(row: Mapping[str, float], column: str) -> tuple[float, bool]:
    """The higher of the scores that an epoch's weights and their moving average have, and whether it is the average's.

    row: of metrics.csv; column: `chosen_by`.
    """
    plain, averaged = row[column], row.get(EMA + column, float("nan"))
    of_average = averaged > plain or (plain != plain and averaged == averaged)
    return (averaged if of_average else plain), of_average


def chosen_by(select_by: str, select_pack: str | None, packs: bool, select_view: str | None = None) -> str:
    """The column of metrics.csv whose highest value makes the best epoch; packs: whether there are several."""
    metric = "LRAP" if select_by == "lrap" else "mAP"
    column = f"{metric}_{select_pack}" if select_pack else f"mean_{metric}" if packs else metric
    return f"{select_view}_{column}" if select_view else column


STUDY = "study.json"  # RECORD of studies that are no loss-design paper
RECORD = "loss-design.json"  # in a study's folder: its models, what they are there for, its tables and steps
REFERENCE = "ld-ldam-drw"  # its network is the one that the losses share, its loss the one that the backbones share


@dataclass(frozen=True)
class Table:
    """Predictions of every split in the study of Sulake (arXiv 2603.02294, 2026).

    kind: "model", "tta", "ensemble" or "calibrated"; of: the model or table it is made from; how: the TTA or method.
    """

    name: str
    kind: str
    of: str
    how: str


# What Yamagishi & Hanaoka (2023) trained for their final result, and who makes the ensemble
MODELS = ("model0", "model2", "model3", "model5", "model6", "model7")
MEMBERS = ("model3", "model5", "model6", "model7")

REPLACED = "replaced"  # in runs/: what stood in the way of a run


def run_file(path: Path) -> str | None:
    """The file of a run that is there, which a command given `path` to write would write over, it or the .json and .csv
    that it writes beside; None if there is none."""
    beside = [f"{stem}{suffix}" for stem in (path.name, path.stem) for suffix in (".json", ".csv")]
    own = [name for name in (path.name, *beside) if name in (CONFIG, LAST, REFERENCE_JSON, *NEW)]
    is_run = any((path.parent / name).exists() for name in (PROGRESS, LAST, BEST))
    return own[0] if own and is_run else None
