"""Which of the stage-training paper's effects does a small network show on the synthetic release?

    python -m benchmarks.effects.effects --work DIR [--save]      # the same again continues what was begun in DIR
    python -m benchmarks.effects.effects --table     # the newest committed rows as docs/effects.md shows them
    python -m benchmarks.effects.effects --page docs/effects.md   # writes them there, and the picture beside it

The loss-design paper's are `benchmarks.effects.effects_losses`; they are measured with --paper loss-design before the
rest.

Per seed, the package's own path trains models 0 to 7 (4 apart), with sizes and batches in the paper's proportions, and
three more for the comparison of first stages. A seed has its own fold, weights and order of data; everything that is
compared within a seed shares them. Averages are over the findings with at least FLOOR positives in every fold's
validation and in the held-out images, which are those of the released development and test splits together. Nothing is
chosen by them: oversampled findings, view rules, the better first stage and the best member come from validation.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

from benchmarks import results
from benchmarks.results import newest
from cxrdali import predictions
from cxrdali.data.splits import FoldOptions, released_rows, select
from cxrdali.data.targets import targets
from cxrdali.metrics.ranking import score
from cxrdali.postprocess import views
from cxrdali.postprocess.ensemble import ensemble
from cxrdali.predict.predict import predict
from cxrdali.predictions import Predictions
from cxrdali.report import published
from cxrdali.runs import folder as runs
from cxrdali.runs.layout import MEMBERS
from cxrdali.runs.oversampling import read_ap
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train.trainer import train
from shards.dataset.description import DATASET
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size
from shards.releases.open import open_release
from shards.storage.files import json_bytes, write_bytes
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

LABELS = "cxr-lt-2023"
HELD_OUT = ("dev", "test")
LEVEL = 0.95
MARGIN = 0.01  # a loss of mAP below which we call a cheaper first stage free


@dataclass(frozen=True)
class Scale:
    """sizes in pixels and batches in images: by default a quarter and an eighth of the paper's 224, 320, 384, 512 and
    256, 128, 80, 48; floor: positives that a finding needs, in every validation and held out, to be counted."""

    studies: int = 10_000
    drawn: int = 256
    sizes: tuple[int, int, int, int] = (56, 80, 96, 128)
    batches: tuple[int, int, int, int] = (32, 16, 10, 6)
    epochs: int = 4
    lr: float = 2e-3
    folds: int = 3
    floor: int = 40
    arch: str = "test_byobnet"
    seed: int = 0  # of the release


NAME = "effects"  # of its rows in benchmarks/results/
SCALE = Scale()
QUICK = Scale(studies=150, drawn=64, sizes=(32, 40, 48, 64), batches=(16, 8, 5, 3), epochs=1, floor=2)


@dataclass(frozen=True)
class Model:
    """size, batch: places in Scale's. oversampled: share of the counted findings, from the lowest AP up, that the
    threshold of its oversampling takes in (0: none)."""

    name: str
    stage: int
    size: int
    batch: int
    after: str | None = None
    oversampled: float = 0.0


MODELS = (
    Model("model0", 1, 0, 0),
    Model("model1", 1, 0, 1),
    Model("costly", 1, 1, 1),
    Model("model2", 2, 1, 1, "model0"),
    Model("after-model1", 2, 1, 1, "model1"),
    Model("after-costly", 2, 1, 1, "costly"),
    Model("model3", 2, 1, 1, "model0", 0.35),
    Model("model5", 2, 1, 1, "model0", 0.55),
    Model("model6", 2, 2, 2, "model0", 0.35),
    Model("model7", 3, 3, 3, "model3", 0.35),
)


@dataclass(frozen=True)
class Effect:
    """claim: the paper's, "gain" or "free" (costs nothing); None: it claims nothing."""

    name: str
    words: str
    claim: str | None = "gain"


EFFECTS = (
    Effect("cheap first stage", "stage 2 after a small first stage, less after one at stage 2's own size", "free"),
    Effect("large batch", "stage 1 with the large batch, less with half of it (models 0, 1)"),
    Effect("better first stage", "stage 2 after the better of models 0 and 1, less after the other"),
    Effect("stage 2", "model 2, less model 0"),
    Effect("oversampling, all", "model 3, less model 2: all counted findings", None),
    Effect("oversampling, the lowest", "model 3, less model 2: the findings that model 3 saw twice"),
    Effect("oversampling, the rest", "model 3, less model 2: the other findings", None),
    Effect("hflip TTA", "model 2 with the mirror image, less without"),
    Effect("view postprocess", "model 3 with it, less without"),
    Effect("ensemble of four", "models 3, 5, 6, 7 together, less model 3; both postprocessed"),
    Effect("ensemble, best member", "models 3, 5, 6, 7 together, less the best of them", None),
)


