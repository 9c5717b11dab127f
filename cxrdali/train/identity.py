"""Which run a folder holds: its config.json, and refusing to continue it as another one."""

import datetime
import logging
from pathlib import Path

from cxrdali.data.splits import fold_positives, rows_sha256, subjects_on_both_sides
from cxrdali.models import weights_file
from cxrdali.runs import folder, plugins, same_data
from cxrdali.runs.config_file import FORMAT, read_config
from cxrdali.runs.layout import BEST, CONFIG, LAST, NEW, PROGRESS
from cxrdali.runs.names import flatten
from cxrdali.runs.reader import Run, results, weights_epoch
from cxrdali.runs.settings import TrainSettings
from cxrdali.runs.words import command_line
from cxrdali.runtime.device import Hardware, versions
from cxrdali.runtime.distributed import Ranks
from cxrdali.setting import option_words
from cxrdali.train.selection import TrainingData
from shards.errors import UserError
from shards.storage.files import remove_parts, sha256_file

log = logging.getLogger(__name__)


def describe(
    settings: TrainSettings, data: TrainingData, hardware: Hardware, ranks: Ranks, recipe: dict | None
) -> dict:
    """What config.json says of a run that begins."""
    file, stratified = _init_file(settings), settings.data.stratify
    return {
        "format": FORMAT,
        "settings": settings.as_json(),
        "recipe": recipe,
        "plugins": plugins.loaded(),
        "synthetic": data.dataset.synthetic,
        "oversampling": data.oversampling and data.oversampling.as_json(),
        "findings": list(data.findings),
        "train_positives": data.positives.tolist(),
        **same_data.described(settings, data.dataset, data.labels, data.train_rows, data.val_rows),
        "selection": {
            "train_images": len(data.train_rows),
            "val_images": len(data.val_rows),
            "train_sha256": rows_sha256(data.train_rows),
            "val_sha256": rows_sha256(data.val_rows),
            "subjects_on_both_sides": subjects_on_both_sides(data.dataset, data.train_rows, data.val_rows),
            **({"fold_positives": fold_positives(data.dataset, data.labels, settings.data)} if stratified else {}),
        },
        **({"excluded": data.excluded.as_json()} if data.excluded else {}),
        "seen": data.leak,
        "init_sha256": file and weights_file.identity(file),
        "device": hardware.name,
        "processes": ranks.world,
        "precision": hardware.precision,
        "versions": versions(),
    }


def check(
    out: Path, config: dict, settings: TrainSettings, loaded: dict | None, ranks: Ranks, data: TrainingData
) -> None:
    """Whether a run with this config may go on in, or begin in, the folder `out`.

    loaded: the state of its last.pt, None without one. Raises UserError if the ranks were given different settings,
    data, versions or another folder, if `out` holds another run or other things, if its last.pt was lost before the run
    was finished, or its best weights.
    """
    reached = loaded and {name: loaded[name] for name in ("epoch", "position")}
    there = {f"the run folder's {LAST}": reached or "none", f"the run folder's {PROGRESS}": (out / PROGRESS).exists()}
    ranks.agree({**config, "device": None, **there})
    if loaded or results(out):
        _refuse_difference(out, config, settings, ranks, data)
    elif ranks.is_first:
        remove_parts(out)
        if not (out / CONFIG).exists():  # alone, it stands for nothing that was reached
            _refuse_strangers(out)
    if loaded:
        _refuse_lost_weights(out, loaded["best_epoch"])
    elif names := results(out):
        _refuse_lost_state(out, names[0])


def check_described(out: Path) -> None:
    """Raises UserError if a run's files are there without its config.json."""
    names = [name for name in (LAST, PROGRESS, *results(out), *NEW.values()) if (out / name).exists()]
    if names and not (out / CONFIG).exists():
        raise UserError(
            f"{out}: holds {names[0]} of a run without its {CONFIG}; restore that file, or give another --out folder"
        )


