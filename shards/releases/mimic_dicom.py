"""MIMIC-CXR 2.0.0 / 2.1.0, the DICOM files, as published on PhysioNet.

files/p10/p10000032/s50414267/<dicom_id>.dcm, and beside files/ cxr-record-list.csv.gz. It has neither labels nor views:
they come from the tables of MIMIC-CXR-JPG and of CXR-LT, where these lie as `shards.releases.mimic` finds them. Without
the table of metadata, views come from the files' headers.
"""

from collections.abc import Sequence

from shards.releases.groups import views
from shards.releases.locate import folders_in, table_in
from shards.releases.mimic import READER as JPG
from shards.releases.mimic import images_of, label_tables, metadata_in
from shards.releases.release import Reader, Release, first_of_each_name
from shards.releases.tags import with_tags
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import are

RECORDS = "cxr-record-list.csv.gz"


def recognises(root: Location) -> bool:
    """Whether the first study's folder has a DICOM and no JPEG; while it has neither, whether the list is there."""
    listed = table_in(root, RECORDS) is not None
    folder = root / "files"
    if not (listed or (storage_of(root).local and metadata_in(root))) or not storage_of(folder).has_folder():
        return False
    for _ in range(3):  # p10, p10000032, s50414267
        folder = next(iter(folders_in(folder)), folder)
    suffixes = {entry.name.lower().rpartition(".")[2] for entry in storage_of(folder).entries()}
    return "jpg" not in suffixes and (listed or "dcm" in suffixes)


def read(root: Location, label_folders: Sequence[Location]) -> Release:
    records = table_in(root, RECORDS)
    metadata = next((path for path in map(metadata_in, (root, *label_folders)) if path is not None), None)
    path = records or metadata
    assert path is not None
    images = images_of(path, "dcm")
    notes: tuple[str, ...] = ()
    if metadata is None:
        images, notes = with_tags(images, root, ("view_position", "sex", "age", "manufacturer", "model"))
        images["view"] = views(images["view_position"])
    elif records:
        known = images_of(metadata, "dcm").set_index("image_id").reindex(images["image_id"])
        images["view"] = known["view"].fillna("other").to_numpy()
        images["view_position"] = known["view_position"].fillna("").to_numpy()
        if missing := int(known["view"].isna().sum()):
            notes = (f"{are(missing, 'image')} not in {metadata.name}: their view is other",)
    labels = READER.labels_at(label_folders, images)
    places = dict.fromkeys((root, metadata.parent if metadata else root))
    labels += [table for folder in places for table in label_tables(folder, images)]
    here = first_of_each_name(table.restricted_to(images["image_id"]) for table in labels)
    inputs = tuple(each for each in (records, metadata) if each)
    return Release(READER.name, root, images, here, inputs, notes=notes)


READER = Reader(
    name="mimic-cxr",
    order=9,  # before MIMIC-CXR-JPG, whose tables may lie beside
    folders=f"a MIMIC-CXR release of DICOMs has {RECORDS} and files/ at its top",
    label_files=JPG.label_files,
    recognises=recognises,
    read=read,
    label_tables=label_tables,
    title="MIMIC-CXR 2.0.0 / 2.1.0, the DICOM files",
    needs=f"{RECORDS} and files/p10/p10000032/s50414267/*.dcm; MIMIC-CXR-JPG's tables for views and labels",
)