def printed() -> dict[str, tuple[float, ...]]:
    """The paper's differences of mAP by effect, from its tables: on development and test, or, where those are not
    there, on validation and development; none where it prints none."""
    step, model = published.finding_ap().drop("Mean"), published.models()
    lowest = step["stage2_dev"] < model["oversample_below"]["model3"]

    def steps(after: str, before: str, chosen=slice(None)) -> tuple[float, ...]:
        return tuple(float((step[f"{after}_{s}"] - step[f"{before}_{s}"])[chosen].mean()) for s in ("dev", "test"))

    def models(after: str, before: str) -> tuple[float, ...]:
        return tuple(float(model[column][after] - model[column][before]) for column in ("val_map", "dev_map"))

    return {
        "cheap first stage": (0.3003 - 0.2995,),  # its text on Figure 2, on validation
        "large batch": models("model0", "model1"),
        "better first stage": models("model3", "model4"),
        "stage 2": steps("stage2", "stage1"),
        "oversampling, all": steps("oversampling", "stage2"),
        "oversampling, the lowest": steps("oversampling", "stage2", lowest),
        "oversampling, the rest": steps("oversampling", "stage2", ~lowest),
        "view postprocess": steps("postprocess", "oversampling"),
        "ensemble of four": steps("ensemble", "postprocess"),
    }


# ---------------------------------------------------------------- arithmetic


def interval(differences: Sequence[float]) -> dict:
    """Mean, standard deviation over seeds and the paired t interval of LEVEL (None from fewer than two seeds)."""
    mean, count = fmean(differences), len(differences)
    if count < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    spread = stdev(differences)
    reach = float(student.ppf((1 + LEVEL) / 2, count - 1)) * spread / count**0.5
    return {"mean": mean, "sd": spread, "low": mean - reach, "high": mean + reach}


def verdict(low: float | None, high: float | None, claim: str | None = "gain") -> str:
    """Of a gain: "seen" if the interval excludes zero on the paper's side. Of "free": if it excludes a loss of MARGIN.
    "opposite" if it excludes zero on the other side, else "not seen". Without a claim: "higher", "lower", "neither".
    """
    above, below = (False, False) if low is None else (low > 0, high < 0)
    if claim is None:
        return "higher" if above else "lower" if below else "neither"
    if claim == "free":
        above = low is not None and low > -MARGIN
    return "opposite" if below else "seen" if above else "not seen"


def threshold(ap: Mapping[str, float], findings: Sequence[str], share: float) -> float:
    """The AP half-way between the last of the lowest `share` of the findings and the next one."""
    values = sorted(ap[finding] for finding in findings)
    count = min(max(1, round(share * len(values))), len(values) - 1)
    return (values[count - 1] + values[count]) / 2


def pairs(tables: Mapping[str, Mapping[str, float]], val: Mapping[str, float], lowest: Sequence[str]) -> dict:
    """One seed's effects: name -> (before, after, findings), before and after being AP by finding.

    tables: AP by table and finding; val: validation mAP by run; lowest: the findings that model3 oversampled.
    """
    every = tuple(tables["model0"])
    few = tuple(finding for finding in every if finding in lowest)
    rest = tuple(finding for finding in every if finding not in lowest)
    stage2 = {"model0": "model2", "model1": "after-model1"}
    worse, better = sorted(stage2, key=val.__getitem__)
    best = max(MEMBERS, key=val.__getitem__)
    named = {
        "cheap first stage": ("after-costly", "model2", every),
        "large batch": ("model1", "model0", every),
        "better first stage": (stage2[worse], stage2[better], every),
        "stage 2": ("model0", "model2", every),
        "oversampling, all": ("model2", "model3", every),
        "oversampling, the lowest": ("model2", "model3", few),
        "oversampling, the rest": ("model2", "model3", rest),
        "hflip TTA": ("model2-plain", "model2", every),
        "view postprocess": ("model3", "model3-views", every),
        "ensemble of four": ("model3-views", "ensemble-views", every),
        "ensemble, best member": (best, "ensemble", every),
    }
    return {name: (tables[before], tables[after], findings) for name, (before, after, findings) in named.items()}


