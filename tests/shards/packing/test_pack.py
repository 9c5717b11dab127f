"""Packing: the whole dataset read back by others, and what a rerun, a reject or another option does to it."""

import io
import json
import shutil
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pandas as pd
import pytest
import simplejpeg
import wds2idx  # DALI's own index maker, which it installs as a module
import webdataset
from nvidia.dali import fn, pipeline_def

from shards.dataset.description import dataset_identity, seal
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import detach
from shards.packing.estimate import estimate
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.releases.release import Release
from shards.renditions.rendition import Size, renditions
from shards.storage.files import json_bytes, sha256_file
from tests.cli.cli import ROOT
from tests.releases import contents, jpeg, smooth_image, write_release, write_table

SIZES = {48: "jpg", 56: "npy", 64: "jpg"}  # of the fixture pack_folder
IMAGES = 32  # of the fixture small
ALL_MAY_FAIL = PackLimits(max_reject_fraction=1.0)
SMALL = PackOptions(sizes=(Size(32), Size(40, raw=True)), shard_images=8)


def read_webdataset(folder):
    """(key, rendition, json) of every sample, in reading order."""
    samples = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False)
    return [(s["__key__"], s.get("jpg", s.get("npy")), s["json"]) for s in samples]


def read_dali(folder, extension):
    """(rendition, json) of every sample through DALI's own reader and our index, on the CPU."""
    tars = sorted(folder.glob("*.tar"))

    @pipeline_def(batch_size=8, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        return tuple(
            fn.readers.webdataset(
                paths=[str(tar) for tar in tars],
                index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
                ext=[extension, "json"],
                missing_component_behavior="error",
                name="reader",
            )
        )

    built = pipeline()
    built.build()
    count, found = built.epoch_size("reader"), []
    while len(found) < count:
        images, metas = built.run()
        found += [(images.at(i).tobytes(), metas.at(i).tobytes()) for i in range(len(images))]
    return found[:count]


def pack_quietly(root, out, options=SMALL, labels=(), jobs=1, limits=None):
    return pack(open_release(root, labels), out, options, jobs, limits=limits)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small release and its packed dataset; read-only by agreement."""
    folder = tmp_path_factory.mktemp("small")
    write_release(folder / "release", subjects=8)
    summary = pack_quietly(folder / "release", folder / "pack")
    assert summary.packed == summary.planned == summary.images_this_run == IMAGES
    assert summary.rejected == {}
    return folder


@pytest.fixture
def release(small, tmp_path):
    """A copy of the small release, to be changed."""
    return shutil.copytree(small / "release", tmp_path / "release")


# ---------------------------------------------------------------- reading back


@pytest.mark.parametrize("pixels", SIZES)
def test_webdataset_and_dali_read_every_sample_in_the_order_of_the_catalog(dataset, pixels):
    folder = dataset.root / str(pixels)
    samples = read_webdataset(folder)
    assert [key for key, _, _ in samples] == [dataset.key(row) for row in range(len(dataset.catalog))]
    assert read_dali(folder, SIZES[pixels]) == [(image, meta) for _, image, meta in samples]


@pytest.mark.parametrize("pixels", SIZES)
def test_every_rendition_is_that_of_its_own_file(dataset, release_folder, pixels):
    """The catalog's row, the member at that place and the file of that image belong together."""
    paths = open_release(release_folder).images.set_index("image_id")["path"]
    sizes = tuple(Size(size, raw=extension == "npy") for size, extension in SIZES.items())
    samples = read_webdataset(dataset.root / str(pixels))
    for row in range(0, len(samples), 7):
        path = release_folder / paths[dataset.catalog["image_id"].iloc[row]]
        images, source = renditions(path.read_bytes(), path.name, PackOptions(sizes))
        assert samples[row][1] == images[list(SIZES).index(pixels)]
        assert (source.height, source.width) == tuple(dataset.catalog.loc[row, ["height", "width"]])


def test_every_sample_carries_its_ids_view_and_findings(dataset):
    labels = {name: dataset.labels(name) for name in dataset.label_names}
    assert list(labels) == ["cxr-lt-2023", "chexpert"]
    seen = set()
    for row, (_, _, meta) in enumerate(read_webdataset(dataset.root / "48")):
        meta = json.loads(meta)
        findings = meta.pop("findings")
        assert meta == dataset.catalog.loc[row, list(meta)].to_dict()
        assert list(meta) == ["image_id", "study_id", "subject_id", "view", "view_position"]
        for name, table in labels.items():
            found = findings.pop(name)
            assert found.pop("split") == table.split[row]
            wanted = {
                word: [f for f, v in zip(table.findings, table.values[row], strict=True) if v == value]
                for word, value in (("positive", 1), ("uncertain", -1), ("blank", Labels.BLANK))
            }
            assert found == {word: names for word, names in wanted.items() if names or word == "positive"}
            seen |= {word for word, names in found.items() if names}
        assert findings == {}
    assert seen == {"positive", "uncertain", "blank"}


@pytest.mark.parametrize("pixels", SIZES)
def test_the_catalog_points_at_exactly_the_bytes_of_each_member(dataset, pixels):
    catalog, shards = dataset.catalog, sorted((dataset.root / str(pixels)).glob("*.tar"))
    row = 0
    for number, path in enumerate(shards):
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            images = [m for m in tar if not m.name.endswith(".json")]
            for member in images:
                place = catalog.loc[row, ["shard", f"offset_{pixels}", f"length_{pixels}"]].tolist()
                assert place == [number, member.offset_data, member.size]
                assert data[place[1] : place[1] + place[2]] == tar.extractfile(member).read()
                assert member.name == f"{dataset.key(row)}.{SIZES[pixels]}"
                row += 1
    assert row == len(catalog)


def test_every_index_is_what_dali_would_make_and_every_tar_is_gnu(dataset, tmp_path):
    tars = sorted(dataset.root.glob("*/*.tar"))
    assert len(tars) == 3 * 8
    for tar in tars:
        with wds2idx.IndexCreator(str(tar), str(tmp_path / "made.idx"), verbose=False) as creator:
            creator.create_index()
        assert tar.with_suffix(".idx").read_text() == (tmp_path / "made.idx").read_text()
        assert tar.read_bytes()[257:265] == b"ustar  \0"


def test_odd_and_long_ids_read_back_through_both(tmp_path):
    """Dots, slashes and blanks are escaped; a name over 100 bytes takes a second header."""
    names = ["1.2.840.113619", "a/b c", "..", "é", "x" * 140]
    columns = {"study_id": "s.1", "subject_id": "p", "view": "other", "view_position": ""}
    images = pd.DataFrame({"image_id": names, "path": [f"{i}.jpg" for i in range(len(names))], **columns})
    source = tmp_path / "source"
    source.mkdir()
    for number in range(len(names)):
        image = smooth_image(np.random.default_rng(number), 50, 40)
        (source / f"{number}.jpg").write_bytes(jpeg(image))
    out = tmp_path / "pack"
    pack(Release("hand-made", source, images, (), ()), out, SMALL)
    dataset = PackedDataset.open(out)
    assert sorted(dataset.catalog["image_id"]) == sorted(names)
    for folder, extension in (("32", "jpg"), ("40", "npy")):
        samples = read_webdataset(out / folder)
        assert [key for key, _, _ in samples] == [dataset.key(row) for row in range(len(names))]
        assert [json.loads(meta)["image_id"] for _, _, meta in samples] == dataset.catalog["image_id"].tolist()
        assert read_dali(out / folder, extension) == [(image, meta) for _, image, meta in samples]


# ---------------------------------------------------------------- tables and description


def test_the_catalog_has_a_row_per_image_in_shard_order(dataset, release_folder):
    catalog = dataset.catalog
    assert catalog.columns.tolist() == [
        *(
            "row",
            "image_id",
            "study_id",
            "subject_id",
            "view",
            "view_position",
            "height",
            "width",
            "converted",
            "pixels",
            "shard",
        ),
        *(f"{column}_{pixels}" for pixels in SIZES for column in ("offset", "length")),
    ]
    assert catalog["row"].tolist() == list(range(len(catalog)))
    assert catalog["shard"].is_monotonic_increasing
    metadata = pd.read_csv(release_folder / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str, keep_default_na=False)
    metadata = metadata.set_index("dicom_id").loc[catalog["image_id"]]
    for column, published in (
        ("study_id", "study_id"),
        ("subject_id", "subject_id"),
        ("view_position", "ViewPosition"),
        ("height", "Rows"),
        ("width", "Columns"),
    ):
        assert catalog[column].astype(str).tolist() == metadata[published].tolist()


def test_labels_are_joined_to_the_rows(dataset, release_folder):
    for table in open_release(release_folder).labels:
        labels = dataset.labels(table.name)
        assert labels.findings == table.findings
        wanted = table.table.loc[dataset.catalog["image_id"]]
        assert labels.split[:].tolist() == wanted["split"].tolist()
        assert np.array_equal(labels.values, wanted[list(table.findings)].fillna(Labels.BLANK).to_numpy(np.int8))
    columns = pd.read_parquet(dataset.root / "labels" / "chexpert.parquet").columns.tolist()
    assert columns == ["row", "split", "Edema", "No Finding", "Pneumonia"]


def test_dataset_json_describes_every_input_and_every_shard(small):
    info = json.loads((small / "pack" / "dataset.json").read_bytes())
    assert (info["format"], info["release"], info["default_labels"]) == (1, "mimic-cxr-jpg", "cxr-lt-2023")
    assert info["options"] == {
        **{"sizes": ["32", "40:raw"], "fit": "squash", "quality": 95, "shard_images": 8, "seed": 0, "limit": None},
        **{"check_hashes": False, "allow_links": False, "window": "percentile"},
    }
    assert info["counts"] == {
        "planned": IMAGES,
        "packed": IMAGES,
        "rejected": {},
        "converted": {},
        "studies": 16,
        "subjects": 8,
        "same_pixels": 0,
        "same_pixels_of_patient": 0,
    }
    mimic = "mimic-cxr-2.0.0-{}.csv.gz".format
    assert info["inputs"] == {
        name: sha256_file(small / "release" / path)
        for name, path in {
            mimic("metadata"): mimic("metadata"),
            f"chexpert/{mimic('chexpert')}": mimic("chexpert"),
            f"chexpert/{mimic('split')}": mimic("split"),
            **{f"cxr-lt-2023/{p}.csv": f"cxr-lt-2023/{p}.csv" for p in ("train", "development", "test")},
        }.items()
    }
    assert set(info["encoders"]) == {"simplejpeg", "opencv"}
    for name, encoding in (("32", "jpeg"), ("40", "raw")):
        size = info["sizes"][name]
        assert (size["pixels"], size["encoding"], size["decoded_for"]) == (int(name), encoding, 40)
        for number, shard in enumerate(size["shards"]):
            path = small / "pack" / name / f"{number:06d}.tar"
            assert small / "pack" / shard["name"] == path
            assert (shard["bytes"], shard["sha256"]) == (path.stat().st_size, sha256_file(path))
            assert shard["index_sha256"] == sha256_file(path.with_suffix(".idx"))
            with tarfile.open(path) as tar:
                assert shard["samples"] == len(tar.getnames()) / 2
        assert sum(shard["samples"] for shard in size["shards"]) == IMAGES
        assert len(size["shards"]) == len(list((small / "pack" / name).glob("*.tar")))
    assert info["catalog_sha256"] == sha256_file(small / "pack" / "catalog.parquet")
    assert info["rejects_sha256"] == sha256_file(small / "pack" / "rejects.csv")
    assert info["labels"] == {
        name: sha256_file(small / "pack" / "labels" / f"{name}.parquet") for name in ("cxr-lt-2023", "chexpert")
    }
    assert seal(info) == info


def test_a_finished_dataset_holds_nothing_else(small):
    names = {path.split("/")[0] for path in contents(small / "pack")}
    assert names == {"dataset.json", "catalog.parquet", "rejects.csv", "labels", "32", "40"}
    assert (small / "pack" / "rejects.csv").read_text() == "row,id,path,reason,fingerprint\n"


def test_the_identity_is_that_of_catalog_and_shards_and_label_files_have_their_own(small, tmp_path):
    """A label release attached later invalidates no run."""
    before = PackedDataset.open(small / "pack")
    out = shutil.copytree(small / "pack", tmp_path / "attached")
    detach(out, "chexpert")
    assert PackedDataset.open(out).id == before.id == dataset_identity({**before.info, "labels": {}, "inputs": {}})
    assert verify(out).problems == ()
    pack_quietly(small / "release", tmp_path / "other", PackOptions(**{**vars(SMALL), "quality": 90}))
    assert PackedDataset.open(tmp_path / "other").id != before.id


# ---------------------------------------------------------------- the same bytes


def test_the_number_of_jobs_changes_no_byte(small, tmp_path):
    pack_quietly(small / "release", tmp_path / "pack", jobs=2)
    assert contents(tmp_path / "pack") == contents(small / "pack")


def test_the_order_of_the_tables_rows_changes_no_pixel(small, release, tmp_path):
    path = release / "mimic-cxr-2.0.0-metadata.csv.gz"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.iloc[::-1].to_csv(path, index=False)
    pack_quietly(release, tmp_path / "pack")
    assert PackedDataset.open(tmp_path / "pack").id == PackedDataset.open(small / "pack").id


def test_a_second_run_does_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in (small / "pack").rglob("*")}
    summary = pack_quietly(small / "release", small / "pack")
    assert summary.already_finished and summary.images_this_run == 0
    assert (summary.planned, summary.packed, summary.rejected) == (IMAGES, IMAGES, {})
    assert summary.num_bytes == sum(path.stat().st_size for path in (small / "pack").glob("*/*.tar"))
    assert {path: path.stat().st_mtime_ns for path in (small / "pack").rglob("*")} == before


