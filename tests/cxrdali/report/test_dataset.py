"""Looking at a packed dataset: every number against plain Python over the tables it was packed from."""

import base64
import html
import itertools
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejpeg

from cxrdali.report.dataset.facts import NO_SPLIT, pairs, read_facts
from cxrdali.report.dataset.page import check_writable, write_page
from cxrdali.report.dataset.text import render as as_text
from cxrdali.report.kit.numbers import count, percent
from shards.dataset.description import seal
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.releases.release import LabelTable, Release
from shards.renditions.rendition import Size
from shards.storage.files import sha256_file
from tests.cxrdali.report.pages import SVG_LINK, Page, check_figures, check_numbers
from tests.releases import contents, jpeg, smooth_image, write_table

AWKWARD = '<b>x</b>&"$y$'
AWKWARD_ID = '<i>"id&'
FINDINGS = ("Edema", AWKWARD, "Hernia", "No Finding", "Mass")
POSITIONS = {"AP": "frontal", "LL": "lateral", "": "other"}


@dataclass(frozen=True)
class Packed:
    """A packed dataset, and what it was packed from: packed images by id, and label tables by release."""

    root: Path
    images: pd.DataFrame
    labels: dict[str, pd.DataFrame]
    rejected: dict[str, str]

    @property
    def dataset(self) -> PackedDataset:
        return PackedDataset.open(self.root)


def write(root: Path) -> Packed:
    """Two label releases that split the same subjects differently, a third with the first's splits, five rejects.

    `first` has uncertain and blank values and never a Hernia; `second` leaks a subject from train into test, has
    images without a split and released its dev split without labels.
    """
    rng = np.random.default_rng(3)
    rows = []
    for subject, study in itertools.product(range(14), range(2)):
        for _ in range(1 + (subject * 2 + study) % 5):
            position = list(POSITIONS)[len(rows) % 3]
            name = AWKWARD_ID if not rows else f"image{len(rows):03d}"
            path = f"files/{len(rows):03d}.jpg"
            # study names repeat between subjects, as nothing forbids
            rows.append((name, f"study{study}", f"subject{subject:02d}", POSITIONS[position], position, path))
    columns = ("image_id", "study_id", "subject_id", "view", "view_position", "path")
    images = pd.DataFrame(rows, columns=columns)
    rejected = {}
    for place, row in enumerate(images.itertuples()):
        path = root / "release" / row.path
        path.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(smooth_image(rng, 70 + place % 9, 60 + place % 4))
        if place % 16 == 5:
            data, rejected[row.image_id] = b"", "empty file"
        if place == 7:
            data, rejected[row.image_id] = b"not an image", "not a JPEG, PNG or DICOM image"
        path.write_bytes(data)
    subject = images["subject_id"].str[-2:].astype(int).to_numpy()
    tables = {
        "first": np.select([subject < 9, subject < 11], ["train", "dev"], "test").astype(object),
        "second": np.select([subject < 4, subject < 6, subject < 12], ["test", "dev", "train"], "").astype(object),
    }
    tables["second"][np.flatnonzero(subject == 8)[0]] = "test"
    tables["second"][tables["second"] == ""] = None
    tables["third"] = tables["first"].copy()
    labels, given = {}, []
    source = write_table(root / "release" / "labels.csv", "not read")
    for number, (name, split) in enumerate(tables.items()):
        values = rng.choice([1, 0, -1, np.nan], (len(images), len(FINDINGS)), p=[0.4, 0.4, 0.1, 0.1])
        if number:
            values = np.where(values == 1, 1, 0).astype(float)
        values[:, 2] = 0
        values[split == "dev"] = np.nan if name == "second" else values[split == "dev"]
        table = pd.DataFrame(values, columns=FINDINGS).astype("Int8")
        table.insert(0, "split", split)
        table.index = pd.Index(images["image_id"], name="image_id")
        given.append(LabelTable(name, FINDINGS, table, (source,)))
        labels[name] = table[~table.index.isin(rejected)]
    release = Release("by-hand", root / "release", images, tuple(given), (source,))
    options = PackOptions(sizes=(Size(48), Size(64, raw=True)), shard_images=20)
    limits = PackLimits(max_reject_fraction=1, allow_subject_overlap=True)
    pack(release, root / "pack", options, limits=limits)
    whole = images[~images["image_id"].isin(rejected)].set_index("image_id", drop=False)
    return Packed(root / "pack", whole, labels, rejected)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Packed:
    return write(tmp_path_factory.mktemp("inspect"))


