"""The options of a command that trains, made from the fields of its settings; --set and --plugins."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from cli.options.fields import option_of
from cli.options.folders import FILE
from cxrdali.runs.settings import assigned, names
from shards.errors import UserError

set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="[GROUP.]NAME=VALUE",
    help="Any setting, as in a recipe: --set optimizer.lr=3e-4. May be repeated; counts more than the options below.",
)
plugins_option = click.option(
    "--plugins",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="A Python file that defines losses, samplers, heads or augmentations (CONTRIBUTING.md), which can "
    "then be chosen by name; --set gives their parameters. May be repeated.",
)


# Of the group `data`, what has a heading of its own in --help.
HEADINGS = {
    "Sampling": ("sampler", "mix", "exclude", "oversample", "oversample_below", "oversample_from"),
    "Augmentation": ("augment_preset", "flips", "cutout", "augment", "mixup", "cutmix"),
}
PARAMETERS = "Parameters of --"
LONGEST = 60  # characters of the names of a choice, of which --help has 80 in a line


class GroupedCommand(click.Command):
    """Its --help lists the options of each group of settings under a heading, those of a loss or head last."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(context):
            if record := option.get_help_record(context):
                heading = option.heading if isinstance(option, SettingOption) else "Options"
                sections.setdefault(heading, []).append(record)
        for heading, records in sorted(sections.items(), key=lambda section: section[0].startswith(PARAMETERS)):
            with formatter.section(heading):
                formatter.write_dl(records)


class SettingOption(click.Option):
    """heading: the group of its setting."""

    def __init__(self, *arguments: Any, heading: str = "Options", **given: Any):
        super().__init__(*arguments, **given)
        self.heading = heading


class NameOf(click.Choice):
    """A name of a registry, or of a plugin that is not loaded yet: the settings refuse what there is not."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return "NAME" if self.many else super().get_metavar(param, ctx)

    @property
    def many(self) -> bool:
        """Whether --help lists the names in its text."""
        return len("|".join(self.choices)) > LONGEST

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return value


def setting_options(only: tuple[str, ...] | None = None, defaults: Mapping[str, str] | None = None):
    """An option for every setting but the stage, or for those named; None if it is not given.

    defaults: in words, where a command has others than `TrainSettings`.
    """

    def add(command):
        for name in reversed([each for each in names().all() if each != "stage"]):
            if only is None or name in only or ("loss" in only and names().group(name) == "loss"):
                command = _option(name, (defaults or {}).get(name, ""))(command)
        return command

    return add


def given_settings(given: Mapping[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """What a command line sets, by flat name."""
    chosen = dict(map(assigned, assignments))
    if "stage" in chosen:
        raise UserError(f"--set stage={chosen['stage']}: a stage also decides what a run starts from; give --stage")
    return {name: value for name, value in given.items() if value is not None} | chosen


def _option(name: str, default: str) -> Callable:
    place = names().all()[name]
    registry, text = names().choices.get(name), place.field.metadata["help"]
    choices = NameOf(list(registry)) if registry else None
    heading = next((each for each, those in HEADINGS.items() if name in those), "")
    if place.having:
        heading, text = f"{PARAMETERS}{place.path[-1]}", f"{', '.join(place.having)}: {text}"
    elif choices and choices.many:
        text += f" NAME: {', '.join(registry)}."
    return option_of(
        place.field,
        place.kind,
        help=text,
        default=default,
        type=choices,
        cls=SettingOption,
        heading=heading or names().group(name).capitalize() or "Options",
    )
