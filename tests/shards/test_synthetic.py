"""The synthetic release: layout, proportions, determinism, and that every finding shows."""

import gzip
import hashlib
import re
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import simplejpeg

from shards.errors import UserError
from shards.releases.open import open_release
from shards.renditions.rendition import resize
from shards.synthetic.facts import FREQUENCIES, LOADINGS
from shards.synthetic.patient import sample_anatomy, sample_sign
from shards.synthetic.plan import SyntheticOptions, plan_release
from shards.synthetic.radiograph import draw, exposed
from shards.synthetic.release import draw_study, write_release
from shards.synthetic.signs import LOOKS
from tests.shards.contact_sheet import contact_sheet

pytestmark = pytest.mark.slow

SMALL = SyntheticOptions(studies=80, size=64, seed=3)
MIMIC = "mimic-cxr-2.0.0-{}.csv.gz"
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,"
    "StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning"
)
CHEXPERT = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
    "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,"
    "Support Devices"
)
LEADING = "dicom_id,subject_id,study_id,ViewPosition,ViewCodeSequence_CodeMeaning"
FINDINGS_2023 = (
    "Atelectasis,Calcification of the Aorta,Cardiomegaly,Consolidation,Edema,Emphysema,"
    "Enlarged Cardiomediastinum,Fibrosis,Fracture,Hernia,Infiltration,Lung Lesion,Lung Opacity,Mass,"
    "No Finding,Nodule,Pleural Effusion,Pleural Other,Pleural Thickening,Pneumomediastinum,Pneumonia,"
    "Pneumoperitoneum,Pneumothorax,Subcutaneous Emphysema,Support Devices,Tortuous Aorta"
)
FINDINGS_2024 = (
    "Adenopathy,Atelectasis,Azygos Lobe,Calcification of the Aorta,Cardiomegaly,Clavicle Fracture,"
    "Consolidation,Edema,Emphysema,Enlarged Cardiomediastinum,Fibrosis,Fissure,Fracture,Granuloma,Hernia,"
    "Hydropneumothorax,Infarction,Infiltration,Kyphosis,Lobar Atelectasis,Lung Lesion,Lung Opacity,Mass,"
    "Nodule,Normal,Pleural Effusion,Pleural Other,Pleural Thickening,Pneumomediastinum,Pneumonia,"
    "Pneumoperitoneum,Pneumothorax,Pulmonary Embolism,Pulmonary Hypertension,Rib Fracture,"
    "Round(ed) Atelectasis,Subcutaneous Emphysema,Support Devices,Tortuous Aorta,Tuberculosis"
)
PARTS_2023 = ("train.csv", "development.csv", "test.csv")
PARTS_2024 = ("train_labeled.csv", "development_labeled_task1.csv", "test_labeled_task1.csv")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    return root, write_release(root, SMALL)


@pytest.fixture(scope="module")
def plan():
    return plan_release(SyntheticOptions(studies=30_000, seed=11))


def table(root, name):
    return pd.read_csv(root / name, dtype=str, keep_default_na=False)


def challenge(root, folder, names):
    return [table(root / folder, name) for name in names]