def record(out: Path, config: dict, loaded: dict | None) -> None:
    """Write config.json of a run that begins; of one that continues, add with what it does so, and say which versions
    are others than it began with."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if loaded is None:
        folder.write_config(out, {**config, "began": now, "command": command_line()})
        return
    stored = read_config(out)
    here = {name: config[name] for name in ("versions", "device", "processes")}
    continued = [*stored.get("continued", []), {**here, "epoch": loaded["epoch"], "date": now}]
    searched = {"micro_batch": found} if (found := config.get("micro_batch")) else {}  # here; else it keeps its own
    folder.write_config(out, {**stored, **searched, "continued": continued})
    before, now_have = stored.get("versions", {}), here["versions"]
    if changed := [name for name in {**before, **now_have} if before.get(name) != now_have.get(name)]:
        words = (", ".join(f"{name} {of.get(name, 'missing')}" for name in changed) for of in (now_have, before))
        log.info("continues with {}; began with {}".format(*words))


def _refuse_lost_weights(out: Path, best: int) -> None:
    """best: the best epoch so far, 0 before the first."""
    if best and best not in (weights_epoch(out / BEST), weights_epoch(out / NEW[BEST])):
        raise UserError(
            f"{out}: {BEST} of epoch {best}, the best so far, is missing or damaged; restore it, or train into another "
            "--out folder"
        )


def _refuse_lost_state(out: Path, there: str) -> None:
    """Without last.pt only a finished run may stand; there: a file that holds what it has reached."""
    if not (out / PROGRESS).exists():
        raise UserError(
            f"{out}: holds {there} of a run, without {LAST} and {PROGRESS}, so it cannot go on and nothing here is "
            f"overwritten; restore {PROGRESS} if the run was finished, else {LAST}, or train into another --out folder"
        )
    run = Run.open(out)
    if not run.progress.finished:
        raise UserError(
            f"{out}: holds a run that is not finished, without its {LAST}, so it cannot go on; restore that file, "
            "or train into another --out folder"
        )
    run.best_weights()


def _refuse_difference(out: Path, config: dict, settings: TrainSettings, ranks: Ranks, data: TrainingData) -> None:
    run = Run.open(out)
    stored = run.config
    if changed := same_data.other_packs(stored["dataset"], config["dataset"]):  # before what follows from it
        raise UserError(f"{out}: holds a run with other data: {changed}; give the same again, or another --out folder")
    differing = settings.difference(stored["settings"])
    # an AP without a negative counted once, and chose nothing
    doubled = [
        entry and {**entry, "from": None, "without_ap": None}
        for entry in (stored.get("oversampling"), config["oversampling"])
    ]
    if differing is None and doubled[0] != doubled[1]:
        differing = ("oversampling", *doubled)
    if differing is None:
        _refuse_other_data(run, config["dataset"], data)
    for group in ("selection", "init_sha256", "precision"):
        # initial weights that were deleted since are no longer needed: the run has its own
        known, there = config[group] is not None, stored.get(group)
        if differing is None and known and there != config[group]:
            if group == "init_sha256" and (file := _init_file(settings)) and there == sha256_file(file):
                continue  # as older versions knew it
            differing = (group, there, config[group])
    if differing:
        name, there, here = differing
        fix, anew = "give the same again", name == "epochs"
        if (there, here) == ("ignore-all", "ignore") and "format" not in stored:
            fix = "it began when ignore was the name of what is --uncertain ignore-all now: give that"
        elif name in settings.flat() and name not in flatten(stored["settings"]):
            fix = f"it began before there was this setting: give {option_words(name, there)}"
        elif name in ("flips", "cutout") and "augment_preset" not in flatten(stored["settings"]):
            began = {each: flatten(stored["settings"])[each] for each in ("flips", "cutout")}
            fix = f"it began when others were the default: give {' '.join(map(option_words, began, began.values()))}"
        if name == "precision":
            on_cpu = Hardware.resolve(ranks.device(settings.runtime.device), "fp32").device == "cpu"
            anew = there == "fp16" and on_cpu
            fix = f"it began with {there}: " + ("continue it on a GPU" if anew else f"give --precision {there}")
        start = f"; --init {out / BEST} starts a new run from its weights" if anew else ""
        raise UserError(
            f"{out}: holds a run with another {name}: {there!r} there, {here!r} now; {fix}, or another --out "
            f"folder{start}"
        )


def _refuse_other_data(run: Run, here: dict, data: TrainingData) -> None:
    changed = same_data.difference(run.config["dataset"], here)
    if changed == same_data.OTHER_IMAGES:
        changed = same_data.other_images(run, data.dataset, data.train_rows, data.val_rows)
    what = f"another dataset: {changed}" if changed else f"other labels {data.labels.name!r}, which have changed"
    if changed or not same_data.same_labels(run, data.labels, data.train_rows, data.val_rows):
        raise UserError(f"{run.path}: holds a run with {what}; give the same again, or another --out folder")


def _init_file(settings: TrainSettings) -> Path | None:
    """The weights that the run starts from; None without any, or if they are no longer there."""
    given = settings.model.init and Path(settings.model.init)
    file = given / BEST if given and given.is_dir() else given
    return file if file and file.is_file() else None


def _refuse_strangers(out: Path) -> None:
    strangers = sorted(path.name for path in out.iterdir() if path.name != ".lock")
    if strangers:
        raise UserError(f"{out}: holds {strangers[0]!r}, which is no run; give an empty or new --out folder")
