"""cxrdali completion: the script that lets a shell complete verbs, options, choices and folders."""

import os
from pathlib import Path

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None):
    """Print the completion script of SHELL, or of $SHELL's. Add to the shell's start-up file:

    \b
    bash 4.4+  ~/.bashrc                    eval "$(cxrdali completion bash)"
    zsh        ~/.zshrc, below its compinit eval "$(cxrdali completion zsh)"
    fish       ~/.config/fish/config.fish   cxrdali completion fish | source

    With a virtual environment, cxrdali must be on the PATH when the line is read.
    """
    from click.shell_completion import get_completion_class

    if shell is None:
        shell = Path(os.environ.get("SHELL", "")).name
        if shell not in SHELLS:
            raise click.UsageError(f"SHELL is {os.environ.get('SHELL', '')!r}: name one of {', '.join(SHELLS)}")
    # The names are fixed, not those of this process: `python -m cli completion` prints the same script.
    root = click.get_current_context().find_root().command
    click.echo(get_completion_class(shell)(root, {}, "cxrdali", "_CXRDALI_COMPLETE").source())
