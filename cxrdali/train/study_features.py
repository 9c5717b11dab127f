"""A frozen backbone's features of all images, kept on disk for every fusion that is trained on them.

They are computed once, some thousand images at a time, and read where a batch needs them: 400,000 images of 1,024
numbers are 1.6 GB on the disk, and of memory the kernel keeps what it can spare.
"""

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cxrdali.data.loader import Loader
from cxrdali.data.splits import rows_sha256
from cxrdali.data.studies import StudyBatch
from cxrdali.data.study_loader import StudyLoader, study_batch
from cxrdali.models.classifier import Classifier
from cxrdali.models.inference import Inference, logits
from cxrdali.models.weights import head_keys
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.runtime.full import smaller_batch
from cxrdali.train.features import CachedLoader, OfImages
from shards.storage.files import cannot_write, one_by_one, open_own, publish, sha256_bytes, sha256_file, write_bytes
from shards.storage.sealed import check_kinds, read_json, sealed_json
from shards.words import counted

log = logging.getLogger(__name__)

PIECE = 2**14  # images whose features are in memory at a time
KINDS = {"of": dict, "sha256": str}


@dataclass(frozen=True)
class Features:
    """values: float32 [n, D] of the catalog rows int64 [n], ascending; a map of the file."""

    rows: np.ndarray
    values: np.ndarray

    def of(self, rows: np.ndarray) -> torch.Tensor:
        """float32 [N, D]."""
        return torch.from_numpy(self.values[np.searchsorted(self.rows, rows)])


class FeatureLoader(CachedLoader):
    """Batches of studies, with features that are kept on disk."""

    def __init__(self, loader: StudyLoader, features: Features, hardware: Hardware):
        super().__init__(loader, features.rows, torch.empty(0))
        self.own_places, self.by_image = loader.own_places, loader.by_image
        self._studies, self._kept, self._device = loader.studies, features, hardware.device

    def seen(self, rows: np.ndarray) -> StudyBatch:  # type: ignore[override]
        places, _ = self._studies.images(rows)
        return study_batch(self._studies, rows, self._kept.of(self._studies.rows[places]).to(self._device))


@dataclass(frozen=True)
class Backbone:
    """What computes features: a model's, of images that `loader` makes batches of, for some catalog rows."""

    model: Classifier
    loader: Callable[[np.ndarray], Loader]
    hardware: Hardware
    ranks: Ranks

    def identity(self, rows: np.ndarray) -> dict[str, str]:
        """What features follow from."""
        one, own = self.loader(rows[:1]), self.model.identity
        return {
            "weights": _weights_sha256(self.model),
            "dataset": one.dataset.id,
            "rows": rows_sha256(rows),
            "images": f"{one.options.size} px, decode {one.options.resolved_decode}, {own['mean']}, {own['std']}",
            "computed": f"{self.hardware.precision} on {torch.device(self.hardware.device).type}",
        }

    def features(self, rows: np.ndarray) -> np.ndarray | None:
        """float32 [n, D]; None on all ranks but the first."""
        loader = self.loader(rows)
        how = Inference(ranks=self.ranks, fix_full=smaller_batch(loader.options.batch))
        width = sum(shape.numel() for shape in self.model.seen.shapes)
        return logits(OfImages(self.model), loader, width, self.hardware, how)


def kept(backbone: Backbone, rows: np.ndarray, folder: Path) -> Features:
    """Features of catalog rows, int64 [n], ascending: those in `folder`, or computed now and kept there.

    Called by all ranks, which share the folder. Raises UserError for a folder that cannot be written, a full GPU, or
    NaN in a feature.
    """
    about = backbone.identity(rows)
    path = folder / f"{sha256_bytes(json.dumps(about, sort_keys=True).encode())[:16]}.npy"
    first = backbone.ranks.is_first
    try:
        if first:
            folder.mkdir(parents=True, exist_ok=True)
        with one_by_one(folder / ".lock") if first else contextlib.nullcontext():
            there = backbone.ranks.from_first(_is_sound(path, about) if first else None)
            if not there:
                _write(backbone, rows, path, about)
        backbone.ranks.wait()
    except OSError as error:
        raise cannot_write(path, error) from error
    values = np.load(path, mmap_mode="r")
    what = "read from" if there else "kept in"
    log.info(f"features of {counted(len(rows), 'image')}, {values.shape[1]:,} numbers each: {what} {path}")
    return Features(rows, values)


def _is_sound(path: Path, about: dict[str, str]) -> bool:
    """Whether the features are there, of this backbone and these images, as they were written."""
    try:
        stored = read_json(path.with_suffix(".json"))
        check_kinds(stored, KINDS)
        right = stored["of"] == about and stored["sha256"] == sha256_file(path)
    except FileNotFoundError:
        return False
    except ValueError:
        right = False
    if not right:
        log.info(f"{path}: is damaged or was changed; the features are computed again")
    return right


def _write(backbone: Backbone, rows: np.ndarray, path: Path, about: dict[str, str]) -> None:
    """Called by all ranks; the first one writes."""
    first, part = backbone.ranks.is_first, path.with_suffix(".part")
    if first:
        part.unlink(missing_ok=True)  # of a killed writer
    pieces = range(0, len(rows), PIECE)
    with open_own(part, "xb") if first else contextlib.nullcontext() as file:
        digest = hashlib.sha256()
        for number, at in enumerate(pieces, 1):
            values = backbone.features(rows[at : at + PIECE])
            if file is not None and values is not None:
                # written in order: a full disk ends a map with SIGBUS
                head = _header(len(rows), values.shape[1]) if at == 0 else b""
                for data in (head, values.astype("<f4", copy=False).tobytes()):
                    file.write(data)
                    digest.update(data)
                if len(pieces) > 1:
                    log.info(f"features: {number} of {len(pieces)} parts")
    if first:
        publish(part, path)
        write_bytes(path.with_suffix(".json"), sealed_json({"of": about, "sha256": digest.hexdigest()}))


def _header(rows: int, width: int) -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
    return held.getvalue()


def _weights_sha256(model: Classifier) -> str:
    """Of all tensors of the backbone but its classifiers and fusion."""
    head, digest = set(head_keys(model)), hashlib.sha256()
    for key, value in sorted(model.backbone.state_dict().items()):
        if key not in head:
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
