"""Options of the loader."""

from dataclasses import dataclass

from cxrdali.data import pipeline
from cxrdali.data.order import ORDERS
from cxrdali.runtime.limits import default_threads
from shards.errors import UserError

LANES = 2


@dataclass(frozen=True)
class LoaderOptions:
    """size: side of the images in pixels; batch: images per batch; threads: DALI's CPU threads (None: two
    for each core this process may use, at most 8); decode: auto, cpu, mixed or hybrid; device: "cpu" or "cuda[:N]";
    prefetch: batches that DALI prepares ahead; order and window (shards open at a time) are for training."""

    size: int
    batch: int
    threads: int | None = None
    decode: str = "auto"
    device: str = "cpu"
    prefetch: int = 2
    order: str = "global"
    window: int = 8

    def __post_init__(self):
        for name in ("size", "batch", "prefetch", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: at least 1")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads {self.threads}: at least 1")
        if self.decode not in pipeline.MODES:
            raise UserError(f"decode {self.decode!r}: choose one of {', '.join(pipeline.MODES)}")
        if self.order not in ORDERS:
            raise UserError(f"order {self.order!r}: choose one of {', '.join(ORDERS)}")
        if self.decode in ("mixed", "hybrid") and not self.on_gpu:
            raise UserError(f"decode {self.decode!r} needs a GPU, the device is {self.device!r}; use --decode cpu")

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def resolved_decode(self) -> str:
        """auto is cpu: two cores decode many times what one GPU trains on (benchmarks/README.md), and a GPU that
        decodes is not training."""
        return "cpu" if self.decode == "auto" else self.decode

    @property
    def resolved_threads(self) -> int:
        return self.threads or default_threads()

    @property
    def lanes(self) -> int:
        """DALI pipelines that take turns, with half of the threads each: two on the CPU, if there is more than one
        thread; one with a GPU, whose memory and queue they would share."""
        return 1 if self.on_gpu or self.resolved_threads == 1 else LANES


LAG = 8  # batches behind the one that is asked for: those in front of it may still be decoded
