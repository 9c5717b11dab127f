"""The DALI pipeline of every stage: stored bytes in, uint8 images [S, S, 1] out.

    mapped slices -> decode (raw: none) -> resize (only if the stored size differs) -> on a GPU: augmentation

Decode modes: cpu decodes and augments on the CPU; mixed decodes and augments on the GPU; hybrid decodes on the
CPU and does the rest on the GPU. With a GPU, every mode's output is on the GPU. Without one, augmentation is part
of the copy to the output batch (`cxrdali.data.augment.carry_out`): measured, that is cheaper than DALI's operators.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from cxrdali.data.augment import Augmentation, in_order
from shards.errors import UserError


@dataclass(frozen=True)
class PipelineSpec:
    """stored: side of the stored rendition, pixels: side of the output; device_id: GPU number, None for CPU only;
    decode: cpu, mixed or hybrid (resolved, not auto); augment: what DALI carries out; prefetch: batches in flight."""

    stored: int
    raw: bool
    pixels: int
    batch: int
    threads: int
    device_id: int | None
    decode: str
    augment: tuple[Augmentation, ...] = ()
    prefetch: int = 2


def build(spec: PipelineSpec, source: Callable[[], tuple]) -> Any:
    """A built pipeline that pulls its batches from `source` and has one output, images uint8 [S, S, 1].

    `source` returns lists of arrays: the stored bytes uint8 [n] (raw: pixels uint8 [S, S, 1]) and the decisions of
    `decisions_for(spec.augment)`; it raises StopIteration.
    """
    pipeline_def, fn, types = load()
    given = decisions_for(spec.augment)
    kinds: dict[type, Any] = {np.float32: types.FLOAT, np.int32: types.INT32}

    # The dynamic executor lets a GPU output live as long as torch holds it. On the CPU it allocates every
    # output anew, and the page faults of that cost more than our copy into a recycled buffer.
    @pipeline_def(
        batch_size=spec.batch,
        num_threads=spec.threads,
        device_id=spec.device_id,
        prefetch_queue_depth=spec.prefetch,
        exec_dynamic=spec.device_id is not None,
    )
    def stage():
        dtypes = [types.UINT8, *(kinds[kind] for kind in given.values())]
        # no_copy: DALI reads the mapped pages themselves, in its own threads; the loader keeps them alive
        stored, *decisions = fn.external_source(
            source=source, num_outputs=len(dtypes), dtype=dtypes, batch=True, no_copy=True
        )
        if spec.raw:
            images = fn.reshape(stored, layout="HWC")
        else:
            device = "mixed" if spec.decode == "mixed" else "cpu"
            images = fn.decoders.image(stored, device=device, output_type=types.GRAY)
        if spec.decode == "hybrid" or (spec.raw and spec.decode == "mixed"):
            images = images.gpu()
        if spec.stored != spec.pixels:  # an identity resize would cost more than the decode
            images = fn.resize(images, size=[spec.pixels, spec.pixels], interp_type=types.INTERP_LINEAR, antialias=True)
        decided = dict(zip(given, decisions, strict=True))
        for each in in_order(spec.augment):
            images = each.operators(fn, images, decided)
        if spec.decode == "cpu" and spec.device_id is not None:
            images = images.gpu()
        return images

    pipeline = stage()
    pipeline.build()
    return pipeline


def decisions_for(augment: Iterable[Augmentation]) -> dict[str, type[np.generic]]:
    """Names and dtypes of the decisions that DALI needs to augment, in the order in which its source gives them."""
    return {name: kind for each in in_order(augment) for name, kind in each.decides.items()}


WHEELS = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


def load():
    """The modules (pipeline_def, fn, types) of NVIDIA DALI. Raises UserError with the command that fixes it."""
    found = [name for name in WHEELS if _installed(name)]
    if len(found) > 1:  # both write the folder nvidia/dali: the second one overwrote half of the first
        raise UserError(
            f"{' and '.join(found)} are both installed and overwrite each other; "
            f"pip uninstall -y {' '.join(found)}, then pip install one of them (cuda130 for CUDA 13 drivers)"
        )
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise UserError(
            f"NVIDIA DALI cannot be imported ({error}); pip install {WHEELS[0]} (CUDA 13, or no GPU), "
            f"or {WHEELS[1]} for CUDA 12 drivers"
        ) from error
    return pipeline_def, fn, types


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
