"""What decides the bytes of a packed dataset, compared on every rerun."""

from importlib.metadata import version

import cv2

from shards.errors import UserError
from shards.packing.job import PackJob
from shards.releases.checksums import CHECKSUMS
from shards.storage.location import Location
from shards.storage.places import storage_of

_WORDS = {"options": "option", "inputs": "input table", "encoders": "encoder version"}


def identity_of(job: PackJob) -> dict:
    """Options, the sha256 of every input table, and the versions of the encoders."""
    release, options = job.release, {**job.options.as_json(), **job.release.reading}
    inputs = {path.name: path for path in release.inputs}
    inputs |= {f"{table.name}/{path.name}": path for table in release.labels for path in table.inputs}
    if job.options.check_hashes and storage_of(release.root / CHECKSUMS).exists():
        inputs[CHECKSUMS] = release.root / CHECKSUMS
    hashes = {name: storage_of(path).sha256() for name, path in inputs.items()}
    encoders = {"simplejpeg": version("simplejpeg"), "opencv": cv2.__version__}
    return {"options": options, "inputs": hashes, "encoders": encoders}


def refuse_difference(out: Location, found: dict, wanted: dict) -> None:
    """Raises UserError naming the first thing in which `out` was packed otherwise."""
    for group, values in wanted.items():
        for name in sorted({*values, *found[group]}):
            before, now = found[group].get(name), values.get(name)
            if before == now:
                continue
            if group == "inputs":
                before, now = (value[:12] if value else "not given" for value in (before, now))
            raise UserError(
                f"{out}: was packed with another {_WORDS[group]} {name!r}: {before} there, {now} now; "
                "give the same again, or another --out folder"
            )
