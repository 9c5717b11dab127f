"""The loss-design study at a glance: what came out, what Sulake (2026) claims, and what is not done yet.

The two stand in one table only where the study has the images of the paper, and like beside like: 0.5220 is of the
internal validation of the paper (a tenth of its training images, on which the best epoch was chosen), so our validation
stands there, and our test beside its test. A difference of two models is "higher" or "lower" only by its p, adjusted
for all comparisons. Choices (a best loss, a best backbone) are made on validation.
"""

from cxrdali.report import published
from cxrdali.report.kit.numbers import probability, score, sentence, signed, verdict
from cxrdali.report.kit.tables import Table
from cxrdali.report.study.folder import Study, final
from cxrdali.report.study.scores import HALF, scores_of
from cxrdali.report.training.runs import seen_images
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES
from cxrdali.runs.layout import REFERENCE
from shards.words import counted


def at_a_glance(sources: Sources) -> dict:
    """This study's figures, the claims of the paper beside them or apart, and what is not done yet."""
    seconds, claims, together = sources.study.seconds, _claims(sources), _has_the_images(sources)
    about, paper, here = ("", "text"), ("The paper", "text"), ("Here", "text")
    theirs, ours = [row[:2] for row in claims], [(row[0], row[2]) for row in claims]
    return {
        "final": _final(sources.study),
        "claims": Table("What the paper says, and what came out here", [about, paper, here], claims, "text")
        if together
        else Table("What came out here", [about, here], ours, "text"),
        "printed": None if together else Table("The paper, on other images", [about, paper], theirs, "text"),
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


def _has_the_images(sources: Sources) -> bool:
    """Whether every run has the label release of the paper and, within 2 %, its number of images."""
    labels, images = published.LOSS_DESIGN
    counts = [sum(run.selection.get(f"{part}_images") or 0 for part in ("train", "val")) for run in sources.runs]
    alike = [abs(found - images) <= 0.02 * images for found in counts]
    named = all(run.labels == labels for run in sources.runs)
    return bool(alike) and all(alike) and named and not sources.options.synthetic


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
    end = final(study)
    split = next((each for each in study.splits if (end, each) in study.evaluations), None)
    if split is None:
        return None
    content = study.evaluations[end, split].content
    whole = content["all"]
    scores = {"mAP": whole["mAP"], "F1": scores_of(study, end, split)["F1"], "ECE": whole.get("macro_ECE")}
    return {"name": end, "split": SPLIT_NAMES[split], "images": content["images"], **scores}


def _claims(sources: Sources) -> list[tuple]:
    study = sources.study
    main, split = study.roles["main"], study.splits[0] if study.splits else None
    return [
        (
            "LDAM-DRW against BCE",
            "Over 30 % better mAP on ResNet-50; its BCE weights positives by (N - n) / n",
            _against_bce(sources),
        ),
        ("Loss with the highest mAP", "LDAM-DRW", _ranked(study, "losses", study.roles["reference"])),
        (
            "Backbone with the highest mAP",
            "ConvNeXt-Large: mAP 0.5220, F1 0.3765 on its internal validation, a tenth of its training images",
            _ranked(study, "backbones"),
        ),
        ("From internal validation to test", "0.5220 to 0.3950 mAP (test server, 5th of 68 teams)", _drop(study, main)),
        ("F1", "Low although the ranking is good", _f1(study, main, split)),
        ("Calibration", "Wanting", _calibrated(study, main)),
    ]  # fmt: skip


def _ranked(study: Study, role: str, reference: str | None = None) -> str:
    """The best of a role's models by validation mAP, and the place of `reference`."""
    names = study.roles[role]
    if len(names) < 2:
        return f"Not compared: {names[0]} alone"
    means = {name: study.evaluations[name, "val"].mean for name in names if (name, "val") in study.evaluations}
    known = {name: value for name, value in means.items() if value is not None}
    if len(known) < 2:
        return "Not compared yet"
    best = max(known, key=known.get)
    text = f"{best} by validation mAP, {score(means[best])}{_than_the_baseline(study, role, best)}"
    if reference in means and reference != best:
        order = sorted(means, key=lambda name: -(means[name] or 0))
        text += f"; {reference}, {score(means[reference])}, is number {order.index(reference) + 1} of {len(order)}"
    return text + ("" if len(means) == len(names) else f" ({len(means)} of {len(names)} so far)")


def _against_bce(sources: Sources) -> str:
    """On validation, as the paper compares them."""
    study, wanted = sources.study, {REFERENCE: "ldam-drw", "ld-bce": "bce"}
    told = {run.path.name: run.setting("loss", "bce") for run in sources.runs}
    absent = [name for name in wanted if name not in study.roles["losses"]]
    other = [f"{name} has the loss {told[name]}" for name in wanted if told.get(name, wanted[name]) != wanted[name]]
    if absent or other:
        return f"Not compared: {sentence([*(f'{name} is not among the losses' for name in absent), *other])}"
    pair = [study.evaluations.get((name, "val")) for name in wanted]
    if None in pair or None in (pair[0].mean, pair[1].mean):
        return "Not compared yet"
    ours, theirs = pair[0].mean, pair[1].mean
    arch = next((run.setting("arch") for run in sources.runs if run.path.name == REFERENCE), None)
    gain = ours / theirs - 1
    weight = next((run.setting("pos_weight", "none") for run in sources.runs if run.path.name == "ld-bce"), "ratio")
    text = f"{score(ours)} against {score(theirs)}{f' on {arch}' if arch else ''} ({SPLIT_NAMES['val']}): "
    text += f"{abs(gain) * 100:.1f} % {'higher' if gain >= 0 else 'lower'}"
    text += "" if weight == "ratio" else f" than a BCE with pos_weight {weight}, not (N - n) / n"
    row, comparison = _difference(study, "losses", REFERENCE), study.comparisons.get("losses")
    if row is None or comparison["baseline"] != "ld-bce":
        return f"{text}; no interval says whether by more than chance"
    made, said = counted(comparison["comparisons"]["means"], "comparison"), verdict(row, comparison["level"])
    return (
        f"{text}. {signed(row['difference'])} mAP ({signed(row['low'])} to {signed(row['high'])}, p "
        f"{probability(row['p'])}, {probability(row['p_holm'])} adjusted for {made}): {said}"
    )


def _difference(study: Study, role: str, name: str) -> dict | None:
    """A model's mAP less that of its comparison's baseline, if there is an interval."""
    rows = study.comparisons.get(role, {}).get("differences", [])
    known = [row for row in rows if (row["run"], row["metric"]) == (name, "mAP") and row["low"] is not None]
    return known[0] if known else None


def _than_the_baseline(study: Study, role: str, name: str) -> str:
    row, comparison = _difference(study, role, name), study.comparisons.get(role)
    return "" if row is None else f" ({verdict(row, comparison['level'])}, against {comparison['baseline']})"


def _drop(study: Study, main: str) -> str:
    means = [study.evaluations[main, split].mean for split in ("val", "test") if (main, split) in study.evaluations]
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
