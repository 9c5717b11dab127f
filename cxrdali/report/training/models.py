"""The report's section on models: what each recipe is, what it reached, and what the paper printed for it."""

from functools import cache
from pathlib import Path

from cxrdali.report import published
from cxrdali.report.kit import html as page
from cxrdali.report.kit.html import Html, count, join, paragraph, percent, score, sentence
from cxrdali.report.training.sources import Sources
from cxrdali.runs.folder import is_finished
from cxrdali.runs.names import flatten
from cxrdali.runs.reader import Run

MIMIC = "paper, MIMIC-CXR"
PAPER_TRAIN, PAPER_VAL = 211_879, 52_970  # images, Yamagishi & Hanaoka 2023
# Where a run was made, which data it had and what chance gave it: no part of a recipe's system
NOT_THE_RECIPE = ("init", "oversample_from", "labels", "seed", "fold", "precision")


def models(sources: Sources) -> Html | None:
    """One row per run beside the paper's models; None for plain stages, which the summary shows."""
    runs = sources.runs
    if not any(run.recipe for run in runs):
        return None
    systems = [
        (
            run.name, run.setting("stage", page.NOTHING), run.origin, f"{run.setting('size', page.NOTHING)} px",
            count(run.setting("batch")), _plain(run.setting("lr")), below(run), epochs(run),
        )
        for run in runs
    ]  # fmt: skip
    return join(
        page.table(
            "What each model is",
            ("Model", "Stage", "Starts from", "Size", "Batch", "Max LR", "Oversampling below AP", "Epochs"),
            systems,
        ),
        _differences(runs),
        page.table(
            "What each model reached",
            ("Model", "Best epoch", "Val mAP", f"Val mAP, {MIMIC}", "Dev mAP", f"Dev mAP, {MIMIC}"),
            [_reached(run, sources) for run in runs],
        ),
        paragraph(
            "Validation mAP is the model's own at its best epoch, without mirrored images; mAP on the development "
            "split is that of its evaluated predictions.",
            "soft",
        ),
        comparability(sources),
    )


def _reached(run: Run, sources: Sources) -> tuple:
    table, name = published.models(), run.recipe.get("name")
    paper = table.loc[name] if name in table.index else {}
    best = run.best if len(run.metrics) and run.best["mAP"] == run.best["mAP"] else {}
    return (
        run.name, count(best.get("epoch")), score(best.get("mAP")), score(paper.get("val_map")),
        score(dev_mean(run, sources)), score(paper.get("dev_map")),
    )  # fmt: skip


def epochs(run: Run) -> str:
    """Done ones, and of how many if some are left."""
    done, planned = len(run.metrics), run.setting("epochs")
    state = {"epoch": done, "best_epoch": run.best["epoch"] if done else 0}
    if done != planned and is_finished(state, run.settings):
        return f"{count(done)}, ended early"
    return count(done) if planned in (None, done) else f"{count(done)} of {count(planned)}"


def below(run: Run) -> str:
    threshold = run.setting("oversample_below")
    if threshold is not None:
        return f"{threshold:.2f}"
    return "named findings" if run.setting("oversample") else page.NOTHING


def dev_mean(run: Run, sources: Sources) -> float | None:
    """The run's mAP on the development split, if an evaluation of it is there."""
    folder = run.path.resolve().name
    if sources.folder and (folder, "dev") in sources.folder.evaluations:
        return sources.folder.evaluations[folder, "dev"].mean
    found = [each for each in sources.evaluations if (each.content.get("run"), each.content.get("split"))
             == (folder, "dev")]  # fmt: skip
    return found[0].mean if len(found) == 1 else None


def comparability(sources: Sources) -> Html:
    """What the paper's numbers may be compared with, in a sentence or two."""
    theirs = (
        f"The paper's numbers are from MIMIC-CXR with the labels of CXR-LT 2023 ({count(PAPER_TRAIN)} images to train, "
        f"{count(PAPER_VAL)} to validate)"
    )
    if sources.options.synthetic:
        return paragraph(f"{theirs}. These runs are on generated images, so nothing here compares with them.", "soft")
    if not sources.runs:
        return paragraph(f"{theirs}. They compare only with the same recipes on the same images.", "soft")
    selections = {
        (chosen.get("train_images"), chosen.get("val_images"))
        for chosen in (run.config.get("selection", {}) for run in sources.runs)
    }
    ours = sentence([f"{count(train)} and {count(val)}" for train, val in sorted(selections, key=str)])
    labels = sentence(sorted({str(run.labels) for run in sources.runs}))
    return paragraph(
        f"{theirs}; these runs have {ours}, labels {labels}. The two compare only for the same recipe on the same "
        "images.",
        "soft",
    )


