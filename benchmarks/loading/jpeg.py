"""What does a rendition cost as JPEG, by quality, DCT and Huffman tables?

    python -m benchmarks.loading.jpeg [--source RELEASE] [--save]

Encodings start from the images before encoding; simplejpeg decodes them, in memory, on one thread, in turn, and pixels
are compared with those that were encoded.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from benchmarks import datasets, results
from benchmarks.options import Options, listed, option, parse
from shards.dataset.mapped import MappedSize
from shards.renditions import rendition
from shards.renditions.options import Size

QUALITIES = (95, 90, 85)  # the first is the default of packing


@dataclass(frozen=True)
class JpegRun(Options):
    """What is measured."""

    sizes: tuple[int, ...] = option("224,512", "sides in pixels", listed(int))
    images: int = option(1000, "different images, at most")
    rounds: int = option(5, "timed runs of each")
    source: Path | None = option(None, "release to pack [a synthetic one]", Path)


def encodings() -> dict[str, Callable[[np.ndarray], bytes]]:
    """Encoders of an image uint8 [S, S, 1] by name, all gray with one component (4:0:0).

    "as packed" has libjpeg's fast DCT, which simplejpeg takes below quality 96, and the standard's Huffman tables.
    """

    def packed(quality: int, image: np.ndarray) -> bytes:
        return rendition.encode(image[:, :, 0], Size(len(image)), quality)

    def opencv(quality: int, optimise: int, image: np.ndarray) -> bytes:
        wanted = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, optimise]
        return cv2.imencode(".jpg", image, wanted)[1].tobytes()

    ways: dict[str, Callable] = {}
    for quality in QUALITIES:
        ways[f"{quality}, as packed"] = partial(packed, quality)
        ways[f"{quality}, exact DCT"] = partial(opencv, quality, 0)
        ways[f"{quality}, exact DCT, own Huffman tables"] = partial(opencv, quality, 1)
    return ways


def difference(images: np.ndarray, encoded: list[bytes]) -> dict:
    """PSNR in dB (of the mean square over all pixels) and the absolute difference of pixels, of 255."""
    square, total, largest = 0, 0, 0
    for image, data in zip(images, encoded, strict=True):
        apart = np.abs(simplejpeg.decode_jpeg(data, "GRAY", strict=True).astype(np.int64) - image)
        square, total, largest = square + (apart**2).sum(), total + apart.sum(), max(largest, int(apart.max()))
    psnr = 10 * np.log10(255**2 * images.size / square) if square else None
    return {"psnr_db": psnr, "mean_difference": total / images.size, "largest_difference": largest}


def _each(work: Callable, given: list | np.ndarray) -> Callable[[], int]:
    return lambda: sum(work(one) is not None for one in given)


def measure(images: np.ndarray, rounds: int) -> list[dict]:
    """The rows of one size: images uint8 [n, S, S, 1] before encoding."""
    size, room = images.shape[1], np.empty_like(images[0])
    print(f"{size} pixels, {len(images)} images")
    ways = encodings()
    encoded = {name: [encode(image) for image in images] for name, encode in ways.items()}
    into = partial(simplejpeg.decode_jpeg, colorspace="GRAY", buffer=room)
    decoding = results.interleaved({name: _each(into, data) for name, data in encoded.items()}, rounds)
    encoding = results.interleaved({name: _each(encode, images) for name, encode in ways.items()}, rounds)
    rows = []
    for name, data in encoded.items():
        row = results.rate_row(name, decoding[name]) | difference(images, data)
        row["bytes_per_image"] = num_bytes = sum(map(len, data)) / len(data)
        row["encode_ms"] = 1000 / results.median_rate(results.rate_row(name, encoding[name]))
        rows.append(row)
        psnr, mean, most = (row[each] for each in ("psnr_db", "mean_difference", "largest_difference"))
        print(
            f"  {name:36} {num_bytes:8,.0f} bytes {results.median_rate(row):7,.0f} decoded/s {row['encode_ms']:.3f} ms "
            f"to encode; PSNR {psnr:.1f} dB, differs by {mean:.2f}, at most {most}",
            flush=True,
        )
    return [row | {"size": size, "different_images": len(images)} for row in rows]


def main() -> None:
    options = parse(JpegRun, "benchmarks.loading.jpeg", __doc__.splitlines()[0])
    cv2.setNumThreads(1)
    environment = results.environment("benchmarks.loading.jpeg")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder, studies = Path(name), datasets.studies_for(options.images)
        # larger than the renditions: a JPEG that is encoded again in its own size loses next to nothing
        release = options.source or datasets.synthetic(folder / "release", studies, 2 * max(options.sizes))
        dataset = datasets.packed(release, folder / "raw", options.sizes, raw=True, limit=options.images)
        kept, rows = np.flatnonzero(dataset.packed), []
        for size in options.sizes:
            rows += measure(np.stack(MappedSize(dataset.stored(size)).pixels(kept)), options.rounds)
    data = {"data": options.source.name if options.source else "synthetic"}
    results.save([data | row for row in rows], environment, options.save, "jpeg")


if __name__ == "__main__":
    main()
