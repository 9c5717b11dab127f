"""The benchmark of scale at a tiny size: what its rows say, and what an extrapolation is."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale
from benchmarks.scale_made import write_pack
from benchmarks.scale_run import Steps, make
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from tests.benchmarks.test_benchmarks import check_environment, run

pytestmark = pytest.mark.slow


def test_scale_benchmark(tmp_path):
    sizes = ("--rows", "600,1800", "--shard-images", "20", "--findings", "4")
    rows, printed = run("scale", tmp_path, *sizes, "--rounds", "1", "--window", "3", "--starts", "global")
    check_environment(rows, "scale")
    assert {row["shard_images"] for row in rows} == {20} and {row["findings"] for row in rows} == {4}

    parts = {(row["part"], row["rows"] >= 1800): row for row in rows if "part" in row}
    assert {part for part, _ in parts} == {"make", "epoch, global"} and len(parts) == 4
    for row in parts.values():
        assert row["shards"] >= row["rows"] / 20 and row["peak_mib"] > 50
        for step, spread in row["seconds"].items():
            assert 0 < spread["low"] <= spread["median"] <= spread["high"], step
            assert row["runs"][step] == [spread["median"]]
    epoch = parts["epoch, global", True]
    assert epoch["found"]["first batch"] == epoch["found"]["second batch"] == epoch["found"]["resumed batch"] == 256
    assert epoch["own_mib"] == epoch["found"]["own_mib"] <= epoch["peak_mib"]
    assert epoch["found"]["open_files"] < epoch["shards"]  # a mapped shard is no open file
    assert {"first epoch", "reading, first epoch", "second epoch", "resume half-way"} <= set(epoch["seconds"])

    to_reach = {row["target"]: row for row in rows if "target" in row}
    seconds = epoch["seconds"]
    first = to_reach["epoch, global: first epoch, seconds"]
    assert first["value"] == pytest.approx(seconds["loader"]["median"] + seconds["first epoch"]["median"])
    assert to_reach["epoch, global: own memory, MiB"]["value"] == epoch["own_mib"]
    for row in to_reach.values():
        assert row["met"] == (row["value"] <= row["at_most"]) and row["rows"] == epoch["rows"]
    assert printed.count("PASS") + printed.count("MISS") == len(to_reach) == 4

    bounds = [row for row in rows if "limit" in row]
    reached = [row["at_rows"] for row in bounds if row["at_rows"] is not None]
    assert reached == sorted(reached)
    mappings = int(Path("/proc/sys/vm/max_map_count").read_text())
    assert {"mappings": mappings * 20 / 2}.items() <= {row["limit"]: row["at_rows"] for row in bounds}.items()


def test_a_limit_is_reached_on_the_line_through_two_measurements():
    def row(part, rows, peak, own, start):
        seconds = {"first epoch": {"median": start}}
        return {"part": part, "rows": rows, "peak_mib": peak, "own_mib": own, "seconds": seconds}

    small = [row(part, 1_000_000, 600, 700, 0.5) for part in ("make", "epoch, global")]
    large = [row(part, 3_000_000, 1400, 700, 1.5) for part in ("make", "epoch, global")]
    found = {each["limit"]: each for each in scale.limits(small + large, shard_images=1000)}
    assert found["3 s to an epoch's start"]["at_rows"] == 6_000_000  # half a second for every million
    assert found["2 GB, training"]["at_rows"] is None  # it does not grow
    packing = found["memory of this machine, packing"]  # 400 MiB for every million
    assert packing["at_rows"] == pytest.approx(3e6 + (packing["bound"] - 1400) / 400 * 1e6, abs=1)


def test_a_made_dataset_is_one_of_ours_and_its_raw_images_can_be_loaded(tmp_path):
    """Its sparse shards stand in for packed ones: everything but the pixels is read as from a packed dataset."""
    steps, folder = Steps(), tmp_path / "made"
    made = make(folder, rows=500, findings=5, shard_images=64, steps=steps)
    dataset = PackedDataset.open(folder)
    stored = dataset.stored(224)
    assert made["rows"] == len(dataset.packed) == dataset.packed.sum() >= 500
    assert made["shards"] == len(stored.paths) == int(stored.shard.max()) + 1
    assert dataset.catalog.groupby("study_id")["shard"].nunique().eq(1).all()  # the plan is packing's
    mapped = MappedSize(stored)
    assert all(image.shape == (224, 224, 1) for image in mapped.pixels(np.arange(made["rows"])))
    (images, rows), *_ = Loader(dataset, np.arange(8), LoaderOptions(224, 8))
    assert images.shape == (8, 1, 224, 224) and not images.any() and rows.tolist() == list(range(8))
    assert sum(path.stat().st_blocks for path in Path(folder / "512").iterdir()) * 512 < 2**20  # no room on the disk

    assert {"plan", "publish"} == set(steps.seconds)


def test_scale_large_benchmark(tmp_path):
    rows, printed = run("scale_large", tmp_path, "--rows", "30000", "--shard-images", "500", "--findings", "4")
    check_environment(rows, "scale_large")
    epoch, record, *to_reach = rows
    assert [epoch["part"], record["part"]] == ["epoch, global", "record"] and epoch["shards"] == record["shards"] == 60
    assert set(record["seconds"]) == {"config.json", "seen.parquet"} and 0 < record["own_mib"] < record["peak_mib"]
    seconds = {step: spread["median"] for step, spread in epoch["seconds"].items()}
    start = sum(value for step, value in seconds.items() if "resume" not in step and "second" not in step)
    assert start - seconds["reading, first epoch"] == pytest.approx(to_reach[0]["value"])
    assert to_reach[1]["value"] == epoch["own_mib"] and printed.count("PASS") == len(to_reach) == 2


def test_a_written_dataset_is_one_of_ours(tmp_path):
    shards = write_pack(tmp_path / "pack", 3000, 64, np.array([0.5, 0.01]), seed=0)
    dataset = PackedDataset.open(tmp_path / "pack")
    catalog, labels = dataset.catalog, dataset.labels()
    assert shards == len(dataset.stored(224).paths) == 47 and dataset.packed.all() and len(catalog) == 3000
    assert catalog["image_id"].is_unique and catalog["image_id"].str.len().eq(44).all()
    assert catalog.groupby("study_id")["subject_id"].nunique().eq(1).all() and catalog["subject_id"].nunique() > 300
    assert set(labels.split) == {"train", "dev", "test"} and 0.45 < labels.values[:, 0].mean() < 0.55
    by_subject = catalog.assign(split=np.array(labels.split)).groupby("subject_id")["split"]
    assert by_subject.nunique().eq(1).all()
    (images, _), *_ = Loader(dataset, np.arange(8), LoaderOptions(224, 8))
    assert images.shape == (8, 1, 224, 224) and not images.any()
