"""Which of the loss-design paper's effects does a small network show on the synthetic release?

    python -m benchmarks.effects.effects --paper loss-design --work DIR [--save]     # continues what was begun in DIR
    python -m benchmarks.effects.effects --paper loss-design --page docs/effects-losses.md

Per seed, one network is trained with five losses, and with LDAM without its margin, which leaves its scale. Everything
else is equal: initial weights, order of the images, number of steps. On top of the plain and of the designed loss: a
classifier retrained on class-balanced draws (from cached features, and once more through the backbone, for the time),
test-time augmentation, calibration. Everything is scored on the released development and test splits together; the best
epoch and every calibration come from validation. The counted findings are those of `benchmarks.effects.effects`; the
tail is the third of them with the fewest training images.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.effects import effects
from benchmarks.effects.effects import LABELS, Scale, Seed, interval, signed, verdict
from cxrdali.metrics.calibration_error import brier, ece
from cxrdali.metrics.ranking import score
from cxrdali.postprocess import calibration
from cxrdali.predictions import sigmoid
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train.retrain import retrain_settings

NAME = "effects-losses"
SCALE = Scale(sizes=(96, 96, 96, 96), batches=(16, 16, 16, 16), epochs=8)
QUICK = Scale(studies=150, drawn=64, sizes=(32,) * 4, batches=(16,) * 4, epochs=2, floor=2)
LOSSES = ("bce", "asl", "scale", "ldam", "drw", "ldam-drw")
NO_MARGIN = 1e-9  # "scale" is LDAM without its margin: what the factor of 30 does alone
DEFERRED = 2 / 3  # of the epochs, as 10 of the paper's 15
RETRAINED = ("bce", "ldam-drw")  # whose classifier is retrained
TTAS = ("hflip", "light", "medium")
CALIBRATED = ("bce", "asl", "ldam-drw")
MEASURES = {"mAP": True, "mAP, tail": True, "AUROC": True, "ECE": False, "Brier": False}  # whether more is better


@dataclass(frozen=True)
class Effect:
    """after less before, by measures. claim: "gain", or None where the paper claims nothing to compare with."""

    name: str
    before: str
    after: str
    measures: tuple[str, ...] = ("mAP", "mAP, tail")
    claim: str | None = "gain"


EFFECTS = (
    Effect("LDAM-DRW", "bce", "ldam-drw", ("mAP", "mAP, tail", "AUROC", "ECE")),
    Effect("LDAM-DRW, against ASL", "asl", "ldam-drw"),
    Effect("ASL", "bce", "asl", ("mAP", "mAP, tail", "AUROC", "ECE"), None),
    Effect("scale alone", "bce", "scale", ("mAP", "mAP, tail", "ECE"), None),
    Effect("margin", "scale", "ldam", ("mAP", "mAP, tail", "ECE"), None),
    Effect("DRW", "bce", "drw", ("mAP", "mAP, tail", "ECE"), None),
    Effect("cRT on BCE", "bce", "bce-crt", ("mAP", "mAP, tail", "ECE"), None),
    Effect("cRT on LDAM-DRW", "ldam-drw", "ldam-drw-crt", ("mAP", "mAP, tail", "ECE"), None),
    *(Effect(f"TTA {tta}", "ldam-drw", f"ldam-drw-{tta}", claim=None) for tta in TTAS),
    *(
        Effect(f"{method} on {loss.upper()}", loss, f"{loss}-{method}", ("ECE", "Brier"), None)
        for loss in CALIBRATED
        for method in ("temperature", "platt")
    ),
)


def effect_rows(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[dict]:
    """A row per effect and measure; `seeds`: per seed the measures of every table. A gain is more AP, or less error."""
    rows = []
    for effect in EFFECTS:
        for measure in effect.measures:
            sign = 1 if MEASURES[measure] else -1
            pairs = [(tables[effect.before][measure], tables[effect.after][measure]) for tables in seeds]
            differences = [after - before for before, after in pairs]
            size = interval(differences)
            low, high = (size["low"], size["high"]) if sign > 0 else (_minus(size["high"]), _minus(size["low"]))
            word = verdict(low, high, effect.claim)
            better = {"higher": "better", "lower": "worse"}.get(word, word)
            rows.append(
                {
                    "effect": effect.name, "measure": measure, "claim": effect.claim, "before": effect.before,
                    "after": effect.after, "mean_before": fmean(before for before, _ in pairs),
                    "per_seed": differences, **size, "verdict": better,
                }
            )  # fmt: skip
    return rows


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def tail_of(findings: Sequence[str], positives: Mapping[str, int]) -> tuple[str, ...]:
    """The third of the counted findings (at least one) with the fewest training images, the rarest first."""
    return tuple(sorted(findings, key=positives.__getitem__)[: max(1, len(findings) // 3)])


@dataclass(frozen=True)
class LossSeed(Seed):
    """One repetition: a run per loss, and what is done to it."""

    def loss_settings(self, loss: str) -> TrainSettings:
        scale = self.scale
        given = {"drw_epoch": round(scale.epochs * DEFERRED)} if loss.endswith("drw") else {}
        if loss == "scale":
            loss, given = "ldam", {"ldam_margin": NO_MARGIN}
        return settings_of(
            stage=1, size=scale.sizes[0], batch=scale.batches[0], epochs=scale.epochs, lr=scale.lr, arch=scale.arch,
            pretrained=False, labels=LABELS, threads=1, device="cpu", fold=self.number % scale.folds, folds=scale.folds,
            seed=self.number, flips="none", cutout="off", loss=loss, **given,
        )  # fmt: skip

    def train_loss(self, loss: str) -> dict:
        settings = self.loss_settings(loss)
        return {**self.train_run(loss, settings), "drw_epoch": settings.flat().get("drw_epoch")}

    def retrain(self, loss: str, name: str, cached: bool) -> dict:
        changes = {"cache_features": cached, "epochs": self.scale.epochs, "warmup_epochs": 1}
        settings = retrain_settings(self.folder / loss, self.dataset, changes)
        return {**self.train_run(name, settings), "after": loss, "cached": cached}

    def steps(self) -> list[tuple[str, Callable[[], dict]]]:
        """What is trained, by the name of its run, in order."""
        found = [(loss, partial(self.train_loss, loss)) for loss in LOSSES]
        found += [(f"{loss}-crt", partial(self.retrain, loss, f"{loss}-crt", cached=True)) for loss in RETRAINED]
        last = RETRAINED[-1]
        return [*found, (f"{last}-crt-slow", partial(self.retrain, last, f"{last}-crt-slow", cached=False))]

    def finish(self) -> None:
        """Tables of what comes after training."""
        for tta in TTAS:
            self.predict_into("ldam-drw", f"ldam-drw-{tta}", tta=tta)
        labels = self.dataset.labels(LABELS)
        for loss in CALIBRATED:
            self.predict_into(loss, f"{loss}-val", splits=("val",), tta="none")
            for method in calibration.METHODS:
                learnt = calibration.fit(self.file(f"{loss}-val"), self.dataset, labels, method)
                calibration.apply(self.file(loss), learnt).write(self.file(f"{loss}-{method}"))

    def measures(self, table: str, tail: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
        """MEASURES of a table over the counted findings, and AP by finding, on the held-out images."""
        truth, values = self.held_out(table)
        scores = score(self.findings, truth, values)
        ap = dict(zip(self.findings, scores.ap.tolist(), strict=True))
        probabilities = sigmoid(values)
        return {
            "mAP": fmean(ap.values()),
            "mAP, tail": fmean(ap[name] for name in tail),
            "AUROC": float(scores.auroc.mean()),
            "ECE": float(ece(truth, probabilities).mean()),
            "Brier": float(brier(truth, probabilities).mean()),
        }, ap


def measure(work: Path, scale: Scale, numbers: Sequence[int]) -> list[dict]:
    """All rows: the data, every run, every table's measures, every effect."""
    work.mkdir(parents=True, exist_ok=True)
    effects.same_scale(work / "scale.json", scale)
    stored = replace(scale, sizes=tuple(dict.fromkeys(scale.sizes)))
    dataset = effects.packed(work, stored)
    findings, data = effects.counted(dataset, scale)
    labels = dataset.labels(LABELS)
    positives = dict(
        zip(labels.findings, (labels.values[labels.split == "train"] == 1).sum(axis=0).tolist(), strict=True)
    )
    tail = tail_of(findings, positives)
    print(f"  {len(findings)} findings with {scale.floor} positives; the tail: {', '.join(tail)}", flush=True)
    all_runs, all_tables, seeds = [], [], []
    for number in numbers:
        seed = LossSeed(number, work / f"losses{number}", scale, dataset, findings)
        seed.folder.mkdir(exist_ok=True)
        todo = seed.steps()
        for name, do in todo:
            started = time.perf_counter()
            all_runs.append(do())
            row = all_runs[-1]
            print(
                f"  seed {number}  {name:18} validation mAP {row['val_map']:.3f}, {row['cpu_seconds'] or 0:.0f} CPU s, "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
        seed.finish()
        names = [name for name, _ in todo]
        names += [f"ldam-drw-{tta}" for tta in TTAS]
        names += [f"{loss}-{method}" for loss in CALIBRATED for method in calibration.METHODS]
        found = {name: seed.measures(name, tail) for name in names}
        all_tables += [{"table": name, "seed": number, **values, "ap": ap} for name, (values, ap) in found.items()]
        seeds.append({name: values for name, (values, _) in found.items()})
    setup = {
        "setup": asdict(scale), "seeds": len(numbers), "findings": list(findings), "tail": list(tail),
        "train_positives": {name: positives[name] for name in findings}, **data,
    }  # fmt: skip
    return [setup, *all_runs, *all_tables, *effect_rows(seeds)]


# ---------------------------------------------------------------- the page


def table(rows: Sequence[dict]) -> str:
    """Markdown of one run's rows: the effects, then the tables' means, then AP by finding."""
    setup = next(row for row in rows if "setup" in row)
    found_effects = [row for row in rows if "effect" in row]
    lines = [
        "| effect | measure | before | difference, mean | 95 % interval | each seed | verdict |",
        "|---|---|" + "---:|" * 3 + "---|---|",
    ]
    for row in found_effects:
        reach = "-" if row["low"] is None else f"{signed(row['low'])} to {signed(row['high'])}"
        each = ", ".join(signed(value) for value in row["per_seed"])
        name = f"**{row['effect']}** ({row['after']} less {row['before']})"
        lines.append(
            f"| {name} | {row['measure']} | {row['mean_before']:.4f} | {signed(row['mean'])} | {reach} | {each} | "
            f"{row['verdict']} |"
        )
    lines += [
        "",
        _sentence(found_effects),
        "",
        f"| table | {' | '.join(MEASURES)} | CPU s a run |",
        "|---|" + "---:|" * (len(MEASURES) + 1),
    ]
    for name in dict.fromkeys(row["table"] for row in rows if "table" in row):
        found = [row for row in rows if row.get("table") == name]
        seconds = [row["cpu_seconds"] for row in rows if row.get("run") == name and row["cpu_seconds"] is not None]
        values = " | ".join(f"{fmean(row[measure] for row in found):.4f}" for measure in MEASURES)
        lines.append(f"| {name} | {values} | {f'{fmean(seconds):.0f}' if seconds else ''} |")
    shown = (*LOSSES, *(f"{loss}-crt" for loss in RETRAINED))
    lines += [
        "",
        f"| finding | training images | fewest positives | AP: {' | '.join(shown)} |",
        "|---|" + "---:|" * (len(shown) + 2),
    ]
    for finding in sorted(setup["findings"], key=setup["train_positives"].get, reverse=True):
        values = [f"{fmean(row['ap'][finding] for row in rows if row.get('table') == name):.3f}" for name in shown]
        word = f"{finding}, tail" if finding in setup["tail"] else finding
        counts = f"{setup['train_positives'][finding]:,} | {setup['fewest_positives'][finding]}"
        lines.append(f"| {word} | {counts} | {' | '.join(values)} |")
    return "\n".join(lines)


def _sentence(found_effects: Sequence[dict]) -> str:
    """The paper's claims by verdict, then what else came out."""
    words = []
    for word in ("seen", "not seen", "opposite", "better", "worse", "neither"):
        names = [f"{row['effect']} ({row['measure']})" for row in found_effects if row["verdict"] == word]
        if names or word == "seen":
            words.append(f"**{word.capitalize()}:** {', '.join(names) or 'none'}.")
    return " ".join(words)


def picture(rows: Sequence[dict], path: Path) -> None:
    """A dot per seed and the mean with its interval, by effect: differences of mAP, and of the error of calibration."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "effects"  # the same rows are the same bytes
    from matplotlib import pyplot as plt

    found_effects = [row for row in rows if "effect" in row]
    panels = (("mAP", "all counted findings"), ("mAP, tail", "the rarest third"), ("ECE", "calibration error, all"))
    groups = [[row for row in found_effects if row["measure"] == measure] for measure, _ in panels]
    heights = [len(group) + 1 for group in groups]
    figure, axes = plt.subplots(
        3, 1, figsize=(8, 0.34 * sum(heights) + 1.5), height_ratios=heights, layout="constrained"
    )
    colours = {"better": "#009e73", "worse": "#d55e00", "neither, or too few seeds to tell": "#6b7280"}
    alike = {"seen": "better", "opposite": "worse"}
    for axis, group, (measure, what) in zip(axes, groups, panels, strict=True):
        for place, row in enumerate(group):
            colour = colours.get(alike.get(row["verdict"], row["verdict"]), "#6b7280")
            if row["low"] is not None:
                axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2, zorder=1)
            axis.plot(row["mean"], place, "o", color=colour, markersize=7, zorder=3)
            axis.plot(row["per_seed"], [place] * len(row["per_seed"]), "|", color="#1b1f24", markersize=8, zorder=4)
        axis.axvline(0, color="#1b1f24", linewidth=0.8, zorder=0)
        axis.set_yticks(range(len(group)), [row["effect"] for row in group], fontsize=9)
        axis.invert_yaxis()
        axis.set_title(f"difference of {measure.removesuffix(', tail')}, {what}", fontsize=10, loc="left")
        axis.grid(axis="x", color="#d0d7de", linewidth=0.6)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    for name, colour in colours.items():
        axes[-1].plot([], [], "o-", color=colour, linewidth=2, label=f"mean and 95 % interval: {name}")
    axes[-1].plot([], [], "|", color="#1b1f24", markersize=9, label="a seed")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    plt.close(figure)


def write_page(rows: Sequence[dict], path: Path) -> None:
    """Put the table between the page's two marks, and the picture beside the page."""
    effects.write_between_marks(path, table(rows))
    picture(rows, path.with_suffix(".svg"))
