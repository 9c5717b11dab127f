"""What was counted as one self-contained page, with the report's pieces and a heat map of findings."""

import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrdali.report.dataset import pictures, words
from cxrdali.report.dataset.facts import DatasetFacts, ReleaseFacts
from cxrdali.report.dataset.words import Block, Table
from cxrdali.report.kit import html as page
from cxrdali.report.kit import svg as plots
from cxrdali.report.kit.html import Html, count, join, missing, paragraph
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.places import storage_of

SHADES = 10


def check_writable(out: Path, pack: Path) -> None:
    """Raises UserError if the page cannot be written to `out`, before any work; the dataset's own folder is refused."""
    if storage_of(pack).contains(out):
        raise UserError(f"{out}: inside the packed dataset, whose files it could replace; give another --html")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --html")
    if out.is_dir():
        raise UserError(f"{out}: a folder; give the name of a file with --html")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be written to ({error.strerror}); give another --html") from error


def write_page(out: Path, dataset: PackedDataset, facts: DatasetFacts, *, images: bool = False) -> Path:
    """Write the page to `out` and return it. Pictures of patients only with `images`.

    Raises UserError naming shard and key for a picture that cannot be decoded.
    """
    write_bytes(out, render(dataset, facts, images).encode())
    return out


def render(dataset: PackedDataset, facts: DatasetFacts, images: bool) -> Html:
    sections = [("dataset", "Dataset", _blocks(words.dataset(facts)))]
    sections.append(("rejects", "Rejects", _blocks(words.rejects(facts))))
    for number, release in enumerate(tqdm(facts.releases, "drawing", unit=" label releases", delay=1)):
        default = " (the default)" if release.name == facts.info["default_labels"] else ""
        sections.append((f"labels-{number}", f"Labels {release.name}{default}", _release(release, number)))
    if said := words.label_releases(facts):
        sections.append(("labels", "Label releases", join(*map(missing, said))))
    if facts.releases:
        sections.append(("overlap", "In two splits", _blocks(words.overlap(facts))))
    sections.append(("images", "Examples", _examples(dataset, facts, images)))
    title = f"Packed dataset: {facts.info['release']}"
    header = join(
        Html(f"<h1>{page.safe(title)}</h1>"),
        paragraph(
            f"What {facts.root} holds. Everything is counted over packed images, unless it says planned.", "soft"
        ),
        page.medical_images("patients") if images and dataset.sizes else None,
        page.navigation({anchor: title for anchor, title, _ in sections}),
    )
    *main, last = [page.section(*section) for section in sections]
    return page.document(title, header, join(*main), last, STYLE)


def _blocks(blocks: Sequence[Block]) -> Html:
    return join(*map(_block, blocks))


def _block(block: Block) -> Html:
    if isinstance(block, Table):
        return page.table(block.caption, block.columns, block.rows, kind=block.kind)
    return paragraph(block)


def _release(release: ReleaseFacts, number: int) -> Html:
    first, *others = words.findings(release) or [None]
    present = np.diag(release.together) > 0
    return join(
        _blocks(words.splits(release)),
        _frequencies(release, number) if present.any() else None,
        page.details(f"Every finding of {release.name} by split", _block(first)) if first else None,
        *map(_block_in_details, others),
        page.heading("Findings in the same image") if present.sum() > 1 else None,
        _heat_map(release, np.flatnonzero(present)) if present.sum() > 1 else None,
        _blocks(words.together(release)),
    )


def _block_in_details(block: Block) -> Html:
    return page.details(block.caption, _block(block)) if isinstance(block, Table) else paragraph(block, "soft")


def _frequencies(release: ReleaseFacts, number: int) -> Html:
    images = np.diag(release.together)
    table = pd.DataFrame(
        {"finding": release.findings, "images": images, "share": images / len(release.rows)},
    )
    return page.figure(
        plots.svgs(plots.label_frequencies(table), f"frequencies-{number}"),
        f"Bar chart of images per finding of {release.name}, most frequent first; the table below has the numbers.",
        f"Images with each finding of {release.name}, most frequent first, on a logarithmic axis; "
        f"of {words.of_images(release)}. An image counts for every finding it has.",
    )


def _heat_map(release: ReleaseFacts, shown: np.ndarray) -> Html:
    """P(column | row) of the findings that have an image, as a table whose cells are shaded."""
    together, names = release.together, release.findings
    rows = [
        (names[row], count(together[row, row]), *(_cell(release, row, column) for column in shown)) for row in shown
    ]
    columns = ("Of the images with", *(_upright(name) for name in ("images", *(names[place] for place in shown))))
    off = np.where(np.eye(len(together), dtype=bool), 0, together)
    row, column = np.unravel_index(off.argmax(), off.shape)
    example = (
        f" For example, of the {count(together[row, row])} images with {names[row]}, "
        f"{_whole(together[row, column] / together[row, row])} % have {names[column]} too."
    )
    return join(
        paragraph(
            f"Per cent of a row's images that have the column's finding too, over the {words.of_images(release)}; "
            f"empty: not one.{example if off.any() else ''}"
        ),
        page.table(f"Per cent of a row's images that have the column's finding, {release.name}", columns, rows, "heat"),
    )


