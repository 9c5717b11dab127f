"""The trackers of a run: what they are told, and that none of them stops a training."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cxrdali.runs import layout
from cxrdali.runs.settings import PATHS, TrainSettings
from cxrdali.runs.words import command_line
from cxrdali.runtime.options import UNTRACKED
from cxrdali.train.state import State
from cxrdali.train.tracker import REGISTRY, Session, TrackedRun, Tracker
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import check_kinds, read_json, sealed_json

log = logging.getLogger(__name__)

FILES = (layout.BEST, layout.VAL_PREDICTIONS, layout.METRICS, layout.FINDINGS, layout.CONFIG)


def chosen(settings: TrainSettings) -> list[Tracker]:
    """The trackers that a run asks for. Raises UserError if one of them could not begin at all."""
    found = [REGISTRY[name]() for name in settings.runtime.track if name not in UNTRACKED]
    for each in found:
        each.check()
    return found


def about(out: Path, settings: TrainSettings, config: dict) -> dict[str, Any]:
    """What trackers are told of a run beside its numbers; of paths the last name, unless it asks for them whole.

    config: its config.json.
    """
    folder, whole = out.resolve(), settings.runtime.track_paths
    told = {name: value if whole else _last_name(name, value) for name, value in settings.flat().items()}
    told |= {name: config["selection"][name] for name in ("train_images", "val_images")}
    told |= {"dataset": config["dataset"]["id"], "artefacts": [str(folder / each) if whole else each for each in FILES]}
    return {**told, "folder": str(folder), "command": command_line()} if whole else told


def _last_name(setting: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_last_name(setting, each) for each in value]
    is_path = isinstance(value, str) and (setting in PATHS or value[:1] in ("/", "~") or str(Path.home()) in value)
    return Path(value).name if is_path else value


class Tracking:
    """What trackers are told of the run in `out`: `with tracking.of(state)`, then `send` after every epoch.

    One that fails is not asked again until the training has ended well, or goes on. told: `about` the run; group: None
    for the folder above.
    """

    def __init__(self, out: Path, trackers: Sequence[Tracker], told: dict[str, Any], group: str | None = None):
        above = out.resolve().parent
        self._group = group or (None if above == Path.home() else above.name)  # a home has its user's name
        self._out, self._told, self._trackers = out, told, {each.name: each for each in trackers}
        self._sessions: dict[str, Session] = {}
        self._failed: dict[str, str] = {}

    def of(self, state: State, is_last: bool = True) -> "Tracking":
        """The same, of a run that is about to begin, or to go on from this state. is_last: to its end, and not to that
        of a size of its schedule."""
        self._is_last = is_last
        by_id = any(each.by_id for each in self._trackers.values())
        self.state, self._record = state, _read(self._out / layout.TRACKED) if by_id else {"id": "", "ended": []}
        self._run = TrackedRun(self._out, self._record["id"], self._group, state.epoch, self._told)
        return self

    def __enter__(self) -> "Tracking":
        with contextlib.ExitStack() as self._ends:
            for name in self._trackers:
                self._begin(name)
            self.send()
            self._ends = self._ends.pop_all()
        return self

    def send(self) -> None:
        """The finished epochs that a tracker does not have yet."""
        for name, session in list(self._sessions.items()):
            with self._tolerated(name):
                for epoch, values in _epochs(self.state, session.sent):
                    session.send(epoch, values)
                    session.sent = epoch

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            for name in set(self._trackers) - set(self._sessions):
                self._begin(name)
            self.send()
        self._ends.__exit__(*error)
        for name in set(self._trackers) - set(self._sessions):
            why = f"{name} was not told all of this run ({self._failed[name]})"
            log.info(f"warning: {why}; the same command tells it the rest")

    def send_rest(self, state: State) -> None:
        """Of a finished run: tell the trackers that do not know of its end."""
        self.of(state)
        left = {each.name: each for each in self._trackers.values() if each.by_id}
        self._trackers = {name: each for name, each in left.items() if name not in self._record["ended"]}
        if self._trackers:
            log.info(f"tells {' and '.join(self._trackers)} of this finished run")
            with self:
                pass

    def _begin(self, name: str) -> None:
        following = self._trackers[name].following(self._run)
        with self._tolerated(name):
            self._sessions[name] = session = following.__enter__()
            self._ends.push(lambda *error: self._end(name, session, following, *error))

    def _end(self, name: str, session: Session, following: contextlib.AbstractContextManager, *error: Any) -> None:
        with self._tolerated(name):
            if self._sessions.get(name) is session:  # else it failed
                following.__exit__(*error)
                if error[0] is None and self._is_last and self._trackers[name].by_id:
                    self._record["ended"].append(name)
                    write_bytes(self._out / layout.TRACKED, sealed_json(self._record))

    @contextlib.contextmanager
    def _tolerated(self, name: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each tracker has its own kinds
            words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            if name not in self._failed:
                log.info(f"warning: {name} cannot be told of this run ({words}); the training goes on")
            self._failed[name] = words
            self._sessions.pop(name, None)


def _epochs(state: State, after: int) -> Iterator[tuple[int, dict[str, float]]]:
    """The finished epochs after one: their rows of metrics.csv, AP of findings; with the last one the best score."""
    for row in state.metrics:
        if (epoch := row["epoch"]) <= after:
            continue
        values = {name: value for name, value in row.items() if name != "epoch"}
        values |= {f"AP/{each['finding']}": each["AP"] for each in state.findings if each["epoch"] == epoch}
        if epoch == state.epoch:
            values |= {"best_score": state.best_score, "best_epoch": state.best_epoch}
        yield epoch, {name: value for name, value in values.items() if value == value}


def _read(path: Path) -> dict[str, Any]:
    """tracked.json, made if it is not there: the run's id for trackers, and which of them know that it is finished."""
    try:
        record = read_json(path)
        check_kinds(record, {"id": str, "ended": [str]})
    except FileNotFoundError:
        record = {"id": os.urandom(8).hex(), "ended": []}
        write_bytes(path, sealed_json(record))
    except (OSError, ValueError) as error:
        fix = "restore it, or delete it, and trackers begin another run"
        raise UserError(f"{path}: cannot be read ({error}); {fix}") from error
    return record
