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
from shards.words import counted

log = logging.getLogger(__name__)

ARTEFACTS = (layout.BEST, layout.VAL_PREDICTIONS, layout.METRICS, layout.FINDINGS, layout.CONFIG)


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
    folder = out.resolve()
    whole = {"folder": str(folder), "command": command_line()} if settings.runtime.track_paths else {}
    plain = {name: value if whole else _last_name(name, value) for name, value in settings.flat().items()}
    selection = {name: config["selection"][name] for name in ("train_images", "val_images")}
    artefacts = [str(folder / name) if whole else name for name in ARTEFACTS]
    return {**plain, **selection, "dataset": config["dataset"]["id"], "artefacts": artefacts, **whole}


def _last_name(setting: str, value: Any) -> Any:
    is_path = isinstance(value, str) and (setting in PATHS or value[:1] in "/~" or str(Path.home()) in value)
    return Path(value).name if is_path else value


class Tracking:
    """What trackers are told of a run in `out`, from `with` on to its end.

    One that fails is not asked again until the training has ended well, or goes on.
    """

    def __init__(self, out: Path, trackers: Sequence[Tracker], state: State, told: dict[str, Any], group: str | None):
        self.state, self.trackers = state, {each.name: each for each in trackers}
        self._path, self._record = out / layout.TRACKED, {"id": "", "ended": []}
        if any(each.by_id for each in trackers):
            self._record = _read(self._path)
        above = out.resolve().parent
        group = group or (None if above == Path.home() else above.name)  # a home has its user's name
        self._run = TrackedRun(out, self._record["id"], group, state.epoch, told)
        self._open: dict[str, tuple[contextlib.AbstractContextManager, Session]] = {}
        self._failed: dict[str, Exception] = {}
        self._said: set[str] = set()

    def __enter__(self) -> "Tracking":
        with contextlib.ExitStack() as unless_all_begin:
            unless_all_begin.push(self._close)
            for name in self.trackers:
                self._begin(name)
            self.send()
            unless_all_begin.pop_all()
        return self

    def send(self) -> None:
        """The finished epochs that a tracker does not have yet."""
        for name, (_, session) in list(self._open.items()):
            with self._tolerated(name):
                for epoch, values in _epochs(self.state, session.sent):
                    session.send(epoch, values)
                    session.sent = epoch

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            for name in list(self._failed):
                self._begin(name)
            self.send()
        self._close(*error)
        for name, why in self._failed.items():
            log.info(f"warning: {name} was not told all of this run ({_line(why)}); the same command tells it the rest")

    def send_rest(self) -> None:
        """Of a finished run: tell the trackers that do not know of its end."""
        for name in [*self.trackers]:
            if not self.trackers[name].by_id or name in self._record["ended"]:
                del self.trackers[name]
        if self.trackers:
            with self:
                log.info(f"tells {' and '.join(self.trackers)} of {counted(self.state.epoch, 'finished epoch')}")

    def _begin(self, name: str) -> None:
        following = self.trackers[name].following(self._run)
        with self._tolerated(name):
            self._open[name] = following, following.__enter__()
            self._failed.pop(name, None)

    def _close(self, *error: Any) -> None:
        for name, (following, session) in self._open.items():
            with self._tolerated(name):
                following.__exit__(*error)
                if error[0] is None and self.trackers[name].by_id and session.sent == self.state.epoch:
                    self._record["ended"].append(name)
                    write_bytes(self._path, sealed_json(self._record))

    @contextlib.contextmanager
    def _tolerated(self, name: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each tracker has its own kinds
            if name not in self._said:
                log.info(f"warning: {name} cannot be told of this run ({_line(error)}); the training goes on")
            self._said.add(name)
            self._failed[name] = error
            self._open.pop(name, None)


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


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
