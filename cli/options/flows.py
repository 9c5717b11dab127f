"""What `cxrdali study`, `cxrdali paper` and `cxrdali loss-design` share: options, the plan as a table, doing it."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cli.demo import claim, synthetic_pack
from cli.options import folders, jobs
from cli.options.fields import Choice, field_options, filled
from cli.options.folders import FOLDER
from cli.options.imports import quick_imports
from cli.options.plans import as_set, show_plan
from cli.options.training import end, file_option
from cxrdali.studies.options import StudyOptions
from shards.words import choices, counted

SCALES = ("full", "demo")
DEMO_STUDIES, DEMO_DRAWS = 1200, 100
template_option = click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="SPLIT=CSV",
    help="The challenge's sample submission for dev or test.  [default: a form of the labels' own]",
)


def study_options(command: str, model: str) -> Callable:
    """The options of all; model: for the help's example."""
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
            "`cxrdali recipes model7` lists the names.",
        ),
        field_options(StudyOptions, "labels", "draws"),
        click.option("--only", metavar="PATTERN", help="Steps or runs alone that are called so, and what they need."),
        jobs.options,
        click.option("--new-data", is_flag=True, help="Redo everything if the dataset is another one than before."),
        click.option("--dry-run", is_flag=True, help="Show the plan and measure a few steps per size; train nothing."),
    )
    return lambda function: functools.reduce(lambda made, option: option(made), reversed(options), function)


def do(command: str | None, name: str, given: Mapping[str, Any], full: Callable = lambda name, known: name) -> None:
    """Do a study of the package, or a file.

    Args:
        command: Whose folder it is by default; the file's name.
        name: Of the file, or of one of the package.
        given: The options of `study_options`.
        full: The name of a model that was given in short.
    """
    with quick_imports():
        from cxrdali.runs import recipes
        from cxrdali.studies.expand import expand, recipe_file, spelled_out
        from cxrdali.studies.packs import of_each_pack
        from cxrdali.studies.plan import make_plan
        from cxrdali.studies.shipped import open_study

    study, demo = open_study(name), given["scale"] == "demo"
    command = command or study.source.path.stem
    out = folder_of(command, given["out"], given["data"], demo)
    packs = dict.fromkeys(study.demo or ("",)) if demo else open_packs(command, out, study, given["data"], None)
    study = of_each_pack(study, list(packs))
    known = recipes.load(given["file"] or recipe_file(study, demo))
    every = expand(spelled_out(study, demo), known, many=bool(given.get("many")))
    models = given["models"] and tuple(dict.fromkeys(full(each, every) for each in given["models"]))
    options = filled(
        StudyOptions,
        {"draws": DEMO_DRAWS if demo else None}
        | {key: value for key, value in given.items() if value is not None and key not in ("models", "templates")},
        models=models if given["models"] is not None else None,
        templates=_templates(given.get("templates", ())),
        overrides=overrides(given["settings"], every, [table.name for table in study.runs]),
        title=study.title + (", demo" if demo else ""),
        synthetic=demo,
    )
    if demo:
        packs = open_packs(command, out, study, given["data"], demo_sizes(study, known, options))
    plan = make_plan(out, packs, study, known, options)
    carry_out(out, plan, given)


def overrides(given: tuple[str, ...], known: Mapping, tables: Sequence[str] = ()) -> dict[str, dict[str, object]]:
    """Settings by model ("" for all), read as TOML values, or as text where they are none; tables: of a grid each."""
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
        if model and model not in tables:
            recipes.find(known, model, f"--set {text}: ")
        flat, parsed = assigned(f"{name}={value}", f"--set {text}")
        if flat == "init":
            raise UserError(f"--set {text}: a recipe starts from another one; give starts_from in a file of recipes")
        found.setdefault(model, {})[flat] = parsed
    return found


def demo_sizes(study, known: Mapping, options) -> list[int]:
    """Those of every demo recipe, or run of a study without these, whichever are trained: the data must be the same
    next time. And larger ones.

    known: recipes by name; options: the study's.
    """
    from cxrdali.runs import recipes
    from cxrdali.studies.expand import chosen, expand, recipe_file, spelled_out

    given, whole = options.overrides, spelled_out(study, True)
    runs = expand(whole, known, many=True)
    every, stored = {name: run.recipe for name, run in runs.items()}, set()
    if study.recipes.demo:
        stored = {recipe.settings["size"] for recipe in recipes.read(recipe_file(study, True)).values()}
    for name in recipes.in_order(every, chosen(whole, runs, options.models) if stored else list(runs)):
        settings = every[name].resolve(Path(), {**given.get("", {}), **given.get(name, {})})[0]
        sizes = {each.size for each in settings.segments}
        stored |= {size for size in sizes if size > max(stored)} if study.recipes.demo else sizes
    return sorted(stored)


