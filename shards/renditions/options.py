"""What a rendition's pixels depend on, besides the file; nothing heavy is imported: a command's --help reads it."""

from dataclasses import dataclass

from shards.dataset.description import LARGEST_PIXELS
from shards.errors import UserError
from shards.words import choices

FITS = ("squash", "pad", "crop")  # how a rectangle becomes a square (`shards.renditions.rendition.resize`)
WINDOWS = ("percentile", "minmax", "full", "dicom")  # how 16 bits become 8 (`shards.renditions.window`)
MIN_PIXELS, MAX_PIXELS = 32, LARGEST_PIXELS


@dataclass(frozen=True)
class Size:
    """One stored size: the side in pixels, and whether it is stored raw (npy) or as JPEG."""

    pixels: int
    raw: bool = False

    def __post_init__(self):
        if not MIN_PIXELS <= self.pixels <= MAX_PIXELS:
            raise UserError(f"size {self.pixels}: a rendition's side is {MIN_PIXELS} to {MAX_PIXELS} pixels")

    @classmethod
    def parse(cls, text: str) -> "Size":
        """ "224" is stored as JPEG, "224:raw" as uint8 [224, 224] in a .npy."""
        pixels, _, encoding = text.strip().partition(":")
        if not (pixels.isascii() and pixels.isdigit()) or encoding not in ("", "raw", "jpeg"):
            raise UserError(f"size {text.strip()!r}: write pixels, or pixels:raw, for example 224:raw,320,512")
        return cls(int(pixels), encoding == "raw")

    @property
    def text(self) -> str:
        """As `parse` takes it."""
        return f"{self.pixels}:raw" if self.raw else self.folder

    @property
    def folder(self) -> str:
        return str(self.pixels)

    @property
    def extension(self) -> str:
        return "npy" if self.raw else "jpg"

    @property
    def encoding(self) -> str:
        return "raw" if self.raw else "jpeg"


@dataclass(frozen=True)
class RenditionOptions:
    """How a file becomes its renditions.

    Attributes:
        sizes: Sizes to make, each once.
        fit: How a rectangle becomes a square, of FITS.
        quality: JPEG quality, 1 to 100.
        window: How 16-bit images become 8-bit, of WINDOWS.
    """

    sizes: tuple[Size, ...] = (Size(224), Size(320), Size(384), Size(512))
    fit: str = "squash"
    quality: int = 95
    window: str = "percentile"

    def __post_init__(self):
        pixels = [size.pixels for size in self.sizes]
        if not pixels:
            raise UserError("no size given; for example --sizes 224,320,384,512")
        if len(set(pixels)) < len(pixels):
            raise UserError(f"size {max(pixels, key=pixels.count)} is given twice; a size is stored once")
        if self.fit not in FITS:
            raise UserError(f"fit {self.fit!r}: {choices(self.fit, FITS)}")
        if self.window not in WINDOWS:
            raise UserError(f"window {self.window!r}: {choices(self.window, WINDOWS)}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality {self.quality}: JPEG quality is 1 to 100")
