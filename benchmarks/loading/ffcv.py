"""FFCV as a baseline of `benchmarks.loading.loader`: our side of a worker that runs under FFCV's own interpreter.

FFCV was last released in 2023 and is compiled against OpenCV and libturbojpeg, so it lives in an environment of its
own (benchmarks/README.md says how to make it). Modes:

    jpeg   RGBImageField: the JPEG's own bytes; batches have three channels, which is all that the field knows
    raw    RGBImageField: pixels, three channels stored and given out
    gray   NDArrayField: pixels, one channel: what FFCV can do for gray images where RGBImageField is given up

The augmentation is the stage-training paper's, with probabilities as ours and cutout as an operation of our own
(FFCV's cuts another way). "shipped" flips with FFCV's RandomHorizontalFlip and a vertical twin of it, "in place" with
one compiled operation that we wrote for it. Batches come as they leave FFCV, uint8 [B, S, S, C]: memory that it writes
into again some batches later, where every other baseline's batch may be kept. Order is random, the page cache warm.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import simplejpeg

from shards.errors import UserError

WORKER = Path(__file__).with_name("ffcv_worker.py")
MODES = ("jpeg", "raw", "gray")
AUGMENTS = ("shipped", "in place", None)


def why_not(python: Path | None) -> str | None:
    """Why FFCV cannot be measured with this interpreter; None if it can."""
    if python is None:
        return "no interpreter with FFCV was given"
    try:
        done = subprocess.run([*_command(python), "--check"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        return _no_start(python, error)
    return None if done.returncode == 0 else f"{python}: {_last_line(done.stderr)}"


@dataclass(frozen=True)
class FfcvOptions:
    """size: side of the files in pixels; batch: images; mode and augment: of MODES and AUGMENTS; threads: FFCV's."""

    size: int
    batch: int
    mode: str
    threads: int
    augment: str | None = "shipped"

    def __post_init__(self):
        for name, value, choices in (("mode", self.mode, MODES), ("augmentation", self.augment, AUGMENTS)):
            if value not in choices:
                raise UserError(f"FFCV's {name} {value!r}: choose one of {', '.join(map(str, choices))}")


class Ffcv:
    """A running worker. Called with a number of images it gives a run: one epoch of so many images, which returns how
    many came out. The first run also compiles the pipeline, in 2 to 20 seconds.

    `file` is what FFCV reads, `stored_bytes` the images' bytes in it. `close`
    ends the worker and removes the file; it would end with this process, too.
    """

    def __init__(
        self,
        python: Path,
        files: Sequence[Path],
        folder: Path,
        options: FfcvOptions,
    ):
        _check_sizes(files, options.size)
        self._python = python
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{options.mode}-{options.augment}-{options.size}.beton".replace(" ", "-")
        self._log = self.file.with_suffix(".log")
        with self._log.open("w") as log:
            try:
                self._process = subprocess.Popen(
                    _command(python),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={**os.environ, "NUMBA_NUM_THREADS": str(options.threads)},
                )
            except OSError as error:
                raise UserError(_no_start(python, error)) from error
        paths = [str(path.resolve()) for path in files]
        opened = self._ask(files=paths, beton=str(self.file.resolve()), **asdict(options))
        self.stored_bytes: int = opened["stored_bytes"]

    def __call__(self, images: int) -> Callable[[], int]:
        return lambda: self._ask(images=images)["images"]

    def save(self, images: int, path: Path) -> None:
        """A run whose images are kept: `path`, an .npz with images uint8 [N, S, S, C] (gray: [N, S, S]) and rows
        int64 [N], places in `files`."""
        self._ask(images=images, save=str(path))

    def close(self) -> None:
        self._process.communicate()  # the end of its input ends it
        self.file.unlink(missing_ok=True)

    def __enter__(self) -> "Ffcv":
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def _ask(self, **request) -> dict:
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            self._process.kill()
            self._process.wait()
            raise UserError(f"FFCV in {self._python} failed: {_last_line(self._log.read_text())}") from error


def _check_sizes(files: Sequence[Path], size: int) -> None:
    """FFCV itself checks nothing: a file of another size would come out as what the memory held before."""
    for path in files:
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(path.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no JPEG that FFCV can be given ({error})") from error
        if (height, width) != (size, size):
            raise UserError(f"{path}: {width} x {height} pixels; FFCV is given files of {size} x {size}")


def _command(python: Path) -> list[str]:
    # -I: the worker's own folder is not searched, where `import ffcv` would find this file
    return [str(python), "-I", str(WORKER)]


def _no_start(python: Path, error: OSError) -> str:
    return f"{python} does not start: {error.strerror}; name the interpreter of an environment that has FFCV"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it ended without a word")
