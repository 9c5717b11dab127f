"""MIMIC-CXR-JPG 2.0.0 / 2.1.0 as published on PhysioNet, with its own labels and those of CXR-LT.

files/p10/p10000032/s50414267/<dicom_id>.jpg, and beside files/, or in a folder there, the tables
mimic-cxr-2.0.0-*.csv.gz (2.1.0 kept the names). The CheXpert and NegBio labels are per study and repeat on every image
of the study; their split is the official one, of which `validate` is called dev here, as in every label table.
"""

from collections.abc import Sequence

import pandas as pd

from shards.errors import UserError
from shards.releases import cxrlt
from shards.releases.ids import ids
from shards.releases.locate import folders_in, table_in
from shards.releases.release import LabelTable, Reader, Release, first_of_each_name, image_table
from shards.releases.values import check_filled, check_index, finding_table, image_index, rows_of, splits
from shards.storage.csv import read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import counted

# of every table its names, the published one first
METADATA, SPLIT, CHEXPERT, NEGBIO = (
    tuple(f"mimic-cxr-{version}-{what}.csv.gz" for version in ("2.0.0", "2.1.0"))
    for what in ("metadata", "split", "chexpert", "negbio")
)
OWN_LABELS = {"chexpert": CHEXPERT, "negbio": NEGBIO}

FRONTAL = ("AP", "PA")
LATERAL = ("LATERAL", "LL", "XTABLE LATERAL")


def recognises(root: Location) -> bool:
    return metadata_in(root) is not None


def read(root: Location, label_folders: Sequence[Location]) -> Release:
    path = metadata_in(root)
    assert path is not None
    images = images_of(path)
    # before those in the release: the first table is the default
    labels = READER.labels_at(label_folders, images)
    labels += cxrlt.find(root) + _own_labels(path.parent, images)
    here = first_of_each_name(table.restricted_to(images["image_id"]) for table in labels)
    return Release(READER.name, root, images, here, (path,))


def label_tables(folder: Location, images: pd.DataFrame | None) -> list[LabelTable]:
    assert images is not None  # findings are of studies, and repeat on their images
    return cxrlt.find(folder) + _own_labels(folder, images)


def metadata_in(root: Location) -> Location | None:
    """The table, in the folder or, beside files/, in a folder below it."""
    found = table_in(root, *METADATA)
    if found or not storage_of(root).local or not storage_of(root / "files").has_folder():
        return found
    return next((found for folder in folders_in(root) if (found := table_in(folder, *METADATA))), None)


def images_of(path: Location, suffix: str = "jpg") -> pd.DataFrame:
    """The images of a table with their views, if it has any, and the paths of their files with this suffix."""
    table = read_table(path, ("dicom_id", "subject_id", "study_id", *(["ViewPosition"] if suffix == "jpg" else [])))
    subject = ids(table, "subject_id", path, prefix="p")
    study = ids(table, "study_id", path, prefix="s")
    image = ids(table, "dicom_id", path)
    position = table["ViewPosition"].str.strip() if "ViewPosition" in table else pd.Series("", table.index)
    images = image_table(image, study, subject, position, FRONTAL, LATERAL)
    images["path"] = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + image + "." + suffix
    check_filled(images, path)
    image_index(image, path)
    return images


def _own_labels(root: Location, images: pd.DataFrame) -> list[LabelTable]:
    present = {name: path for name, files in OWN_LABELS.items() if (path := table_in(root, *files))}
    if not present:
        return []
    split_path = table_in(root, *SPLIT) or root / SPLIT[0]
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
            raise UserError(
                f"{path}: none of its {counted(len(values), 'study')} is in the release; give its own labels"
            )
        per_image = values.reindex(images["study_id"]).set_index(pd.Index(images["image_id"], name="image_id"))
        per_image.insert(0, "split", split.reindex(per_image.index))
        tables.append(LabelTable(name, tuple(findings), per_image, (path, split_path)))
    return tables


READER = Reader(
    name="mimic-cxr-jpg",
    order=10,
    folders=f"a MIMIC-CXR-JPG release has {METADATA[0]} and files/ at its top",
    label_files=f"{cxrlt.EXPECTED}, cxr-lt-2023/, cxr-lt-2024/ or {CHEXPERT[0]}",
    recognises=recognises,
    read=read,
    label_tables=label_tables,
    title="MIMIC-CXR-JPG 2.0.0 / 2.1.0",
    needs=f"{METADATA[0]} and files/p10/p10000032/s50414267/*.jpg; labels of CXR-LT here or by --labels",
)