def test_a_finished_dataset_that_lost_a_shard_is_not_called_finished(small, tmp_path):
    """`cxrdali verify` advises to delete damaged files and pack again: that must repair them, or name them."""
    out = shutil.copytree(small / "pack", tmp_path / "pack")
    (out / "32" / "000001.tar").unlink()
    try:
        pack_quietly(small / "release", out)
    except UserError as error:
        assert "000001.tar" in str(error)
    else:
        assert contents(out) == contents(small / "pack")


def test_the_source_is_only_read(release, tmp_path):
    def state():
        return {path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in release.rglob("*")}

    before = state()
    pack_quietly(release, tmp_path / "pack")
    estimate(open_release(release), SMALL)
    assert state() == before


def test_limit_packs_the_first_whole_studies_of_the_same_order(small, tmp_path):
    summary = pack_quietly(small / "release", tmp_path / "pack", PackOptions(**{**vars(SMALL), "limit": 10}))
    assert 8 <= summary.planned <= 10
    whole, part = (PackedDataset.open(folder).catalog for folder in (small / "pack", tmp_path / "pack"))
    pd.testing.assert_frame_equal(part[["row", "image_id"]], whole.iloc[: len(part)][["row", "image_id"]])


# ---------------------------------------------------------------- rejects


def test_bad_files_are_recorded_and_move_no_other_row(small, release, tmp_path):
    before = PackedDataset.open(small / "pack").catalog
    paths = open_release(release).images.set_index("image_id")["path"]
    rows = [0, 3, 4, 12, 30]
    files = [release / paths[before["image_id"].iloc[row]] for row in rows]
    files[0].unlink()
    files[1].write_bytes(b"")
    files[2].write_bytes(files[2].read_bytes()[:-300])
    files[3].write_bytes(b"<html>404</html>")
    files[4].write_bytes(cv2.imencode(".png", np.zeros((90, 80), np.uint8))[1].tobytes())
    summary = pack_quietly(release, tmp_path / "pack", limits=ALL_MAY_FAIL)
    reasons = ["absent", "empty file", "damaged JPEG: ", "a web page, not an image: ", "wrong magic for its name: "]

    rejects = pd.read_csv(tmp_path / "pack" / "rejects.csv", keep_default_na=False)
    assert rejects.columns.tolist() == ["row", "id", "path", "reason", "fingerprint"]
    assert rejects["row"].tolist() == rows
    assert rejects["id"].tolist() == before["image_id"].iloc[rows].tolist()
    assert [release / path for path in rejects["path"]] == files
    assert all(found.startswith(reason) for found, reason in zip(rejects["reason"], reasons, strict=True))
    assert (summary.planned, summary.packed) == (IMAGES, IMAGES - 5)
    assert summary.rejected == {reason.split(":")[0]: 1 for reason in reasons}

    dataset = PackedDataset.open(tmp_path / "pack")
    catalog = dataset.catalog
    assert np.flatnonzero(~dataset.packed).tolist() == rows
    columns = ["row", "image_id", "study_id", "subject_id", "view", "view_position"]
    pd.testing.assert_frame_equal(catalog[columns], before[columns])
    empty = ["height", "width", "shard", *(f"{c}_{s}" for c in ("offset", "length") for s in (32, 40))]
    assert catalog.loc[rows, empty].isna().all(axis=None)
    kept = catalog.index[dataset.packed]
    pd.testing.assert_frame_equal(catalog.loc[kept, empty[:3]], before.loc[kept, empty[:3]])

    for folder, extension in (("32", "jpg"), ("40", "npy")):
        whole = read_webdataset(small / "pack" / folder)
        assert read_webdataset(tmp_path / "pack" / folder) == [whole[row] for row in kept]
        assert read_dali(tmp_path / "pack" / folder, extension) == [whole[row][1:] for row in kept]


