"""What `cxrdali paper` and `cxrdali loss-design` share: options, the plan as a table, doing it."""

import functools
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from cli.demo import claim, synthetic_pack
from cli.options import folders
from cli.options.fields import Choice, field_options, filled
from cli.options.folders import FOLDER
from cli.options.scores import aligned
from cli.options.training import end, file_option
from cxrdali.studies.options import FlowOptions
from shards.words import counted

SCALES = ("full", "demo")
DEMO_STUDIES, DEMO_DRAWS = 1200, 100


def study_options(command: str, model: str) -> Callable:
    """The options of both; model: for the help's example."""
    options = (
        folders.data_option,
        click.option(
            "--out",
            type=FOLDER,
            metavar="DIR",
            help="Folder of runs, predictions, evaluations, report and what else is made.  "
            f"[default: {command}; {command}-demo for the demo]",
        ),
        click.option(
            "--scale",
            type=Choice(SCALES),
            default="full",
            show_default=True,
            help="demo: all of it on synthetic data with a small network, minutes on two cores; needs no --data.",
        ),
        file_option,
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="[MODEL.]NAME=VALUE",
            help=f"Override a setting of all models or of one: --set epochs=10 --set {model}.micro_batch=24. "
            f"`cxrdali recipes {model}` lists the names.",
        ),
        field_options(FlowOptions, "labels", "draws"),
        click.option("--dry-run", is_flag=True, help="Show the plan and measure a few steps per size; train nothing."),
    )
    return lambda function: functools.reduce(lambda made, option: option(made), reversed(options), function)


def prepare(command: str, kind: type, demo_file: Path, given: Mapping[str, Any], **own: Any):
    """Where a study works, its dataset, the recipes that are known, and its options.

    Args:
        command: The study's name.
        kind: Its options.
        demo_file: Its recipes for --scale demo.
        given: The options of `study_options`.
        own: Fields of `kind` that are the study's own.
    """
    from cxrdali.runs import recipes

    demo = given["scale"] == "demo"
    out = folder_of(command, given["out"], given["data"], demo)
    known = recipes.load(given["file"] or (demo_file if demo else None))
    options = filled(
        kind,
        {"draws": DEMO_DRAWS if demo else None} | {name: value for name, value in given.items() if value is not None},
        overrides=overrides(given["settings"], known),
        title=kind.title + (", demo" if demo else ""),
        synthetic=demo,
        **own,
    )
    sizes = demo_sizes(demo_file, known, options) if demo else None
    return out, open_dataset(command, out, given["data"], sizes), known, options


