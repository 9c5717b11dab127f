"""What is trained, and what is asked of it: fixed before the first run.

Arms differ in what their line says and in nothing else: within a replicate they share images, initial weights, order
and number of steps (EPOCHS x STEPS of BATCH images, the learning rate falling to zero along a cosine; the first of the
EPOCHS parts is the warm-up). It is a fixed budget, not convergence. The weights after the last step count. Each arm
takes the learning rate that gave it the highest mAP in replicate SWEPT, which is in no comparison: of RATES first the
middle two, then the neighbour of the better one. The arms are measured in the order in which they stand here, each
round of them in all replicates before the next one begins; where the time ends, the page says "not measured".

An effect is the AP of `after` less that of `before`, over the counted findings (all) and over those of them in less
than 1 % of the training images (tail). Counted are findings with at least FLOOR positives among the held-out images of
every replicate. All effects of a page, all and tail, are one family for Holm's adjustment, at 5 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REPLICATES, SWEPT = (1, 2, 3, 4, 5), 0
RATES = (1e-3, 3e-3, 9e-3, 27e-3)
FLOOR, TAIL = 60, 0.01
MARGINS = {"all": 0.005, "tail": 0.01}  # of mAP: arms are equivalent if they differ by less
EPOCHS, DEFERRED, STEPS, BATCH, SIZE = 6, 4, 100, 32, 48  # re-weighting begins after DEFERRED of EPOCHS; pixels
NETWORK = {
    "stage": 1, "arch": "test_byobnet", "pretrained": False, "size": SIZE, "batch": BATCH, "flips": "none",
    "cutout": "off", "epochs": EPOCHS, "warmup_epochs": 1, "limit_batches": STEPS,
    "folds": 30,  # one of them is the run's own validation, on which nothing is chosen
}  # fmt: skip
AUTO = {"cb_beta": "(N - 1) / N"}  # N: training images
DRW = {"drw_epoch": DEFERRED, **AUTO}


@dataclass(frozen=True)
class Arm:
    """settings: by name, beside NETWORK; how: "train", "retrain" (cRT of the run of), or what is made of the tables
    `of`: "views" (rules fitted on split dev), "ensemble" (the mean probability), "best" (of them, by mAP on dev)."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    how: str = "train"
    of: tuple[str, ...] = ()

    @property
    def has_rate(self) -> bool:
        return self.how in ("train", "retrain")


class Effect(NamedTuple):
    page: str
    name: str
    before: str
    after: str


MEMBERS = ("bce", "bce-weighted", "scale", "ldam-drw")
ROUNDS = (
    (
        Arm("bce"),
        Arm("bce-weighted", {"pos_weight": "ratio"}),
        Arm("scale", {"loss": "ldam", "ldam_margin": 1e-9}),
        Arm("ldam-drw", {"loss": "ldam-drw", **DRW}),
        Arm("bce, views", how="views", of=("bce",)),
        Arm("ensemble", how="ensemble", of=MEMBERS),
        Arm("best member", how="best", of=MEMBERS),
    ),
    (Arm("asl", {"loss": "asl"}),),
    (Arm("bce-crt", how="retrain", of=("bce",)), Arm("ldam-drw-crt", how="retrain", of=("ldam-drw",))),
    (Arm("ldam", {"loss": "ldam"}), Arm("drw", {"loss": "drw", **DRW})),
    (Arm("ldam-cosine", {"loss": "ldam", "head": "cosine"}),),
    (Arm("large batch, equal images", {"batch": 2 * BATCH}), Arm("large batch, equal steps", {"batch": 2 * BATCH})),
    (Arm("cb-focal", {"loss": "cb-focal", "cb_terms": "all", **AUTO}),),
)
ARMS = {arm.name: arm for each in ROUNDS for arm in each}
LOSSES, STAGES = "effects-losses", "effects"  # pages in docs/
EFFECTS = (
    Effect(LOSSES, "LDAM-DRW against weighted BCE", "bce-weighted", "ldam-drw"),
    Effect(LOSSES, "LDAM-DRW against plain BCE", "bce", "ldam-drw"),
    Effect(LOSSES, "LDAM-DRW against its scale alone", "scale", "ldam-drw"),
    Effect(LOSSES, "LDAM-DRW against ASL", "asl", "ldam-drw"),
    Effect(LOSSES, "weights of BCE", "bce", "bce-weighted"),
    Effect(LOSSES, "scale alone", "bce", "scale"),
    Effect(LOSSES, "ASL", "bce", "asl"),
    Effect(LOSSES, "cRT on BCE", "bce", "bce-crt"),
    Effect(LOSSES, "cRT on LDAM-DRW", "ldam-drw", "ldam-drw-crt"),
    Effect(LOSSES, "margin", "scale", "ldam"),
    Effect(LOSSES, "DRW", "bce", "drw"),
    Effect(LOSSES, "LDAM as published against plain BCE", "bce", "ldam-cosine"),
    Effect(LOSSES, "normalising in LDAM", "ldam", "ldam-cosine"),
    Effect(LOSSES, "CB-focal", "bce", "cb-focal"),
    Effect(STAGES, "view postprocess", "bce", "bce, views"),
    Effect(STAGES, "ensemble of four", "best member", "ensemble"),
    Effect(STAGES, "batch twice as large, equal images", "bce", "large batch, equal images"),
    Effect(STAGES, "batch twice as large, equal steps", "bce", "large batch, equal steps"),
)