def test_a_rerun_over_rejects_does_nothing_and_says_them_again(release, tmp_path):
    image = open_release(release).images["path"].iloc[5]
    (release / image).write_bytes(b"")
    first, again = (pack_quietly(release, tmp_path / "pack", limits=ALL_MAY_FAIL) for _ in range(2))
    assert again.already_finished and again.rejected == first.rejected == {"empty file": 1}


def test_a_shard_of_rejects_alone_keeps_the_others_readable(small, release, tmp_path):
    catalog = PackedDataset.open(small / "pack").catalog
    paths = open_release(release).images.set_index("image_id")["path"]
    for image in catalog["image_id"][catalog["shard"] == 1]:
        (release / paths[image]).unlink()
    pack_quietly(release, tmp_path / "pack", limits=ALL_MAY_FAIL)
    kept = catalog.index[catalog["shard"] != 1]
    whole = read_webdataset(small / "pack" / "32")
    assert verify(tmp_path / "pack", deep=True).problems == ()
    assert read_webdataset(tmp_path / "pack" / "32") == [whole[row] for row in kept]
    assert read_dali(tmp_path / "pack" / "32", "jpg") == [whole[row][1:] for row in kept]


def test_a_release_of_rejects_alone_is_packed(release, tmp_path):
    shutil.rmtree(release / "files")
    summary = pack_quietly(release, tmp_path / "pack", limits=ALL_MAY_FAIL)
    assert (summary.planned, summary.packed) == (IMAGES, 0)
    assert summary.rejected == {"absent": IMAGES}
    assert not PackedDataset.open(tmp_path / "pack").packed.any()