def effect_rows(seeds: Sequence[dict]) -> list[dict]:
    """A row per effect; one of `seeds` holds pairs()'s arguments of one seed."""
    found, paper = [pairs(**seed) for seed in seeds], printed()
    rows = []
    for effect in EFFECTS:
        each = [
            {f: after[f] - before[f] for f in names} for before, after, names in (one[effect.name] for one in found)
        ]
        together = {f: fmean(one[f] for one in each if f in one) for f in dict.fromkeys(f for one in each for f in one)}
        differences = [fmean(one.values()) for one in each]
        size = interval(differences)
        rows.append(
            {
                "effect": effect.name,
                "words": effect.words,
                "paper": paper.get(effect.name, ()),
                "claim": effect.claim,
                "per_seed": differences,
                **size,
                "better": sum(value > 0 for value in together.values()),
                "findings": len(together),
                "verdict": verdict(size["low"], size["high"], effect.claim),
            }
        )
    return rows


# ---------------------------------------------------------------- data


def packed(work: Path, scale: Scale) -> PackedDataset:
    """Draw and pack the release, or open what an earlier call packed."""
    release, folder = work / "release", work / "packed"
    if not (folder / DATASET).exists():
        shutil.rmtree(release, ignore_errors=True)  # a release that was cut short is drawn anew
        started = time.perf_counter()
        summary = write_release(release, SyntheticOptions(scale.studies, scale.drawn, scale.seed))
        wanted = PackOptions(tuple(Size(size) for size in scale.sizes), shard_images=512)
        pack(open_release(release), folder, wanted, jobs=1)
        print(f"  drew and packed {summary.images:,} images: {time.perf_counter() - started:.0f} s", flush=True)
    shutil.rmtree(release, ignore_errors=True)
    return PackedDataset.open(folder)


def counted(dataset: PackedDataset, scale: Scale) -> tuple[tuple[str, ...], dict]:
    """The findings with enough positives, and what there is: images by split, the fewest positives by finding."""
    labels = dataset.labels(LABELS)
    truth = targets(labels)
    held_out = np.concatenate([released_rows(dataset, labels, split) for split in HELD_OUT])
    folds = [FoldOptions(fold, scale.folds) for fold in range(scale.folds)]
    val = [select(dataset, labels, "val", fold) for fold in folds]
    fewest = np.min([(truth[rows] == 1).sum(axis=0) for rows in (held_out, *val)], axis=0)
    findings = tuple(name for name, count in zip(labels.findings, fewest, strict=True) if count >= scale.floor)
    return findings, {
        "images": int(dataset.packed.sum()),
        "train_images": [len(select(dataset, labels, "train", fold)) for fold in folds],
        "val_images": [len(rows) for rows in val],
        "held_out_images": len(held_out),
        "fewest_positives": dict(zip(labels.findings, fewest.tolist(), strict=True)),
    }


# ---------------------------------------------------------------- one seed


