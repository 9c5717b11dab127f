"""The tables of a synthetic release: MIMIC-CXR-JPG's own, and those of CXR-LT 2023 and 2024."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from shards.synthetic.facts import CHEXPERT, FINDINGS_2023, FINDINGS_2024, NORMAL, SPLITS, UNSEEN_TASK3, VIEW_CODES
from shards.synthetic.plan import Image, Purpose, Study, SyntheticOptions, stream, study_day

SPLIT_FILES = {
    "cxr-lt-2023": ("train.csv", "development.csv", "test.csv"),
    "cxr-lt-2024": ("train_labeled.csv", "development_labeled_task1.csv", "test_labeled_task1.csv"),
}

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"  # makes a folder a release
IMAGE_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning")


def write_mimic(out: Path, options: SyntheticOptions, studies: list[Study]) -> None:
    """Every table, its rows by subject and study."""
    splits = {name: split_subjects(options.key, name, studies[-1].subject + 1) for name in SPLITS}
    studies = sorted(studies, key=lambda study: (study.subject_id, study.study_id))
    _write_challenges(out, studies, splits)
    for number, labeller in enumerate(("chexpert", "negbio")):
        rows = [_labelled(options.key, study, number) for study in studies]
        write_gzip(out / f"mimic-cxr-2.0.0-{labeller}.csv.gz", rows)
    names = ("train", "validate", "test")
    rows = [
        {"dicom_id": i.dicom_id, "study_id": s.study_id, "subject_id": s.subject_id, "split": names[part]}
        for s in studies
        for part in [splits["official"][s.subject]]
        for i in s.images
    ]
    write_gzip(out / "mimic-cxr-2.0.0-split.csv.gz", rows)
    rows = [row for study in studies for row in _metadata(options, study)]
    write_gzip(out / METADATA, rows)


def split_subjects(seed: int, name: str, subjects: int) -> np.ndarray:
    """0, 1 or 2 (train, development, test) of every subject, int64 (subjects,); none empty from three on."""
    order = stream(seed, Purpose.RELEASE, 1 + list(SPLITS).index(name)).permutation(subjects)
    shares = np.array(SPLITS[name]) / sum(SPLITS[name])
    least = 1 if subjects >= 3 else 0
    development, test = (max(least, round(subjects * share)) for share in shares[1:])
    part = np.zeros(subjects, np.int64)
    part[order[:development]] = 1
    part[order[development : development + test]] = 2
    return part


def _metadata(options: SyntheticOptions, study: Study) -> list[dict]:
    """One study's rows in the metadata; dates lie in the future, as the real ones do, and in order."""
    rng = stream(options.key, Purpose.PLAN, study.index, 1)
    rng.integers(60)  # the day
    clock = int(rng.integers(86_400))
    procedure = _procedure(study)
    rows = []
    for number, image in enumerate(study.images):
        shot = (clock + 40 * number) % 86_400
        rows.append(
            {
                "dicom_id": image.dicom_id,
                "subject_id": study.subject_id,
                "study_id": study.study_id,
                "PerformedProcedureStepDescription": procedure,
                "ViewPosition": image.view,
                "Rows": options.shape[0],
                "Columns": options.shape[1],
                "StudyDate": f"{study_day(options.key, study):%Y%m%d}",
                "StudyTime": f"{shot // 3600:02}{shot // 60 % 60:02}{shot % 60:02}.{rng.integers(1000):03}",
                "ProcedureCodeSequence_CodeMeaning": procedure,
                "ViewCodeSequence_CodeMeaning": VIEW_CODES.get(image.view, ""),
                "PatientOrientationCodeSequence_CodeMeaning": _orientation(study, rng),
            }
        )
    return rows


def _procedure(study: Study) -> str:
    if study.portable:
        return "CHEST (PORTABLE AP)"
    return "CHEST (PA AND LAT)" if len(study.images) > 1 else "CHEST (SINGLE VIEW)"


