"""Synthetic hospitals: they differ as their TOML says, copies are the other's images, and failures do not show."""

import gzip
import io
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import simplejpeg

from shards.errors import UserError
from shards.releases.open import open_release
from shards.synthetic.copies import Copy, read_options
from shards.synthetic.hospital import Failure, Hospital, open_hospital
from shards.synthetic.layouts import layout_of
from shards.synthetic.plan import SyntheticOptions, plan_release, study_day
from shards.synthetic.release import draw_study, write_release
from shards.synthetic.scanner import Scanner
from tests.releases import contents

NAMES = ("university", "clinic", "coast", "harbour")
OF = {
    "layout": "own",
    "scanners": (Scanner("a", "b"),),
    "findings": {"Fluid": "Pleural Effusion", "None": "No Finding"},
}


def of(name, studies=24, size=48, **more):
    return SyntheticOptions(studies=studies, size=size, seed=4, hospital=open_hospital(name), **more)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Four hospitals in their folders; all but the first hold copies of the first."""
    root = tmp_path_factory.mktemp("hospitals")
    first = of("university")
    all_ = {name: first if name == NAMES[0] else of(name, copies=(4, first)) for name in NAMES}
    for name, options in all_.items():
        write_release(root / name, options)
    return root, all_


def read(root, name):
    return open_release(root / name, name=str(root / name / "release.toml") if name in ("coast", "harbour") else None)


def picture(root, release, image):
    path = root / release.images.set_index("image_id")["path"][image]
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float)


@pytest.mark.parametrize("name", NAMES)
def test_a_hospital_is_read_as_its_layout_and_is_synthetic(released, name):
    root, all_ = released
    release, studies = read(root, name), plan_release(all_[name])
    by_id = {image.dicom_id: study for study in studies for image in study.images}
    assert set(release.images["image_id"]) == set(by_id) and release.reading["synthetic"] is True
    assert release.name == {"university": "mimic-cxr-jpg", "clinic": "chestx-ray14"}.get(name, "synthetic-hospital")
    labels = release.labels[0]
    own = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
    own = dict(all_[name].hospital.findings) or own
    for image, row in labels.table.iterrows():
        for finding in labels.findings:
            if own.get(finding, finding) != "No Finding":
                assert row[finding] == (own.get(finding, finding) in by_id[image].findings), (image, finding)
    assert len(labels.findings) == {"university": 26, "clinic": 15, "coast": 10, "harbour": 17}[name]


@pytest.mark.parametrize("name", ["clinic", "coast"])
def test_no_finding_is_none_of_the_findings_that_the_table_names(released, name):
    labels = read(released[0], name).labels[0]
    none = next(finding for finding in labels.findings if finding.lower() == "no finding")
    others = labels.table[[finding for finding in labels.findings if finding != none]]
    assert ((others.sum(axis=1) == 0) <= (labels.table[none] == 1)).all()
    assert set(labels.table[none]) == {0, 1}


def test_sex_and_age_are_in_the_tables_of_each(released):
    root, all_ = released
    own = read(root, "coast").images.set_index("image_id")
    nih = pd.read_csv(root / "clinic" / "Data_Entry_2017_v2020.csv").set_index("Image Index")
    patients = pd.read_csv(root / "university" / "patients.csv.gz").set_index("subject_id")
    for study in plan_release(all_["coast"]):
        for image in study.images:
            assert tuple(own.loc[image.dicom_id, ["sex", "age"]]) == (study.sex, str(study.age))
            machine = (study.scanner.manufacturer, study.scanner.model)
            assert tuple(own.loc[image.dicom_id, ["manufacturer", "model"]]) == machine
    for study in plan_release(all_["clinic"]):
        for image in study.images:
            assert tuple(nih.loc[image.dicom_id, ["Patient Sex", "Patient Age"]]) == (study.sex, study.age)
    options = all_["university"]
    metadata = pd.read_csv(root / "university" / "mimic-cxr-2.0.0-metadata.csv.gz").set_index("study_id")
    for study in plan_release(options):
        who, year = patients.loc[study.subject_id], study_day(options.key, study).year
        assert who["gender"] == study.sex and who["anchor_age"] + year - who["anchor_year"] == study.age
        assert set(metadata.loc[[study.study_id], "StudyDate"] // 10_000) == {year}


def test_equal_options_are_equal_bytes_for_any_number_of_processes(released, tmp_path):
    root, all_ = released
    write_release(tmp_path / "again", all_["coast"], jobs=2)
    assert contents(tmp_path / "again") == contents(root / "coast")
    other = read_options(root / "coast")
    assert other == all_["coast"] and other.key == all_["coast"].key != replace(other, seed=5).key


def test_hospitals_share_no_patient(released):
    """With one seed: their thoraces are others, not the same under other names."""
    _, all_ = released
    assert len({options.key for options in all_.values()}) == 4
    pairs = [next(draw_study(options, plan_release(options)[0])).astype(float) for options in all_.values()]
    assert not np.array_equal(pairs[1], pairs[2])


@pytest.mark.parametrize("name", ["clinic", "coast"])
def test_copies_are_the_other_hospitals_images_with_its_labels(released, name):
    root, all_ = released
    here, there = read(root, name), read(root, "university")
    pairs = pd.read_csv(root / name / "synthetic-copies.csv")
    studies = {image.dicom_id: study for study in plan_release(all_["university"]) for image in study.images}
    own = {image.dicom_id: study for study in plan_release(all_[name]) for image in study.images}
    assert len({own[image].subject for image in pairs["image_id"]}) == 4 <= len(pairs) == len(set(pairs["copy_of"]))
    assert len({studies[image].subject for image in pairs["copy_of"]}) == 4
    assert not {*here.images["image_id"]} & {*there.images["image_id"]}
    equal = 0
    for image, of_ in pairs.itertuples(index=False):
        mine, theirs = picture(root / name, here, image), picture(root / "university", there, of_)
        assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.97
        equal += np.abs(mine - theirs).mean() < 1.5
        assert own[image].findings == studies[of_].findings and own[image].sex == studies[of_].sex
    assert 1 <= equal < len(pairs)
    others = [image for image in here.images["image_id"] if image not in set(pairs["image_id"])]
    assert len(others) == sum(len(study.images) for study in plan_release(replace(all_[name], copies=None)))


def test_copies_of_a_jpeg_release_of_the_same_size_are_the_same_file_where_nothing_was_changed(released):
    root, _ = released
    pairs = pd.read_csv(root / "coast" / "synthetic-copies.csv")
    here, there = (read(root, name).images.set_index("image_id")["path"] for name in ("coast", "university"))
    same = [
        (root / "coast" / here[image]).read_bytes() == (root / "university" / there[of_]).read_bytes()
        for image, of_ in pairs.itertuples(index=False)
    ]
    assert 0 < sum(same) < len(same)


def test_copies_fit_the_picture_size_of_the_one_that_holds_them():
    studies = plan_release(of("university"))
    copy = Copy(studies[0], of("university"), (0,))
    rng = np.random.default_rng(1)
    flat = np.full((48, 48), 100, np.uint8)
    assert np.array_equal(copy.changed(flat, (30, 30), 0, rng), np.full((30, 30), 100))
    assert copy.changed(flat, (30, 30), 1, rng).shape == (30, 30)
    assert np.array_equal(copy.changed(flat, (48, 48), 4, rng), flat)


def test_shares_views_and_people_are_those_of_the_toml():
    hospital = open_hospital("coast")
    studies = plan_release(SyntheticOptions(studies=6000, seed=1, hospital=hospital))
    images = [study for study in studies for _ in study.images]
    for finding, share in hospital.shares.items():
        if finding not in ("No Finding",):
            assert abs(np.mean([finding in study.findings for study in images]) - share) < 0.03, finding
    assert abs(np.mean([len(study.images) == 2 for study in studies]) - 0.4) < 0.02
    subjects = {study.subject: study for study in reversed(studies)}.values()
    assert abs(np.mean([study.sex == "F" for study in subjects]) - 0.55) < 0.04
    assert abs(np.mean([study.age for study in subjects]) - 60) < 2 and min(study.age for study in subjects) >= 18
    assert abs(np.mean([study.scanner.model == "Film 70" for study in studies]) - 0.7) < 0.02
    one = {(study.subject, study.sex) for study in studies}
    assert len(one) == len({subject for subject, _ in one})


def test_a_failing_group_shows_no_sign_and_keeps_its_label():
    fails = Hospital(
        **OF, shares={"Pleural Effusion": 0.9, "No Finding": 0.0}, fails=(Failure("Pleural Effusion", "F", 60),)
    )
    with_it = SyntheticOptions(studies=60, size=64, seed=3, hospital=fails)
    sound = SyntheticOptions(studies=60, size=64, seed=3, hospital=replace(fails, fails=()))
    hit = 0
    for study in plan_release(with_it):
        plain = replace(study, findings=study.findings - {"Pleural Effusion"})
        shown = next(draw_study(with_it, study))
        group = study.sex == "F" and study.age >= 60 and "Pleural Effusion" in study.findings
        others = {sign for sign in study.findings if sign > "Pleural Effusion"}  # whose dice follow in the stream
        if group and not others:
            hit += 1
            assert np.array_equal(shown, next(draw_study(with_it, plain)))
        elif (
            not group and "Pleural Effusion" in study.findings and not others and "LATERAL" not in study.images[0].view
        ):
            assert not np.array_equal(shown, next(draw_study(with_it, plain)))
    assert hit and sound.key != with_it.key


def test_a_scanner_without_settings_leaves_a_picture_as_it_is():
    rng = np.random.default_rng(0)
    picture = rng.uniform(0, 255, (20, 30)).astype(np.float32)
    film = Scanner("a", "b").film(picture, np.zeros_like(picture), rng)
    assert np.abs(film - picture).max() <= 0.51


def test_each_setting_of_a_scanner_does_what_it_says():
    rng = np.random.default_rng(0)
    flat, none = np.full((50, 40), 100, np.float32), np.zeros((50, 40), np.float32)
    film = lambda **settings: Scanner("a", "b", **settings).film(flat, none, rng)  # noqa: E731
    assert (film(gamma=2.0) == round(255 * (100 / 255) ** 2)).all()
    assert (film(contrast=1.5) == 90).all() and (film(brightness=12.0) == 112).all()
    noisy = Scanner("a", "b", noise=2.0).film(flat, none + 3, rng)
    assert (noisy == 106).all()
    bordered = film(collimation=0.2)
    dark = bordered == 0
    assert dark.any() and (bordered[25, 20] == 100) and not dark[12:38, 10:30].any()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"layout": "mimic"}, "layout: 'mimic' is none; did you mean mimic-cxr-jpg"),
        ({"findings": {}}, 'findings has .*; name those of layout "own"'),
        ({"findings": {"Fluid": "Effusion"}}, "'Effusion' is none; .*Pleural Effusion"),
        ({"shares": {"Oedema": 0.1}}, "'Oedema' is none"),
        ({"shares": {"Edema": 1.0}}, "Edema: the share is 1.0; give 0 or more, below 1"),
        ({"women": -0.1}, "women: the share is -0.1"),
        ({"ages": (50, -1.0)}, r"ages is \[50, -1.0\]; give mean and standard deviation"),
        ({"ages": (float("nan"), 1.0)}, r"ages is \[nan, 1.0\]; give mean and standard deviation"),
        ({"views": {"PA  LATERAL": 1.0}}, "views: '' is none"),
        ({"views": {"PA": 0.5, "LATERAL": 0.5}}, "views, the first of a study: 'LATERAL' is none; .*AP, PA"),
        ({"views": {"AP": 0.5, "PA": float("nan")}}, r"views: the shares are \[0.5, nan\]"),
        ({"views": {}}, r"views: the shares are \[\]"),
        ({"views": {"PA": 0.0}}, r"views: the shares are \[0.0\]; give 0 or more, one of them above 0"),
        ({"scanners": ()}, r"scanners: the shares are \[\]"),
        ({"layout": "chestx-ray14", "findings": {}, "views": {"LATERAL": 1.0}}, "'LATERAL' is none; .*AP, PA"),
    ],
)
def test_a_hospital_names_the_bad_value(values, message):
    with pytest.raises(UserError, match=message):
        Hospital(**{**OF, **values})


def test_scanners_and_failures_name_the_bad_value():
    with pytest.raises(UserError, match="scanners: blur is -1.0; give 0 or more"):
        Scanner("a", "b", blur=-1.0)
    with pytest.raises(UserError, match="scanners: brightness is nan; give gray levels"):
        Scanner("a", "b", brightness=float("nan"))
    with pytest.raises(UserError, match="fails.strength is -0.5; give 0 or more"):
        Failure("Edema", strength=-0.5)
    with pytest.raises(UserError, match="fails.sex: 'W' is none; .*F, M"):
        Failure("Edema", "W")
    with pytest.raises(UserError, match="fails.finding: 'Oedema' is none"):
        Failure("Oedema")


@pytest.mark.parametrize(
    "text, message",
    [
        ('layout = "own"\nscaners = []', "scaners"),
        ('layout = "own"', "scanners"),
        ("layout = ", "Invalid value"),
        ('layout = "own"\nscanners = [{manufacturer = "a", model = "b", gamma = "dark"}]', "dark"),
        ('layout = "own"\nscanners = [{manufacturer = "a", model = "b"}]', "name those of layout"),
    ],
)
def test_a_toml_names_the_file_and_what_is_wrong(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=f"mine.toml: .*{message}"):
        open_hospital(str(tmp_path / "mine.toml"))


def test_a_toml_of_ones_own_is_a_hospital(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'layout = "own"\nscanners = [{manufacturer = "a", model = "b", gamma = 2}]\n'
        '[findings]\n"Fluid" = "Pleural Effusion"\n"None" = "No Finding"\n'
    )
    assert open_hospital(str(tmp_path / "mine.toml")) == Hospital(**{**OF, "scanners": (Scanner("a", "b", gamma=2.0),)})


def test_what_there_is_not_is_said(tmp_path):
    with pytest.raises(UserError, match="'coost' is none; did you mean coast"):
        open_hospital("coost")
    with pytest.raises(UserError, match="absent.toml: cannot be read"):
        open_hospital(str(tmp_path / "absent.toml"))
    with pytest.raises(UserError, match="not what `cxrdali synth --hospital` wrote"):
        read_options(tmp_path)
    with pytest.raises(UserError, match="copies is 99; the other release has .* subjects to copy, give fewer"):
        plan_release(of("coast", copies=(99, of("university"))))
    for copies, hospital in (((0, of("university")), of("coast").hospital), ((2, of("university")), None)):
        with pytest.raises(UserError, match="give 1 or more, and the hospital"):
            SyntheticOptions(hospital=hospital, copies=copies)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_files_of_the_layout(released, name):
    root, all_ = released
    study = plan_release(all_[name])[0]
    data = (root / name / layout_of(all_[name]).path(study, study.images[0])).read_bytes()
    drawn = next(draw_study(all_[name], study))
    if name == "clinic":
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), drawn)
    else:
        assert np.abs(simplejpeg.decode_jpeg(data, colorspace="GRAY")[..., 0].astype(int) - drawn).mean() < 1.5


def test_the_default_release_has_none_of_a_hospitals_files(tmp_path):
    write_release(tmp_path / "plain", SyntheticOptions(studies=3, size=32))
    files = {path.name for path in (tmp_path / "plain").iterdir()}
    assert files == {
        "files", "SYNTHETIC.txt", "cxr-lt-2023", "cxr-lt-2024",
        *(f"mimic-cxr-2.0.0-{name}.csv.gz" for name in ("metadata", "split", "chexpert", "negbio")),
    }  # fmt: skip
    table = gzip.decompress((tmp_path / "plain" / "mimic-cxr-2.0.0-metadata.csv.gz").read_bytes())
    assert "sex" not in pd.read_csv(io.BytesIO(table)).columns
