"""Small copies of releases as they lie on disk, and what was read of them in a form that is easily written by hand."""

import bz2
import csv
import gzip
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.releases.release import Release
from shards.renditions.options import Size
from tests.releases import jpeg

SIDE = 32  # pixels of an image, so that packing at this size resizes nothing
OPTIONS = PackOptions(sizes=(Size(SIDE, raw=True),), shard_images=16)
PACK = {".gz": gzip.compress, ".bz2": bz2.compress}


def write_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """A table or JSON of this text, without indentation and empty lines; compressed if named .gz, .bz2 or .zip."""
    lines = (line.strip(" ") for line in text.splitlines())
    data = "".join(f"{line}\n" for line in lines if line).encode(encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.stem, data)
    else:
        path.write_bytes(PACK.get(path.suffix, bytes)(data))
    return path


def saved_by_excel(path: Path) -> Path:
    """The same CSV as a spreadsheet with decimal commas saves it: semicolons, 1,0 for 1.0, and a byte order mark."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [[re.sub(r"^(-?[0-9]+)\.(0+)$", r"\1,\2", cell) for cell in row] for row in csv.reader(file)]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    return path


def picture(number: int, bits: int = 8) -> np.ndarray:
    """uint8 or uint16 [SIDE, SIDE]: 16 grays from 0 to white in an order of its own.

    Each gray fills one of JPEG's blocks, which keeps it exactly; of 16 bits or 12, a window of all values makes the
    picture of 8 bits.
    """
    grays = np.random.default_rng(number).permutation(16).reshape(4, 4) * ((2**bits - 1) // 15)
    return np.kron(grays, np.ones((SIDE // 4, SIDE // 4))).astype(np.uint8 if bits == 8 else np.uint16)


def write_images(root: Path, *paths: str, first: int = 0, bits: int = 8) -> None:
    """An image at each path below `root`, of the kind of its suffix: the first is `picture(first)`, and so on."""
    for number, path in enumerate(paths, first):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, bits)).save(file, quality=95)


def write_dicom(path: Path, number: int, photometric: str = "MONOCHROME2", bits: int = 12, **tags: object) -> None:
    """`picture(number)` without compression, or of 8 bits as a JPEG; tags by their keywords (None: without it)."""
    pytest.importorskip("pydicom")
    from pydicom.uid import JPEGBaseline8Bit

    from tests.dicom_files import dicom, framed

    pixels, tags = picture(number, bits), {"PhotometricInterpretation": photometric, **tags}
    data = framed(jpeg(pixels), pixels, bits, JPEGBaseline8Bit, **tags) if bits == 8 else dicom(pixels, bits, **tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def images_of(release: Release, *columns: str) -> dict[str, tuple[str, ...]]:
    """What was read of each image, in the order of the release: {image_id: its values in these columns}."""
    rows = release.images[["image_id", *columns]].itertuples(index=False)
    return {image: tuple(values) for image, *values in rows}


def labels_of(release: Release, name: str | None = None) -> dict[str, tuple[str, str]]:
    """{image_id: (split, a sign per finding)} of a label release (the only one): 1, 0, ? uncertain, . unknown."""
    (labels,) = (each for each in release.labels if name in (None, each.name))
    table = labels.table
    findings = table[list(labels.findings)].astype(object).itertuples(index=False)
    signs = ["".join("." if pd.isna(value) else {1: "1", 0: "0", -1: "?"}[value] for value in row) for row in findings]
    splits = table["split"].astype(object).where(table["split"].notna(), "")
    return dict(zip(table.index, zip(splits, signs, strict=True), strict=True))


def packed(release: Release, out: Path) -> tuple[PackedDataset, dict[str, np.ndarray]]:
    """The release packed at SIDE pixels, and uint8 [SIDE, SIDE] of each image that was not rejected."""
    pack(release, out, OPTIONS, limits=PackLimits(max_reject_fraction=1.0))
    dataset = PackedDataset.open(out)
    stored, ids = MappedSize(dataset.stored(SIDE)), dataset.catalog["image_id"]
    rows = {ids[row]: np.array([row]) for row in np.flatnonzero(dataset.packed)}
    return dataset, {image: stored.pixels(row)[0][:, :, 0].copy() for image, row in rows.items()}


def numbers_of(pixels: dict[str, np.ndarray], most: int = 64) -> dict[str, int | None]:
    """Which `picture` each image is: its number, ~number if inverted, None if none of the first `most` exactly."""
    known = {picture(number).tobytes(): number for number in range(most)}
    known |= {(255 - picture(number)).tobytes(): ~number for number in range(most)}
    return {image: known.get(values.tobytes()) for image, values in pixels.items()}
