"""A packed dataset of more images than packing's own tables hold in memory, written a row group at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.dataset.description import FORMAT, dataset_identity, labels_name, write_description
from shards.packing.options import PackOptions
from shards.renditions.options import Size
from shards.storage.files import sha256_file

SIZE = Size(224, raw=True)
GROUP = 2**20  # rows of a row group, as packing's
BLOCK, STEP = 512, 224**2 + 128 + 5 * 512 - 224**2 % 512  # of a tar: two headers, the image, a block of JSON
IMAGES_PER_STUDY, STUDIES_PER_SUBJECT = 1.66, 3.5
SPLITS, SPLIT_SHARE = ("train", "dev", "test"), (0.7, 0.1, 0.2)


def write_pack(folder: Path, rows: int, shard_images: int, positive: np.ndarray, seed: int) -> int:
    """Catalog, labels and dataset.json of so many images, and shards that are files of nothing but their length.

    positive: float [findings], the share of images that have each. Returns the number of shards.
    """
    (folder / "labels").mkdir(parents=True)
    catalog, labels = folder / "catalog.parquet", folder / labels_name("made")
    _write(catalog, (_catalog(at, min(GROUP, rows - at), shard_images, rows, seed) for at in range(0, rows, GROUP)))
    _write(labels, (_labels(at, min(GROUP, rows - at), positive, rows, seed) for at in range(0, rows, GROUP)))
    (folder / "rejects.csv").write_text("row,id,path,reason,fingerprint\n")
    options = PackOptions(sizes=(SIZE,)).as_json()
    counts = np.bincount(np.arange(rows) // shard_images)
    shards = [_shard(number, images) for number, images in enumerate(counts.tolist())]
    (folder / SIZE.folder).mkdir()
    for shard in shards:
        with (folder / shard["name"]).open("wb") as file:
            file.truncate(shard["bytes"])
    info = {
        "format": FORMAT, "made_by": "benchmarks.scale", "release": "made", "options": options, "inputs": {},
        "encoders": {}, "catalog_sha256": sha256_file(catalog), "rejects_sha256": sha256_file(folder / "rejects.csv"),
        "labels": {"made": sha256_file(labels)}, "default_labels": "made", "hashed": SIZE.pixels,
        "counts": {"planned": rows, "packed": rows, "studies": _studies(rows), "subjects": _subjects(rows),
                   "rejected": {}},
        "sizes": {SIZE.folder: {"pixels": SIZE.pixels, "encoding": SIZE.encoding, "shards": shards}},
    }  # fmt: skip
    write_description(folder, {**info, "id": dataset_identity(info)})
    return len(shards)


def _studies(rows: int) -> int:
    return int(rows / IMAGES_PER_STUDY)


def _subjects(rows: int) -> int:
    return int(_studies(rows) / STUDIES_PER_SUBJECT)


def _shard(number: int, images: int) -> dict:
    sha256 = f"{number:064x}"
    name = f"{SIZE.folder}/{number:06d}.tar"
    size = images * STEP + 2 * BLOCK
    return {"name": name, "samples": images, "bytes": size, "sha256": sha256, "index_sha256": sha256}


def _write(path: Path, groups: Iterator[pa.Table]) -> None:
    first = next(groups)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for group in groups:
            writer.write_table(group)


def _ids(at: int, count: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Study and subject of some rows: a study's images lie together, the studies of a subject anywhere."""
    study = (np.arange(at, at + count) / IMAGES_PER_STUDY).astype(np.uint64)
    mixed = (study + np.uint64(seed + 1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return study.astype(np.int64), ((mixed >> np.uint64(32)) * np.uint64(_subjects(rows)) >> np.uint64(32)).astype(
        np.int64
    )


def _texts(data: bytes, width: int) -> pa.Array:
    count = len(data) // width
    ends = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * width)
    return pa.StringArray.from_buffers(count, ends, pa.py_buffer(data))


def _catalog(at: int, count: int, shard_images: int, rows: int, seed: int) -> pa.Table:
    generator = np.random.default_rng((seed, at))
    study, subject = _ids(at, count, rows, seed)
    place = np.arange(at, at + count)
    hexes = np.frombuffer(generator.bytes(20 * count).hex().encode(), dtype=np.uint8).reshape(count, 5, 8)
    image = np.full((count, 44), ord("-"), dtype=np.uint8)
    for group in range(5):
        image[:, 9 * group : 9 * group + 8] = hexes[:, group]
    frontal = pa.array((study % 3 != 0).astype(np.int8))
    either = [
        pa.DictionaryArray.from_arrays(frontal, pa.array(names)).cast(pa.string())
        for names in (["lateral", "frontal"], ["LL", "AP"])
    ]
    constant = {"height": np.full(count, 3056, np.int32), "width": np.full(count, 2544, np.int32)}
    return pa.table({
        "row": place, "image_id": _texts(image.tobytes(), 44),
        "study_id": pa.array(50_000_000 + study).cast(pa.string()),
        "subject_id": pa.array(10_000_000 + subject).cast(pa.string()), "view": either[0], "view_position": either[1],
        **constant, "converted": pa.array(np.full(count, ""), pa.string()),
        "pixels": _texts(generator.bytes(8 * count).hex().encode(), 16),
        "shard": (place // shard_images).astype(np.int32), f"offset_{SIZE.folder}": BLOCK + place % shard_images * STEP,
        f"length_{SIZE.folder}": np.full(count, SIZE.pixels**2 + 128),
    })  # fmt: skip


def _labels(at: int, count: int, positive: np.ndarray, rows: int, seed: int) -> pa.Table:
    generator = np.random.default_rng((seed, at, 1))
    _, subject = _ids(at, count, rows, seed)
    drawn = (subject * 2654435761 % 2**32) / 2**32
    split = np.searchsorted(np.cumsum(SPLIT_SHARE), drawn, side="right")
    found = {
        f"finding {place}": (generator.random(count, dtype=np.float32) < share).astype(np.int8)
        for place, share in enumerate(positive)
    }
    named = pa.DictionaryArray.from_arrays(pa.array(split.astype(np.int8)), pa.array(SPLITS)).cast(pa.string())
    return pa.table({"row": np.arange(at, at + count), "split": named, **found})