@pytest.fixture(scope="module")
def facts(packed):
    return read_facts(packed.dataset)


@pytest.fixture(scope="module")
def text(facts) -> str:
    return as_text(facts)


@pytest.fixture(scope="module")
def page(packed, facts, tmp_path_factory) -> Page:
    return Page(write_page(tmp_path_factory.mktemp("page") / "page.html", packed.dataset, facts))


@pytest.fixture
def copy(packed, tmp_path) -> PackedDataset:
    """The dataset, to be damaged."""
    return PackedDataset.open(shutil.copytree(packed.root, tmp_path / "copy"))


def members(packed: Packed, release: str, split: str, column: str) -> set:
    """Ids of a split's packed images, studies or subjects."""
    split_of = packed.labels[release]["split"]
    inside = split_of.isna() if split == NO_SPLIT else split_of == split
    rows = packed.images.loc[split_of.index[inside.fillna(False).astype(bool)]]
    return set(zip(rows["subject_id"], rows["study_id"], strict=True)) if column == "study_id" else set(rows[column])


def section(text: str, title: str) -> str:
    """What stands below a title, up to the next one."""
    _, *parts = re.split(r"^(.+)\n=+\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))[title]


def numbers(text: str, name: str) -> list[list[str]]:
    """The cells of every table line that begins with a name, where two spaces or more part them."""
    return [re.split(r" {2,}", line)[1:] for line in text.splitlines() if line.startswith(f"{name}  ")]


def test_splits_and_values_are_those_of_the_tables(packed, facts):
    assert [release.name for release in facts.releases] == ["first", "second", "third"]
    for release in facts.releases:
        table = packed.labels[release.name]
        assert list(release.splits.index) == ["train", "dev", "test"] + [NO_SPLIT] * (release.name == "second")
        for split, line in release.splits.iterrows():
            images = members(packed, release.name, split, "image_id")
            assert line["images"] == len(images)
            assert line["studies"] == len(members(packed, release.name, split, "study_id"))
            assert line["subjects"] == len(members(packed, release.name, split, "subject_id"))
            inside = table.loc[list(images)]
            assert line["unlabelled"] == inside[list(FINDINGS)].isna().all(axis=1).sum()
            for finding in FINDINGS:
                wanted = Counter(inside[finding].fillna(9).tolist())
                found = release.counts[split].loc[finding].to_dict()
                assert found == {
                    "positive": wanted[1], "negative": wanted[0], "uncertain": wanted[-1], "blank": wanted[9],
                    "not known": 0,
                }  # fmt: skip
        assert release.splits["rejected"].sum() == len(packed.rejected) == 6
        frequency = release.counts["train"]["positive"].tolist()
        assert frequency == sorted(frequency, reverse=True) and len(set(frequency)) > 2


def test_pairs_are_counted_in_training_images(packed, facts):
    for release in facts.releases:
        train = packed.labels[release.name].loc[list(members(packed, release.name, "train", "image_id"))]
        having = {name: set(train.index[(train[name] == 1).fillna(False)]) for name in FINDINGS}
        found = pairs(release)
        meeting = {frozenset(pair) for pair in itertools.combinations(FINDINGS, 2) if having[pair[0]] & having[pair[1]]}
        assert {frozenset(pair) for pair in zip(found["first"], found["second"], strict=True)} == meeting
        assert len(found) == len(meeting) == 6
        for line in found.itertuples():
            first, second = having[line.first], having[line.second]
            both = len(first & second)
            assert line.images == both
            assert line.given_first == pytest.approx(both / len(first))
            assert line.given_second == pytest.approx(both / len(second))
            assert line.lift == pytest.approx(both / len(train) / (len(first) / len(train) * len(second) / len(train)))


def test_a_release_without_training_labels_is_counted_over_all_labelled_images(packed, copy):
    path = copy.root / "labels" / "second.parquet"
    table = pd.read_parquet(path)
    table.loc[table["split"] == "train", list(FINDINGS)] = None
    release = read_facts(attach(copy, "attached", table), ["attached"]).releases[0]
    test = packed.labels["second"]
    test = test[(test["split"] != "train").fillna(True)]
    assert release.counted == "all"
    assert len(release.rows) == (~test[list(FINDINGS)].isna().all(axis=1)).sum()
    assert dict(zip(release.findings, np.diag(release.together), strict=True)) == {
        name: int((test[name] == 1).sum()) for name in FINDINGS
    }


def test_what_two_splits_share_within_and_across_releases(packed, facts):
    shared = facts.overlap.set_index(["seen_release", "seen_split", "release", "split"])
    keys = [(name, split) for name in ("first", "second") for split in ("train", "dev", "test")]
    assert set(shared.index) == {(*seen, *held) for seen in keys for held in keys if seen != held}
    for seen, held in itertools.permutations(keys, 2):
        line = shared.loc[(*seen, *held)]
        for column, name in (("image_id", "images"), ("study_id", "studies"), ("subject_id", "subjects")):
            assert line[name] == len(members(packed, *seen, column) & members(packed, *held, column))
        known = members(packed, *seen, "subject_id")
        images = members(packed, *held, "image_id")
        assert line["known"] == sum(packed.images.loc[image, "subject_id"] in known for image in images)
        assert line["of"] == len(images)
    leak = shared.loc[("second", "train", "second", "test")]
    assert (leak["images"], leak["subjects"], leak["known"]) == (0, 1, 1), "the fixture must have a leak"
    assert facts.twins == {"third": "first"}


def test_the_overlap_is_said(text, facts):
    said = section(text, "IN TWO SPLITS")
    shared = facts.overlap.set_index(["seen_release", "seen_split", "release", "split"])
    for seen, held, name in (
        (("second", "train"), ("second", "test"), "second test, in train"),
        (("first", "train"), ("second", "test"), "second test, in first train"),
    ):
        line = shared.loc[(*seen, *held)]
        (cells,) = numbers(said, name)
        assert [cells[place] for place in (0, 1, 3, 4, 5)] == [
            count(line[column]) for column in ("of", "images", "studies", "subjects", "known")
        ]
        assert (cells[2], cells[6]) == (percent(line["images"] / line["of"]), percent(line["known"] / line["of"]))
    assert "1 pair of splits of one label release share subjects." in said
    assert "Do not train on one label release and test on another" in said
    assert "third (as first)" in said


def test_the_dataset_is_described(packed, facts, text):
    said = section(text, "DATASET")
    images = packed.images
    assert f"Dataset        {packed.dataset.id[:12]}\n" in said
    assert f"Images         {len(images) + 6} planned: {len(images)} packed, 6 rejected" in said
    assert re.search(r"Options +sizes 48, 64:raw, fit squash, JPEG quality 95, seed 0", said)
    height = packed.dataset.catalog["height"].dropna()
    assert f"Native height  {height.min()} to {height.max()} px, median {height.median():.0f}" in said
    per_study = Counter(Counter(zip(images["subject_id"], images["study_id"], strict=True)).values())
    assert facts.images_per_study[lambda studies: studies > 0].to_dict() == per_study
    more = sum(studies for number, studies in per_study.items() if number >= 4)
    assert more and numbers(said, "4 or more") == [[count(more), percent(more / facts.studies)]]
    assert facts.studies == sum(per_study.values()) and facts.subjects == images["subject_id"].nunique()
    for position, view in POSITIONS.items():
        here = (images["view_position"] == position).sum()
        cells = dict.fromkeys(("frontal", "lateral", "other"), "0") | {view: str(here)}
        assert numbers(said, position or "(blank)") == [[*cells.values(), str(here)]]
    for pixels, encoding in ((48, "JPEG"), (64, "raw")):
        stored = list((packed.root / str(pixels)).glob("*.tar"))
        total = sum(path.stat().st_size for path in stored)
        cells = [encoding, str(len(stored)), str(len(images)), f"{total / 1e3:.1f} KB"]
        assert numbers(said, f"{pixels} px") == [[*cells, f"{total / len(images) / 1e3:.1f} KB", "yes"]]


def test_findings_stand_with_their_shares_and_the_absent_are_named(packed, text):
    said = section(text, "LABELS FIRST (THE DEFAULT)")
    table = packed.labels["first"]
    for finding in FINDINGS:
        cells = []
        for split in ("train", "dev", "test"):
            inside = table.loc[list(members(packed, "first", split, "image_id")), finding]
            positive = int((inside == 1).sum())
            cells += [str(positive), percent(positive / len(inside))]
        assert cells in numbers(said, finding)
    assert "Without a positive anywhere: Hernia." in said
    assert "uncertain, or blank (not mentioned)" in said
    second = section(text, "LABELS SECOND")
    assert "Without labels altogether, so without positives: dev." in second
    # dev has nothing to show; the images without a split stand in the last two columns
    without = packed.labels["second"].loc[list(members(packed, "second", NO_SPLIT, "image_id")), "Edema"]
    (cells,) = numbers(second, "Edema")
    assert len(cells) == 6
    assert cells[-2:] == [str((without == 1).sum()), percent((without == 1).mean())]
    assert "No finding of second is uncertain or blank in a labelled image." in second
    assert "No finding of first" not in said


def test_rejects_stand_by_reason_with_the_first_ids(packed, text, facts):
    empty = [name for name, reason in packed.rejected.items() if reason == "empty file"]
    order = packed.dataset.catalog["image_id"]
    first = [name for name in order if name in empty][:3]
    assert facts.rejects.loc["empty file"].to_dict() == {"images": 5, "ids": first}
    said = section(text, "REJECTS")
    assert numbers(said, "empty file") == [["5", f"{', '.join(first)} and 2 more"]]
    assert numbers(said, "not a JPEG, PNG or DICOM image") == [["1", "image007 (begins with b'not an image')"]]


def test_lines_fit_a_terminal_and_carry_no_control_characters(copy):
    table = pd.read_parquet(copy.root / "labels" / "second.parquet")
    long = {"Mass": "Mass " * 30, "Hernia": "Pneumo" * 30, "Edema": "\x1b[31mEdema"}
    text = as_text(read_facts(attach(copy, "long", table.rename(columns=long))))
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text and "\N{REPLACEMENT CHARACTER}[31mEdema" in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_the_page_says_what_the_terminal_says(page, text):
    shown = [cell for rows in page.tables.values() for row in rows[1:] for cell in row]
    flat = re.sub(r"\s+", " ", text)
    for caption, rows in page.tables.items():
        if not caption.startswith("Per cent"):
            assert caption in flat
            assert all(cell in flat for row in rows[1:] for cell in row)
    assert len(shown) > 300
    for sentence in ("Without a positive anywhere: Hernia.", "third (as first)"):
        assert sentence in page.text


def test_every_number_of_a_table_stands_in_the_json_beside_the_page(page, facts):
    assert check_numbers(page) > 300
    release = page.numbers["releases"][0]
    assert release["frequencies"]["table"]["images"] == np.diag(facts.releases[0].together).tolist()
    assert release["map"]["images"][0][0] == facts.releases[0].together[0, 0]


def test_the_page_fetches_nothing_and_its_ids_are_its_own(page):
    assert page.addresses and not [address for address in page.addresses if not address.startswith("#")]
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)|data:", page.source.replace(SVG_LINK, ""))
    ids = re.findall(r'\bid="([^"]+)"', page.source)
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in page.addresses} <= set(ids)
    assert page.source.count("<svg") == check_figures(page) == 3


