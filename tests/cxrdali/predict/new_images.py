"""Image files of every kind that packing converts, packed with labels, and a run that says how they were packed."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pydicom.uid import RLELossless

from cxrdali.predict.rendering import without_suffix
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import pixels
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.releases.columns import Columns
from shards.releases.table import open_table
from tests.dicom_files import dicom
from tests.image_files import with_segments
from tests.releases import jpeg, smooth_image

TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
NEGATIVE = {"PhotometricInterpretation": "MONOCHROME1", "StudyInstanceUID": "1.2.3", "ViewPosition": "PA"}


def png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", image)
    assert done
    return data.tobytes()


def write_images(folder: Path) -> list[str]:
    """Their names: gray, narrow, large and turned JPEGs, PNGs of 8 and 16 bits, in colour and with transparency,
    DICOMs of 12 bits, one MONOCHROME1 and one compressed and without a suffix."""
    rng = np.random.default_rng(0)
    gray = [smooth_image(rng, height, width) for height, width in ((150, 120), (300, 90), (700, 560), (131, 200))]
    colour = np.dstack([gray[0], gray[0][::-1], gray[0]])
    twelve = (gray[1].astype(np.uint16) << 4) + rng.integers(0, 16, gray[1].shape, dtype=np.uint16)
    files = {
        "gray.jpg": jpeg(gray[0]),
        "narrow.jpg": jpeg(gray[1]),
        "large.jpg": jpeg(gray[2]),
        "turned.jpg": with_segments(jpeg(gray[3]), (0xE1, TURNED)),
        "colour.jpg": cv2.imencode(".jpg", colour)[1].tobytes(),
        "eight.png": png(gray[3]),
        "twelve.png": png(twelve),
        "sixteen.png": png(gray[3].astype(np.uint16) * 257),
        "seen-through.png": png(np.dstack([gray[0]] * 3 + [np.where(gray[0] > 99, 255, 60).astype(np.uint8)])),
        "deep.dcm": dicom(twelve, 12),
        "negative.dcm": dicom(twelve, 12, **NEGATIVE),
        "1.2.840.7": dicom(twelve[::-1].copy(), 12, RLELossless),
    }
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return list(files)


def packed(folder: Path, out: Path, **options) -> PackedDataset:
    """The images of a folder packed under their names, with a finding that every second one has."""
    names = sorted(path.name for path in folder.iterdir())
    table = pd.DataFrame({"id": [without_suffix(name) for name in names], "file": names})
    table = table.assign(patient=table["id"], Mass=[place % 2 for place in range(len(names))])
    out.mkdir()
    table.to_csv(out / "table.csv", index=False)
    columns = Columns("id", "Mass", path="file", subject="patient")
    release = open_table(out / "table.csv", columns, folder)
    pack(release, out / "pack", PackOptions(**options), limits=PackLimits(max_reject_fraction=1))
    return PackedDataset.open(out / "pack")


def run_on(dataset: PackedDataset, size: int) -> Run:
    """A run on all of a dataset, as far as config.json says it."""
    known = {"id": dataset.id, **pixels(dataset, np.flatnonzero(dataset.packed), size)}
    settings = settings_of(stage=1, size=size, batch=4, arch="test_efficientnet", pretrained=False)
    config = {"dataset": known, "settings": settings.as_json(), "findings": ["Mass"], "labels": {"name": "table"}}
    return Run(Path("runs/a"), config, "a")


def trained(dataset: PackedDataset, out: Path, **changes) -> Path:
    """A run of a step, with weights of chance."""
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_efficientnet", "pretrained": False}
    train(settings_of(**{**given, "device": "cpu", "limit_batches": 2, **changes}), dataset, out)
    return out
