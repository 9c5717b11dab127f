"""Doing a study's steps: what is missing, in the order of need, beside other workers; what fails stops no other."""

import fnmatch
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cxrdali.runs.steps import Book, Step
from cxrdali.runtime.distributed import StoppedTogether
from shards.errors import UserError

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks at what other workers do
SINCE = "CXRDALI_STUDY_SINCE"  # of workers that were started together: failures since then are everybody's


@dataclass(frozen=True)
class Part:
    """Which of several workers this one is, from 1: it begins with its own share, then takes what is left."""

    number: int = 1
    of: int = 1

    @classmethod
    def read(cls, text: str) -> "Part":
        """2/4 is the second of four. Raises UserError for anything else."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UserError(f"part {text!r}: write I/N, such as 1/4 for the first of four workers")
        return cls(int(number), int(of))

    def first(self, steps: Sequence[Step]) -> list[Step]:
        """All steps, its own share of the trainings before the others."""
        runs = [step for step in steps if step.folder]
        own = runs[self.number - 1 :: self.of]
        return [*own, *(step for step in runs if step not in own), *(step for step in steps if not step.folder)]


@dataclass
class Outcome:
    """done: steps that this worker did; failed: by name the line that a step ended with; blocked: what needs them."""

    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)


def only(steps: Sequence[Step], pattern: str) -> list[Step]:
    """Steps of which a word is like `pattern` (shell wildcards), or their name is, and all that they need.

    Raises UserError if there is none.
    """
    by_name = {step.name: step for step in steps}
    wanted = [name for name in by_name if any(fnmatch.fnmatchcase(each, pattern) for each in (name, *name.split(" ")))]
    if not wanted:
        runs = ", ".join(step.name for step in steps[:4])
        raise UserError(f"--only {pattern!r}: no step is called so; there are {runs} ... (--dry-run shows all)")
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted += by_name[name].needs
    return [step for step in steps if step.name in needed]


def work(book: Book, steps: Sequence[Step], every: Sequence[Step], part: Part) -> Outcome:
    """Do what is to be done of `steps`, until nothing is left but what failed, or what needs it.

    every: all steps of the study, which other workers may do. Raises Stopped when this process was asked to stop, and
    UserError if another process does other steps there.
    """
    since, found = float(os.environ.get(SINCE, time.time())), Outcome()
    open_ = {step.name: step for step in part.first(steps)}
    places = {step.name: place for place, step in enumerate(every, 1)}
    said: set[str] = set()
    with book.shared(every):
        while open_:
            before, busy = len(open_), {}
            for step in [
                step for step in open_.values() if not any(n in open_ or n in found.failed for n in step.needs)
            ]:
                if who := _try(book, step, f"[{places[step.name]}/{len(every)}]", since, found):
                    busy[step.name] = who
                else:
                    del open_[step.name]
            if len(open_) < before:
                continue
            if not busy:
                break
            for name in busy.keys() - said:
                log.info(f"waits for {name}: {busy[name]}")
            said |= busy.keys()
            time.sleep(POLL)
    found.blocked = [name for name in places if name in open_]
    return found


def _try(book: Book, step: Step, place: str, since: float, found: Outcome) -> str | None:
    """Do a step if it is to be done; returns who does it, if it is another worker."""
    if book.reason(step) is None:
        return None
    with book.claimed(step) as who:
        if who:
            return who
        if line := book.failure(step, since):
            found.failed[step.name] = line
        elif reason := book.reason(step):  # another worker may have done it just now
            log.info(f"\n{place} {step.name}: {reason}")
            _make(book, step, found)
    return None


def _make(book: Book, step: Step, found: Outcome) -> None:
    try:
        book.make(step)
        found.done += 1
    except StoppedTogether:
        raise
    except Exception as error:  # whatever it is, what does not need the step goes on
        line = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        found.failed[step.name] = (line.splitlines() or [type(error).__name__])[0]
        if not isinstance(error, UserError):
            log.exception(step.name)
        log.warning(f"{step.name} failed: {found.failed[step.name]}")
        book.fail(step, found.failed[step.name])


def changed_data(reasons: dict[str, str | None]) -> str | None:
    """The step and reason if a study's dataset is not the one that it began with."""
    return next((f"{name}: {why}" for name, why in reasons.items() if why and why.startswith("dataset changed")), None)