@dataclass(frozen=True)
class Seed:
    """One repetition in its own folder: runs under their names, tables of predictions beside them."""

    number: int
    folder: Path
    scale: Scale
    dataset: PackedDataset
    findings: tuple[str, ...]

    def settings(self, model: Model) -> TrainSettings:
        scale = self.scale
        plain = settings_of(
            stage=model.stage, size=scale.sizes[model.size], batch=scale.batches[model.batch], epochs=scale.epochs,
            lr=scale.lr, arch=scale.arch, pretrained=False, init=model.after and str(self.folder / model.after),
            labels=LABELS, threads=1, device="cpu", fold=self.number % scale.folds, folds=scale.folds, seed=self.number,
        )  # fmt: skip
        if not model.oversampled:
            return plain
        source = self.folder / "model2"
        below = threshold(read_ap(source), self.findings, model.oversampled)
        return plain.changed(oversample_below=below, oversample_from=str(source))

    def train(self, model: Model) -> dict:
        """Train and predict, as far as it was not done; the run's row."""
        row = self.train_run(model.name, self.settings(model), tta="hflip")
        oversampling = runs.read_config(self.folder / model.name)["oversampling"] or {}
        return {
            **row,
            "after": model.after,
            "oversampled": oversampling.get("findings", []),
            "images_doubled": oversampling.get("images_doubled", 0),
        }

    def train_run(self, name: str, settings: TrainSettings, tta: str = "none") -> dict:
        """Train into a folder of this name and predict the held-out images, as far as not done; the run's row."""
        out, record = self.folder / name, self.record(name)
        whole = not (out / runs.LAST).exists()
        started = time.process_time()
        summary = train(settings, self.dataset, out)
        if not summary.already_finished or not record.exists():
            seconds = round(time.process_time() - started, 1) if whole else None  # of a part it would mislead
            write_bytes(record, json_bytes({"cpu_seconds": seconds}))
        self.predict_into(name, name, tta=tta)
        return {
            "run": name,
            "seed": self.number,
            **{key: settings.flat()[key] for key in ("stage", "size", "batch", "epochs", "lr", "arch", "fold")},
            "oversample_below": settings.data.oversample_below,
            "val_map": summary.best_score,
            "best_epoch": summary.best_epoch,
            **json.loads(record.read_bytes()),
        }

    def record(self, name: str) -> Path:
        """What a finished run cost."""
        return self.folder / f"{name}.json"

    def finish(self) -> None:
        """The tables made from tables: without TTA, postprocessed, together."""
        self.predict_into("model2", "model2-plain", tta="none")
        self.predict_into("model3", "model3-val", splits=("val",))
        rules = views.fit(self.file("model3-val"), self.dataset, self.dataset.labels(LABELS))
        ensemble([self.file(name) for name in MEMBERS]).write(self.file("ensemble"))
        for name in ("model3", "ensemble"):
            views.apply(self.file(name), rules, self.dataset)[0].write(self.file(f"{name}-views"))

    def file(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"

    def predict_into(self, run: str, table: str, splits: tuple[str, ...] = HELD_OUT, tta: str = "hflip") -> None:
        if self.file(table).exists():
            return
        options = {"labels": LABELS, "tta": tta, "batch": 64, "device": "cpu", "threads": 1, "progress": False}
        parts = [predict(self.folder / run, self.dataset, split, **options) for split in splits]
        ids = pd.concat([part.ids for part in parts], ignore_index=True)
        provenance = replace(parts[0].provenance, split=" and ".join(splits))
        whole = Predictions(ids, parts[0].findings, np.concatenate([part.values for part in parts]), provenance)
        whole.write(self.file(table))

    def held_out(self, table: str) -> tuple[np.ndarray, np.ndarray]:
        """Targets and logits of the counted findings on a table's images: float32 [n, F] each."""
        found = predictions.read(self.file(table))
        labels = self.dataset.labels(LABELS)
        rows = predictions.catalog_rows(found, self.file(table), self.dataset)
        theirs, ours = ([names.index(name) for name in self.findings] for names in (found.findings, labels.findings))
        return targets(labels)[rows][:, ours], found.values[:, theirs]

    def ap(self, table: str) -> dict[str, float]:
        """AP by counted finding on the held-out images."""
        scores = score(self.findings, *self.held_out(table))
        return dict(zip(self.findings, scores.ap.tolist(), strict=True))


def measure(work: Path, scale: Scale, numbers: Sequence[int]) -> list[dict]:
    """All rows: the data, every run, every table's AP, every effect."""
    work.mkdir(parents=True, exist_ok=True)
    same_scale(work / "scale.json", scale)
    dataset = packed(work, scale)
    findings, data = counted(dataset, scale)
    print(f"  {len(findings)} findings with {scale.floor} positives: {', '.join(findings)}", flush=True)
    all_runs, all_tables, seeds = [], [], []
    clock = _Clock(scale, len(numbers))
    for number in numbers:
        seed = Seed(number, work / f"seed{number}", scale, dataset, findings)
        seed.folder.mkdir(exist_ok=True)
        done = {}
        for model in MODELS:
            fresh = not seed.record(model.name).exists()
            done[model.name] = seed.train(model)
            clock.tell(number, model, done[model.name], fresh)
        seed.finish()
        names = [*done, "model2-plain", "model3-views", "ensemble", "ensemble-views"]
        tables = {name: seed.ap(name) for name in names}
        all_runs += done.values()
        all_tables += [
            {"table": name, "seed": number, "map": fmean(ap.values()), "ap": ap} for name, ap in tables.items()
        ]
        val = {name: row["val_map"] for name, row in done.items()}
        seeds.append({"tables": tables, "val": val, "lowest": done["model3"]["oversampled"]})
    setup = {"setup": asdict(scale), "seeds": len(numbers), "findings": list(findings), **data}
    return [setup, *all_runs, *all_tables, *effect_rows(seeds)]


def same_scale(path: Path, scale: Scale) -> None:
    text = json_bytes(asdict(scale))
    if path.exists() and path.read_bytes() != text:
        raise SystemExit(f"{path}: was begun with other settings; give the same, or another --work")
    write_bytes(path, text)


class _Clock:
    """Says what was done and how long the rest will take; a run's work is its pixels."""

    def __init__(self, scale: Scale, seeds: int):
        self.scale, self.started, self.done = scale, time.perf_counter(), 0
        self.left = seeds * sum(scale.sizes[model.size] ** 2 for model in MODELS)

    def tell(self, seed: int, model: Model, row: dict, fresh: bool) -> None:
        """fresh: trained now, not in an earlier call."""
        work = self.scale.sizes[model.size] ** 2
        self.left, self.done = self.left - work, self.done + fresh * work
        minutes = (time.perf_counter() - self.started) / 60
        left = f"{minutes:.0f} min passed, about {minutes * self.left / self.done:.0f} to go" if fresh else "was done"
        print(
            f"  seed {seed}  {model.name:14} validation mAP {row['val_map']:.3f}, {row['cpu_seconds'] or 0:.0f} CPU s; "
            f"{left}",
            flush=True,
        )


# ---------------------------------------------------------------- the page


def table(rows: Sequence[dict]) -> str:
    """Markdown of one run's rows: the effects, then what was counted, then the runs' means."""
    setup = next(row for row in rows if "setup" in row)
    lines = [
        "| effect | paper | here, mean | sd | 95 % interval | each seed | findings better | verdict |",
        "|---|---:|---:|---:|---:|---|---:|---|",
    ]
    for row in _effects(rows):
        each = ", ".join(signed(value) for value in row["per_seed"])
        spread = "-" if row["sd"] is None else f"{row['sd']:.4f}"
        reach = "-" if row["low"] is None else f"{signed(row['low'])} to {signed(row['high'])}"
        lines.append(
            f"| **{row['effect']}**: {row['words']} | {', '.join(signed(value, 3) for value in row['paper'])} | "
            f"{signed(row['mean'])} | {spread} | {reach} | {each} | {row['better']} of {row['findings']} | "
            f"{row['verdict']} |"
        )
    lines += [
        "",
        _sentence(rows),
        "",
        f"| model | {_SETTINGS} | CPU s a run | validation mAP | held-out mAP |",
        "|---|" + "---:|" * 6,
    ]
    for model in MODELS:
        found = [row for row in rows if row.get("run") == model.name]
        seconds = [row["cpu_seconds"] for row in found if row["cpu_seconds"] is not None]
        one = found[0]
        lines.append(
            f"| {model.name}{f' (after {model.after})' if model.after else ''} | {one['size']} | {one['batch']} | "
            f"{_images(found)} | {f'{fmean(seconds):.0f}' if seconds else '-'} | "
            f"{fmean(row['val_map'] for row in found):.3f} | {_map(rows, model.name)} |"
        )
    for name in ("model2-plain", "model3-views", "ensemble", "ensemble-views"):
        lines.append(f"| {name} | | | | | | {_map(rows, name)} |")
    left_out = {name: count for name, count in setup["fewest_positives"].items() if name not in setup["findings"]}
    lines += ["", f"| counted finding | fewest positives | AP: {' | '.join(_SHOWN)} | oversampled |"]
    lines.append("|---|---:|" + "---:|" * (len(_SHOWN) + 1))
    for finding in sorted(setup["findings"], key=setup["fewest_positives"].get, reverse=True):
        values = [f"{fmean(row['ap'][finding] for row in rows if row.get('table') == name):.3f}" for name in _SHOWN]
        times = sum(finding in row["oversampled"] for row in rows if row.get("run") == "model3")
        oversampled = f"{times} of {setup['seeds']}" if times else ""
        lines.append(f"| {finding} | {setup['fewest_positives'][finding]} | {' | '.join(values)} | {oversampled} |")
    named = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items(), key=lambda item: -item[1]))
    lines += ["", f"Not counted, fewer than {setup['setup']['floor']} positives: {named}."]
    return "\n".join(lines)


