"""What was counted as one self-contained page, with pictures and a map of the findings that occur together."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrdali.report.dataset import pictures, words
from cxrdali.report.dataset.facts import DatasetFacts, ReleaseFacts
from cxrdali.report.kit import page, plots
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.pictures import contact_sheet
from cxrdali.report.kit.tables import Table
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.places import storage_of


def check_writable(out: Path, pack: Path) -> None:
    """Raises UserError if the page cannot be written to `out`, before any work; the dataset's own folder is refused."""
    if storage_of(pack).contains(out):
        raise UserError(f"{out}: inside the packed dataset, whose files it could replace; give another --html")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --html")
    if out.is_dir():
        raise UserError(f"{out}: a folder; give the name of a file with --html")
    page.check_numbers_file(out)
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be written to ({error.strerror}); give another --html") from error


def write_page(out: Path, dataset: PackedDataset, facts: DatasetFacts, *, images: bool = False) -> Path:
    """Write the page to `out`, and its numbers beside it as .json; return `out`. Pictures of patients only with
    `images`.

    Raises UserError naming shard and key for a picture that cannot be decoded.
    """
    return page.write(out, "dataset/page.html.j2", _data(dataset, facts, images))


def _data(dataset: PackedDataset, facts: DatasetFacts, images: bool) -> dict:
    releases = [
        _release(release, number, release.name == facts.info["default_labels"])
        for number, release in enumerate(tqdm(facts.releases, "drawing", unit=" label releases", delay=1))
    ]
    said = words.label_releases(facts)
    contents = [("dataset", "Dataset"), ("rejects", "Rejects")]
    contents += [(f"labels-{number}", release["title"]) for number, release in enumerate(releases)]
    contents += [("labels", "Label releases")] if said else []
    contents += [("overlap", "In two splits")] if releases else []
    return {
        "title": f"Packed dataset: {facts.info['release']}",
        "contents": [*contents, ("images", "Examples")],
        "root": facts.root,
        "dataset": words.dataset(facts),
        "rejects": words.rejects(facts),
        "releases": releases,
        "label_releases": said,
        "overlap": words.overlap(facts),
        "asked_for_images": images,
        "examples": _examples(dataset, facts) if images and dataset.sizes else None,
    }


def _release(release: ReleaseFacts, number: int, default: bool) -> dict:
    first, *others = words.findings(release) or [None]
    present = np.flatnonzero(np.diag(release.together))
    images = np.diag(release.together)
    table = pd.DataFrame({"finding": release.findings, "images": images, "share": images / len(release.rows)})
    return {
        "name": release.name,
        "title": f"Labels {release.name}{' (the default)' if default else ''}",
        "of_images": words.of_images(release),
        "splits": words.splits(release),
        "frequencies": Figure(f"frequencies-{number}", plots.label_frequencies, (table,)) if len(present) else None,
        "findings": first,
        "more_on_findings": others,
        "map": _heat_map(release, present) if len(present) > 1 else None,
        "pairs": words.together(release),
    }


def _heat_map(release: ReleaseFacts, shown: np.ndarray) -> dict:
    """P(column | row) of the findings that have an image, as a table whose cells are shaded.

    images: how many have both findings.
    """
    together, names = release.together, [release.findings[place] for place in shown]
    both = together[np.ix_(shown, shown)]
    one = np.diag(both)
    shares = both / one[:, None]
    off = np.where(np.eye(len(together), dtype=bool), 0, together)
    row, column = np.unravel_index(off.argmax(), off.shape)
    example = {
        "images": together[row, row],
        "first": release.findings[row],
        "second": release.findings[column],
        "share": together[row, column] / together[row, row],
    }
    cells = [[None if row == column else share for column, share in enumerate(line)] for row, line in enumerate(shares)]
    return {
        "example": example if off.any() else None,
        "images": both,
        "table": Table(
            f"Per cent of a row's images that have the column's finding, {release.name}",
            [("Of the images with", "text"), ("images", "count"), *((name, "whole") for name in names)],
            [(name, images, *line) for name, images, line in zip(names, one, cells, strict=True)],
            "heat",
        ),
    }


def _examples(dataset: PackedDataset, facts: DatasetFacts) -> dict:
    release = facts.releases[0] if facts.releases else None
    return {
        "pixels": dataset.sizes[0],
        "by_view": _shown(dataset, pictures.by_view(dataset)),
        "release": release and {"name": release.name, "of_images": words.of_images(release)},
        "by_finding": _shown(dataset, pictures.by_finding(dataset, release)) if release else [],
    }


def _shown(dataset: PackedDataset, examples: Sequence[pictures.Example]) -> list[dict]:
    columns = ("image_id", "view", "view_position")
    return [
        {
            "why": example.why,
            **{name: dataset.catalog.iloc[example.row][name] for name in columns},
            "jpeg": contact_sheet(example.pixels[None, None], columns=1),
        }
        for example in examples
    ]
