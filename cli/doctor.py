"""cxrdali doctor: is this machine ready, and how to fix what is not."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from cli.options import folders

WIDTH = 18  # of the names: a check is printed when it is made, before the longest name is known


@click.command()
@folders.data_option
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON, for a bug report.")
def doctor(data: tuple[Path, ...], as_json: bool):
    """Look at Python, torch, DALI, the driver and its GPUs, cores, memory, disks and the packed dataset.

    A note works, but check it. Exit code 1 if anything is wrong; how to fix it is below its line. Nothing is changed.
    """
    from cxrdali.doctor.checks import checks
    from shards.storage.places import storage_of

    required = bool(data) or bool(os.environ.get("CXRDALI_DATA"))
    done, pack = [], folders.packed(data)
    for check in checks(pack, required, folders.RUNS, None if storage_of(pack).local else folders.copies()):
        done.append(check)
        if not as_json:
            click.echo(f"{check.name:{WIDTH}} {check.state:5}  {check.found}")
            if check.fix:
                click.echo(f"{'':{WIDTH}} {'fix' if check.state == 'wrong' else 'see':>5}  {check.fix}")
    wrong = sum(check.state == "wrong" for check in done)
    if as_json:
        click.echo(json.dumps({"ready": not wrong, "checks": [asdict(check) for check in done]}, indent=1))
    elif wrong:
        click.echo(f"{wrong} {'thing' if wrong == 1 else 'things'} to fix")
    else:
        click.echo("ready")
    if wrong:
        raise click.exceptions.Exit(1)
