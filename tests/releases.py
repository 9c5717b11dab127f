"""Small releases on disk, made by hand so that every count in a test is known."""

import csv
import gzip
import uuid
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import simplejpeg

FINDINGS = ("Edema", "Hernia", "Mass", "No Finding", "Pneumonia")  # Hernia never has a positive
VIEWS = ("AP", "PA", "LATERAL", "LL", "", "AP AXIAL")
SUBJECTS, STUDIES_PER_SUBJECT = 30, 2


def write_release(root: Path, subjects: int = SUBJECTS, seed: int = 0) -> pd.DataFrame:
    """MIMIC-CXR-JPG with its CheXpert labels and cxr-lt-2023/: two studies per subject, one to three images each.

    Returns the metadata table. Subjects 0-5 of every ten are train, 6-7 dev, 8-9 test in both label releases.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for subject in range(subjects):
        for study in range(STUDIES_PER_SUBJECT):
            for _ in range(1 + (subject + study) % 3):
                rows.append(
                    {
                        "dicom_id": str(uuid.UUID(bytes=rng.bytes(16))),
                        "subject_id": str(10_000_000 + 7 * subject),
                        "study_id": str(50_000_000 + 11 * (2 * subject + study)),
                        "ViewPosition": VIEWS[len(rows) % len(VIEWS)],
                        "Rows": 140 + 4 * (len(rows) % 5),
                        "Columns": 120 + 4 * (len(rows) % 7),
                        "split": ("train", "validate", "test")[int(subject % 10 > 5) + int(subject % 10 > 7)],
                    }
                )
    table = pd.DataFrame(rows)
    for row in table.itertuples():
        path = root / image_path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(smooth_image(rng, row.Rows, row.Columns)))
    table.drop(columns="split").to_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    table[["dicom_id", "study_id", "subject_id", "split"]].to_csv(root / "mimic-cxr-2.0.0-split.csv.gz", index=False)
    _chexpert(table, rng).to_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    _cxr_lt_2023(root / "cxr-lt-2023", table, rng)
    return table


def write_large_release(root: Path) -> None:
    """The same with images of 2.2 megapixels, so that packing its 120 takes about two seconds of decoding."""
    table = write_release(root)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (1700, 1300))
    images = [jpeg(np.clip(smooth_image(rng, 1700, 1300) + noise, 0, 255).astype(np.uint8)) for _ in range(5)]
    for number, row in enumerate(table.itertuples()):
        (root / image_path(row)).write_bytes(images[number % len(images)])


def image_path(row) -> str:
    return f"files/p{row.subject_id[:2]}/p{row.subject_id}/s{row.study_id}/{row.dicom_id}.jpg"


def smooth_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 [height, width] of low frequencies, which JPEG keeps."""
    coarse = rng.integers(0, 256, (6, 5)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def jpeg(gray: np.ndarray, quality: int = 92) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(gray)[:, :, None], quality, "GRAY")