def test_names_and_ids_are_text(packed, facts, page, tmp_path):
    assert AWKWARD in page.table("Images with each finding of first").index
    with_images = Page(write_page(tmp_path / "page.html", packed.dataset, facts, images=True))
    assert AWKWARD in with_images.text
    for each in (page, with_images):
        assert not {"b", "i"} & set(each.tags)


def test_an_awkward_image_id_is_text_in_rejects_and_captions(copy, tmp_path):
    path = copy.root / "rejects.csv"
    path.write_text(path.read_text().replace("image007", AWKWARD_ID.replace('"', "'")).replace("empty file", "<u>"))
    catalog = copy.root / "catalog.parquet"
    table = pd.read_parquet(catalog)
    table["image_id"] = AWKWARD_ID + table["image_id"]
    table["view_position"] = "<s>" + table["view_position"]
    table.to_parquet(catalog, index=False)
    changed = reseal(copy.root)
    out = write_page(tmp_path / "page.html", changed, read_facts(changed), images=True)
    page = Page(out)
    assert AWKWARD_ID in page.text and "<s>AP" in page.text and "<u>" in page.text
    assert not {"i", "s", "u"} & set(page.tags)


def attach(dataset: PackedDataset, name: str, table: pd.DataFrame) -> PackedDataset:
    """The dataset with one more label release, whatever is in it."""
    path = dataset.root / "labels" / f"{name}.parquet"
    table.to_parquet(path, index=False)
    return reseal(dataset.root, labels=dataset.info["labels"] | {name: sha256_file(path)})


