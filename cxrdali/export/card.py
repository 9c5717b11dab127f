"""The model card: README.md as the Hugging Face Hub reads it, and its numbers as README.json.

Every number is copied from the JSON and CSV of the run and of its evaluations, or counted in its pack. What is not
known is null there, and "not recorded" on the card.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxrdali.data.splits import group_codes, released_rows, subject_is
from cxrdali.evaluate.remarks import resampled
from cxrdali.export.check import rows_of
from cxrdali.fitted import in_words
from cxrdali.postprocess.aligned import Shared
from cxrdali.postprocess.rules import Rules, differences
from cxrdali.predict.judge import Judge
from cxrdali.report.kit.numbers import FORMATS
from cxrdali.report.kit.page import plain
from cxrdali.report.training.folder import read_evaluation
from cxrdali.runs.listing import is_run
from cxrdali.runs.names import flatten
from cxrdali.runs.reader import Run, has_begun
from cxrdali.runs.same_data import labels_of
from cxrdali.runs.settings import PATHS
from shards import __version__
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.words import counted

OF_CONFIG = ("labels", "dataset", "selection", "train_positives", "device", "precision", "versions", "began")
TAGS = ["timm", "image-classification", "multi-label-classification", "chest-x-ray", "medical", "cxrdali"]
AGES = (0.05, 0.5, 0.95)  # quantiles: the youngest and the oldest patient could be found again


def facts(judge: Judge, dataset: PackedDataset | None, evaluations: Sequence[Path]) -> dict[str, Any]:
    """All that a card of a run, with these rules, says, as JSON's types.

    Raises UserError if the dataset is not the run's, or a file is no evaluation of it.
    """
    run, rules, settings = judge.run, (judge.calibration, judge.thresholds), flatten(judge.run.config["settings"])
    scored = [_evaluation(run, path) for path in evaluations or sorted(run.path.glob("*.metrics.json"))]
    said = [run.config.get("synthetic"), dataset and dataset.synthetic, *(each.get("synthetic") for each in scored)]
    known = {
        "cxrdali": __version__,
        "run": run.name,
        "synthetic": any(said),
        "findings": run.findings,
        **{name: run.config.get(name) for name in OF_CONFIG},
        "settings": settings | {name: _file_name(settings[name]) for name in PATHS if settings.get(name)},
        "fold": f"{run.fold.fold} of {run.fold.folds}, by {run.fold.group}{run.fold.how}",
        "chosen_by": run.chosen_by,
        "progress": vars(run.progress) if has_begun(run.path) else None,
        "best": run.best if len(run.metrics) else None,
        "best_findings": run.best_findings.to_dict("index") if len(run.metrics) else {},
        "lineage": _lineage(run),
        "pack": dataset and _pack(run, dataset),
        "evaluations": scored,
        "calibration": judge.calibration and public(judge.calibration),
        "thresholds": judge.thresholds and public(judge.thresholds),
        "remarks": [each for found in rules if found for each in differences(judge.provenance, found.made_from)],
    }
    return plain(known)


def public(rules: Rules) -> dict[str, Any]:
    """What a file of rules may say in public: not the hashes of the images that they were fitted to, by which whoever
    has ids could look up which of them are among these."""
    content = rules.content()
    return content | {"made_from": {name: each for name, each in content["made_from"].items() if name != "hashes"}}


def _file_name(path: str | list[str]) -> str | list[str]:
    """Of a path, or of each of several, the last name."""
    return [Path(each).name for each in path] if isinstance(path, list) else Path(path).name


def _evaluation(run: Run, path: Path) -> dict[str, Any]:
    content = read_evaluation(path).content
    if content.get("run") != run.name:
        words = f"is an evaluation of {content.get('run') or 'a table that names no run'}, not of {run.name}"
        raise UserError(f"{path}: {words}; give --evaluation one of a table that `cxrdali predict` wrote of it")
    intervals = resampled(content) if content.get("draws") and content.get("unit") else None
    kept = {name: each for name, each in content.items() if name not in ("hashes", "curves")}
    common = content.get("common")
    shared = Shared(*(common[each.name] for each in fields(Shared))).lines if common else []
    kept["groups_by"] = _public_groups(content.get("groups_by"))
    said = {"file": path.name, "fitted": in_words(content), "intervals": intervals, "in_common": shared}
    return dict.fromkeys(("split", "frontal", "lateral")) | kept | said


def _public_groups(block: Mapping | None) -> dict[str, Any] | None:
    """Scores of groups without their findings, and without the counts of groups that are too small: of few people of
    one sex, age and race, somebody could be found again."""
    if block is None:
        return None
    parts = []
    for part in block["dimensions"]:
        rows = [{name: each for name, each in row.items() if name != "findings"} for row in part["groups"]]
        small = dict.fromkeys(("images", "patients"))
        parts.append({**part, "groups": [row | (small if row["too_small"] else {}) for row in rows]})
    return {**block, "dimensions": parts, "worst": {"means": block["worst"]["means"]}}


def _lineage(run: Run) -> list[dict[str, Any]]:
    """The run, the one whose weights it began with, and so on, as far as their folders are found."""
    found: list[dict[str, Any]] = []
    at: Run | None = run
    while at is not None and at.name not in [each["run"] for each in found]:
        settings = {name: at.setting(name) for name in ("arch", "size", "epochs")}
        images = at.selection.get("train_images")
        found.append({"run": at.name, "labels": at.labels, "images": images, "starts_from": at.origin, **settings})
        init = Path(at.setting("init", ""))
        folder = init.parent if init.suffix else init
        places = (folder, at.path.resolve().parent / folder.name) if at.setting("init") else ()  # it may have moved
        at = next((Run.open(place) for place in places if is_run(place)), None)
    return found


def _pack(run: Run, dataset: PackedDataset) -> dict[str, Any]:
    """Counts by split: train and val are the run's own, dev and test those of its labels."""
    labels, splits = labels_of(run, dataset), {}
    rows = dict(zip(("train", "val"), rows_of(run, dataset), strict=True))
    rows |= {name: released_rows(dataset, labels, name) for name in ("dev", "test")}
    columns = [name for name in ("view", "sex", "age") if name == "view" or dataset.has(name)]
    groups = {"studies": group_codes(dataset, "study"), "patients": group_codes(dataset, "subject")}
    for name, its in rows.items():
        table = dataset.of_rows(its, *columns)
        splits[name] = {"images": len(its), **{each: len(np.unique(codes[its])) for each, codes in groups.items()}}
        if "age" in columns:
            ages = table.pop("age")
            splits[name] |= {"age": ages.quantile(list(AGES)).to_dict(), "age_unknown": int(ages.isna().sum())}
        for column, values in table.items():
            splits[name][column] = values.replace("", None).fillna("unknown").value_counts().sort_index().to_dict()
    return {"release": dataset.info.get("release"), "unit": subject_is(dataset), "splits": splits}


def card(known: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> bytes:
    """README.md. known: `facts`; config: config.json of weights that lie beside it."""
    from huggingface_hub import ModelCardData

    about = {"library_name": "timm", "pipeline_tag": "image-classification", "license": "other"}
    tags = TAGS + ["synthetic"] * known["synthetic"]
    front = ModelCardData(**about, license_name="not-stated", tags=tags).to_yaml()
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= FORMATS | {"counted": counted, "markup": Markup}
    return templates.get_template("card.md.j2").render(**known, front=Markup(front), config=config).encode() + b"\n"


def _escaped(value: object) -> str:
    """Text of a file in Markdown: a finding named `<b>` or `a|b` is a name, not an instruction."""
    if isinstance(value, Markup):
        return value
    words = f"{value:,}" if type(value) is int else "not recorded" if value is None else re.sub(r"\s+", " ", str(value))
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", words)
