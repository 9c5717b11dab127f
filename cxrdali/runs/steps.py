"""Steps with files as results: each is done again exactly when its settings, its results or what it needs changed.

A step's record is written after its results are complete, so a killed step simply counts as not done. The record also
names the version of every step that it used: when a step is made again, all steps that depend on it are made again too.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxrdali.runs import same_data
from cxrdali.runs.layout import REPLACED
from cxrdali.runs.names import under_present_names
from shards.errors import UserError
from shards.storage.files import (
    check_inside,
    json_bytes,
    lock,
    one_by_one,
    only_one,
    open_own,
    remove_parts,
    sha256_bytes,
    sha256_file,
    write_bytes,
)
from shards.storage.sealed import check_kinds, maybe, read_json, sealed_json

log = logging.getLogger(__name__)

RECORDS = ".steps"
_BEGUN = {"settings": dict, "needs": {str: maybe(str)}}
_MADE = {"made": str, "outputs": {str: {"bytes": int, "mtime_ns": int, "sha256": str}}, "seconds": float}
_FAILED = {"line": str, "when": float}
KINDS = {"begun": _BEGUN, "made": _BEGUN | _MADE, "failed": _FAILED, "worker": {"who": str}}  # of a record
PLAN = "plan.json"
CONTINUES, TAKEN = "continues", "takes over the run that is there"


@dataclass(frozen=True)
class Step:
    """outputs: files relative to the root; settings: JSON values that decide the result; needs: names of steps.

    folder: of a step that continues what it began there (a training run); it is kept while settings and needs are
    those it began with, else moved aside before `do`.
    """

    name: str
    outputs: tuple[str, ...]
    settings: dict
    needs: tuple[str, ...]
    do: Callable[[], None] = field(compare=False)
    folder: str | None = None


@dataclass
class Book:
    """The steps that were done under `root`, as recorded in root/.steps."""

    root: Path

    def reason(self, step: Step) -> str | None:
        """Why a step is to be done, in words; None if it is done. Steps that it needs are taken as they are."""
        record = self._read(step.name)
        if record is None:
            return CONTINUES if self._begun(step) else TAKEN if self._by_hand(step) else "not done yet"
        changed = _change(record["settings"], _plain(step.settings))
        if changed:
            return changed
        if record["needs"] != self._makings(step):
            names = [name for name, made in self._makings(step).items() if record["needs"].get(name) != made]
            return f"{names[0]} was made again" if names else "needs fewer steps than before"
        for name, known in record["outputs"].items():
            fault = self._fault(self.root / name, known)
            if fault:
                return f"{name} {fault}"
        return None if set(record["outputs"]) == set(step.outputs) else "its files have other names now"

    def seconds(self, step: Step) -> float | None:
        """How long the recorded making took; None if there is none."""
        record = self._read(step.name)
        return None if record is None else record["seconds"]

    def recorded(self, names: Sequence[str]) -> tuple[dict[str, float], set[str]]:
        """Of steps known by their names alone, in their order: seconds of those made from what is there now, and which
        are outdated, since a step that they need was made again or is under way."""
        records = {name: record for name in names if (record := self._read(name))}
        outdated: set[str] = set()
        for name, record in records.items():
            for need, made in record["needs"].items():
                if need in outdated or need not in records or records[need]["made"] != made:
                    outdated.add(name)
        return {name: record["seconds"] for name, record in records.items() if name not in outdated}, outdated

    def plan(self, steps: Sequence[Step]) -> dict[str, str | None]:
        """Reasons by name; a step after one that is to be done is to be done too."""
        reasons: dict[str, str | None] = {}
        for step in steps:
            first = next((name for name in step.needs if reasons.get(name)), None)
            reason = self.reason(step)
            reasons[step.name] = f"after {first}" if first and reason in (None, CONTINUES) else reason
        return reasons

    def run(self, steps: Sequence[Step]) -> int:
        """Do what is to be done, in order; returns how many steps that were. UserError if a link is in the way."""
        done = 0
        self.prepare(steps)
        for number, step in enumerate(steps, 1):
            reason = self.reason(step)
            if reason:
                log.info(f"\n[{number}/{len(steps)}] {step.name}: {reason}")
                self.make(step)
                done += 1
        return done

    def prepare(self, steps: Sequence[Step]) -> None:
        """Look for links in the way (UserError), and remove what killed writers left."""
        names = sorted({RECORDS, *(name for step in steps for name in step.outputs)})
        check_inside(self.root, *(self.root / name for name in names))
        self._sweep(steps)

    @contextlib.contextmanager
    def shared(self, steps: Sequence[Step]) -> Iterator[None]:
        """Work in the folder beside others that do the same steps, from the same data with the same settings.

        Raises UserError if another process works in it that does others.
        """
        here, plan = self.root / ".lock", self.root / RECORDS / PLAN
        ours = sha256_bytes(
            json_bytes([[step.name, _plain(step.settings), step.needs, step.outputs] for step in steps])
        )
        with contextlib.ExitStack() as working:
            with one_by_one(self.root / ".begin.lock"):  # those that begin together would be in each other's way
                with contextlib.ExitStack() as alone:
                    try:
                        alone.enter_context(only_one(here, "working in it"))
                    except UserError:
                        pass  # beside others, whose plan counts
                    else:
                        self.prepare(steps)
                        (self.root / RECORDS).mkdir(parents=True, exist_ok=True)
                        write_bytes(plan, sealed_json({"plan": ours}))
                working.enter_context(only_one(here, "working in it", shared=True))
            if read_json(plan)["plan"] != ours:
                raise UserError(f"{self.root}: another process does other steps in it; wait for it or stop it")
            yield

    @contextlib.contextmanager
    def claimed(self, step: Step) -> Iterator[str | None]:
        """Have a step to oneself among the workers; or who has it.

        A dead worker's lock is dropped by the kernel (of another machine, by its file server). The note of who works
        is a new file each time: an NFS client looks again at a folder that it has changed itself, and so sees
        what other machines have just written there.
        """
        note = self._path(step.name, "worker")
        with open_own(self._path(step.name, "lock"), "r+b", os.O_CREAT) as file:
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield (self._read(step.name, "worker") or {"who": "another process"})["who"]
                return
            if left := self._read(step.name, "worker"):
                log.info(f"{step.name}: {left['who']} left it; it is taken over")
            write_bytes(note, sealed_json({"who": f"process {os.getpid()} on {socket.gethostname()}"}))
            try:
                yield None
            finally:
                note.unlink(missing_ok=True)

    def failure(self, step: Step, since: float) -> str | None:
        """What a try to do the step ended with, after a time (seconds since the epoch)."""
        record = self._read(step.name, "failed")
        return record["line"] if record and record["when"] >= since else None

    def failed(self, names: Sequence[str]) -> dict[str, str]:
        """By name the lines of steps whose last try failed."""
        return {name: record["line"] for name in names if (record := self._read(name, "failed"))}

    def fail(self, step: Step, line: str) -> None:
        """Record that it failed."""
        write_bytes(self._path(step.name, "failed"), sealed_json({"line": line, "when": time.time()}))

    def make(self, step: Step) -> None:
        """Do a step and record it."""
        (self.root / RECORDS).mkdir(parents=True, exist_ok=True)
        # what was trained by hand stays where it is: the trainer refuses it if its settings are others
        if step.folder and not self._by_hand(step) and (self._read(step.name) or not self._begun(step)):
            self._set_aside(self.root / step.folder)
            write_bytes(self._path(step.name, "begun"), sealed_json(self._start(step)))
        for path in (self._path(step.name), *([] if step.folder else map(self.root.joinpath, step.outputs))):
            path.unlink(missing_ok=True)  # a result without a record is no result
        started = time.perf_counter()
        step.do()
        outputs = {name: _facts(self.root / name, step.folder) for name in step.outputs}
        seconds = time.perf_counter() - started
        # not a hash of the results: made again to the same bytes is made again too
        made = {**self._start(step), "made": os.urandom(8).hex(), "outputs": outputs, "seconds": round(seconds, 2)}
        write_bytes(self._path(step.name), sealed_json(made))
        for kind in ("begun", "failed"):
            self._path(step.name, kind).unlink(missing_ok=True)

    def _start(self, step: Step) -> dict:
        return {"settings": _plain(step.settings), "needs": self._makings(step)}

    def _begun(self, step: Step) -> bool:
        """Whether the folder holds the beginning of just this step."""
        there = step.folder is not None and (self.root / step.folder).is_dir()
        begun = self._read(step.name, "begun") if there else None
        if begun is None or begun["needs"] != self._makings(step):
            return False
        return _change(begun["settings"], _plain(step.settings)) is None

    def _by_hand(self, step: Step) -> bool:
        """Whether the folder holds something that no record tells of."""
        known = self._read(step.name) or self._read(step.name, "begun")
        return step.folder is not None and not known and _occupied(self.root / step.folder)

    def _sweep(self, steps: Sequence[Step]) -> None:
        """Remove what killed writers left; a trainer looks after its own folder."""
        files = [self.root / name for step in steps if not step.folder for name in step.outputs]
        for folder in {self.root / RECORDS, *(file.parent for file in files)}:
            remove_parts(folder)

    def _set_aside(self, folder: Path) -> None:
        """Days of training are never deleted: what stands in the way moves to replaced/."""
        if not _occupied(folder):
            return
        number = 1
        while (there := folder.parent / REPLACED / f"{folder.name}-{number}").exists():
            number += 1
        check_inside(self.root, there.parent)
        there.parent.mkdir(exist_ok=True)
        with only_one(folder / ".lock", "training into it"):
            shutil.move(folder, there)
        log.info(f"{folder}: moved to {there}; delete it when it is not wanted")

    def _makings(self, step: Step) -> dict[str, str | None]:
        records = {name: self._read(name) for name in step.needs}
        return {name: None if record is None else record["made"] for name, record in records.items()}

    def _fault(self, path: Path, known: dict) -> str | None:
        if not path.is_file():
            return "is missing"
        found = path.stat()
        if found.st_size == known["bytes"] and found.st_mtime_ns == known["mtime_ns"]:
            return None
        # copied or rewritten with the same content is no change
        return None if found.st_size == known["bytes"] and sha256_file(path) == known["sha256"] else "was changed"

    def _path(self, name: str, kind: str = "made") -> Path:
        return self.root / RECORDS / f"{record_name(name)}.{kind}.json"

    def _read(self, name: str, kind: str = "made") -> dict | None:
        try:
            record = read_json(self._path(name, kind))
            check_kinds(record, KINDS[kind])
        except (OSError, ValueError):
            return None  # a damaged record is a step not done
        return record


def record_name(step: str) -> str:
    """What the files of a step in .steps begin with."""
    return step.replace(" ", "-")


def _occupied(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir())


def _facts(path: Path, folder: str | None) -> dict:
    if not path.is_file():
        fix = f"move the folder {folder} away to train it anew" if folder else "run the same command again"
        raise UserError(f"{path}: was to be made and is not there; {fix}")
    found = path.stat()
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": sha256_file(path)}


def _plain(settings: dict) -> dict:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json_bytes(settings))


def _change(there: dict, here: dict) -> str | None:
    there = under_present_names(there)
    for name in sorted({*there, *here}):
        if name == "dataset" and isinstance(here.get(name), dict):
            known = there.get(name)  # earlier versions wrote the id alone
            if changed := same_data.difference(known if isinstance(known, dict) else {"id": known}, here[name]):
                return f"dataset changed: {changed}"
        elif there.get(name) != here.get(name):
            return f"{name} changed: {_short(there.get(name))} -> {_short(here.get(name))}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
