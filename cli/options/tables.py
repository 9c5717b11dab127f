"""What commands that read or write tables of predictions have in common."""

from pathlib import Path

import click

from cli.options import next_command
from cli.options.fields import Choice
from cli.options.folders import OUTPUT
from shards.words import counted

WRITTEN_AS = ("logit", "probability")

out_option = click.option("--out", required=True, type=OUTPUT, metavar="FILE", help="Table to write, .parquet or .csv.")
kind_option = click.option(
    "--as",
    "kind",
    type=Choice(WRITTEN_AS),
    default="logit",
    show_default=True,
    help="What the table holds; logits keep their order where probabilities round to 0 or 1.",
)


def write(table, out: Path, kind: str) -> None:
    """Write Predictions as logits or probabilities, and say so, and what comes next."""
    if kind == "probability":
        table = table.as_probabilities()
    table.write(out)
    click.echo(f"{out}: {counted(len(table.values), 'image')}, {counted(len(table.findings), 'finding')}, {kind}")
    next_command.after_table(out, table)
