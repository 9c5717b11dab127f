"""The loss-design study at a glance: what Sulake (2026) claims beside what came out here, and what is not done yet.

Choices (a best loss, a best backbone) are made on validation; development and test are shown beside them.
"""

from collections.abc import Sequence

from cxrdali.report.kit.numbers import score, sentence, signed
from cxrdali.report.kit.tables import Table
from cxrdali.report.study.folder import Study, final
from cxrdali.report.study.scores import HALF, scores_of
from cxrdali.report.training.runs import seen_images
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES
from cxrdali.runs.layout import REFERENCE


def at_a_glance(sources: Sources) -> dict:
    """The claims of the paper beside this study's figures, and what is not done yet."""
    columns, seconds = [("", "text"), ("The paper", "text"), ("Here", "text")], sources.study.seconds
    return {
        "final": _final(sources.study),
        "claims": Table("What the paper says, and what came out here", columns, _claims(sources), "text"),
        "images": _images(sources),
        "synthetic": sources.options.synthetic,
        "before_reweighting": _before_reweighting(sources),
        "steps": [name for name in seconds if name != "report"],
        "left": [name for name, spent in seconds.items() if spent is None and name != "report"],
        "others": list(map(str, sources.others)),
        "unread": list(map(str, sources.unread)),
        "left_out": list(sources.study.notes),
        "seen": seen_images(sources),
    }


def _before_reweighting(sources: Sources) -> list[dict]:
    """Models whose kept weights never saw the re-weighting that their loss is named for."""
    return [
        {"model": run.path.name, "best_epoch": run.best["epoch"], "drw_epoch": run.setting("drw_epoch")}
        for run in sources.trained
        if run.setting("drw_epoch") and run.best["epoch"] <= run.setting("drw_epoch")
    ]


def _images(sources: Sources) -> dict | None:
    """What these runs were trained on."""
    first = next(iter(sources.runs), None)
    if first is None or not first.selection.get("train_images"):
        return None
    return {"train": first.selection["train_images"], "val": first.selection.get("val_images"), "labels": first.labels}


def _final(study: Study) -> dict | None:
    """Scores of the last of what is made, on the most telling split."""
    if not study.splits:
        return None
    split, end = study.splits[0], final(study)
    if (end, split) not in study.evaluations:
        return None
    whole = study.evaluations[end, split].content["all"]
    scores = {"mAP": whole["mAP"], "F1": scores_of(study, end, split)["F1"], "ECE": whole.get("macro_ECE")}
    return {"name": end, "split": SPLIT_NAMES[split], **scores}


def _claims(sources: Sources) -> list[tuple]:
    study = sources.study
    main, split = study.roles["main"], study.splits[0] if study.splits else None
    return [
        ("LDAM-DRW against BCE", "Over 30 % better mAP on ResNet-50", _against_bce(sources, split)),
        ("Best loss", "LDAM-DRW", _ranked(study, "losses", study.roles["reference"])),
        (
            "Best backbone",
            "ConvNeXt-Large: mAP 0.5220, F1 0.3765 on its development split",
            _ranked(study, "backbones", held_out=("dev", "test")),
        ),
        (
            "From development to test",
            "0.5220 to 0.3950 mAP (test server, 5th of 68 teams)",
            _drop(study, main),
        ),
        ("F1", "Low although the ranking is good", _f1(study, main, split)),
        ("Calibration", "Wanting", _calibrated(study, main)),
    ]  # fmt: skip


def _ranked(study: Study, role: str, reference: str | None = None, held_out: Sequence[str] = ()) -> str:
    """The best of a role's models by validation mAP, the place of `reference`, and its mAP on the held-out splits."""
    names = study.roles[role]
    if len(names) < 2:
        return f"Not compared: {names[0]} alone"
    means = {name: study.evaluations[name, "val"].mean for name in names if (name, "val") in study.evaluations}
    known = {name: value for name, value in means.items() if value is not None}
    if len(known) < 2:
        return "Not compared yet"
    best = max(known, key=known.get)
    text = f"{best} by validation mAP, {score(means[best])}"
    if reference in means and reference != best:
        order = sorted(means, key=lambda name: -(means[name] or 0))
        text += f"; {reference}, {score(means[reference])}, is number {order.index(reference) + 1} of {len(order)}"
    text += "" if len(means) == len(names) else f" ({len(means)} of {len(names)} so far)"
    there = [split for split in held_out if (best, split) in study.evaluations]
    found = [f"{score(study.evaluations[best, split].mean)} on the {SPLIT_NAMES[split]}" for split in there]
    return text + (f"; {sentence(found)}" if found else "")


def _against_bce(sources: Sources, split: str | None) -> str:
    study, wanted = sources.study, {REFERENCE: "ldam-drw", "ld-bce": "bce"}
    told = {run.path.name: run.setting("loss", "bce") for run in sources.runs}
    absent = [name for name in wanted if name not in study.roles["losses"]]
    other = [f"{name} has the loss {told[name]}" for name in wanted if told.get(name, wanted[name]) != wanted[name]]
    if absent or other:
        return f"Not compared: {sentence([*(f'{name} is not among the losses' for name in absent), *other])}"
    pair = [study.evaluations.get((name, split)) for name in wanted]
    if None in pair or None in (pair[0].mean, pair[1].mean):
        return "Not compared yet"
    ours, theirs = pair[0].mean, pair[1].mean
    arch = next((run.setting("arch") for run in sources.runs if run.path.name == REFERENCE), None)
    gain = ours / theirs - 1
    text = f"{score(ours)} against {score(theirs)}{f' on {arch}' if arch else ''} ({SPLIT_NAMES[split]}): "
    text += f"{abs(gain) * 100:.1f} % {'better' if gain >= 0 else 'worse'}"
    found = [
        row
        for row in study.comparisons.get("losses", {}).get("differences", [])
        if (row["run"], row["metric"]) == (REFERENCE, "mAP") and row["p"] is not None
    ]
    if found and study.comparisons["losses"]["baseline"] == "ld-bce":
        row = found[0]
        text += (
            f". On validation {signed(row['difference'])} mAP ({signed(row['low'])} to {signed(row['high'])}, "
            f"p = {row['p']:.2g})"
        )
    return text


def _drop(study: Study, main: str) -> str:
    means = [study.evaluations[main, split].mean for split in ("dev", "test") if (main, split) in study.evaluations]
    return f"{score(means[0])} to {score(means[1])} mAP ({main})" if len(means) == 2 else "Not both evaluated"


def _f1(study: Study, main: str, split: str | None) -> str:
    cells = scores_of(study, main, split) if split else None
    if not cells or cells["F1"] is None:
        return "Not evaluated yet"
    how = ", cross-fitted" if split == "val" else ""
    return (
        f"{score(cells[HALF])} at probability 0.5, {score(cells['F1'])} with thresholds fitted on validation "
        f"({main}, {SPLIT_NAMES[split]}{how})"
    )


def _calibrated(study: Study, main: str) -> str:
    found = {method: each for (of, method), each in study.calibrations.items() if of == main}
    if not found:
        return "Not calibrated yet"
    before = next(iter(found.values())).macro("ece", "before")
    after = [f"{each.macro('ece', 'after'):.4f} ({method})" for method, each in found.items()]
    return f"Mean ECE of {main} {before:.4f}; calibrated {sentence(after)}; on validation, cross-fitted"