def reseal(root: Path, **changes) -> PackedDataset:
    """The dataset whose description fits its changed tables: damage that no hash sees."""
    path = root / "dataset.json"
    info = json.loads(path.read_text()) | changes
    info["catalog_sha256"] = sha256_file(root / "catalog.parquet")
    info["rejects_sha256"] = sha256_file(root / "rejects.csv")
    path.write_text(json.dumps(seal(info)))
    return PackedDataset.open(root)


def test_the_map_of_findings_is_the_share_of_a_rows_images(page, facts):
    release = facts.releases[0]
    table = page.table("Per cent of a row's images that have the column's finding, first")
    assert list(table.columns) == ["images", *table.index] and "Hernia" not in table.index
    together = pd.DataFrame(release.together, release.findings, release.findings)
    for row, column in itertools.product(table.index, repeat=2):
        part = 100 * together.loc[row, column] / together.loc[row, row]
        assert table.loc[row, column] == ("" if row == column or not part else f"{part:.0f}")
    assert table["images"].tolist() == [str(together.loc[name, name]) for name in table.index]
    titles = [html.unescape(title) for title in re.findall(r'title="([^"]*)"', page.source)]
    number = together.loc["Edema", AWKWARD]
    assert f"Edema and {AWKWARD}: {number} images" in titles
    strongest = re.search(r"of the (\d+) images with (.+?), (\d+) % have (.+?) too", page.text)
    images, row, part, column = strongest.groups()
    assert together.loc[row, row] == int(images)
    assert table.loc[row, column] == part


