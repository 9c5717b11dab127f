"""Which findings of two releases are the same, by hand."""

import tomllib

import pytest

from shards.dataset.synonyms import SHIPPED, FindingsMap, common, together
from shards.errors import UserError
from shards.releases.nih import FINDINGS as NIH

CHEXPERT = ("No Finding", "Cardiomegaly", "Lung Opacity", "Edema", "Pneumonia", "Pleural Effusion", "Support Devices")
VINDR = ("Cardiomegaly", "ILD", "Nodule/Mass", "Pleural effusion", "Pulmonary fibrosis", "No finding")


def test_equal_spelling_is_the_same_and_synonyms_are_said():
    found = common(NIH, CHEXPERT, FindingsMap(), ("nih", "chexpert"))
    assert found.pairs == (
        ("Cardiomegaly", "Cardiomegaly"),
        ("Effusion", "Pleural Effusion"),
        ("Pneumonia", "Pneumonia"),
        ("Edema", "Edema"),
        ("No Finding", "No Finding"),
    )
    assert found.only_b == ("Lung Opacity", "Support Devices")
    assert found.only_a == tuple(name for name in NIH if name not in dict(found.pairs))
    assert found.words[0] == "Pleural Effusion: 'Effusion' of nih, 'Pleural Effusion' of chexpert"
    assert found.words[1].startswith("No Finding: one finding of nih and chexpert, though in each it means none of its")
    assert len(found.words) == 2


def test_case_blanks_and_underscores_decide_nothing():
    found = together(
        {"nih": ("Pleural_Thickening", "Fibrosis"), "vindr": ("Pleural thickening", *VINDR)}, FindingsMap()
    )
    assert found.findings[:2] == ("Pleural_Thickening", "Fibrosis")
    assert found.findings[2:] == (
        *("Cardiomegaly", "Interstitial Lung Disease", "Nodule/Mass", "Pleural Effusion", "No Finding"),
    )
    assert found.places == {"nih": (0, 1), "vindr": (0, 2, 3, 4, 5, 1, 6)}
    assert "Pleural_Thickening: 'Pleural_Thickening' of nih, 'Pleural thickening' of vindr" in found.spelled
    assert "Fibrosis: 'Fibrosis' of nih, 'Pulmonary fibrosis' of vindr" in found.spelled


def test_no_wider_or_narrower_word_is_a_synonym():
    apart = {
        "a": (
            "Consolidation",
            "Lung Opacity",
            "Lung Lesion",
            "Enlarged Cardiomediastinum",
            "Pleural Other",
            "Fracture",
        ),
        "b": ("Pneumonia", "Infiltration", "Nodule/Mass", "Cardiomegaly", "Pleural Thickening", "Rib Fracture"),
        "c": ("Mass", "Nodule", "Hernia", "Hiatal Hernia", "Normal", "No Finding", "Emphysema"),
        "d": ("Subcutaneous Emphysema", "Tuberculosis sequelae", "Tuberculosis", "Other lesion", "Other diseases"),
    }
    found = together(apart, FindingsMap())
    assert len(found.findings) == sum(map(len, apart.values())) and found.spelled == ()


def test_shipped_synonyms_have_reasons_and_no_name_twice():
    entries = tomllib.loads(SHIPPED.read_text())["findings"]
    names = [name.casefold() for each in entries for name in (each["name"], *each["also"])]
    assert len(set(names)) == len(names) and all(each["why"] for each in entries)


def test_a_map_counts_more_than_shipped_synonyms(tmp_path):
    path = tmp_path / "map.toml"
    path.write_text('"Effusion" = "Effusion"\n[packs.vindr]\n"No finding" = "No Finding (VinDr-CXR)"\n')
    names = FindingsMap.read(str(path))
    assert FindingsMap.read(names.text) == names
    assert names.text == '{"Effusion": "Effusion", "packs": {"vindr": {"No finding": "No Finding (VinDr-CXR)"}}}'
    found = together({"nih": ("Effusion", "No Finding"), "vindr": ("Pleural effusion", "No finding")}, names)
    assert found.findings == ("Effusion", "No Finding", "Pleural Effusion", "No Finding (VinDr-CXR)")
    assert found.no_finding == ()
    assert FindingsMap().text is None and FindingsMap.read(None) == FindingsMap()


def test_a_map_may_lead_to_a_shipped_name():
    names = FindingsMap.read('{"Fluid": "Effusion"}')
    assert common(("Fluid",), ("Pleural Effusion",), names).pairs == (("Fluid", "Pleural Effusion"),)


@pytest.mark.parametrize(
    "findings, given, words",
    [
        (("Effusion", "Pleural Effusion"), None, "'Effusion' and 'Pleural Effusion' of one pack would both be"),
        (("Mass", "Nodule"), '{"Nodule": "mass"}', "'Mass' and 'Nodule' of one pack would both be 'mass'"),
        (("Mass",), '{"Masss": "Nodule"}', "findings: 'Masss': no such finding; did you mean Mass?"),
        (("Mass",), '{"packs": {"z": {"Mass": "Nodule"}}}', "packs.z: no such pack; there are a, b"),
        (("Mass",), '{"packs": {"a": {"Edema": "Nodule"}}}', "'Edema': no such finding; a has Mass"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(findings, given, words):
    with pytest.raises(UserError, match=words):
        together({"a": findings, "b": ("Edema",)}, FindingsMap.read(given))


@pytest.mark.parametrize(
    "given", ["gone.toml", "Effusion", "[1]", '{"A": 1}', '{"A": " "}', '{"packs": "x"}', '{"packs": {"a": 3}}']
)
def test_what_is_no_map_is_refused(given):
    with pytest.raises(UserError, match="no map of findings .*write a .toml file with lines such as"):
        FindingsMap.read(given)
