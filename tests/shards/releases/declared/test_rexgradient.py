"""ReXGradient-160K: a JSON a split with lists of images and views a study, and no labels."""

import json

from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, numbers_of, packed, write_images, write_text

UID = "1.2.826.0.1.3680043.8.498"
COLUMNS = ("study_id", "subject_id", "view", "view_position", "sex", "age")
# study -> patient, accession, sex, age, views: None is a study without them
STUDIES = {
    "train": {
        f"{UID}.101": ("GRDN0A", "GRDN1A", "F", "067Y", ["PA", "LATERAL"]),
        f"{UID}.102": ("GRDN0A", "GRDN1B", "F", "068Y", ["POSTERO_ANTERIOR"]),
        f"{UID}.103": ("GRDN0B", "GRDN1C", "M", "018M", [None, "UNKNOWN", "LAO"]),
    },
    "valid": {f"{UID}.201": ("GRDN0C", "GRDN1D", "U", "", None)},
    "test": {
        f"{UID}.301": ("GRDN0D", "GRDN1E", "M", "089Y", ["AP"]),
        f"{UID}.302": ("GRDN0D", "GRDN1F", "M", "089Y", []),
    },
}
IMAGES = {
    f"{UID}.1001": (f"{UID}.101", "GRDN0A", "frontal", "PA", "F", "67"),
    f"{UID}.1002": (f"{UID}.101", "GRDN0A", "lateral", "LATERAL", "F", "67"),
    f"{UID}.1003": (f"{UID}.102", "GRDN0A", "frontal", "POSTERO_ANTERIOR", "F", "68"),
    f"{UID}.1004": (f"{UID}.103", "GRDN0B", "other", "", "M", "1.5"),
    f"{UID}.1005": (f"{UID}.103", "GRDN0B", "other", "UNKNOWN", "M", "1.5"),
    f"{UID}.1006": (f"{UID}.103", "GRDN0B", "other", "LAO", "M", "1.5"),
    f"{UID}.1007": (f"{UID}.201", "GRDN0C", "other", "", "", ""),
    f"{UID}.1008": (f"{UID}.301", "GRDN0D", "frontal", "AP", "M", "89"),
}


def write(root):
    """Also the tables beside them, a row a study without any path, which are not read."""
    number = 0
    for split, studies in STUDIES.items():
        entries = {}
        for study, (patient, accession, sex, age, views) in studies.items():
            folder = f"deid_png/{patient}/{accession}/studies/{study}/series/{UID}.9/instances"
            paths = []
            for _ in [None] if views is None else views:
                paths.append(f"{folder}/{UID}.{1001 + number}.png")
                write_images(root, paths[-1], first=number)
                number += 1
            entries[f"p{patient}_a{accession}_s{study}"] = {
                "PatientID": patient,
                "AccessionNumber": accession,
                "StudyInstanceUid": study,
                "PatientSex": sex,
                "PatientAge": age,
                "StudyDate": "20140101",
                "Findings": 'The lungs, "clear".\nNo effusion.',
                "ImagePath": [f"../{path}" for path in paths],
                "ImageViewPosition": views,
            }
        write_text(root / "metadata" / f"{split}_metadata_view_position.json", json.dumps(entries, indent=1))
        write_text(root / "metadata" / f"{split}_metadata.csv", "id,StudyInstanceUid,Findings\nx,y,z")


def test_a_row_an_image_of_every_study_of_three_files(tmp_path):
    write(tmp_path)
    release = open_release(tmp_path)
    assert release.name == "rexgradient"
    assert images_of(release, *COLUMNS) == IMAGES
    first = f"deid_png/GRDN0A/GRDN1A/studies/{UID}.101/series/{UID}.9/instances/{UID}.1001.png"
    assert release.images["path"].iloc[0] == first
    assert not any(labels.findings for labels in release.labels)


def test_pixels_without_labels_are_packed(tmp_path):
    write(tmp_path / "release")
    dataset, pixels = packed(open_release(tmp_path / "release"), tmp_path / "pack")
    assert numbers_of(pixels) == {image: number for number, image in enumerate(IMAGES)}
    catalog = dataset.catalog.set_index("image_id").loc[list(IMAGES)]
    assert catalog["age"].fillna(-1).tolist() == [67, 67, 68, 1.5, 1.5, 1.5, -1, 89]


def test_one_split_alone_and_the_patients_folders_without_deid_png(tmp_path):
    write(tmp_path)
    for split in ("train", "valid"):
        (tmp_path / "metadata" / f"{split}_metadata_view_position.json").unlink()
    for folder in (tmp_path / "deid_png").iterdir():
        folder.rename(tmp_path / folder.name)
    release = open_release(tmp_path)
    assert images_of(release, *COLUMNS) == {f"{UID}.1008": IMAGES[f"{UID}.1008"]}
    assert release.images["path"].tolist() == [
        f"GRDN0D/GRDN1E/studies/{UID}.301/series/{UID}.9/instances/{UID}.1008.png"
    ]