def test_pictures_only_when_asked_for_and_they_are_the_renditions(packed, facts, tmp_path):
    dataset = packed.dataset
    page = Page(write_page(tmp_path / "page.html", dataset, facts, images=True))
    pictures = [address for address in page.addresses if address.startswith("data:image/jpeg;base64,")]
    captions = re.findall(r"<figcaption><strong>(.*?)</strong><br>.*?<small>(.*?)</small>", page.source)
    assert "Contains medical images." in page.text
    assert [why for why, _ in captions[:3]] == ["frontal", "lateral", "other"]
    assert len(pictures) == len(captions) == 3 + 4 * 2
    ids = [html.unescape(name) for _, name in captions]
    assert len(set(ids[3:])) == len(ids[3:]), "no image twice among the findings"
    stored = dataset.stored(48)
    for name, address in zip(ids, pictures, strict=True):
        row = int(np.flatnonzero(dataset.catalog["image_id"] == name)[0])
        shard, offset, length = stored.shard[row], stored.offset[row], stored.length[row]
        data = stored.paths[int(shard)].read_bytes()[offset : offset + length]
        wanted = simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0].astype(float)
        shown = simplejpeg.decode_jpeg(base64.b64decode(address.split(",")[1]), "GRAY")[:, :, 0]
        times = shown.shape[0] // 48
        assert np.abs(shown.reshape(48, times, 48, times).mean(axis=(1, 3)) - wanted).mean() < 2
    train = packed.labels["first"]
    for (why, _), name in list(zip(captions, ids, strict=True))[3:]:
        at = train.loc[name]
        assert at[html.unescape(why)] == 1 and at["split"] == "train"


