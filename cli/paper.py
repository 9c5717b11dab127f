"""cxrdali paper: the stage-training paper from stage 1 to the submitted file."""

import re
import sys
import time
import tomllib
from pathlib import Path

import click

from cli import folders
from cli.demo import claim, synthetic_pack
from cli.recipes import file_option

DEMO_STUDIES, DEMO_MARK, DEMO_DRAWS = 1200, ".cxrdali-paper-demo", 100


@click.command()
@folders.data_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of runs, predictions, evaluations, submission and report.  [default: paper; paper-demo for the demo]",
)
@click.option(
    "--models",
    default="0,2,3,5,6,7",
    show_default=True,
    metavar="LIST",
    help="Models to train; those that they start from come along.",
)
@click.option(
    "--scale",
    type=click.Choice(["full", "demo"]),
    default="full",
    show_default=True,
    help="demo: all of it on drawn data with a small network, minutes on two cores; needs no --data.",
)
@file_option
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="[MODEL.]NAME=VALUE",
    help="Override a setting of all models or of one: --set epochs=10 --set model7.micro_batch=24. "
    "`cxrdali recipes model0` lists the names.",
)
@click.option("--labels", metavar="NAME", help="Label release.  [default: the dataset's first]")
@click.option(
    "--tta",
    type=click.Choice(["none", "hflip", "flips"]),
    default="hflip",
    show_default=True,
    help="Test-time augmentation of every prediction.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="SPLIT=CSV",
    help="The challenge's sample submission for dev or test.  [default: a form of the labels' own]",
)
@click.option("--draws", type=int, help="Bootstrap draws of every evaluation, 0 for none.  [default: 1000; demo: 100]")
@click.option("--dry-run", is_flag=True, help="Show the plan and measure a few steps per size; train nothing.")
def paper(data, out, models, scale, file, settings, labels, tta, templates, draws, dry_run):
    """Train the stage-training paper's models in the order in which they need each other, predict validation,
    development and test, ensemble models 3, 5, 6 and 7, postprocess by view, evaluate every step, write submission and
    report.

    The same command again does what is missing: after a kill, after a file was deleted, after a setting changed. What
    a change outdates is redone, and nothing else; runs that stand in the way are moved to runs/replaced, not deleted.
    """
    from cxrdali import recipes
    from cxrdali.paper.plan import PaperOptions, make_plan
    from cxrdali.paper.steps import Book
    from cxrdali.trainer import Stopped
    from shards.errors import DataError
    from shards.files import only_one
    from shards.packed import PackedDataset

    demo = scale == "demo"
    if demo and data is not None:
        raise click.UsageError("--scale demo draws its own data; leave --data out, or use --scale full")
    known = recipes.load(file or (recipes.DEMO if demo else None))
    options = PaperOptions(
        models=_models(models),
        labels=labels,
        tta=tta,
        draws=(DEMO_DRAWS if demo else 1000) if draws is None else draws,
        overrides=_overrides(settings, known),
        templates=_templates(templates),
        title="The stage-training paper" + (", demo" if demo else ""),
        synthetic=demo,
    )
    if out is None:
        out = Path("paper-demo" if demo else "paper")
        click.echo(f"folder: {out} (the default)", err=True)
    started = time.perf_counter()
    if demo:
        sizes = _demo_sizes(known, options)
        claim(out, DEMO_MARK)
        with only_one(out / ".lock", "working in it"):
            dataset = synthetic_pack(out, DEMO_STUDIES, sizes)
    else:
        dataset = PackedDataset.open(folders.packed(data))
    plan = make_plan(out, dataset, known, options, say=click.echo)
    book = Book(out)
    if dry_run:
        _show(plan, book, dataset, options)
        return
    for note in plan.notes:
        click.echo(f"note: {note}")
    if plan.problems:
        more = f" (and {len(plan.problems) - 1} more problems: --dry-run)" if len(plan.problems) > 1 else ""
        raise DataError(_as_set(plan.problems[0]) + more)
    out.mkdir(parents=True, exist_ok=True)
    with only_one(out / ".lock", "working in it"):
        try:
            done = book.run(plan.steps, click.echo)
        except Stopped as stop:
            click.echo(str(stop), err=True)
            sys.exit(128 + stop.signal)
        except DataError as error:
            raise DataError(_as_set(str(error))) from error
    what = f"{done} of {len(plan.steps)} steps" if done else f"all {len(plan.steps)} steps were done before"
    click.echo(f"\n{out}: {what}, {time.perf_counter() - started:,.0f} s; open {out / 'report.html'} in a browser")


def _demo_sizes(known, options) -> list[int]:
    """Those of every demo recipe, whichever are trained: the data must be the same next time. And larger ones."""
    from cxrdali import recipes

    stored = {recipe.settings["size"] for recipe in recipes.load(recipes.DEMO).values()}
    for name in recipes.in_order(known, [recipes.find(known, name).name for name in options.models]):
        given = {**options.overrides.get("", {}), **options.overrides.get(name, {})}
        size = known[name].resolve(Path(), given)[0].size
        stored |= {size} if size > max(stored) else set()
    return sorted(stored)