def _chexpert(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Per study: blank, 1.0, 0.0 or -1.0; the last study has no row at all, as a few in the real table."""
    studies = table[["subject_id", "study_id"]].drop_duplicates().iloc[:-1].reset_index(drop=True)
    for finding in ("Edema", "No Finding", "Pneumonia"):
        studies[finding] = rng.choice(["", "1.0", "0.0", "-1.0"], len(studies))
    return studies


def _cxr_lt_2023(folder: Path, table: pd.DataFrame, rng: np.random.Generator) -> None:
    folder.mkdir()
    labels = table[["dicom_id", "subject_id", "study_id", "ViewPosition"]].copy()
    labels["ViewCodeSequence_CodeMeaning"] = ""
    labels["path"] = [image_path(row) for row in table.itertuples()]
    share = {"Edema": 0.4, "Hernia": 0.0, "Mass": 0.3, "No Finding": 0.3, "Pneumonia": 0.5}
    studies = table["study_id"].unique()
    for finding in FINDINGS:
        positive = dict(zip(studies, rng.random(len(studies)) < share[finding], strict=True))
        labels[finding] = table["study_id"].map(positive).astype(float)
    for name, split in (("train", "train"), ("development", "validate"), ("test", "test")):
        labels[table["split"] == split].to_csv(folder / f"{name}.csv", index=False)


PADCHEST_FINDINGS = ("Normal", "aortic elongation", "cardiomegaly", "pneumoperitoneo", "calcified densities")
PADCHEST_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
PADCHEST_VIEWS = {"PA": "frontal", "L": "lateral", "AP_horizontal": "frontal", "COSTAL": "other", "AP": "frontal"}


def write_padchest(root: Path, subjects: int = 24, seed: int = 0, place: str = "{folder}/", most: int = 4095):
    """CXR-LT 2026 on PadChest: images of 16 bits, the challenge's three tables, and PadChest's own beside them.

    Its traps are the real ones: patients as floats of three digits in the challenge's tables, tabs after the findings'
    names, a test table with nameless, empty findings, Removal.csv with every test image and others, of which the
    training table has both. Two studies a subject, one or two images each; every sixth subject is test.
    `place` is the images' folder ("" is flat), `most` their brightest value. Returns PadChest's table with the findings
    and the columns `split` (test, train, removed), `view` and `path`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for subject in range(subjects):
        # as long as real ones, and the same float of three digits for four subjects
        patient = f"{190 + subject // 4}{subject:036d}"
        for study in range(2):
            study_id = f"2168403661124{subject:04d}{study}"
            for image in range(1 + (subject + study) % 2):
                number = len(rows)
                split = "test" if subject % 6 == 5 else "removed" if number % 9 == 4 else "train"
                rows.append(
                    {
                        "ImageID": f"{study_id}_{number:02d}-0{image}-007.png",
                        "ImageDir": str(number % 3),
                        "StudyDate_DICOM": "20140915",
                        "StudyID": study_id,
                        "PatientID": patient,
                        "Projection": list(PADCHEST_VIEWS)[number % len(PADCHEST_VIEWS)],
                        "PhotometricInterpretation_DICOM": "MONOCHROME1" if number % 10 == 3 else "MONOCHROME2",
                        "Report": f'cambio "degenerativo",\nsin {number}',
                        "Labels": "['aortic elongation', 'normal']" if number % 2 else "",
                        "split": split,
                    }
                )
    table = pd.DataFrame(rows)
    table["view"] = table["Projection"].map(PADCHEST_VIEWS)
    table["path"] = [place.format(folder=row.ImageDir) + row.ImageID for row in table.itertuples()]
    for finding, share in zip(PADCHEST_FINDINGS, (0.4, 0.3, 0.3, 0.0, 0.2), strict=True):
        table[finding] = (rng.random(len(table)) < share).astype(int)
    for row in table.itertuples():
        (root / row.path).parent.mkdir(parents=True, exist_ok=True)
        gray = smooth_image(rng, 70 + row.Index % 5, 60 + row.Index % 7).astype(np.float64)
        deep = np.rint((gray - gray.min()) / np.ptp(gray) * most).astype(np.uint16)
        cv2.imwrite(str(root / row.path), deep)
    own = [c for c in table.columns if c not in (*PADCHEST_FINDINGS, "split", "view", "path")]
    table[own].to_csv(root / PADCHEST_TABLE, quoting=csv.QUOTE_MINIMAL)  # with the index, a column without a name
    challenge = table[["ImageID", "StudyDate_DICOM"]].assign(
        PatientID=[f"{float(patient):.2E}" for patient in table["PatientID"]]
    )
    training = pd.concat([challenge, table[list(PADCHEST_FINDINGS)].add_suffix("\t")], axis=1)
    training.to_csv(root / "CXRLT_2026_TRAINING.csv", index=False)
    challenge[table["split"] != "train"].to_csv(root / "Removal.csv", index=False)
    commas = "," * len(PADCHEST_FINDINGS)
    test = challenge[table["split"] == "test"].itertuples(index=False)
    lines = [",".join(row) + commas for row in test]
    write_table(root / "CXRLT_2026_TEST_ALL_TASK1.csv", f"{','.join(challenge.columns)}{commas}", *lines)
    return table


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_LABELS = ("No Finding", "Hernia|Mass", "Pleural_Thickening", "Infiltration|Effusion", "No Finding")


def write_nih(root: Path, patients: int = 10, place: str = "images_{number:03d}/images/") -> pd.DataFrame:
    """ChestX-ray14 with Data_Entry_2017.csv (its last column empty and nameless) and both lists; two images a patient,
    every fifth patient in the test list. Returns image, patient, follow_up, labels, view, split and path."""
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(1, patients + 1):
        for follow_up in range(2):
            number = len(rows)
            image = f"{patient:08d}_{follow_up:03d}.png"
            rows.append(
                {
                    "image": image,
                    "patient": str(patient),
                    "follow_up": str(follow_up),
                    "labels": NIH_LABELS[number % len(NIH_LABELS)],
                    "view": "PA" if number % 3 else "AP",
                    "split": "train" if patient % 5 else "test",
                    "path": place.format(number=1 + number % 2) + image,
                }
            )
            (root / rows[-1]["path"]).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / rows[-1]["path"]), smooth_image(rng, 64, 64))
    table = pd.DataFrame(rows)
    lines = [
        f"{r.image},{r.labels},{r.follow_up},{r.patient},58,M,{r.view},2682,2749,0.143,0.143,"
        for r in table.itertuples()
    ]
    write_table(root / "Data_Entry_2017.csv", f"{NIH_HEADER},", *lines)
    for name, split in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        write_table(root / name, *table.loc[table["split"] == split, "image"])
    return table


def write_table(path: Path, *lines: str) -> Path:
    """A CSV of these lines, compressed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
