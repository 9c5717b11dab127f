"""cxrdali watch: how runs are at this moment."""

import contextlib
import sys
import time

import click

from cli.options.folders import FOLDER


@click.command()
@click.argument("place", type=FOLDER, metavar="RUN_OR_FOLDER")
@click.option("--once", is_flag=True, help="Print what there is now, and end.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks. A run writes where it is every 3 seconds.",
)
def watch(place, once, every):
    """Epoch, images per second, waiting for data, time left, GPU memory and scores of a run, as they change.

    Of a folder of runs, or a study, a line for each run. It only reads, so it may run anywhere that sees the folder,
    and end at any time (Ctrl-C). It ends by itself when all runs are finished. In a pipe it prints without colours.
    """
    from rich.console import Console
    from rich.live import Live

    from cxrdali.report.watch import screen

    console = Console(file=sys.__stdout__)  # what is shown has no controls of its own
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as until_the_end:
        shown, done = screen(place, console.width)
        live = None
        if console.is_terminal and not once:
            live = Live(shown, console=console, auto_refresh=False)
            until_the_end.callback(live.stop)  # before it starts: Ctrl-C may come within that
            live.start()
        while True:
            if live:
                live.update(shown, refresh=True)
            else:
                with console.capture() as printed:
                    console.print(shown)
                click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
            if once or done:
                return
            time.sleep(every)
            shown, done = screen(place, console.width)
