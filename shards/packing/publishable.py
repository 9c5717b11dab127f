"""What could not be read back once it is published is refused before the first image is read, not hours later."""

from shards.dataset.description import DATASET, FORMAT, check_label_name, dataset_identity, description_bytes
from shards.packing.job import PackJob


def check_publishable(job: PackJob, identity: dict) -> None:
    """Write dataset.json as far as it is known, and let its reader read that. Raises UserError naming what it refuses.

    identity: of the job, as `shards.packing.folder.identity_of` makes it.
    """
    names = [table.name for table in job.release.labels]
    for table in job.release.labels:
        check_label_name(table.name, table.source, [name for name in names if name != table.name])
    sizes = {
        size.folder: {"pixels": size.pixels, "encoding": size.encoding, "shards": []} for size in job.options.sizes
    }
    info = {
        "format": FORMAT,
        "made_by": "",
        "release": job.release.name,
        **identity,
        "counts": {"planned": 0, "packed": 0, "studies": 0, "subjects": 0, "rejected": {}, "converted": {}},
        "catalog_sha256": "",
        "rejects_sha256": "",
        "labels": dict.fromkeys(names, ""),
        "default_labels": names[0] if names else None,
        "sizes": sizes,
    }
    description_bytes(job.out / DATASET, {**info, "id": dataset_identity(info)})