BEGIN, END = "<!-- table -->\n", "\n<!-- /table -->"
PAPER = {"markerfacecolor": "none", "markeredgecolor": "#0072b2", "markersize": 7}
_SETTINGS = "pixels | batch | images doubled"
_SHOWN = ("model0", "model2", "model3", "model3-views", "ensemble-views")


def _sentence(rows: Sequence[dict]) -> str:
    """The claims by verdict."""
    words = []
    for word in ("seen", "not seen", "opposite"):
        names = [row["effect"] for row in _effects(rows) if row["verdict"] == word]
        words.append(f"**{word.capitalize()}:** {', '.join(names) or 'none'}.")
    return " ".join(words)


def _effects(rows: Sequence[dict]) -> Iterator[dict]:
    return (row for row in rows if "effect" in row)


def _map(rows: Sequence[dict], name: str) -> str:
    return f"{fmean(row['map'] for row in rows if row.get('table') == name):.4f}"


def _images(found: Sequence[dict]) -> str:
    doubled = fmean(row["images_doubled"] for row in found)
    return f"{doubled:,.0f}" if doubled else ""


def signed(value: float, digits: int = 4) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def picture(rows: Sequence[dict], path: Path) -> None:
    """A dot per seed, the mean with its interval, and the paper's figure, by effect."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "effects"  # the same rows are the same bytes
    from matplotlib import pyplot as plt

    found = list(_effects(rows))
    colours = {"seen": "#009e73", "opposite": "#d55e00", "not seen, or nothing claimed": "#6b7280"}
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(found) + 1.2), layout="constrained")
    for place, row in enumerate(found):
        colour = colours.get(row["verdict"], "#6b7280")
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2, zorder=1)
        axes.plot(row["mean"], place, "o", color=colour, markersize=8, zorder=3)
        axes.plot(row["per_seed"], [place] * len(row["per_seed"]), "|", color="#1b1f24", markersize=9, zorder=4)
        axes.plot(row["paper"], [place] * len(row["paper"]), "D", zorder=5, **PAPER)
    axes.axvline(0, color="#1b1f24", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(found)), [row["effect"] for row in found])
    axes.invert_yaxis()
    axes.set_xlabel("difference of mAP on held-out synthetic images")
    axes.grid(axis="x", color="#d0d7de", linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for name, colour in colours.items():
        axes.plot([], [], "o-", color=colour, linewidth=2, label=f"mean and 95 % interval: {name}")
    axes.plot([], [], "|", color="#1b1f24", markersize=9, label="a seed")
    axes.plot([], [], "D", label="the paper, on real radiographs", **PAPER)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    plt.close(figure)


def write_between_marks(path: Path, text: str) -> None:
    before, rest = path.read_text().split(BEGIN)
    path.write_text(before + BEGIN + text + END + rest.split(END)[1])


def write_page(rows: Sequence[dict], path: Path) -> None:
    """Put the table between the page's two marks, and the picture beside the page."""
    write_between_marks(path, table(rows))
    picture(rows, path.with_suffix(".svg"))


