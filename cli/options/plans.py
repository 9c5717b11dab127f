"""A study's plan as text: runs with their images, epochs, hours and GB, and the steps that follow."""

import re
from pathlib import Path

import click

from cli.options.scores import aligned
from shards.words import counted


def show_plan(plan, book, steps) -> None:
    """Measure a few steps of each kind of run, and print what is to be done; book: of the study's folder."""
    from cxrdali.report.kit.numbers import storage
    from cxrdali.studies.estimate import by_size, epoch_images, hours, kind, measure

    reasons, rates, rows, total, disk, unmeasured, open_end = book.plan(steps), {}, [], 0.0, 0, [], False
    reasons = {step.name: reasons.get(step.name) for step in plan.steps}
    names = {step.name for step in steps}
    models = {name: each for name, each in plan.models.items() if f"train {name}" in names}
    for name, (settings, about) in models.items():
        images, final = epoch_images(plan, name)
        chooser = settings.data.oversample_from and Path(settings.data.oversample_from).name
        final = final and not reasons.get(f"train {chooser}")  # its AP will be another one
        left = _epochs_left(settings.optimizer.epochs, book.root / "runs" / name, reasons[f"train {name}"])
        sizes = by_size(settings)
        for one in sizes.values():
            if kind(one) not in rates:
                click.echo(f"measuring {one.model.arch} at {one.data.size} px ...", err=True)
                try:
                    rates[kind(one)] = measure(one, plan.bases[name].dataset)
                except Exception as error:  # a size that is not stored, a full GPU: the plan still shows
                    click.echo(f"{name}: not measured ({(str(error) or repr(error)).splitlines()[0]})", err=True)
                    rates[kind(one)] = None
        of_sizes = {segment: rates[kind(one)] for segment, one in sizes.items()}
        rate = of_sizes[settings.segments[-1]]
        if None in of_sizes.values():
            cost = ("-",) * 5
            unmeasured.append(name)
        else:
            training, predicting = hours(plan, name, of_sizes, left, reasons)
            total, disk = total + training + predicting, disk + rate.disk
            cost = (f"{rate.trained:,.1f}", f"{rate.predicted:,.1f}", f"{rate.disk / 1e9:.2g}",
                    _hours(training), _hours(predicting))  # fmt: skip
        open_end |= not final
        start = about["starts_from"] or ("weights" if settings.model.pretrained else "scratch")
        rows.append((
            name, reasons[f"train {name}"] or "done", start, settings.data.schedule or f"{settings.data.size}",
            f"{settings.optimizer.batch}",
            f"{images:,}{'' if final else ' +'}", f"{left} of {settings.optimizer.epochs}", *cost,
        ))  # fmt: skip
    columns = ("model", "state", "starts from", "size", "batch", "images/epoch", "epochs left", "train img/s",
               "predict img/s", "GB", "train h", "predict h")  # fmt: skip
    click.echo(aligned([columns, *rows], left=range(len(columns))))
    if open_end:
        click.echo("+ and the images that oversampling doubles, known once the model whose AP decides is trained")
    without = f" without {', '.join(unmeasured)}" if unmeasured else ""
    for base in {base.judged_on: base for base in plan.bases.values()}.values():
        splits = ", ".join(f"{name} {len(rows):,}" for name, rows in base.splits.items())
        of = f" of {base.dataset.root}" if len({each.dataset.id for each in plan.bases.values()}) > 1 else ""
        click.echo(f"{counted(len(base.train_rows), 'image')}{of} to train; predicted: {splits}")
    click.echo(f"about {_hours(total)} h in all{without}; runs take {storage(disk)} of disk{without}")
    others = [step.name for step in steps if not step.folder]
    for line in _grouped([(name, reasons[name] or "done") for name in others]):
        click.echo(f"  {line}")
    for text in plan.notes:
        click.echo(f"note: {text}")
    for text in plan.problems:
        click.echo(f"problem: {as_set(text)}")


def _grouped(steps: list[tuple[str, str]]) -> list[str]:
    """Steps that differ in their last word alone, the split, on one line if the reason is the same."""
    from itertools import groupby

    lines = []
    for (stem, reason), group in groupby(steps, key=lambda step: (step[0].rpartition(" ")[0], step[1])):
        last = ", ".join(name.rpartition(" ")[2] for name, _ in group)
        lines.append(f"{stem} {last}: {reason}".lstrip())
    return lines


def _epochs_left(epochs: int, run: Path, reason: str | None) -> int:
    """From the run's metrics, if it continues and does not begin anew: reading its state would take seconds a model."""
    from cxrdali.runs.steps import CONTINUES, TAKEN

    if reason is None:
        return 0
    path = run / "metrics.csv"
    done = len(path.read_text().splitlines()) - 1 if reason in (CONTINUES, TAKEN) and path.exists() else 0
    return max(0, epochs - max(0, done))


def _hours(value: float) -> str:
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def as_set(text: str) -> str:
    """An error of the trainer names options of `cxrdali train`: say how they are given here."""
    from cxrdali.runs.settings import names

    options = [
        word
        for word in re.findall(r"(?<!\S)--([a-z][a-z-]+)", text)
        if word.replace("-", "_") in names().all() and word != "init"
    ]
    names = {word: word.replace("-", "_") for word in options if word != "labels"}
    return text + "".join(f" (here --set {name}=... for --{word})" for word, name in names.items())
