"""What a frozen backbone makes of every image, computed once: then an epoch of the classifier costs seconds.

Only where nothing changes an image from one epoch to the next, so without augmentation. 212,000 images with 2,048
numbers each are 1.7 GB on the model's device.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from cxrdali.data import gpu
from cxrdali.data.loader import Batch, Loader
from cxrdali.models.classifier import Classifier
from cxrdali.models.inference import Inference, logits
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.full import told_if_full
from cxrdali.train.microbatch import smaller


class Head(nn.Module):
    """float [B, D] features -> float32 logits [B, F], by the model's own classifier."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.model.classify(features)


class OfImages(Head):
    """uint8 [B, 1, S, S] -> float [B, D] features."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.features(images)


class CachedLoader:
    """Batches as `loader` gives them, in its order, with float32 [B, D] features in the images' place.

    features: float32 [n, D], of the ascending catalog rows int64 [n] among which the loader's are.
    """

    def __init__(self, loader: Loader, rows: np.ndarray, features: torch.Tensor):
        self._loader, self._known, self._features = loader, rows, features
        self.rows, self.options, self.resized_from = loader.rows, loader.options, loader.resized_from
        self.dataset = loader.dataset
        self._epoch, self._position = 0, 0

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        self._epoch, self._position = epoch, 0

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._epoch, self._position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[Batch]:
        order = self._loader.epoch_rows(self._epoch)
        bounds, _ = self._loader.own_batches(len(order), self._position)
        self._position = 0  # used once: after a `break`, a loop over the loader begins the epoch again
        for start, stop in bounds:
            yield Batch(self.seen(order[start:stop]), torch.from_numpy(order[start:stop].copy()))
        self._epoch += 1

    def seen(self, rows: np.ndarray) -> torch.Tensor:
        """What a batch of these rows has in the images' place."""
        return self._features[gpu.sent(np.searchsorted(self._known, rows), self._features.device)]


def features_of(
    model: Classifier, loader: Loader, hardware: Hardware, micro_batch: int | None = None, progress: str | None = None
) -> torch.Tensor:
    """float32 [n, D] on the model's device, in the loader's order (one without shuffling or augmentation).

    Raises UserError for a model that has no features to keep (`model.seen`), or for a full GPU.
    """
    width, batch = sum(shape.numel() for shape in model.seen.shapes), loader.options.batch
    how = Inference(micro_batch, fix_full=smaller(batch, micro_batch or batch))
    with told_if_full(  # of the table; a batch that is too large says so itself
        f"the GPU has no room for features of {len(loader.rows):,} images, {width:,} numbers each; "
        "use --no-cache-features, or cache_features = false in a recipe"
    ):
        values = logits(OfImages(model), loader, width, hardware, how)
        return torch.from_numpy(values).to(hardware.device)
