"""The images of a declared release: ids, views, people and paths, one row an image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.declared.fields import IDS, Fields, check_letters, one_value
from shards.releases.declared.schema import Field, Schema
from shards.releases.declared.tables import Stack
from shards.releases.groups import odd_views, views, with_groups
from shards.releases.join import Rows
from shards.releases.locate import image_paths
from shards.releases.paths import near, relative_paths, share_there
from shards.releases.people import PEOPLE
from shards.releases.tags import with_tags
from shards.releases.values import check_filled, splits
from shards.storage.location import Location
from shards.words import are, counted

_INVERTED = {
    **dict.fromkeys(("1", "true", "yes", "monochrome1"), "1"),
    **dict.fromkeys(("0", "false", "no", "monochrome2", ""), "0"),
}
SHOWN = 3  # paths that a message lists


@dataclass(frozen=True)
class ImageRows:
    """The images of a release: frame has image_id, perhaps split, and what is known else.

    stack: their tables, of which `first` (int64 [images]) is the first row of each; None of images that are packed.
    """

    frame: pd.DataFrame
    stack: Stack | None = None
    first: np.ndarray | None = None

    def text(self, name: str) -> pd.Series:
        """A field of the images, or a column of their table."""
        if name in self.frame:
            return self.frame[name]
        if self.stack is None:
            raise UserError(
                f"labels are joined by {name}, which packed images do not have; put the release's own tables beside"
            )
        return self.stack.column(name).iloc[self.first].reset_index(drop=True)


def read_images(schema: Schema, stack: Stack) -> tuple[ImageRows, Fields, list[str]]:
    """Ids and what else the tables say of every image, without paths; and notes."""
    if not len(stack.frame) and stack.notes:
        raise UserError(f"{stack.files[0][0]}: no image is left; {'; '.join(stack.notes)}")
    check_filled(stack.frame, stack.files[0][0])
    given = dict(schema.images.given)
    if "split" not in given and "split" in stack.frame:  # a constant of its tables
        given["split"] = Field(column="split")
    fields = Fields(stack, given, may_lack=tuple(name for name in schema.images.tags if name in IDS))
    image = fields.text("image_id")
    rows = Rows.by(image, stack.files[0][0])
    frame, notes = pd.DataFrame(index=range(len(rows.first))), list(stack.notes)
    for name in given:
        values = fields.text(name)
        if name == "split":
            values = stack.each_file(values, lambda part, path: splits(part, path))
        if name == "inverted":
            wrong = "is not 1, 0, MONOCHROME1 or MONOCHROME2: give it `words`"
            values = fields.mapped(values, lambda text: _INVERTED.get(text.lower()), "inverted", wrong)
        frame[name] = one_value(stack, rows, values, image, name)
    if rows.are_joined:
        notes.append(f"{counted(len(image), 'row')} of {counted(len(rows.first), 'image')}")
    return ImageRows(frame, stack, rows.first), fields, notes


def finished(schema: Schema, rows: ImageRows, fields: Fields, root: Location) -> tuple[pd.DataFrame, list[str]]:
    """The images as a release has them, with their paths and what is read from headers; and notes."""
    images = rows.frame.drop(columns="split", errors="ignore")
    images["path"], notes = _paths(schema, rows, fields, root)
    for name, read in PEOPLE.items():
        if name in images:
            images[name], said = read(images[name])
            notes += said
    if schema.images.tags:
        images, said = with_tags(images, root, schema.images.tags)
        notes += said
    subject, study, said = with_groups(
        images["image_id"], images.get("study_id"), images.get("subject_id"), ("study_id", "subject_id")
    )
    notes += said
    images = images.assign(study_id=study, subject_id=subject)
    if "view_position" in images:
        images["view"] = views(images["view_position"], schema.views.frontal, schema.views.lateral)
        notes += odd_views(images["view_position"], images["view"])
    else:
        images = images.assign(view="other", view_position="")
        notes.append("no view_position: every view is other")
    if "inverted" in images:
        images["inverted"] = images["inverted"] == "1"
        notes.append(f"{are(images['inverted'].sum(), 'image')} MONOCHROME1 and inverted")
    return images, notes


def _paths(schema: Schema, rows: ImageRows, fields: Fields, root: Location) -> tuple[pd.Series, list[str]]:
    """Where the images are: by the first declared path under which most of those that were looked for are there."""
    assert rows.stack is not None and rows.first is not None
    stack, file = rows.stack, rows.stack.files[0][0]
    if schema.images.search:
        names = fields.made(schema.images.paths[0], "search").iloc[rows.first].reset_index(drop=True)
        return image_paths(root, names, file, schema.images.depth), []
    best: tuple[float, pd.Series, list[str]] | None = None
    tried = []
    for field in schema.images.paths:
        of_rows = fields.made(field, "path")
        check_letters(stack, of_rows, field.column or "path")
        texts = of_rows.iloc[rows.first].reset_index(drop=True)
        if (blank := (texts == "").to_numpy()).all():
            continue
        if blank.any():
            raise stack.refuse(
                int(rows.first[blank.argmax()]), f"{field.column or 'path'!r} is blank, and every image needs its file,"
            )
        paths, said = relative_paths(texts, root)
        share = share_there(paths, root)
        tried.append(paths.iloc[0])
        if share > (best[0] if best else 0.0):
            note = [f"paths: {field.template or field.column}"] if len(schema.images.paths) > 1 else []
            best = share, paths, [*said, *note]
        if share > 0.5:
            break
    if best is None:
        more = f" and {len(tried) - SHOWN:,} more" if len(tried) > SHOWN else ""
        places = ", ".join(map(repr, tried[:SHOWN])) + more
        raise UserError(
            f"{file}: none of the files that were looked for is in {root}, such as {places}"
            f"{near(root, tried[0]) if tried else ''}; give the folder that the paths start from with --source"
        )
    return best[1], best[2]
