"""A new image as a run sees it: what packing would store of the file and the loader would hand on, without a pack.

Both go through `shards.renditions`; decoding happens in processes of their own, which a hostile file may kill.
"""

import io
import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from queue import SimpleQueue

import numpy as np

from cxrdali.data.jpeg import decode_into
from cxrdali.data.pipeline import PipelineSpec, build
from cxrdali.runs.reader import Run
from shards.decoding.decoded import RejectedImage
from shards.decoding.tags import Tags
from shards.errors import UserError
from shards.renditions.decoder import Decoder
from shards.renditions.options import RenditionOptions, Size
from shards.renditions.rendition import encoders, renditions
from shards.storage.location import Location
from shards.storage.remote import place

log = logging.getLogger(__name__)

STALL = 25.0  # seconds in which an image must be decoded
_SUFFIX = re.compile(r"(?i)\.(?:jpe?g|png|dcm|dicom|dic)$")


@dataclass(frozen=True)
class Recipe:
    """How a run's images were packed, and at which side in pixels it sees them.

    options: of one size, the one that is stored; decoded_for: as `renditions` takes it.
    """

    options: RenditionOptions
    decoded_for: int
    pixels: int

    @classmethod
    def of(cls, run: Run) -> "Recipe":
        """Raises UserError if the run does not say it: an earlier version trained it."""
        known, packed = run.config["dataset"], run.config["dataset"].get("packed") or {}
        names = ("encoding", "fit", "window", "decoded_for")
        if "size" not in known or None in [packed.get(name) for name in names]:
            raise UserError(
                f"{run.path}: does not say how its images were packed (an earlier version trained it, or packed them), "
                "so new ones cannot be made like them; pack them as those were (cxrdali shard) and predict with "
                "--data, or train the run again"
            )
        other = {name: packed[name] for name, now in encoders().items() if packed.get(name, now) != now}
        if other:
            versions = ", ".join(f"{name} {before} (here {encoders()[name]})" for name, before in other.items())
            log.info(f"note: the images of {run.path} were packed by {versions}: pixels may differ by a gray level")
        stored = Size(known["size"], raw=packed["encoding"] == "raw")
        how = {name: packed[name] for name in ("fit", "window", "quality") if name in packed}
        return cls(RenditionOptions((stored,), **how), packed["decoded_for"], run.settings.data.size)

    @property
    def stored(self) -> Size:
        return self.options.sizes[0]


@dataclass(frozen=True, eq=False)
class Rendered:
    """A new image.

    name: the path as it was given; image_id: the file's name without its suffix; pixels: uint8 [S, S], at the run's
    size; height, width, converted: as in `shards.renditions.source.Source`; tags: of a DICOM; each: pixels for every
    run, where there are several.
    """

    name: str
    image_id: str
    pixels: np.ndarray
    height: int
    width: int
    converted: tuple[str, ...]
    tags: Tags | None = None
    each: tuple[np.ndarray, ...] = ()


class Rendering:
    """Renders files for one or several runs while `with` lasts. Its methods may be called by several threads.

    Args:
        recipes: One per run; equal ones are carried out once.
        threads: Files that are decoded at the same time, each in a process.
        stall: Seconds in which a file must be decoded.
    """

    def __init__(self, recipes: Sequence[Recipe], threads: int = 1, stall: float = STALL):
        self._recipes, self.threads, self._stall = tuple(recipes), threads, stall
        self._distinct = tuple(dict.fromkeys(self._recipes))
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        self._held = ExitStack()

    @classmethod
    def of(cls, run: Run, *others: Run, threads: int = 1, stall: float = STALL) -> "Rendering":
        """Raises UserError as `Recipe.of`."""
        return cls([Recipe.of(each) for each in (run, *others)], threads, stall)

    def __enter__(self) -> "Rendering":
        with ExitStack() as held:
            for _ in range(self.threads):
                decoder = held.enter_context(Decoder(partial(_stored, self._distinct), self._stall))
                decoder.begin()
                self._idle.put(decoder)
            self._readers = [_Reader(recipe) for recipe in self._distinct]
            # a process ends with the thread that forked it, so those of a server's passing requests must not fork
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="cxrdali rendering")
            held.callback(self._pool.shutdown, cancel_futures=True)
            self._held = held.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._held.close()

    def render(self, path_or_name: Location | str, data: bytes | None = None) -> Rendered:
        """A file, or its bytes where its name is all there is of it.

        Raises:
            RejectedImage: As packing would reject it, with the same reason.
            UserError: A disk or store fails, or memory may have been lacking.
        """
        made = self._pool.submit(self._render, path_or_name, data).result()
        if isinstance(made, RejectedImage):
            raise made
        return made

    def render_each(self, paths: Iterable[Location | str], ahead: int) -> Iterator[Rendered | RejectedImage]:
        """Files in their order. ahead: how many are rendered, or about to be, before they are asked for."""
        coming: deque[Future[Rendered | RejectedImage]] = deque()
        for path in paths:
            coming.append(self._pool.submit(self._render, path))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

    def _render(self, path_or_name: Location | str, data: bytes | None = None) -> Rendered | RejectedImage:
        name, decoder = str(path_or_name), self._idle.get()
        try:
            if data is None:
                path = place(path_or_name) if isinstance(path_or_name, str) else path_or_name
                stored, facts = decoder(path, None, None, False)
            else:
                stored, facts = decoder.of_bytes(data, name)
        except RejectedImage as rejected:
            return rejected
        finally:
            self._idle.put(decoder)
        made = {recipe: read(each) for recipe, read, each in zip(self._distinct, self._readers, stored, strict=True)}
        each = tuple(made[recipe] for recipe in self._recipes)
        return Rendered(name, without_suffix(PurePath(name).name), each[0], *facts, each)


def without_suffix(name: str) -> str:
    """A name without the suffix of an image. What else follows a dot may be the end of a UID."""
    return _SUFFIX.sub("", name)


def _stored(recipes: Sequence[Recipe], data: bytes, name: str, inverted: bool) -> tuple[list[bytes], tuple]:
    """What packing would store of a file, for each recipe; and height, width, converted and tags. In the process of a
    `Decoder`."""
    made = [renditions(data, name, each.options, inverted, each.decoded_for) for each in recipes]
    source = made[0][1]
    facts = (source.height, source.width, source.converted, source.tags)
    return [image for (image,), _ in made], facts


class _Reader:
    """Reads stored images at the run's size, as the loader does on the CPU."""

    def __init__(self, recipe: Recipe):
        self._stored, self._resize = recipe.stored, None
        self._given: list[np.ndarray] = []
        self._one_at_a_time = threading.Lock()  # of DALI's pipeline
        if self._stored.pixels != recipe.pixels:
            spec = PipelineSpec(self._stored.pixels, self._stored.raw, recipe.pixels, 1, 1, None, "cpu", prefetch=1)
            self._resize = build(spec, lambda: self._given)

    def __call__(self, data: bytes) -> np.ndarray:
        """From the bytes of one to uint8 [S, S]."""
        image = np.load(io.BytesIO(data))[:, :, None] if self._stored.raw else np.frombuffer(data, np.uint8)
        if self._resize is not None:
            with self._one_at_a_time:
                self._given = [image]
                (output,) = self._resize.run()
                return np.array(output.as_tensor())[0, :, :, 0]
        if not self._stored.raw:
            encoded, image = image, np.empty((self._stored.pixels, self._stored.pixels, 1), np.uint8)
            fault = decode_into(image, encoded)
            assert fault is None, fault  # it was encoded here
        return image[:, :, 0]
