"""The folders and tables in which a synthetic release lies: MIMIC-CXR-JPG's, ChestX-ray14's, or a hospital's own."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from shards.releases import nih
from shards.synthetic.copies import write_options
from shards.synthetic.hospital import MIMIC, NIH, OWN
from shards.synthetic.plan import Image, Study, SyntheticOptions, study_day
from shards.synthetic.tables import METADATA, split_subjects, write_csv, write_gzip, write_mimic

QUALITY = 95  # JPEG quality of MIMIC-CXR-JPG
OWN_TABLE = "films.csv"
OWN_DECLARATION = "release.toml"  # by which a layout of its own is read
COPIES = "synthetic-copies.csv"  # which images are another release's; no reader reads it
NO_FINDING = "No Finding"
FOURTEEN = [name for name in nih.FINDINGS if name != NO_FINDING]


class Layout(NamedTuple):
    """path: of an image in the release; encoded: a picture as the file's bytes; write: the tables; last: the one that
    makes the folder a release."""

    path: Callable[[Study, Image], str]
    encoded: Callable[[np.ndarray], bytes]
    write: Callable[[Path, SyntheticOptions, list[Study]], None]
    last: str


def layout_of(options: SyntheticOptions) -> Layout:
    return LAYOUTS[options.hospital.layout if options.hospital else MIMIC]


def write_tables(out: Path, options: SyntheticOptions, studies: list[Study]) -> None:
    """The layout's tables; of a hospital also what it was made with, and which images are another release's."""
    layout_of(options).write(out, options, studies)
    if options.hospital:
        write_options(out, options)
        pairs = [
            {"image_id": image.dicom_id, "copy_of": study.copy.study.images[number].dicom_id}
            for study in studies
            if study.copy
            for image, number in zip(study.images, study.copy.images, strict=True)
        ]
        write_csv(out / COPIES, pairs, ("image_id", "copy_of"))


def _jpeg(picture: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(picture[..., None], quality=QUALITY, colorspace="GRAY", fastdct=False)


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def _write_mimic(out: Path, options: SyntheticOptions, studies: list[Study]) -> None:
    """MIMIC-CXR-JPG's tables; of a hospital also MIMIC-IV's patients."""
    write_mimic(out, options, studies)
    first = {study.subject_id: study for study in reversed(studies)}
    patients = [
        {
            "subject_id": subject,
            "gender": study.sex,
            "anchor_age": study.age,
            "anchor_year": study_day(options.key, study).year,
            "anchor_year_group": "2014 - 2016",
            "dod": "",
        }
        for subject, study in sorted(first.items())
    ]
    if options.hospital:
        write_gzip(out / "patients.csv.gz", patients)


def _write_nih(out: Path, options: SyntheticOptions, studies: list[Study]) -> None:
    """ChestX-ray14's table and lists. No Finding is none of its other findings, whatever else the picture shows."""
    names = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
    split = split_subjects(options.key, "2023", studies[-1].subject + 1)
    rows = []
    for study in studies:
        present = [name for name in FOURTEEN if names.get(name, name) in study.findings]
        about = {
            nih.LABELS: "|".join(present) or NO_FINDING,
            nih.FOLLOW_UP: study.ordinal,
            nih.PATIENT: study.subject_id,
            "Patient Age": study.age,
            "Patient Sex": study.sex,
            nih.VIEW: "AP" if study.portable else "PA",
        }
        rows += [{nih.IMAGE: image.dicom_id, **about} for image in study.images]
    write_csv(out / nih.ENTRIES["chestx-ray14-v2020"], rows, tuple(rows[0]))
    for name, test in ((nih.LISTS["train"], False), (nih.LISTS["test"], True)):
        images = [each.dicom_id for study in studies if (split[study.subject] == 2) == test for each in study.images]
        (out / name).write_text("".join(f"{image}\n" for image in images))


def _write_own(out: Path, options: SyntheticOptions, studies: list[Study]) -> None:
    """One table with the hospital's own names of findings, and the declaration that reads it."""
    assert options.hospital is not None
    named = options.hospital.findings
    split = split_subjects(options.key, "2023", studies[-1].subject + 1)
    rows = []
    for study in studies:
        present = study.findings & {*named.values()} or {NO_FINDING}
        about = {
            "exam": f"e{study.study_id}",
            "patient": f"n{study.subject_id}",
            "sex": study.sex,
            "age": study.age,
            "manufacturer": study.scanner.manufacturer if study.scanner else "",
            "model": study.scanner.model if study.scanner else "",
            "fold": ("train", "dev", "test")[split[study.subject]],
            **{name: int(finding in present) for name, finding in named.items()},
        }
        rows += [{"film": image.dicom_id, "view": image.view, **about} for image in study.images]
    write_csv(out / OWN_TABLE, rows, tuple(rows[0]))
    (out / OWN_DECLARATION).write_text(files(__package__).joinpath("own.toml").read_text("utf-8"))


LAYOUTS = {
    MIMIC: Layout(lambda study, image: f"{study.folder}/{image.dicom_id}.jpg", _jpeg, _write_mimic, METADATA),
    NIH: Layout(lambda _, image: f"images/{image.dicom_id}", _png, _write_nih, nih.ENTRIES["chestx-ray14-v2020"]),
    OWN: Layout(lambda _, image: f"films/{image.dicom_id}.jpg", _jpeg, _write_own, OWN_TABLE),
}
