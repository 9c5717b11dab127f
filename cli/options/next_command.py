"""The command that usually comes next, as one line to copy, printed where a command ends."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import click

from cli.options import folders


def line(*words: object) -> str:
    """A command for the shell, with --data where this one was given it."""
    data = click.get_current_context().params.get("data") or ()
    given = [*words, *(word for pack in data for word in ("--data", folders.as_given(pack)))]
    return shlex.join(["cxrdali", *map(str, given)])


def say(command: str, other: str = "") -> None:
    """The next command, and behind it, as a comment of the shell, another one."""
    click.echo(f"next: {command}" + (f"  # or: {other}" if other else ""))


def _evaluation(run: Path, settings) -> str:
    """Of a run's own validation predictions, with uncertain labels as its training counted them."""
    from cxrdali.runs.layout import VAL_PREDICTIONS
    from cxrdali.runs.settings import settings_of

    counted = settings.data.uncertain
    given = () if counted == settings_of(stage=1).data.uncertain else ("--uncertain", counted)
    return line("evaluate", run / VAL_PREDICTIONS, *given, *_map(settings.data.findings))


def _map(findings: str | None) -> tuple[str, ...]:
    """The option of a map of findings, if there is one."""
    return () if findings is None else ("--findings", findings)


def after_training(settings, dataset, out: Path) -> None:
    """Stage 2 after stage 1, 3 after 2; after the last one, and after a recipe, the test split where there is one."""
    from cxrdali.data.splits import released_rows

    context = click.get_current_context()
    if context.params.get("stage") in (1, 2):
        largest = [min(max(part.dataset.sizes) for part in dataset.parts)]  # that every pack can give
        say(_next_stage(settings, out, context.params, largest), _evaluation(out, settings))
    elif len(released_rows(dataset, dataset.labels(settings.data.labels), "test")):
        table = f"{out.resolve().name}.test.parquet"
        say(line("predict", "--run", out, "--split", "test", "--out", table), _evaluation(out, settings))
    else:
        say(_evaluation(out, settings))


def _next_stage(settings, out: Path, given: Mapping, stored: Sequence[int]) -> str:
    from cxrdali.data.options import FOLDS
    from cxrdali.runs.settings import run_folder, settings_of
    from cxrdali.setting import option_words

    stage = settings.stage + 1
    words: list[object] = ["train", "--stage", stage]
    named = run_folder(out.parent, settings.stage) == out  # then the next stage finds it
    if not named or out.parent != folders.RUNS:
        other = out.with_name(f"{out.resolve().name}-stage{stage}")
        words += ["--out", run_folder(out.parent, stage) if named else other]
    if not named:
        words += ["--init", out]
    plain, mine = settings_of(stage=settings.stage).flat(), settings.flat()
    if max(stored) < plain["size"]:  # the stage's own would be refused
        words += ["--size", max(stored)]
    head = [each.name for each in fields(settings.model.head)]
    # what the next stage must share with this one; its size, batch and rate are its own
    of_packs = ("findings", "same_patients", "mix", "exclude", "select_pack", "select_view", "label_weight")
    for name in ("labels", "uncertain", *of_packs, *FOLDS, "arch", "norm", "pool", "gem_p", "head", *head):
        if mine[name] != plain.get(name) and mine[name] is not None:
            value = ",".join(mine[name]) if name == "exclude" else mine[name]
            value = str(value).lower() if isinstance(value, bool) and name in head else value  # as TOML has it
            words += ["--set", f"{name}={value}"] if name in head else option_words(name, value).split(" ", 1)
    for path in given["plugins"]:
        words += ["--plugins", path]
    for name in ("gpus", "device"):
        if given[name] is not None:
            words += [f"--{name}", given[name]]
    return line(*words)


def after_table(out: Path, table) -> None:
    """Evaluating a table, where its images have labels and evaluating does not refuse it."""
    from cxrdali.data.targets import check_labelled
    from cxrdali.predictions import catalog_rows
    from shards.errors import UserError

    if table.provenance.seen and table.provenance.split != "train":
        return
    dataset = folders.opened()
    if dataset is not None:
        try:
            labels = dataset.labels(table.provenance.labels)
            check_labelled(labels, catalog_rows(table, out, dataset), str(out))
        except UserError:
            return  # released without labels, or of another dataset
    findings = dataset.options.findings.text if dataset is not None and len(dataset.parts) > 1 else None
    say(line("evaluate", out, *_map(findings)))


def after_evaluation(file: Path, written: Path, run: str | None) -> None:
    """A report, where the folder of the table's run is known."""
    from cxrdali.runs.layout import CONFIG

    places = (file.parent, *((folders.RUNS / run,) if run else ()))
    if found := next((place for place in places if (place / CONFIG).is_file()), None):
        page = written.with_name(f"{file.stem}.report.html")
        say(line("report", found, "--evaluation", written, "--out", page))
