"""Files of new images, read one by one or by study."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath

from cxrdali.predict.image_files import ImageFile
from cxrdali.predict.judge import Judge
from cxrdali.predict.options import ReadOptions
from cxrdali.predict.reading import Reading, read_study
from cxrdali.predict.reference import Reference
from cxrdali.predict.rendering import Rendered, Rendering
from shards.decoding.decoded import RejectedImage
from shards.progress import progress_bar


def read_files(
    judge: Judge, reference: Reference | None, files: Sequence[ImageFile], options: ReadOptions, jobs: int
) -> tuple[list[Reading], dict[str, str]]:
    """A reading of each image or study, in the order of the files, and the reasons of those that were rejected.

    With `options.study`, a study is what has one StudyInstanceUID; of files that are no DICOM, what lies in a folder.
    jobs: files that are decoded at the same time, each in a process.
    """
    studies: dict[str, list[Rendered]] = {}
    rejected: dict[str, str] = {}
    for file, image in _rendered(judge, files, jobs):
        if isinstance(image, RejectedImage):
            rejected[file.image_id] = str(image)
            continue
        name = file.image_id
        if options.study:
            name = f"Study {getattr(image.tags, 'study_id', '') or PurePath(str(file.path)).parent}"
        studies.setdefault(name, []).append(replace(image, name=name, image_id=file.image_id))
    with progress_bar("reading", len(studies), " readings", leave=False) as bar:
        readings = []
        for images in studies.values():
            readings.append(read_study(judge, reference, images, options, images[0].name))
            bar.update()
    return readings, rejected


def _rendered(
    judge: Judge, files: Sequence[ImageFile], jobs: int
) -> Iterator[tuple[ImageFile, Rendered | RejectedImage]]:
    with Rendering.of(judge.run, threads=jobs) as rendering:
        yield from zip(files, rendering.render_each([file.path for file in files], 2 * jobs), strict=True)
