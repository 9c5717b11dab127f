"""MIMIC-CXR-JPG 2.0.0 / 2.1.0 as published on PhysioNet, with its own labels and those of CXR-LT.

files/p10/p10000032/s50414267/<dicom_id>.jpg, and beside files/ the tables mimic-cxr-2.0.0-*.csv.gz (2.1.0
kept the names). The CheXpert and NegBio labels are per study and repeat on every image of the study; their
split is the official one, of which `validate` is called dev here, as in every label table.
"""

from collections.abc import Sequence

import pandas as pd

from shards.errors import UserError
from shards.releases import cxrlt
from shards.releases.release import LabelTable, Reader, Release, first_of_each_name, image_table
from shards.releases.values import check_filled, check_index, finding_table, ids, image_index, rows_of, splits
from shards.storage.csv import read_table
from shards.storage.location import Location
from shards.storage.places import storage_of

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"
SPLIT = "mimic-cxr-2.0.0-split.csv.gz"
OWN_LABELS = {"chexpert": "mimic-cxr-2.0.0-chexpert.csv.gz", "negbio": "mimic-cxr-2.0.0-negbio.csv.gz"}

FRONTAL = ("AP", "PA")
LATERAL = ("LATERAL", "LL", "XTABLE LATERAL")


def recognises(root: Location) -> bool:
    return storage_of(root / METADATA).exists()


def read(root: Location, label_folders: Sequence[Location]) -> Release:
    images = _images(root)
    # before those in the release: the first table is the default
    labels = [table for folder in label_folders for table in READER.labels_in(folder, images)]
    labels += label_tables(root, images)
    here = first_of_each_name(table.restricted_to(images["image_id"]) for table in labels)
    return Release(READER.name, root, images, here, (root / METADATA,))


def label_tables(folder: Location, images: pd.DataFrame | None) -> list[LabelTable]:
    assert images is not None  # findings are of studies, and repeat on their images
    return cxrlt.find(folder) + _own_labels(folder, images)


def _images(root: Location) -> pd.DataFrame:
    path = root / METADATA
    table = read_table(path, ("dicom_id", "subject_id", "study_id", "ViewPosition"))
    subject = ids(table, "subject_id", path, prefix="p")
    study = ids(table, "study_id", path, prefix="s")
    image = ids(table, "dicom_id", path)
    images = image_table(image, study, subject, table["ViewPosition"].str.strip(), FRONTAL, LATERAL)
    images["path"] = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + image + ".jpg"
    check_filled(images, path)
    image_index(image, path)
    return images


def _own_labels(root: Location, images: pd.DataFrame) -> list[LabelTable]:
    present = {name: root / file for name, file in OWN_LABELS.items() if storage_of(root / file).exists()}
    if not present:
        return []
    split_path = root / SPLIT
    rows = read_table(split_path, ("dicom_id", "split"))
    split = splits(rows["split"], split_path)
    split.index = ids(rows, "dicom_id", split_path)
    check_index(split.index, split_path, "image")
    tables = []
    for name, path in present.items():
        table = read_table(path, ("study_id",))
        findings = [c for c in table.columns if c not in ("subject_id", "study_id")]
        values = finding_table(table, findings, path, pd.Index(ids(table, "study_id", path, prefix="s")))
        check_index(values.index, path, "study_id")
        if not (rows_of(values.index, images["study_id"]) >= 0).any():
            raise UserError(f"{path}: none of its {len(values):,} studies is in the release; give its own labels")
        per_image = values.reindex(images["study_id"]).set_index(pd.Index(images["image_id"], name="image_id"))
        per_image.insert(0, "split", split.reindex(per_image.index))
        tables.append(LabelTable(name, tuple(findings), per_image, (path, split_path)))
    return tables


READER = Reader(
    name="mimic-cxr-jpg",
    order=10,
    folders=f"a MIMIC-CXR-JPG release has {METADATA} and files/ at its top",
    label_files=f"{cxrlt.EXPECTED}, cxr-lt-2023/, cxr-lt-2024/ or {OWN_LABELS['chexpert']}",
    recognises=recognises,
    read=read,
    label_tables=label_tables,
)