def _orientation(study: Study, rng: np.random.Generator) -> str:
    recumbent = 0.25 if study.portable else 0.0
    return str(rng.choice(["Erect", "Recumbent", ""], p=[0.9 - recumbent, recumbent, 0.1]))


def _labelled(seed: int, study: Study, labeller: int) -> dict:
    """One study's row as a report labeller writes it: 1.0, 0.0, -1.0 (uncertain) or blank (not mentioned).

    What is there is mostly found, sometimes in doubt or missed; what is not there is mostly not mentioned.
    """
    rng = stream(seed, Purpose.PLAN, study.index, 2 + labeller)
    row: dict[str, int | str] = {"subject_id": study.subject_id, "study_id": study.study_id}
    for finding, dice in zip(CHEXPERT, rng.random(len(CHEXPERT)), strict=True):
        if finding in study.findings:
            row[finding] = "1.0" if dice < 0.90 or finding == "No Finding" else "-1.0" if dice < 0.97 else ""
        else:
            row[finding] = "" if dice < 0.84 or finding == "No Finding" else "0.0" if dice < 0.98 else "-1.0"
    return row


def _write_challenges(out: Path, studies: list[Study], splits: dict[str, np.ndarray]) -> None:
    """The tables of CXR-LT 2023 (26 findings, 0.0 / 1.0) and 2024 (40, 0 / 1; all 45 with the split)."""
    for folder in SPLIT_FILES:
        (out / folder).mkdir()
    everything = []
    for part, (file_2023, file_2024) in enumerate(zip(*SPLIT_FILES.values(), strict=True)):
        chosen = [study for study in studies if splits["2023"][study.subject] == part]
        rows = [row for study in chosen for row in _rows_2023(study)]
        write_csv(out / "cxr-lt-2023" / file_2023, rows, (*IMAGE_COLUMNS, "path", *FINDINGS_2023))
        chosen = [study for study in studies if splits["2024"][study.subject] == part]
        rows = [row for study in chosen for row in _rows_2024(study)]
        write_csv(out / "cxr-lt-2024" / file_2024, rows, (*IMAGE_COLUMNS, "fpath", *FINDINGS_2024))
        everything += [{**row, "split": ("train", "development", "test")[part]} for row in rows]
    columns = (*IMAGE_COLUMNS, "fpath", *FINDINGS_2024, *UNSEEN_TASK3, "split")
    write_csv(out / "cxr-lt-2024" / "labels.csv", everything, columns)


def _rows_2023(study: Study) -> list[dict]:
    labels = {finding: "1.0" if finding in study.findings else "0.0" for finding in FINDINGS_2023}
    return [{**_image(study, image), "path": _path(study, image), **labels} for image in study.images]


def _rows_2024(study: Study) -> list[dict]:
    """As 2023, but `s########`, `fpath`, Normal for No Finding, and the unseen findings."""
    present = {NORMAL if finding == "No Finding" else finding for finding in study.findings} | study.unseen
    labels = {finding: int(finding in present) for finding in (*FINDINGS_2024, *UNSEEN_TASK3)}
    name = f"s{study.study_id}"
    return [
        {**_image(study, image), "study_id": name, "fpath": _path(study, image), **labels} for image in study.images
    ]


def _path(study: Study, image: Image) -> str:
    return f"{study.folder}/{image.dicom_id}.jpg"


def _image(study: Study, image: Image) -> dict:
    values = (image.dicom_id, study.subject_id, study.study_id, image.view, VIEW_CODES.get(image.view, ""))
    return dict(zip(IMAGE_COLUMNS, values, strict=True))


def write_csv(path: Path, rows: list[dict], columns: tuple[str, ...]) -> None:
    """`columns` also make the header of a table without rows."""
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False, lineterminator="\n")


def write_gzip(path: Path, rows: list[dict]) -> None:
    """A .csv.gz without a time stamp or a file name in its header, so that equal rows are equal bytes."""
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