# ---------------------------------------------------------------- refusals


def refused(root, out, options=SMALL, labels=()):
    before = contents(out) if out.is_dir() else None
    with pytest.raises(UserError) as error:
        pack_quietly(root, out, options, labels)
    assert str(out) in str(error.value) and "\n" not in str(error.value)
    assert before is None or contents(out) == before
    return str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("fit", "crop", "squash there, crop now"),
        ("quality", 90, "95 there, 90 now"),
        ("shard_images", 9, "8 there, 9 now"),
        ("seed", 1, "0 there, 1 now"),
        ("limit", 20, "None there, 20 now"),
        ("window", "full", "percentile there, full now"),
    ],
)
def test_other_options_are_refused_by_name(small, option, value, said):
    message = refused(small / "release", small / "pack", PackOptions(**{**vars(SMALL), option: value}))
    assert f"another option '{option}': {said}" in message and "--out" in message


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("mimic-cxr-2.0.0-metadata.csv.gz", "'mimic-cxr-2.0.0-metadata.csv.gz'"),
        ("mimic-cxr-2.0.0-chexpert.csv.gz", "'chexpert/mimic-cxr-2.0.0-chexpert.csv.gz'"),
        ("cxr-lt-2023/development.csv", "'cxr-lt-2023/development.csv'"),
    ],
)
def test_a_changed_input_table_is_refused_by_name(small, release, table, named):
    pd.read_csv(release / table, dtype=str).iloc[:-1].to_csv(release / table, index=False)
    assert f"another input table {named}" in refused(release, small / "pack")


