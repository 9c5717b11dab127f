"""Small releases on disk, made by hand so that every count in a test is known."""

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


def write_table(path: Path, *lines: str) -> Path:
    """A CSV of these lines, compressed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
