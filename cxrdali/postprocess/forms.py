"""What the CXR-LT challenges ask for, by challenge: the image's column and the findings, without a template. Free of
torch and NumPy.

Findings in the order in which each challenge published them; those of 2024's tasks in its own spelling ("Normal" stands
where "No Finding" stood in 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shards.errors import UserError
from shards.words import choices

PREDICTIONS = "predictions.csv"

_2023 = (
    "Atelectasis", "Calcification of the Aorta", "Cardiomegaly", "Consolidation", "Edema", "Emphysema",
    "Enlarged Cardiomediastinum", "Fibrosis", "Fracture", "Hernia", "Infiltration", "Lung Lesion", "Lung Opacity",
    "Mass", "No Finding", "Nodule", "Pleural Effusion", "Pleural Other", "Pleural Thickening", "Pneumomediastinum",
    "Pneumonia", "Pneumoperitoneum", "Pneumothorax", "Subcutaneous Emphysema", "Support Devices", "Tortuous Aorta",
)  # fmt: skip
_2024 = (
    "Adenopathy", "Atelectasis", "Azygos Lobe", "Calcification of the Aorta", "Cardiomegaly", "Clavicle Fracture",
    "Consolidation", "Edema", "Emphysema", "Enlarged Cardiomediastinum", "Fibrosis", "Fissure", "Fracture", "Granuloma",
    "Hernia", "Hydropneumothorax", "Infarction", "Infiltration", "Kyphosis", "Lobar Atelectasis", "Lung Lesion",
    "Lung Opacity", "Mass", "Nodule", "Normal", "Pleural Effusion", "Pleural Other", "Pleural Thickening",
    "Pneumomediastinum", "Pneumonia", "Pneumoperitoneum", "Pneumothorax", "Pulmonary Embolism",
    "Pulmonary Hypertension", "Rib Fracture", "Round(ed) Atelectasis", "Subcutaneous Emphysema", "Support Devices",
    "Tortuous Aorta", "Tuberculosis",
)  # fmt: skip
_2026 = (
    "Normal", "aortic elongation", "cardiomegaly", "pleural effusion", "Nodule", "atelectasis", "pleural thickening",
    "aortic atheromatosis", "Support Devices", "alveolar pattern", "fracture", "Hernia", "Emphysema", "azygos lobe",
    "Hydropneumothorax", "Kyphosis", "Mass", "Pneumothorax", "Subcutaneous Emphysema", "pneumoperitoneo",
    "vascular hilar enlargement", "vertebral degenerative changes", "hyperinflated lung", "interstitial pattern",
    "central venous catheter", "hypoexpansion", "bronchiectasis", "hemidiaphragm elevation", "sternotomy",
    "calcified densities",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """image: the column of the images' ids; findings: those asked for, in order; file: the table's name in the zip."""

    name: str
    image: str
    findings: tuple[str, ...]
    file: str = PREDICTIONS

    @property
    def header(self) -> tuple[str, ...]:
        return (self.image, *self.findings)

    def check(self, findings: Sequence[str], where: object) -> None:
        """Raises UserError if one of the form's findings is not among `findings`, those of `where`."""
        missing = [finding for finding in self.findings if finding not in findings]
        if missing:
            more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
            raise UserError(
                f"{where}: form {self.name} asks for {missing[0]!r}{more} of its {len(self.findings)} findings, which "
                "the predictions do not have; predict with a model of all of them, trained on this challenge's labels"
            )


FORMS = {
    each.name: each
    for each in (
        Form("cxr-lt-2023", "dicom_id", _2023),
        Form("cxr-lt-2024-task1", "dicom_id", _2024),
        Form("cxr-lt-2024-task2", "dicom_id", tuple("Normal" if name == "No Finding" else name for name in _2023)),
        Form("cxr-lt-2026", "ImageID", _2026, "submission.csv"),
    )
}


def form_named(name: str) -> Form:
    """Raises UserError if there is none."""
    if name not in FORMS:
        raise UserError(f"form {name!r}: {choices(name, FORMS)}")
    return FORMS[name]


def form_of(labels: str, findings: Sequence[str]) -> Form:
    """A form of a label release's own findings: its image's column is its challenge's, else dicom_id."""
    challenge = FORMS.get(labels, FORMS["cxr-lt-2023"])
    return replace(challenge, name=labels, findings=tuple(findings))