def test_a_label_release_that_came_or_went_is_refused_by_name(small, release, tmp_path):
    write_table(tmp_path / "new" / "train_labeled.csv", "dicom_id,Edema", f"{first_image(release)},1")
    assert "'cxr-lt-2024/train_labeled.csv'" in refused(release, small / "pack", labels=[tmp_path / "new"])
    shutil.rmtree(release / "cxr-lt-2023")
    assert "'cxr-lt-2023/" in refused(release, small / "pack")


def first_image(release):
    return open_release(release).images["image_id"].iloc[0]


def test_other_encoder_versions_matter_only_if_something_is_made(small, tmp_path):
    out = shutil.copytree(small / "pack", tmp_path / "pack")
    info = json.loads((out / "dataset.json").read_bytes())
    info["encoders"]["simplejpeg"] = "0.0.1"
    (out / "dataset.json").write_bytes(json_bytes(seal(info)))
    assert pack_quietly(small / "release", out).already_finished
    more = PackOptions(sizes=(Size(64),), shard_images=8)
    message = refused(small / "release", out, more)
    assert f"simplejpeg is {simplejpeg.__version__} here, was 0.0.1 at packing" in message
    assert "pip install simplejpeg==0.0.1, or pack to another --out folder" in message


@pytest.mark.parametrize("name", ["notes.txt", "data/x.csv", ".hidden"])
def test_a_folder_of_something_else_is_refused_and_left_as_it_was(small, tmp_path, name):
    write_table(tmp_path / "out" / name, "hello")
    assert repr(name.split("/")[0]) in refused(small / "release", tmp_path / "out")
    assert not (tmp_path / "out" / ".packing").exists()