def _models(text: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(dict.fromkeys(f"model{name}" if name.isdigit() else name for name in names))


def _overrides(given: tuple[str, ...], known) -> dict[str, dict[str, object]]:
    """Settings by model ("" for all), read as TOML values, or as text where they are none."""
    from cxrdali import recipes

    found: dict[str, dict[str, object]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        model, dot, name = key.strip().rpartition(".")
        if not equals or (dot and not model):
            raise click.UsageError(f"--set {text!r}: write NAME=VALUE or MODEL.NAME=VALUE")
        if model:
            recipes.find(known, model, f"--set {text}: ")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value.strip()
        found.setdefault(model, {}).update(recipes.checked(f"--set {text}", {name: parsed}))
    return found


def _as_set(text: str) -> str:
    """An error of the trainer names options of `cxrdali train`: say how they are given here."""
    from cxrdali.recipes import SETTINGS

    options = [word for word in re.findall(r"(?<!\S)--([a-z][a-z-]+)", text) if word.replace("-", "_") in SETTINGS]
    names = {word: word.replace("-", "_") for word in options if word != "labels"}
    return text + "".join(f" (here --set {name}=... for --{word})" for word, name in names.items())


def _templates(given: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in given:
        split, equals, path = text.partition("=")
        if not equals or split not in ("dev", "test"):
            raise click.UsageError(f"--template {text!r}: write test=FILE or dev=FILE")
        found[split] = Path(path)
    return found


def _show(plan, book, dataset, options) -> None:
    from cxrdali.paper.estimate import epoch_images, measure, predicting_hours, training_hours

    reasons, rates, rows, total, unmeasured, open_end = book.plan(plan.steps), {}, [], 0.0, [], False
    for name, (settings, about) in plan.models.items():
        images, final = epoch_images(plan, name)
        chooser = settings.oversample_from and Path(settings.oversample_from).name
        final = final and not reasons.get(f"train {chooser}")  # its AP will be another one
        left = _epochs_left(settings.epochs, book.root / "runs" / name, reasons[f"train {name}"])
        asked = sum(len(rows) for split, rows in plan.splits.items() if reasons[f"predict {name} {split}"])
        kind = (settings.arch, settings.size, settings.batch, settings.micro_batch)
        if kind not in rates:
            click.echo(f"measuring {settings.arch} at {settings.size} px ...", err=True)
            try:
                rates[kind] = measure(settings, dataset, plan.train_rows, len(plan.labels.findings))
            except Exception as error:  # a size that is not stored, a full GPU: the plan still shows
                click.echo(f"{name}: not measured ({(str(error) or repr(error)).splitlines()[0]})", err=True)
                rates[kind] = None
        rate = rates[kind]
        if rate is None:
            cost = ("-", "-", "-", "-")
            unmeasured.append(name)
        else:
            training = training_hours(rate, images, len(plan.splits["val"]), left)
            predicting = predicting_hours(rate, asked, options.tta)
            total += training + predicting
            cost = (f"{rate.trained:,.1f}", f"{rate.predicted:,.1f}", _hours(training), _hours(predicting))
        open_end |= not final
        start = about["starts_from"] or ("weights" if settings.pretrained else "scratch")
        rows.append((
            name, reasons[f"train {name}"] or "done", start, f"{settings.size}", f"{settings.batch}",
            f"{images:,}{'' if final else ' +'}", f"{left} of {settings.epochs}", *cost,
        ))  # fmt: skip
    columns = ("model", "state", "starts from", "size", "batch", "images/epoch", "epochs left", "train img/s",
               "predict img/s", "train h", "predict h")  # fmt: skip
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    for row in (columns, *rows):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if open_end:
        click.echo("+ and the images that oversampling doubles, known once the model whose AP decides is trained")
    splits = ", ".join(f"{name} {len(rows):,}" for name, rows in plan.splits.items())
    without = f" without {', '.join(unmeasured)}" if unmeasured else ""
    click.echo(f"{len(plan.train_rows):,} images to train; predicted: {splits}")
    click.echo(f"about {_hours(total)} h in all{without}")
    for line in _grouped([(step.name, reasons[step.name] or "done") for step in plan.steps[len(plan.models) :]]):
        click.echo(f"  {line}")
    for text in plan.notes:
        click.echo(f"note: {text}")
    for text in plan.problems:
        click.echo(f"problem: {_as_set(text)}")


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
    from cxrdali.paper.steps import CONTINUES, TAKEN

    if reason is None:
        return 0
    path = run / "metrics.csv"
    done = len(path.read_text().splitlines()) - 1 if reason in (CONTINUES, TAKEN) and path.exists() else 0
    return max(0, epochs - max(0, done))


def _hours(value: float) -> str:
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"