def test_raw_renditions_are_shown_too(copy, tmp_path):
    shutil.rmtree(copy.root / "48")
    page = Page(write_page(tmp_path / "page.html", copy, read_facts(copy), images=True))
    assert page.tags.count("img") == 11 and "stored at 64 px" in page.text


def test_a_dataset_without_its_size_folders(copy, tmp_path):
    for name in ("48", "64"):
        shutil.rmtree(copy.root / name)
    facts = read_facts(copy)
    said = section(as_text(facts), "DATASET")
    assert [cells[-1] for pixels in (48, 64) for cells in numbers(said, f"{pixels} px")] == ["no", "no"]
    page = Page(write_page(tmp_path / "page.html", copy, facts, images=True))
    assert "No size folder of this dataset is on this disk" in page.text
    assert "img" not in page.tags and "medical images" not in page.text


def test_a_missing_label_release_is_said(copy, tmp_path):
    (copy.root / "labels" / "second.parquet").unlink()
    facts = read_facts(copy)
    assert "second is named in dataset.json, but not in the labels folder" in as_text(facts)
    shutil.rmtree(copy.root / "labels")
    facts = read_facts(copy)
    assert "first, second and third are named in dataset.json" in as_text(facts)
    copy = reseal(copy.root, labels={}, default_labels=None)
    facts = read_facts(copy)
    text = as_text(facts)
    assert "No label release is attached" in text and "IN TWO SPLITS" not in text
    page = Page(write_page(tmp_path / "page.html", copy, facts, images=True))
    assert "No label release is attached" in page.text and page.tags.count("img") == 3


def test_one_release_alone(packed):
    facts = read_facts(packed.dataset, ["second"])
    text = as_text(facts)
    assert "LABELS SECOND" in text and "LABELS FIRST" not in text and "Across label releases" not in text
    with pytest.raises(UserError, match="no labels 'other'; attached are first, second, third"):
        read_facts(packed.dataset, ["other"])


def test_images_converted_to_gray_are_told_where_the_dataset_knows_of_them(copy, text):
    assert "Converted" not in text
    counts = copy.info["counts"] | {"converted": {"RGB": 3, "16-bit": 1}}
    changed = reseal(copy.root, counts=counts)
    said = as_text(read_facts(changed))
    assert re.search(r"Converted +RGB 3, 16-bit 1 \(images that were not 8-bit gray, baseline and upright\)", said)


@pytest.mark.parametrize("file", ["catalog.parquet", "labels/first.parquet", "rejects.csv"])
def test_a_damaged_table_is_an_error_naming_the_file(copy, file):
    path = copy.root / file
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: its hash is not the one in dataset.json"):
        read_facts(copy)


def test_a_lost_table_of_rejects_is_an_error_naming_it(copy):
    (copy.root / "rejects.csv").unlink()
    with pytest.raises(UserError, match=r"rejects\.csv: cannot be read \(No such file"):
        read_facts(copy)


def test_a_rendition_that_cannot_be_decoded_is_named(copy, tmp_path):
    facts = read_facts(copy)
    stored = copy.stored(48)
    for path in stored.paths.values():
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"48/\d+\.tar: sample subject\d+/study\d/\S+ cannot be decoded"):
        write_page(tmp_path / "page.html", copy, facts, images=True)
    assert not (tmp_path / "page.html").exists()


def test_looking_changes_nothing(copy, tmp_path):
    before = contents(copy.root)
    write_page(tmp_path / "page.html", copy, read_facts(copy), images=True)
    assert contents(copy.root) == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["page.html", "page.json"]