def differences(run: Run) -> dict[str, tuple[str, str]] | None:
    """Settings in which a run is not the paper's model of its name: (here, there). None: no model of the paper."""
    paper = _paper_settings().get(run.recipe.get("name"))
    if paper is None:
        return None
    settings = flatten(run.config["settings"])
    # a setting that an older config does not have was at its default then, which is the paper's
    found = {name: (settings[name], value) for name, value in paper.items() if name in settings}
    return {name: (_plain(here), _plain(there)) for name, (here, there) in found.items() if here != there}


@cache
def _paper_settings() -> dict[str, dict]:
    from cxrdali.runs.recipes import load
    from cxrdali.runs.settings import MAY_DIFFER

    left_out = (*NOT_THE_RECIPE, *MAY_DIFFER)
    resolved = {name: recipe.resolve(Path())[0].flat() for name, recipe in load().items()}
    return {
        name: {key: value for key, value in settings.items() if key not in left_out}
        for name, settings in resolved.items()
    }


def _differences(runs: list[Run]) -> Html | None:
    """In which settings the runs are not the paper's; what holds for all of them is said once."""
    found = {run.name: differences(run) for run in runs}
    strangers = [name for name, differing in found.items() if differing is None]
    known = {name: differing for name, differing in found.items() if differing is not None}
    if not known:
        return None
    common = set.intersection(*(set(differing.items()) for differing in known.values()))
    rows = [
        (name, ", ".join(_words(key, *pair) for key, pair in differing.items() if (key, pair) not in common) or "–")
        for name, differing in known.items()
    ]
    some = any(set(differing.items()) - common for differing in known.values())
    first = next(iter(known.values()))
    said = [_words(key, *pair) for key, pair in first.items() if (key, pair) in common]
    return join(
        paragraph(f"Not as in the paper, in all of its models here: {sentence(said)}.") if said else None,
        paragraph("Every setting of the models here is the paper's.") if not said and not some else None,
        page.details(
            "Settings that differ from the paper's, by model",
            page.table("Settings that differ from the paper's", ("Model", "Here (paper)"), rows, kind="text"),
        )
        if some
        else None,
        paragraph(f"No model of the paper: {sentence(strangers)}.", "soft") if strangers else None,
    )


def _words(key: str, here: str, there: str) -> str:
    return f"{key.replace('_', ' ')} {here} ({there})"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return sentence(value) if value else "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def oversampling(sources: Sources) -> Html | None:
    """Whose images were doubled, how many, and what an epoch became; None if no run oversamples."""
    runs = [run for run in sources.runs if run.oversampling]
    if not runs:
        return None
    together: dict[tuple, list[str]] = {}
    for run in runs:
        together.setdefault(_doubled(run), []).append(run.name)
    rows = [(", ".join(names), *cells) for cells, names in together.items()]
    columns = ("Models", "Chosen by", "Findings doubled", "Images doubled", "Images per epoch", "Without AP")
    return join(
        paragraph(
            "Training images with a finding that is chosen are seen twice per epoch, also if they have several "
            "such findings. A finding without a positive validation image has no AP and is not chosen."
        ),
        page.table("Oversampling", columns, rows, kind="text"),
        *(
            paragraph(f"The paper's findings under {threshold:.2f}: {sentence(names)}.", "soft")
            for threshold, names in paper_lists(runs).items()
        ),
    )


def _doubled(run: Run) -> tuple[str, ...]:
    """The cells of a run's row: what it chose by, findings, images, epoch length, findings without AP."""
    doubled, train = run.oversampling, run.config.get("selection", {}).get("train_images")
    threshold, images = doubled.get("below"), doubled["images_doubled"]
    return (
        f"AP under {threshold:.2f} in {Path(str(doubled.get('from'))).name}" if threshold is not None else "by name",
        ", ".join(doubled["findings"]) or "none",
        count(images) + (f" ({percent(images / train)})" if train else ""),
        count(doubled["epoch_images"]),
        ", ".join(doubled["without_ap"]) or "none",
    )


def paper_lists(runs: list[Run]) -> dict[float, list[str]]:
    """By threshold of the runs: the findings that the paper doubled, those under it in its stage 2 on development."""
    ap = published.finding_ap()["stage2_dev"].drop("Mean")
    thresholds = {run.oversampling.get("below") for run in runs if run.recipe.get("name") in published.models().index}
    lists = {each: list(ap.index[ap < each]) for each in sorted(thresholds - {None})}
    return {threshold: names for threshold, names in lists.items() if names and threshold in (0.10, 0.15)}
