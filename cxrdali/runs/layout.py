"""The loss-design paper's whole study (Sulake, arXiv 2603.02294, 2026): roles -> plan."""

from dataclasses import dataclass

RECORD = "loss-design.json"  # in a study's folder: its models, what they are there for, its tables and steps
REFERENCE = "ld-ldam-drw"  # its network is the one that the losses share, its loss the one that the backbones share


@dataclass(frozen=True)
class Table:
    """Predictions of every split. kind: "model", "tta", "ensemble" or "calibrated"; of: the model or table that it is
    made from; how: the TTA or the method."""

    name: str
    kind: str
    of: str
    how: str


# What the paper trained for its final result, who makes the ensemble, and whose views are learnt
MODELS = ("model0", "model2", "model3", "model5", "model6", "model7")


MEMBERS = ("model3", "model5", "model6", "model7")


VIEWS_FROM = "model3"


REPLACED = "replaced"  # in runs/: what stood in the way of a run