# ---------------------------------------------------------------- command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effects.effects", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--paper", choices=["stage-training", "loss-design"], default="stage-training", help="[%(default)s]"
    )
    parser.add_argument("--work", type=Path, help="folder of the packed release and the runs; continued if it has some")
    parser.add_argument("--seeds", type=int, default=4, help="repetitions, at least 2 [%(default)s]")
    parser.add_argument("--studies", type=int, help="of the release [10000]")
    parser.add_argument("--epochs", type=int, help="per run [stage-training: 4, loss-design: 8]")
    parser.add_argument("--quick", action="store_true", help="a tiny run that shows no effect, to try the command")
    parser.add_argument("--table", action="store_true", help="print the newest committed rows, measure nothing")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them into FILE, the picture beside it")
    results.add_save_option(parser, "effects")
    options = parser.parse_args()
    if not (options.work or options.table or options.page):
        parser.error("give --work DIR, --table or --page FILE")
    if options.seeds < 2:
        parser.error("--seeds: at least 2, or there is no spread")
    return options


def main() -> None:
    options = arguments()
    if options.paper == "loss-design":
        from benchmarks.effects import effects_losses as study
    else:
        from benchmarks.effects import effects as study
    if options.table or options.page:
        rows = newest(results.RESULTS / f"{study.NAME}.jsonl")
        if options.table:
            print(study.table(rows))
        if options.page:
            study.write_page(rows, options.page)
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    environment = results.environment("benchmarks.effects.effects")
    environment["command"] = environment["command"].replace(str(options.work), "DIR")
    given = {"studies": options.studies, "epochs": options.epochs}
    scale = study.QUICK if options.quick else study.SCALE
    scale = replace(scale, **{name: value for name, value in given.items() if value is not None})
    rows = study.measure(options.work, scale, range(options.seeds))
    print(study.table(rows))
    if options.save:
        path = results.save([{"data": "synthetic", **row} for row in rows], environment, options.save, study.NAME)
        print(f"{len(rows)} rows -> {path}")


if __name__ == "__main__":
    main()