def _upright(name: str) -> Html:
    return Html(f"<span>{page.safe(name)}</span>")


def _cell(release: ReleaseFacts, row: int, column: int) -> Html:
    images, of = int(release.together[row, column]), int(release.together[row, row])
    if row == column:
        return Html('<span class="self"></span>')
    if not images:
        return Html("<span></span>")
    said = html.escape(f"{release.findings[row]} and {release.findings[column]}: {words.images(images)}")
    return Html(f'<span class="h{-(-SHADES * images // of)}" title="{said}">{_whole(images / of)}</span>')


def _whole(part: float) -> str:
    """Per cent without a digit after the point; what is there but rounds to nothing is <1, and 100 is all."""
    return "<1" if part < 0.005 else "99" if 0.99 < part < 1 else f"{part * 100:.0f}"


def _examples(dataset: PackedDataset, facts: DatasetFacts, images: bool) -> Html:
    if not images:
        return missing(
            "Images are left out, because a page may travel further than its data; ask for them with `--images`."
        )
    if not dataset.sizes:
        return missing("No size folder of this dataset is on this disk, so no image can be shown.")
    parts = [page.heading("By view"), _gallery(dataset, facts, pictures.by_view(dataset))]
    if facts.releases:
        release = facts.releases[0]
        examples = pictures.by_finding(dataset, release)
        of = f"the most and the least frequent findings of {release.name}, among {words.of_images(release)}"
        parts += [page.heading("By finding"), paragraph(f"Images with {of}.", "soft")]
        parts.append(_gallery(dataset, facts, examples) if examples else missing("No image has a finding."))
    return join(paragraph(f"As stored at {dataset.sizes[0]} px, the smallest size on this disk.", "soft"), *parts)


def _gallery(dataset: PackedDataset, facts: DatasetFacts, examples: Sequence[pictures.Example]) -> Html:
    shown = []
    for example in examples:
        at = dataset.catalog.iloc[example.row]
        view = [] if example.why == at["view"] else [at["view"]]
        taken = page.safe(", ".join(filter(None, [*view, at["view_position"]])))
        shown.append(
            page.picture(
                plots.contact_sheet(example.pixels[None, None], columns=1),
                f"{example.why}, image {at['image_id']}",
                Html(f"{page.bold(example.why)}<br>{taken}<br><small>{page.safe(at['image_id'])}</small>"),
            )
        )
    return Html(f'<div class="gallery">{join(*shown)}</div>')


def _shade(step: int) -> str:
    """White to the page's accent; dark enough for white letters from the eighth of ten steps."""
    part = step / SHADES
    red, green, blue = (round(255 + (end - 255) * part) for end in (11, 83, 148))
    return f".heat .h{step} {{ background: rgb({red}, {green}, {blue}); {'color: #fff;' if part >= 0.8 else ''} }}"


# The box scrolls both ways, so that the names on top and at the left stay in sight.
STYLE = (
    """
.scroll:has(> .heat) { max-height: 92vh; overflow: auto; }
.heat { min-width: 0; font-size: .8rem; }
.heat th, .heat td { padding: 0; border: 0 !important; }
.heat tbody th { padding: .1rem .5rem .1rem 0; min-width: 8.5rem; max-width: 13rem; line-height: 1.15; }
.heat tbody td:nth-child(2) { padding: 0 .5rem; }
.heat thead th { position: sticky; top: 0; z-index: 1; background: #fff; min-width: 0; padding-bottom: .35rem; }
.heat thead th:first-child { z-index: 2; font-weight: 400; }
.heat thead span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block; max-height: 14rem;
  white-space: nowrap; font-weight: 400; line-height: 1.9rem; overflow: hidden; }
.heat td span { display: block; width: 1.9rem; height: 1.6rem; line-height: 1.6rem; margin: 1px; text-align: center;
  background: #f6f8fa; }
.heat td .self { background: repeating-linear-gradient(45deg, #d0d7de 0 2px, #fff 2px 5px); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
.gallery figure { margin: 0; }
.gallery figcaption { overflow-wrap: anywhere; line-height: 1.35; }
@media screen and (max-width: 700px) {
  .heat tbody th { min-width: 6.5rem; max-width: 7.5rem; }
}
@media print {
  .scroll:has(> .heat) { max-height: none; }
  .heat { font-size: 6pt; }
  .heat td span, .heat td { print-color-adjust: exact; }
  .heat td span { width: 1.3rem; height: 1.1rem; line-height: 1.1rem; }
}
"""
    + "\n".join(map(_shade, range(1, SHADES + 1)))
    + "\n"
)
