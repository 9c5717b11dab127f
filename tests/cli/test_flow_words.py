"""What a study says when it ends: how many steps are done, and how many of them now."""

from types import SimpleNamespace

import click
import pytest

from cli.options.flows import carry_out
from cxrdali.runs.steps import Step
from shards.errors import UserError


def test_a_continued_study_says_that_all_its_steps_are_done(tmp_path, capsys):
    def step(name):
        return Step(name, (f"{name}.txt",), {}, (), lambda: (tmp_path / f"{name}.txt").write_text(name))

    def said():
        with click.Context(click.Command("paper")):
            plan = SimpleNamespace(notes=(), problems=(), steps=tuple(map(step, ("one", "two", "three"))), record={})
            carry_out(tmp_path, plan, {})
        return capsys.readouterr().out

    assert ": all 3 steps are done, " in said()
    (tmp_path / "two.txt").unlink()
    assert ": all 3 steps are done, 1 of them now, " in said()
    assert ": all 3 steps were done before, " in said()


def test_what_failed_is_tried_again(tmp_path):
    tries = []

    def fails():
        tries.append(1)
        raise UserError("too hot")

    plan = SimpleNamespace(notes=(), problems=(), steps=(Step("one", ("one.txt",), {}, (), fails),), record={})
    for number in (1, 2):
        with click.Context(click.Command("paper")), pytest.raises(UserError, match="one failed: too hot"):
            carry_out(tmp_path, plan, {})
        assert len(tries) == number
