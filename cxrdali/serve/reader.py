"""A run that is ready to read the bytes of uploads: what happens in the server's one thread for it."""

import json
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from starlette.exceptions import HTTPException

from cxrdali.predict.judge import Judge
from cxrdali.predict.options import JudgeOptions, ReadOptions
from cxrdali.predict.reading import Reading, read_image
from cxrdali.predict.reference import Reference
from cxrdali.predict.rendering import Rendering
from cxrdali.report.kit import page
from cxrdali.report.reading.page import page_data
from cxrdali.runs.reader import Run
from cxrdali.runtime.full import OTHERS, is_full
from shards.decoding.decoded import RejectedImage
from shards.errors import UserError

UPLOAD = ""  # what an image is called: its own name may be a patient's


class Reader:
    """Reads images by one run, while `with` lasts.

    Args:
        run: An opened run.
        options: How it judges.
        seconds: How long decoding an image may take, with a second try if the decoder dies of it.
    """

    def __init__(self, run: Run, options: JudgeOptions, seconds: float):
        self.judge, self.name, self.findings = Judge.of([run], options), run.name, run.findings
        self.reference = Reference.load(run, Path(options.weights) if options.weights else None)
        self._rendering = Rendering.of(run, stall=seconds / 2)
        side = run.settings.data.size
        self.judge.judge(np.zeros((1, side, side), np.uint8))  # a GPU that is full says so now, and not to a visitor

    def __enter__(self) -> "Reader":
        self._rendering.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rendering.__exit__(kind, error, trace)

    def as_json(self, data: bytes) -> bytes:
        """The reading of a file as JSON. Raises HTTPException."""
        return json.dumps(self._read(data).as_json(), allow_nan=False, ensure_ascii=False).encode()

    def as_page(self, data: bytes) -> bytes:
        """The reading of a file as a page. Raises HTTPException."""
        return page.render("reading/served.html.j2", page_data([self._read(data)], {})).encode()

    def _read(self, data: bytes) -> Reading:
        try:
            return read_image(self.judge, self.reference, self._rendering.render(UPLOAD, data), ReadOptions())
        except RejectedImage as error:
            raise HTTPException(422, f"This file cannot be read as an image: {error}.") from None
        except (RuntimeError, MemoryError) as error:
            if not is_full(error):
                raise
            torch.cuda.empty_cache()
            raise UserError(f"the GPU is full; {OTHERS}") from error
