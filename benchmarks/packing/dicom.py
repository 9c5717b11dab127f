"""How many DICOMs does packing get through, next to reading, decoding, resizing and encoding them alone?

    python -m benchmarks.packing.dicom [--kinds uncompressed,lossless] [--save]

Held fixed: radiographs of 3000 x 2500 pixels and 12 bits, of which the lower 4 are noise as a detector's are; the four
sizes 224, 320, 384 and 512, JPEG quality 95; one job, that is one core at a time; a warm page cache. The baselines, in
turn, after a run of each that is thrown away:

    packing  the whole of `cxrdali shard`: a worker, its decoder beside it, headers, windows, hashes, tars, catalog
    alone    in this process: the file's bytes, pydicom's pixels, their upper 8 bits, an area resize and a JPEG a size

JPEG lossless is decoded by gdcm in both.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks import datasets, results
from benchmarks.options import Options, listed, option, parse
from benchmarks.packing.fullscale import QUALITY, SIZES
from benchmarks.packing.pack import ENVIRONMENT
from benchmarks.results import Target
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.columns import Columns
from shards.releases.table import open_table
from shards.renditions.options import Size
from shards.renditions.rendition import encode, resize

HEIGHT, WIDTH, DIFFERENT = 3000, 2500, 8
OF_ALONE = 0.8
UNCOMPRESSED, LOSSLESS = "uncompressed", "lossless"


@dataclass(frozen=True)
class DicomRun(Options):
    """What is measured."""

    rounds: int = option(3, "timed runs of each baseline")
    images: int = option(120, "files a run; a few different ones, each under several names")
    kinds: tuple[str, ...] = option(f"{UNCOMPRESSED},{LOSSLESS}", "how the pixels are coded", listed(str))


def write_files(folder: Path, kind: str, images: int) -> list[Path]:
    """And a table of them."""
    source = datasets.synthetic(folder / "release", DIFFERENT, "native")
    made = []
    for number, path in enumerate(sorted(source.rglob("*.jpg"))[:DIFFERENT]):
        gray = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (WIDTH, HEIGHT)).astype(np.uint16)
        noise = np.random.default_rng(number).integers(0, 16, gray.shape, dtype=np.uint16)
        _write(folder / f"{number}.dcm", gray * 16 + noise, kind)
        made.append(folder / f"{number}.dcm")
    files = [folder / f"{number}-{number % len(made)}.dcm" for number in range(images)]
    for number, path in enumerate(files):
        os.link(made[number % len(made)], path)
    (folder / "t.csv").write_text("".join(["file,id,A\n", *(f"{each.name},i{i},1\n" for i, each in enumerate(files))]))
    return files


def _write(path: Path, pixels: np.ndarray, kind: str) -> None:
    import gdcm
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.add_new("PixelData", "OW", pixels.tobytes())
    made.save_as(path, enforce_file_format=True)
    if kind == LOSSLESS:
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()


def alone(files: list[Path]) -> int:
    """Nothing that packing does besides."""
    import io

    import pydicom

    for path in files:
        pixels = pydicom.dcmread(io.BytesIO(path.read_bytes())).pixel_array
        gray = (pixels >> 4).astype(np.uint8)
        made = [encode(resize(gray, size, "squash"), Size(size), QUALITY) for size in SIZES]
        assert len(made) == len(SIZES)
    return len(files)


def packing(folder: Path, out: Path) -> int:
    release = open_table(folder / "t.csv", Columns("id", "A", "file"), folder)
    shutil.rmtree(out, ignore_errors=True)
    options = PackOptions(sizes=tuple(Size(size) for size in SIZES), quality=QUALITY)
    summary = pack(release, out, options, jobs=1)
    assert not summary.rejected, summary.rejected
    return summary.packed


def measure(kind: str, options: DicomRun) -> list[dict]:
    """A row for each baseline, and the target."""
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name) / "files"
        folder.mkdir()
        files = write_files(folder, kind, options.images)
        names = f"packing, {kind} DICOM", f"alone, {kind} DICOM"
        runs = {names[0]: partial(packing, folder, folder.with_name("out")), names[1]: partial(alone, files)}
        timed = results.interleaved(runs, options.rounds)
    rows = [{"jobs": 1, **results.rate_row(each, timed[each])} for each in names]
    rates = {row["baseline"]: row["images_per_second"]["median"] for row in rows}
    return [*rows, Target(names[0], (names[1],), OF_ALONE).check(rates)]


def main() -> None:
    options = parse(DicomRun, "benchmarks.packing.dicom", __doc__.splitlines()[0])
    os.environ |= ENVIRONMENT
    cv2.setNumThreads(1)
    environment = results.environment("benchmarks.packing.dicom")
    rows = []
    for kind in options.kinds:
        *made, target = measure(kind, options)
        results.print_rates(made)
        results.print_target(target)
        rows += [{"height": HEIGHT, "width": WIDTH, "bits": 12, "sizes": SIZES} | row for row in (*made, target)]
    results.save(rows, environment, options.save, "dicom")


if __name__ == "__main__":
    main()