def overrides(given: tuple[str, ...], known: Mapping) -> dict[str, dict[str, object]]:
    """Settings by model ("" for all), read as TOML values, or as text where they are none."""
    from cxrdali.runs import recipes
    from cxrdali.runs.settings import assigned, names
    from shards.errors import UserError

    found: dict[str, dict[str, object]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        first, dot, rest = key.strip().partition(".")
        if not equals or (dot and not first):
            raise click.UsageError(f"--set {text!r}: write NAME=VALUE or MODEL.NAME=VALUE")
        model, name = (first, rest) if dot and first not in names().groups else ("", key.strip())
        if model:
            recipes.find(known, model, f"--set {text}: ")
        flat, parsed = assigned(f"{name}={value}", f"--set {text}")
        if flat == "init":
            raise UserError(f"--set {text}: a recipe starts from another one; give starts_from in a file of recipes")
        found.setdefault(model, {})[flat] = parsed
    return found


def demo_sizes(file: Path, known: Mapping, options) -> list[int]:
    """Those of every demo recipe, whichever are trained: the data must be the same next time. And larger ones.

    file: the demo's recipes; options: the study's.
    """
    from cxrdali.runs import recipes

    given = options.overrides
    stored = {recipe.settings["size"] for recipe in recipes.read(file).values()}
    for name in recipes.in_order(known, [recipes.find(known, name).name for name in options.models]):
        size = known[name].resolve(Path(), {**given.get("", {}), **given.get(name, {})})[0].data.size
        stored |= {size} if size > max(stored) else set()
    return sorted(stored)


def folder_of(command: str, out: Path | None, data: tuple[Path, ...], demo: bool) -> Path:
    """Where a command works: --out, or a folder of its name."""
    if demo and data:
        raise click.UsageError("--scale demo makes its own data; leave --data out, or use --scale full")
    if out is None:
        out = Path(f"{command}-demo" if demo else command)
        click.echo(f"folder: {out} (the default)", err=True)
    return out


def open_dataset(command: str, out: Path, data: tuple[Path, ...], demo: list[int] | None):
    """The packed dataset at --data; or with `demo`, sides in pixels, a synthetic release packed in the folder."""
    from shards.storage.files import only_one

    if demo is None:
        return folders.open_packed(data)
    claim(out, f".cxrdali-{command}-demo")
    with only_one(out / ".lock", "working in it"):
        return synthetic_pack(out, DEMO_STUDIES, demo)


def carry_out(out: Path, plan, dry_run: bool, dataset, begin=lambda: None) -> None:
    """Do what the plan asks for, or show it. begin: called when nothing keeps the steps from being done."""
    from cxrdali.runs.steps import Book
    from cxrdali.train.stopping import Stopped
    from shards.errors import UserError
    from shards.storage.files import only_one

    started, book = time.perf_counter(), Book(out)
    if dry_run:
        _show(plan, book, dataset)
        return
    for note in plan.notes:
        click.echo(f"note: {note}")
    if plan.problems:
        more = f" (and {len(plan.problems) - 1} more problems: --dry-run)" if len(plan.problems) > 1 else ""
        raise UserError(_as_set(plan.problems[0]) + more)
    out.mkdir(0o700, parents=True, exist_ok=True)
    with only_one(out / ".lock", "working in it"):
        try:
            begin()
            done = book.run(plan.steps)
        except Stopped as stop:
            end(stop)
        except UserError as error:
            raise UserError(_as_set(str(error))) from error
    when = (
        "were done before" if not done else "are done" if done == len(plan.steps) else f"are done, {done} of them now"
    )
    took = f"{time.perf_counter() - started:,.0f} s"
    click.echo(f"\n{out}: all {len(plan.steps)} steps {when}, {took}; open {out / 'report.html'} in a browser")


def _as_set(text: str) -> str:
    """An error of the trainer names options of `cxrdali train`: say how they are given here."""
    from cxrdali.runs.settings import names

    options = [
        word
        for word in re.findall(r"(?<!\S)--([a-z][a-z-]+)", text)
        if word.replace("-", "_") in names().all() and word != "init"
    ]
    names = {word: word.replace("-", "_") for word in options if word != "labels"}
    return text + "".join(f" (here --set {name}=... for --{word})" for word, name in names.items())


def _show(plan, book, dataset) -> None:
    from cxrdali.studies.estimate import epoch_images, measure, predicting_hours, training_hours
    from cxrdali.train.build import is_cached

    reasons, rates, rows, total, unmeasured, open_end = book.plan(plan.steps), {}, [], 0.0, [], False
    for name, (settings, about) in plan.models.items():
        images, final = epoch_images(plan, name)
        chooser = settings.data.oversample_from and Path(settings.data.oversample_from).name
        final = final and not reasons.get(f"train {chooser}")  # its AP will be another one
        left = _epochs_left(settings.optimizer.epochs, book.root / "runs" / name, reasons[f"train {name}"])
        asked = [each for each in plan.asked if each.model == name and reasons[each.step]]
        kind = (
            settings.model.arch,
            settings.data.size,
            settings.optimizer.batch,
            settings.runtime.micro_batch,
            settings.model.frozen,
        )
        if kind not in rates:
            click.echo(f"measuring {settings.model.arch} at {settings.data.size} px ...", err=True)
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
            training = training_hours(rate, images, len(plan.splits["val"]), left, is_cached(settings))
            predicting = sum(predicting_hours(rate, len(plan.splits[each.split]), each.tta) for each in asked)
            total += training + predicting
            cost = (f"{rate.trained:,.1f}", f"{rate.predicted:,.1f}", _hours(training), _hours(predicting))
        open_end |= not final
        start = about["starts_from"] or ("weights" if settings.model.pretrained else "scratch")
        rows.append((
            name, reasons[f"train {name}"] or "done", start, f"{settings.data.size}", f"{settings.optimizer.batch}",
            f"{images:,}{'' if final else ' +'}", f"{left} of {settings.optimizer.epochs}", *cost,
        ))  # fmt: skip
    columns = ("model", "state", "starts from", "size", "batch", "images/epoch", "epochs left", "train img/s",
               "predict img/s", "train h", "predict h")  # fmt: skip
    click.echo(aligned([columns, *rows], left=range(len(columns))))
    if open_end:
        click.echo("+ and the images that oversampling doubles, known once the model whose AP decides is trained")
    splits = ", ".join(f"{name} {len(rows):,}" for name, rows in plan.splits.items())
    without = f" without {', '.join(unmeasured)}" if unmeasured else ""
    click.echo(f"{counted(len(plan.train_rows), 'image')} to train; predicted: {splits}")
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
    from cxrdali.runs.steps import CONTINUES, TAKEN

    if reason is None:
        return 0
    path = run / "metrics.csv"
    done = len(path.read_text().splitlines()) - 1 if reason in (CONTINUES, TAKEN) and path.exists() else 0
    return max(0, epochs - max(0, done))


def _hours(value: float) -> str:
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"