def folder_of(command: str, out: Path | None, data: object, demo: bool) -> Path:
    """Where a command works: --out, or a folder of its name."""
    if demo and data:
        raise click.UsageError("--scale demo makes its own data; leave --data out, or use --scale full")
    if out is None:
        out = Path(f"{command}-demo" if demo else command)
        click.echo(f"folder: {out} (the default)", err=True)
    return out


def open_packs(command: str, out: Path, study, data, demo: list[int] | None) -> dict:
    """Packed datasets by name; or with `demo`, sides in pixels, a synthetic release packed in the folder."""
    from shards.storage.files import one_by_one

    if demo is not None:
        claim(out, f".cxrdali-{command}-demo")
        with one_by_one(out / ".packing.lock"):
            if not study.demo:
                return {"": synthetic_pack(out, DEMO_STUDIES, demo)}
            return {name: synthetic_pack(out, DEMO_STUDIES, demo, (name, place)) for name, place in study.demo.items()}
    given = folders.open_packs(data) if data or not study.packs else {}
    unknown = [name for name in given if study.packs and name not in study.packs]
    if unknown:
        known = choices(unknown[0], study.packs, "the study has")
        raise click.UsageError(f"--data {given[unknown[0]].root}: no pack {unknown[0]!r}; {known}, as NAME=PATH")
    named = {name: path for name, path in study.packs.items() if name not in given}
    if missing := [name for name, path in named.items() if not path]:
        each = " ".join(f"--data {name}=PACK" for name in missing)
        raise click.UsageError(f"{study.source.path.stem} is a study of several packs; give {each}, or --scale demo")
    return {**_opened(study.source.path.parent, named), **given} if named else given


def _opened(folder: Path, packs: Mapping[str, str]) -> dict:
    """Packs of a study's file by name, which may lie beside it."""
    from shards.storage.places import storage_of
    from shards.storage.remote import place

    here = {name: storage_of(place(path)).local for name, path in packs.items()}
    return {name: folders.open_packed((folder / path if here[name] else place(path),)) for name, path in packs.items()}


def _templates(given: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in given:
        split, equals, path = text.partition("=")
        if not equals or split not in ("dev", "test"):
            raise click.UsageError(f"--template {text!r}: write test=FILE or dev=FILE")
        found[split] = Path(path)
    return found


def carry_out(out: Path, plan, given: Mapping[str, Any]) -> None:
    """Do what the plan asks for, or show it. given: the options of `study_options`."""
    from cxrdali.runs.steps import Book
    from cxrdali.studies.shipped import write_record
    from cxrdali.studies.work import Part, changed_data, only, work
    from cxrdali.train.stopping import Stopped
    from shards.errors import UserError

    started, book = time.perf_counter(), Book(out)
    steps = only(plan.steps, given["only"]) if given.get("only") else plan.steps
    if given.get("dry_run"):
        show_plan(plan, book, steps)
        return
    for note in plan.notes:
        click.echo(f"note: {note}")
    if plan.problems:
        more = f" (and {counted(len(plan.problems) - 1, 'more problem')}: --dry-run)" if len(plan.problems) > 1 else ""
        raise UserError(as_set(plan.problems[0]) + more)
    changed = changed_data(book.plan(steps))
    if changed and not given.get("new_data"):
        raise UserError(f"{out}: {changed}; give another --out, or --new-data to do everything again")
    out.mkdir(0o700, parents=True, exist_ok=True)
    try:
        shared = jobs.share_out(given.get("jobs"), given.get("gpus"), given.get("part"))
        with book.shared(plan.steps):
            write_record(out, plan.record)
        done = work(book, steps, plan.steps, Part.read(jobs.part(given.get("part"))))
    except Stopped as stop:
        end(stop)
    if jobs.is_worker():
        return
    if done.failed:
        name, line = next(iter(done.failed.items()))
        others = f", and {counted(len(done.failed) - 1, 'other step')}" if len(done.failed) > 1 else ""
        waits = f"; {counted(len(done.blocked), 'step')} that need what failed were not done" if done.blocked else ""
        shown = _show_what_there_is(out, plan, done.blocked)
        raise UserError(f"{out}: {name} failed{others}: {as_set(line)}{waits}{shown}")
    when = (
        "are done" if shared or done.done == len(steps) else "were done before" if not done.done
        else f"are done, {done.done} of them now"
    )  # fmt: skip
    took = f"{time.perf_counter() - started:,.0f} s"
    page = f"; open {out / 'report.html'} in a browser" if any(step.name == "report" for step in steps) else ""
    click.echo(f"\n{out}: all {len(steps)} steps {when}, {took}{page}")


def _show_what_there_is(out: Path, plan, blocked: Sequence[str]) -> str:
    """Make the page of what did not fail, not as the step that it is: that is done when all is there."""
    last = plan.steps[-1]
    if last.name not in blocked or plan.record.get("roles") or not plan.record:  # the papers' pages are of all models
        return ""
    last.do()
    return f"; {out / 'report.html'} and table.md have what there is"
