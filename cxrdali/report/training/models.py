"""The report's sections on models: what each recipe is, what it reached, and what the paper printed for it."""

from pathlib import Path

from cxrdali.report import published
from cxrdali.report.as_published import as_published
from cxrdali.report.kit.numbers import NOTHING, count
from cxrdali.report.kit.tables import Table
from cxrdali.report.training.sources import Sources
from cxrdali.runs.reader import Run

MIMIC = "paper, MIMIC-CXR"
APART = "The paper, on other images: "  # begins the caption of a table that has its numbers alone


def models(sources: Sources) -> dict | None:
    """One row per run beside the models of the paper; None for plain stages, which the summary shows."""
    runs = sources.runs
    if not any(run.recipe for run in runs):
        return None
    columns = [
        ("Model", "text"), ("Stage", "text"), ("Starts from", "text"), ("Size", "pixels"), ("Batch", "count"),
        ("Max LR", "setting"), ("Oversampling below AP", "text"), ("Epochs", "text"),
    ]  # fmt: skip
    systems = [
        (
            run.name, run.setting("stage"), run.origin, sizes(run), run.setting("batch"), run.setting("lr"),
            below(run), epochs(run),
        )
        for run in runs
    ]  # fmt: skip
    return {
        "systems": Table("What each model is", columns, systems),
        "published": as_published("stage-training", runs),
        **_reached(sources),
        "comparability": comparability(sources),
    }


def _reached(sources: Sources) -> dict:
    """What the paper printed stands beside it only for its own data, and in a table of its own for any other."""
    printed, rows = published.models()[["val_map", "dev_map"]], []
    together = published.is_its_data(sources.runs, sources.options.synthetic)
    for run in sources.runs:
        best = run.best if len(run.metrics) and run.best["mAP"] == run.best["mAP"] else {}
        paper = [printed[column].get(published.model_of(run)) for column in printed] if together else []
        scores = (best.get("mAP"), *paper[:1], dev_mean(run, sources), *paper[1:])
        rows.append((run.name, best.get("epoch"), *scores))
    titles = [f"{split} mAP{of}" for split in ("Val", "Dev") for of in (("", f", {MIMIC}") if together else ("",))]
    columns = [("Model", "text"), ("Best epoch", "count"), *((title, "score") for title in titles)]
    theirs = [("Model", "text"), ("Val mAP", "score"), ("Dev mAP", "score")]
    same = printed.loc[printed.index.isin([published.model_of(run) for run in sources.runs])]
    return {
        "reached": Table("What each model reached", columns, rows),
        "printed": None
        if together or not len(same)
        else Table(f"{APART}mAP of its models", theirs, list(same.itertuples())),
    }


def epochs(run: Run) -> str:
    """Done ones, and of how many if some are left; of a mean of weights, of how many it is."""
    if averaged := run.config.get("averaged"):
        return f"mean of {len(averaged)} weights"
    done, planned = len(run.metrics), run.setting("epochs")
    if done != planned and run.progress.finished:
        return f"{count(done)}, ended early"
    return count(done) if planned in (None, done) else f"{count(done)} of {count(planned)}"


def sizes(run: Run) -> str | int | None:
    """Side of its images in pixels; of a schedule a text with all of them."""
    every = run.settings.segments if run.setting("schedule") else ()
    return f"{', '.join(str(each.size) for each in every)} px" if every else run.setting("size")


def below(run: Run) -> str:
    threshold = run.setting("oversample_below")
    if threshold is not None:
        return f"{threshold:.2f}"
    return "named findings" if run.setting("oversample") else NOTHING


def dev_mean(run: Run, sources: Sources) -> float | None:
    """The run's mAP on the development split, if an evaluation of it is there."""
    folder = run.path.resolve().name
    if sources.folder and (folder, "dev") in sources.folder.evaluations:
        return sources.folder.evaluations[folder, "dev"].mean
    found = [each for each in sources.evaluations if (each.content.get("run"), each.content.get("split"))
             == (folder, "dev")]  # fmt: skip
    return found[0].mean if len(found) == 1 else None


def comparability(sources: Sources) -> dict:
    """What the numbers of the paper may be compared with: images to train and to validate, theirs and ours."""
    selections = {(run.selection.get("train_images"), run.selection.get("val_images")) for run in sources.runs}
    return {
        "synthetic": sources.options.synthetic,
        "paper_images": (published.TRAIN, published.VAL),
        "side_by_side": published.is_its_data(sources.runs, sources.options.synthetic),
        "images": sorted(selections, key=str),
        "labels": sorted({str(run.labels) for run in sources.runs}),
    }


def oversampling(sources: Sources) -> dict | None:
    """Whose images were doubled, how many, and what an epoch became; None if no run oversamples."""
    runs = [run for run in sources.runs if run.oversampling]
    if not runs:
        return None
    together: dict[tuple, list[str]] = {}
    for run in runs:
        together.setdefault(_doubled(run), []).append(run.name)
    columns = [
        ("Models", "text"), ("Chosen by", "text"), ("Findings doubled", "text"), ("Images doubled", "share"),
        ("Images per epoch", "count"), ("Without AP", "text"),
    ]  # fmt: skip
    rows = [(", ".join(names), *cells) for cells, names in together.items()]
    return {"table": Table("Oversampling", columns, rows, "text"), "of_the_paper": paper_lists(runs)}


def _doubled(run: Run) -> tuple:
    """The cells of a run's row: what it chose by, findings, images, epoch length, findings without AP."""
    doubled, train = run.oversampling, run.selection.get("train_images")
    threshold = doubled.get("below")
    return (
        f"AP under {threshold:.2f} in {Path(str(doubled.get('from'))).name}" if threshold is not None else "by name",
        ", ".join(doubled["findings"]) or "none",
        (doubled["images_doubled"], train),
        doubled["epoch_images"],
        ", ".join(doubled["without_ap"]) or "none",
    )


def paper_lists(runs: list[Run]) -> dict[float, list[str]]:
    """By threshold of the runs: the findings that the paper doubled, those under it in its stage 2 on development."""
    ap = published.finding_ap()["stage2_dev"].drop("Mean")
    thresholds = {run.oversampling.get("below") for run in runs if run.recipe.get("name") in published.models().index}
    lists = {each: list(ap.index[ap < each]) for each in sorted(thresholds - {None})}
    return {threshold: names for threshold, names in lists.items() if names and threshold in (0.10, 0.15)}
