"""What was counted as one self-contained page, with pictures and a map of the findings that occur together."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg

from cxrdali.report.dataset import words
from cxrdali.report.dataset.facts import DatasetFacts, ReleaseFacts
from cxrdali.report.dataset.same_words import same_pixels
from cxrdali.report.kit import page, plots
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.pictures import contact_sheet
from cxrdali.report.kit.tables import Table
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.progress import progress_bar
from shards.releases.release import VIEWS
from shards.storage.places import storage_of

EACH = 2  # pictures of a finding
HEAD = TAIL = 3  # findings with pictures


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
    releases = []
    with progress_bar("drawing", len(facts.releases), " label releases", delay=1) as bar:
        for number, release in enumerate(facts.releases):
            releases.append(_release(release, number, words.title(facts, release)))
            bar.update()
    said = words.label_releases(facts)
    contents = [("dataset", "Dataset"), ("rejects", "Rejects"), ("same", "Same pixels")]
    contents += [(f"labels-{number}", release["title"]) for number, release in enumerate(releases)]
    contents += [("labels", "Label releases")] if said else []
    contents += [("overlap", "In two splits")] if releases else []
    return {
        "title": f"Packed dataset: {facts.info['release']}",
        "contents": [*contents, ("images", "Examples")],
        "root": facts.root,
        "packed": facts.info["counts"]["packed"],
        "studies": facts.studies,
        "label_names": [release.name for release in facts.releases],
        "synthetic": dataset.synthetic,
        "dataset": words.dataset(facts),
        "rejects": words.rejects(facts),
        "same_pixels": same_pixels(facts.same),
        "same_pixels_sets": None if facts.same is None else facts.same.sets,  # all of them, for the .json
        "releases": releases,
        "label_releases": said,
        "overlap": words.overlap(facts),
        "asked_for_images": images,
        "examples": _examples(dataset, facts) if images and dataset.sizes else None,
    }


def _release(release: ReleaseFacts, number: int, title: str) -> dict:
    first, *others = words.findings(release) or [None]
    present = np.flatnonzero(np.diag(release.together))
    images = np.diag(release.together)
    table = pd.DataFrame({"finding": release.findings, "images": images, "share": images / len(release.rows)})
    return {
        "name": release.name,
        "title": title,
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
        "by_view": _shown(dataset, _first_of_views(dataset)),
        "release": release and {"name": release.name, "of_images": words.of_images(release)},
        "by_finding": _shown(dataset, _of_findings(release)) if release else [],
    }


def _first_of_views(dataset: PackedDataset) -> list[tuple[int, str]]:
    """The first packed image of every view."""
    views = dataset.catalog["view"].to_numpy()
    firsts = {view: np.flatnonzero((views == view) & dataset.packed)[:1] for view in VIEWS}
    return [(int(rows[0]), view) for view, rows in firsts.items() if len(rows)]


def _of_findings(release: ReleaseFacts) -> list[tuple[int, str]]:
    """Two images of each of the three most and the three least frequent findings that have one; none twice."""
    present = np.flatnonzero(np.diag(release.together)).tolist()
    shown, taken = [], set()
    for place in reversed(dict.fromkeys(present[:HEAD] + present[-TAIL:])):  # the rarest first: its images are few
        rows = [int(row) for row in release.rows[release.positive[:, place]] if int(row) not in taken][:EACH]
        taken.update(rows)
        shown.append([(row, release.findings[place]) for row in rows])
    return [example for finding in reversed(shown) for example in finding]


def _shown(dataset: PackedDataset, examples: Sequence[tuple[int, str]]) -> list[dict]:
    """examples: catalog rows, and why each is shown."""
    columns = ("image_id", "view", "view_position")
    return [
        {
            "why": why,
            **{name: dataset.catalog.iloc[row][name] for name in columns},
            "jpeg": contact_sheet(_rendition(dataset, row)[None, None], columns=1),
        }
        for row, why in examples
    ]


def _rendition(dataset: PackedDataset, row: int) -> np.ndarray:
    """uint8 [S, S] of the smallest size on this disk."""
    stored = dataset.stored(dataset.sizes[0])
    shard = int(stored.shard[row])
    path = stored.paths[shard]
    with stored.open(shard) as file:
        file.seek(int(stored.offset[row]))
        data = file.read(int(stored.length[row]))
    try:
        if stored.raw:
            return np.load(io.BytesIO(data))
        return simplejpeg.decode_jpeg(data, "GRAY", strict=True)[:, :, 0]
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{path}: sample {dataset.key(row)} cannot be decoded ({error}); `cxrdali verify` finds what is damaged"
        ) from error
