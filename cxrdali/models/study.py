"""A network that sees whole studies: an image network's features, fused, in front of its own classifier."""

import json

import torch

from cxrdali.data.studies import StudyBatch
from cxrdali.models.classifier import Classifier
from cxrdali.models.fusion import Fusion, fusion_of
from cxrdali.models.fusion_options import PLACE, StudyOptions
from shards.errors import UserError


class StudyClassifier(Classifier):
    """`StudyBatch` -> float32 logits [B, F]; images uint8 [B, 1, S, S] are a study each, of unknown view.

    The fusion lies inside of the backbone, so that weights files, checkpoints and averages hold both. Until `fuse`
    it is the image network.
    """

    def fuse(self, how: StudyOptions) -> None:
        """Add the fusion, with new weights by torch's generator.

        Raises UserError for a network whose classifier does not see a vector.
        """
        if self.seen.why:
            raise UserError(f"a study-level model fuses vectors, one for each image: {self.seen.why}; use another run")
        setattr(self.backbone, PLACE, fusion_of(how, sum(shape.numel() for shape in self.seen.shapes)))
        self.identity = {**self.identity, "fusion": json.dumps(how.identity, sort_keys=True)}

    @property
    def fusion(self) -> Fusion | None:
        return getattr(self.backbone, PLACE, None)

    def forward(self, given: torch.Tensor | StudyBatch) -> torch.Tensor:
        fusion = self.fusion
        if isinstance(given, torch.Tensor):
            if fusion is None:
                return super().forward(given)
            given = StudyBatch.alone(given)
        assert fusion is not None
        features = given.images if given.images.ndim == 2 else self.features(given.images)
        return self.classify(fusion(features, given))

    def to_train(self, frozen: bool) -> None:
        super().to_train(frozen)
        if self.fusion is not None:
            self.fusion.train()