def test_a_file_as_the_folder_is_refused(small, tmp_path):
    (tmp_path / "out").write_text("hello")
    assert "is no folder; give another --out" in refused(small / "release", tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"options": 1}', '{"format": 1'])
def test_a_damaged_description_is_refused_not_packed_over(small, tmp_path, text):
    out = shutil.copytree(small / "pack", tmp_path / "pack")
    (out / "dataset.json").write_text(text)
    assert "dataset.json" in refused(small / "release", out)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("sizes", (), "no size given"),
        ("sizes", (Size(224), Size(224, raw=True)), "size 224 is given twice"),
        ("fit", "stretch", "fit 'stretch': choose one of squash, pad, crop"),
        ("quality", 0, "quality 0: JPEG quality is 1 to 100"),
        ("quality", 101, "quality 101"),
        ("shard_images", 0, "shard images 0: at least 1"),
        ("seed", -1, "seed -1: 0 to"),
        ("seed", 2**63, "seed 9223372036854775808"),
        ("limit", 0, "limit 0: at least 1 image"),
    ],
)
def test_impossible_options_name_value_and_range(option, value, said):
    with pytest.raises(UserError) as error:
        PackOptions(**{option: value})
    assert said in str(error.value)


# ---------------------------------------------------------------- estimate


def test_an_estimate_counts_exactly_and_guesses_the_bytes(dataset, release_folder):
    options = PackOptions(sizes=(Size(48), Size(56, raw=True), Size(64)), shard_images=16)
    found = estimate(open_release(release_folder), options, jobs=2)
    assert (found.images, found.studies, found.subjects) == (120, 60, 30)
    assert found.shards == len(dataset.info["sizes"]["48"]["shards"])
    assert (found.sampled, found.rejected) == (32, {}) and found.minutes > 0
    for name, size in dataset.info["sizes"].items():
        packed = sum(shard["bytes"] for shard in size["shards"])
        assert 0.7 * packed < found.num_bytes[name] < 1.3 * packed


def test_an_estimate_meets_the_rejects_too(release):
    shutil.rmtree(release / "files" / "p10" / "p10000000")
    found = estimate(open_release(release), SMALL)
    assert found.images == found.sampled == IMAGES
    assert found.rejected == {"absent": 3}


def test_estimates_of_the_jobs_scale_the_minutes(release):
    one, many = (estimate(open_release(release), SMALL, jobs=jobs).minutes for jobs in (1, 1000))
    assert many < one / 50


def test_fits_differ_and_each_is_packed_as_asked(release, tmp_path):
    rows = {}
    for fit in ("squash", "pad", "crop"):
        options = PackOptions(sizes=(Size(32, raw=True),), fit=fit, shard_images=8, limit=4)
        pack_quietly(release, tmp_path / fit, options)
        (_, image, _), *_ = read_webdataset(tmp_path / fit / "32")
        rows[fit] = np.load(io.BytesIO(image))
    assert (rows["pad"][:, 0] == 0).all() and (rows["pad"][:, -1] == 0).all()  # every image is higher than wide
    assert not np.array_equal(rows["squash"], rows["crop"]) and (rows["squash"] > 0).any()


@pytest.mark.parametrize("module", ["make_shard", "cluster_worker"])
def test_a_worker_loads_neither_pandas_nor_arrow(module):
    """They would take longer to load than 20 images take to pack."""
    script = f"import sys, shards.packing.{module}; print(*sorted({{'pandas', 'pyarrow'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