def hashes(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def generator(*key):
    return np.random.Generator(np.random.Philox(key=list(key)))


def test_same_bytes_for_any_jobs(release, tmp_path):
    root, _ = release
    write_release(tmp_path / "jobs", SMALL, jobs=2)
    assert hashes(tmp_path / "jobs") == hashes(root)


def test_seeds_make_different_releases(release, tmp_path):
    root, _ = release
    write_release(tmp_path, replace(SMALL, seed=4))
    ours, theirs = hashes(root), hashes(tmp_path)
    assert not {v for k, v in ours.items() if k.endswith(".jpg")} & set(theirs.values())
    assert set(table(root, MIMIC.format("split"))["dicom_id"]).isdisjoint(
        table(tmp_path, MIMIC.format("split"))["dicom_id"]
    )


def test_tree_and_pictures(release):
    root, summary = release
    paths = sorted((root / "files").rglob("*.jpg"))
    pattern = r"files/(p1\d)/\1\d{6}/s5\d{7}/[0-9a-f]{8}(-[0-9a-f]{8}){4}\.jpg"
    for path in paths:
        assert re.fullmatch(pattern, path.relative_to(root).as_posix())
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(path.read_bytes())
        assert (height, width, colorspace) == (64, 64, "Gray")
    metadata = table(root, MIMIC.format("metadata"))
    assert set(metadata["dicom_id"]) == {path.stem for path in paths}
    assert metadata["dicom_id"].is_unique
    assert (summary.images, summary.studies) == (len(paths), metadata["study_id"].nunique()) == (len(paths), 80)
    assert summary.subjects == metadata["subject_id"].nunique()
    assert summary.num_bytes == sum(path.stat().st_size for path in paths)


def test_headers_are_the_releases_own(release):
    root, _ = release
    expected = {
        MIMIC.format("metadata"): METADATA,
        MIMIC.format("split"): "dicom_id,study_id,subject_id,split",
        MIMIC.format("chexpert"): CHEXPERT,
        MIMIC.format("negbio"): CHEXPERT,
        "cxr-lt-2024/labels.csv": (
            f"{LEADING},fpath,{FINDINGS_2024},Bulla,Cardiomyopathy,Hilum,Osteopenia,Scoliosis,split"
        ),
        **{f"cxr-lt-2023/{name}": f"{LEADING},path,{FINDINGS_2023}" for name in PARTS_2023},
        **{f"cxr-lt-2024/{name}": f"{LEADING},fpath,{FINDINGS_2024}" for name in PARTS_2024},
    }
    for name, header in expected.items():
        assert ",".join(table(root, name).columns) == header, name
    assert {str(p.relative_to(root)) for p in root.rglob("*.csv*")} == set(expected)


def test_gzip_headers_hold_no_time_and_no_name(release):
    root, _ = release
    for path in root.glob("*.gz"):
        head = path.read_bytes()[:8]
        assert head[3] == 0 and head[4:8] == b"\0\0\0\0"
        assert gzip.decompress(path.read_bytes()).endswith(b"\n")


def test_report_labels(release):
    root, _ = release
    truth = pd.concat(challenge(root, "cxr-lt-2023", PARTS_2023)).drop_duplicates("study_id").set_index("study_id")
    for name in ("chexpert", "negbio"):
        labels = table(root, MIMIC.format(name)).set_index("study_id")
        assert set(labels.index) == set(truth.index)
        values = Counter(labels.drop(columns="subject_id").to_numpy().ravel())
        assert set(values) == {"1.0", "0.0", "-1.0", ""}
        assert values[""] > 0.5 * values.total()
        assert set(labels["No Finding"]) == {"1.0", ""}
        assert ((labels["No Finding"] == "1.0") == (truth["No Finding"].reindex(labels.index) == "1.0")).all()
        found = labels["Pleural Effusion"] == "1.0"
        assert (truth["Pleural Effusion"].reindex(labels.index)[found] == "1.0").all()
    assert not table(root, MIMIC.format("chexpert")).equals(table(root, MIMIC.format("negbio")))


def test_challenge_tables_agree_and_point_at_files(release):
    root, summary = release
    old = pd.concat(challenge(root, "cxr-lt-2023", PARTS_2023)).set_index("dicom_id")
    new = pd.concat(challenge(root, "cxr-lt-2024", PARTS_2024)).set_index("dicom_id").reindex(old.index)
    everything = table(root, "cxr-lt-2024/labels.csv").set_index("dicom_id").reindex(old.index)
    assert len(old) == summary.images and not new.isna().any(axis=None)
    assert (new["fpath"] == old["path"]).all() and (new["study_id"] == "s" + old["study_id"]).all()
    assert all((root / path).is_file() for path in old["path"])
    assert set(old[FINDINGS_2023.split(",")].to_numpy().ravel()) == {"0.0", "1.0"}
    assert set(new[FINDINGS_2024.split(",")].to_numpy().ravel()) == {"0", "1"}
    for finding in FINDINGS_2023.split(","):
        name = "Normal" if finding == "No Finding" else finding
        assert (new[name].astype(float) == old[finding].astype(float)).all(), finding
    assert everything[new.columns].equals(new)
    labels = old.drop(columns=["path", "ViewPosition", "ViewCodeSequence_CodeMeaning"])
    assert len(labels.drop_duplicates()) == labels["study_id"].nunique()


def test_splits_are_by_subject(release):
    root, _ = release
    official = table(root, MIMIC.format("split"))
    assert set(official["split"]) == {"train", "validate", "test"}
    assert (official.groupby("subject_id")["split"].nunique() == 1).all()
    parts = {}
    for folder, names in (("cxr-lt-2023", PARTS_2023), ("cxr-lt-2024", PARTS_2024)):
        parts[folder] = [set(part["subject_id"]) for part in challenge(root, folder, names)]
        assert all(parts[folder]) and sum(map(len, parts[folder])) == len(set.union(*parts[folder]))
    assert parts["cxr-lt-2023"][2] != parts["cxr-lt-2024"][2]
    share = [len(part) / official["subject_id"].nunique() for part in parts["cxr-lt-2023"]]
    assert np.allclose(share, (0.7, 0.1, 0.2), atol=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_twenty_studies_fill_every_split(tmp_path, seed):
    write_release(tmp_path, SyntheticOptions(studies=20, size=32, seed=seed))
    assert set(table(tmp_path, MIMIC.format("split"))["split"]) == {"train", "validate", "test"}
    for folder, names in (("cxr-lt-2023", PARTS_2023), ("cxr-lt-2024", PARTS_2024)):
        assert all(len(part) for part in challenge(tmp_path, folder, names))


def test_one_study_is_a_release(tmp_path):
    summary = write_release(tmp_path / "new", SyntheticOptions(studies=1, size=32))
    assert summary.studies == summary.subjects == 1
    assert set(table(tmp_path / "new", MIMIC.format("split"))["split"]) == {"train"}
    assert ",".join(table(tmp_path / "new", "cxr-lt-2023/test.csv").columns) == f"{LEADING},path,{FINDINGS_2023}"


def test_the_reader_accepts_it(release):
    root, summary = release
    read = open_release(root)
    assert len(read.images) == summary.images
    sizes = {labels.name: len(labels.findings) for labels in read.labels}
    assert sizes == {
        "cxr-lt-2023": 26,
        "cxr-lt-2024": 40,
        "cxr-lt-2024-all": 45,
        "chexpert": 14,
        "negbio": 14,
    }
    assert all(labels.table["split"].notna().all() for labels in read.labels)


def test_views_have_their_frequencies(plan):
    views = Counter(image.view for study in plan for image in study.images)
    counts = {"AP": 147_173, "PA": 96_161, "LATERAL": 82_853, "LL": 35_133, "": 15_769}
    for view, count in counts.items():
        expected = count / 377_110
        error = 5 * np.sqrt(expected / len(plan))  # images of a study go together: a study is the unit
        assert abs(views[view] / views.total() - expected) < error, view
    assert abs(views.total() / len(plan) - 1.655) < 0.03
    assert {len(study.images) for study in plan} == {1, 2, 3, 4}
    assert sum(count for view, count in views.items() if view not in counts) < 20


def test_subjects_have_a_long_tail_of_studies(plan):
    counts = Counter(study.subject for study in plan)
    assert abs(len(plan) / len(counts) - 227_835 / 64_588) < 0.35
    assert np.median(list(counts.values())) <= 2 and max(counts.values()) > 20
    assert len({study.subject_id for study in plan}) == len(counts)
    assert len({study.study_id for study in plan}) == len(plan)


def test_frequencies_are_the_papers():
    assert sum(FREQUENCIES.values()) == pytest.approx(2.401)
    assert (FREQUENCIES["Support Devices"], FREQUENCIES["Pneumoperitoneum"]) == (0.337, 0.002)


@pytest.mark.parametrize("finding", FREQUENCIES)
def test_findings_have_their_frequencies(plan, finding):
    images = sum(len(study.images) for study in plan)
    share = sum(len(study.images) * (finding in study.findings) for study in plan) / images
    expected = FREQUENCIES[finding]
    # Studies of one subject resemble each other: the variance is about three times that of independent ones.
    assert abs(share - expected) < 4 * np.sqrt(3 * expected / len(plan))


@pytest.mark.parametrize(
    "finding, given",
    [
        ("Pleural Effusion", "Edema"),
        ("Cardiomegaly", "Edema"),
        ("Lung Opacity", "Pneumonia"),
        ("Consolidation", "Pneumonia"),
        ("Subcutaneous Emphysema", "Pneumothorax"),
        ("Pneumomediastinum", "Pneumothorax"),
        ("Calcification of the Aorta", "Tortuous Aorta"),
    ],
)
def test_findings_that_go_together(plan, finding, given):
    among = [finding in study.findings for study in plan if given in study.findings]
    overall = [finding in study.findings for study in plan]
    assert np.mean(among) > 1.5 * np.mean(overall)


def test_findings_of_one_cause_go_together_and_others_do_not(plan):
    """The correlation of every pair of common findings has the sign of what they share."""
    names = [finding for finding, share in FREQUENCIES.items() if share > 0.05 and finding != "No Finding"]
    free = [study for study in plan if "No Finding" not in study.findings and not study.portable]
    present = np.array([[name in study.findings for name in names] for study in free])
    found = np.corrcoef(present.T)
    for i, one in enumerate(names):
        for j, other in enumerate(names[:i]):
            shared = np.dot(LOADINGS[one][:-1], LOADINGS[other][:-1])
            if shared > 0.25:
                assert found[i, j] > 0.05, (one, other)
            if shared == 0:
                assert abs(found[i, j]) < 0.05, (one, other)


def test_no_finding_excludes_all_but_devices(plan):
    normal = [study for study in plan if "No Finding" in study.findings]
    assert {finding for study in normal for finding in study.findings} == {"No Finding", "Support Devices"}
    assert not any(study.unseen for study in normal) and any(study.unseen for study in plan)


def test_devices_are_a_bedside_finding(plan):
    rates = [
        np.mean(["Support Devices" in study.findings for study in plan if study.portable == portable])
        for portable in (True, False)
    ]
    assert rates[0] > 2 * rates[1]


@pytest.mark.parametrize("finding", LOOKS)
def test_every_finding_shows_from_the_front(finding):
    changed = []
    for patient in range(4):
        anatomy, sign = sample_anatomy(generator(1, patient)), sample_sign(finding, generator(2, patient))
        with_it, without = (
            draw((384, 384), False, False, anatomy, signs, generator(3, patient)).astype(int) for signs in ([sign], [])
        )
        changed.append(np.abs(with_it - without) > 4)
    shares = [change.mean() for change in changed]
    assert min(shares) > 5e-5 and max(shares) < 0.6, shares


def change(finding, lateral, patient, size=512):
    """float32 (512, 512), gray levels: what the finding alone changes in a picture."""
    anatomy, sign = sample_anatomy(generator(1, patient)), sample_sign(finding, generator(2, patient))
    with_it, without = (
        exposed((size, size), lateral, False, anatomy, signs, generator(3, patient))[0] for signs in ([sign], [])
    )
    return with_it - without


def contrast(difference):
    """Gray levels by which the 50 most changed of 512 x 512 pixels differ, and as many of a smaller picture."""
    return np.sort(np.abs(difference).ravel())[-max(1, difference.size // 5000) :].mean()


@pytest.mark.parametrize("lateral", [False, True])
def test_a_picture_is_its_exposure_with_noise_rounded(lateral):
    anatomy, sign = sample_anatomy(generator(1, 5)), sample_sign("Mass", generator(2, 5))
    picture, noise = exposed((256, 256), lateral, False, anatomy, [sign], generator(3, 5))
    assert (
        np.abs(
            np.clip(picture + noise, 0, 255) - draw((256, 256), lateral, False, anatomy, [sign], generator(3, 5))
        ).max()
        <= 0.5
    )


@pytest.mark.parametrize("finding", LOOKS)
def test_every_finding_can_be_seen_with_512_pixels(finding):
    """Medians over patients; the noise has a deviation of about 1.5 gray levels."""
    assert np.median([contrast(change(finding, False, patient)) for patient in range(5)]) > 10


@pytest.mark.parametrize("finding", ["Enlarged Cardiomediastinum", "Pneumothorax", "Fracture", "Pleural Thickening"])
def test_some_findings_show_mainly_from_the_front(finding):
    front, side = (np.median([contrast(change(finding, lateral, p)) for p in range(5)]) for lateral in (False, True))
    assert side < 0.5 * front and LOOKS[finding].lateral <= 0.3


def test_what_the_side_shows_less_of_is_frontal_by_the_table():
    assert all(0 < look.lateral <= 1 for look in LOOKS.values())


FINE = ("Fracture", "Calcification of the Aorta", "Fibrosis", "Pneumomediastinum", "Pneumoperitoneum")


@pytest.mark.parametrize("finding", FINE)
def test_fine_findings_lose_their_contrast_when_shrunk(finding):
    kept = [shrunken(finding, patient, 128) for patient in range(5)]
    assert np.median(kept) < 0.6, kept


@pytest.mark.parametrize("finding", ["Lung Opacity", "Cardiomegaly", "Pleural Effusion", "Mass", "Hernia", "Nodule"])
def test_broad_findings_keep_theirs(finding):
    kept = [shrunken(finding, patient, 128) for patient in range(5)]
    assert np.median(kept) > 0.9, kept


def shrunken(finding, patient, size):
    """The share of the contrast at 512 pixels that is left at `size`."""
    difference = change(finding, False, patient)
    return contrast(resize(difference, size, "squash")) / contrast(difference)


@pytest.mark.parametrize("finding", LOOKS)
def test_findings_have_patterns_of_their_own(finding):
    """The change that a finding makes is not another finding's change, scaled: same patient, same place, same dice."""
    anatomy, own = sample_anatomy(generator(1, 9)), sample_sign(finding, generator(2, 9))

    def changed(name):
        with_it, without = (
            exposed((256, 256), False, False, anatomy, signs, generator(3, 9))[0].ravel()
            for signs in ([replace(own, finding=name)], [])
        )
        return with_it - without

    mine = changed(finding)
    for other in LOOKS:
        if other != finding:
            theirs = changed(other)
            assert mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs) < 0.95, other


def test_a_release_of_a_few_findings():
    few = ("Fracture", "Mass", "Fibrosis")
    studies = plan_release(SyntheticOptions(studies=4000, seed=2, only=few))
    for finding in few:
        share = np.mean([finding in study.findings for study in studies])
        assert abs(share - 0.4) < 4 * np.sqrt(0.24 / len(studies)), finding
    assert {finding for study in studies for finding in study.findings} == {*few, "No Finding"}
    assert all(len(study.findings) == 1 for study in studies if "No Finding" in study.findings)
    both = np.mean([{"Fracture", "Mass"} <= study.findings for study in studies])
    assert abs(both - 0.16) < 4 * np.sqrt(0.16 * 0.84 / len(studies))


def test_a_few_findings_leave_the_studies_as_they_are():
    few, all_ = (plan_release(SyntheticOptions(studies=500, seed=11, only=only)) for only in (("Mass",), ()))
    blank = {"findings": frozenset(), "unseen": frozenset()}
    assert [replace(study, **blank) for study in few] == [replace(study, **blank) for study in all_]


def test_the_contact_sheet_is_one_picture_of_every_finding():
    sheet = contact_sheet()
    assert sheet.dtype == np.uint8 and sheet.ndim == 3 and np.array_equal(sheet, contact_sheet())


def test_the_patient_is_the_same_at_every_size():
    for study in plan_release(SyntheticOptions(studies=10, seed=5)):
        large, small = (next(draw_study(SyntheticOptions(studies=10, size=size, seed=5), study)) for size in (512, 64))
        reduced = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(reduced.ravel(), small.ravel())[0, 1] > 0.99


def test_a_subjects_pictures_resemble_each_other():
    options = SyntheticOptions(studies=60, size=64, seed=8)
    studies = [study for study in plan_release(options) if not study.images[0].lateral and not study.portable]
    pictures = [next(draw_study(options, study)).astype(float) for study in studies]
    gaps = {True: [], False: []}
    for i, one in enumerate(studies):
        for j, other in enumerate(studies[:i]):
            gaps[one.subject == other.subject].append(np.abs(pictures[i] - pictures[j]).mean())
    assert np.mean(gaps[True]) < 0.9 * np.mean(gaps[False])


def test_bytes_of_pictures_of_512_pixels(tmp_path):
    summary = write_release(tmp_path, SyntheticOptions(studies=30, size=512))
    assert 40_000 < summary.num_bytes / summary.images < 60_000


def test_native_pictures(tmp_path):
    summary = write_release(tmp_path, SyntheticOptions(studies=2, size="native"))
    metadata = table(tmp_path, MIMIC.format("metadata"))
    assert set(zip(metadata["Rows"], metadata["Columns"], strict=True)) == {("3056", "2544")}
    for path in tmp_path.rglob("*.jpg"):
        assert simplejpeg.decode_jpeg_header(path.read_bytes())[:2] == (3056, 2544)
    assert 1_400_000 < summary.num_bytes / summary.images < 1_800_000


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}.*not an empty folder.*another folder"):
        write_release(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"studies": 0}, "studies is 0"),
        ({"studies": 2.5}, "studies is 2.5"),
        ({"size": 31}, "size is 31; give 32 to 4096 pixels"),
        ({"size": "huge"}, "size is 'huge'.*'native'"),
        ({"seed": -1}, "seed is -1"),
        ({"only": ("Mass", "Cold")}, "only names 'Cold'; give some of Support Devices, Lung Opacity"),
        ({"only": ("No Finding",)}, "only names 'No Finding'"),
    ],
)
def test_options_name_the_bad_value(values, message):
    with pytest.raises(UserError, match=message):
        SyntheticOptions(**values)


def test_jobs_below_one_are_refused(tmp_path):
    with pytest.raises(UserError, match="jobs is 0; give 1 or more"):
        write_release(tmp_path, SMALL, jobs=0)