def test_where_a_page_cannot_be_written_is_told(packed, tmp_path):
    check_writable(tmp_path / "page.html", packed.root)
    assert list(tmp_path.iterdir()) == []
    for out, said in (
        (packed.root / "dataset.json", "inside the packed dataset"),
        (packed.root / "new" / ".." / "page.html", "inside the packed dataset"),
        (tmp_path / "absent" / "page.html", f"{tmp_path}/absent: no such folder"),
        (tmp_path, "a folder; give the name of a file"),
        (Path("/proc/page.html"), "/proc: cannot be written to"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            check_writable(out, packed.root)


def test_the_same_dataset_makes_the_same_page(packed, facts, page, tmp_path):
    out = write_page(tmp_path / "page.html", packed.dataset, read_facts(packed.dataset))
    assert out.read_text() == page.source


# ---------------------------------------------------------------- the same pixels, and patients that are none


def write_doubled(root: Path) -> PackedDataset:
    """45 images: 0 to 3 have the same pixels, of four patients in two splits; 4 and 5, of one patient; 6 and 7 are
    black. One patient has the last ten images."""
    (root / "in").mkdir()
    rng = np.random.default_rng(0)
    pictures = [smooth_image(rng, 50, 45) for _ in range(45)]
    pictures[1] = pictures[2] = pictures[3] = pictures[0]
    pictures[5] = pictures[4]
    pictures[6] = pictures[7] = np.zeros((50, 45), np.uint8)
    for number, picture in enumerate(pictures):
        (root / "in" / f"{number}.jpg").write_bytes(jpeg(picture))
    patients = [f"p{4 if number == 5 else 99 if number >= 35 else number}" for number in range(len(pictures))]
    images = pd.DataFrame({"image_id": [f"i{number}" for number in range(45)], "study_id": "s", "subject_id": patients})
    images["view"], images["view_position"], images["path"] = "other", "", [f"{number}.jpg" for number in range(45)]
    table = pd.DataFrame({"split": np.where(np.arange(45) % 3 == 0, "test", "train"), "Edema": 1})
    table = table.astype({"Edema": "Int8"}).set_index(pd.Index(images["image_id"], name="image_id"))
    source = write_table(root / "in" / "mine.csv", "not read")
    labels = (LabelTable("mine", ("Edema",), table, (source,)),)
    limits = PackLimits(allow_subject_overlap=True)
    pack(
        Release("mine", root / "in", images, labels, (source,)), root / "pack", PackOptions((Size(40),)), limits=limits
    )
    return PackedDataset.open(root / "pack")


def test_the_same_pixels_of_two_patients_are_listed_with_their_splits(tmp_path):
    dataset = write_doubled(tmp_path)
    facts = read_facts(dataset)
    first, second = facts.same.sets.to_dict("records")
    assert (first["images"], first["patients"], first["in mine"]) == (4, 4, ["test", "train"])
    assert (second["images"], second["patients"], second["in mine"]) == (2, 1, ["train"])
    row = {name: place for place, name in enumerate(dataset.catalog["image_id"])}
    assert first["ids"] == sorted(["i0", "i1", "i2", "i3"], key=row.get)[:3] and set(second["ids"]) == {"i4", "i5"}
    assert (facts.same.of_others, facts.same.of_one, facts.same.blank, facts.same.across("mine")) == (4, 2, 2, 4)
    counts = dataset.info["counts"]
    assert (counts["same_pixels"], counts["same_pixels_of_patient"]) == (4, 2)
    text = re.sub(r"\s+", " ", as_text(facts))
    page = Page(write_page(tmp_path / "page.html", dataset, facts))
    for said in (
        "4 images have the same pixels as an image of another patient.",
        "2 images have the same pixels as another image of the same patient.",
        "Of all these, 4 have the same pixels as an image of another split of mine.",
        "2 images have a single gray everywhere, as others have",
        "One patient has 10 of 45 images (22.2 %). If that is not so, the column of patients is a wrong one",
    ):
        assert said in text and said in page.text
    shown = page.table("Images with the same pixels")
    assert shown.index.tolist() == [f"{', '.join(first['ids'])} and 1 more", ", ".join(second["ids"])]
    assert shown["In mine"].tolist() == ["test, train", "train"] and shown["Patients"].tolist() == ["4", "1"]
    assert page.numbers["same_pixels_sets"]["images"] == [4, 2] and check_numbers(page) > 20


def test_nothing_is_said_of_a_dataset_without_doubles(facts, text):
    assert facts.same.sets.empty and "No two images have the same pixels." in text


def test_a_dataset_that_was_packed_before_says_so(packed, copy):
    table = pd.read_parquet(copy.root / "catalog.parquet").drop(columns="pixels")
    table.to_parquet(copy.root / "catalog.parquet", index=False)
    found = read_facts(reseal(copy.root, hashed=0))
    assert found.same is None and "Not known: this dataset was packed before" in as_text(found)
