import os

import pytest

from cxrdali.data.options import DataSettings
from cxrdali.data.uncertain import by_finding, canonical
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.postprocess.options import FitOptions
from cxrdali.runs.settings import TrainSettings, assigned, settings_of
from shards.errors import UserError

POLICY = """
default = "ignore"
[findings]
"Pleural Effusion" = "positive"
Edema = "ignore-all"
Fracture = "ignore"
"""
TEXT = "ignore; Edema=ignore-all; Pleural Effusion=positive"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return str(path)


@pytest.mark.parametrize(
    "given, kept",
    [
        ("ignore-all", "ignore-all"),
        (" negative ; B=positive;A = ignore ;", "negative; A=ignore; B=positive"),
        ("positive; A=positive", "positive"),  # as the default does
        ("negative; a=b%3Bc%25=ignore", "negative; a=b%3Bc%25=ignore"),
    ],
)
def test_a_policy_has_one_text(given, kept):
    assert canonical(given) == kept == canonical(kept)


def test_a_file_is_read_at_once_wherever_a_policy_is_given(file):
    for made in (DataSettings(size=64, uncertain=file), EvaluateOptions(uncertain=file), FitOptions(file)):
        assert made.uncertain == TEXT
    assert CompareOptions(uncertain=file).uncertain == TEXT and CompareOptions().uncertain is None
    settings = settings_of(dict([assigned(f"uncertain={file}")]), stage=1)
    assert settings.data.uncertain == TEXT == TrainSettings.from_json(settings.as_json()).data.uncertain
    assert settings_of({"data.uncertain": TEXT}, stage=1) == settings


def test_every_finding_gets_its_own():
    findings = ("Edema", "No Finding", "Pleural Effusion", "A;B=C%")
    assert by_finding(f"{TEXT}; A%3BB=C%25=negative", findings) == ["ignore-all", "ignore", "positive", "negative"]
    with pytest.raises(UserError, match="'Edma': no such finding; did you mean Edema?"):
        by_finding("negative; Edma=ignore", findings)


@pytest.mark.parametrize(
    "text, why",
    [
        ('default = "maybe"', "default = 'maybe': choose one of negative"),
        ('[findings]\nEdema = "postive"', "Edema = 'postive': did you mean positive"),
        ("[findings]\nEdema = true", "Edema = True: choose one of"),
        ('findings = "positive"', "no policy ('findings' is no part of one); write default"),
        ('[finding]\nEdema = "positive"', "no policy ('finding' is no part of one)"),
        ("default =", "no policy (Invalid value"),
        (None, "no policy (No such file or directory)"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path, text, why):
    path = tmp_path / "p.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        canonical(str(path))
    assert why in str(error.value)


def test_a_pipe_is_no_policy(tmp_path):
    os.mkfifo(tmp_path / "p.toml")
    with pytest.raises(UserError, match="no plain file"):
        canonical(str(tmp_path / "p.toml"))


@pytest.mark.parametrize("text", ["negative; A=ignore; A=positive", "negative; =ignore", "negative; ignore"])
def test_text_without_one_finding_each_is_refused(text):
    with pytest.raises(UserError, match="give every finding once, as in 'negative; Edema=positive'"):
        canonical(text)


def test_a_file_of_windows_notepad_is_read(tmp_path):
    path = tmp_path / "p.toml"
    path.write_bytes(b"\xef\xbb\xbf" + POLICY.encode())
    assert canonical(str(path)) == TEXT


def test_a_name_with_spaces_around_it_is_another_name(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('[findings]\n" Edema " = "ignore"\nEdema = "positive"\n')
    kept = canonical(str(path))
    assert kept == "negative; %20Edema%20=ignore; Edema=positive" == canonical(kept)
    assert by_finding(kept, ("Edema", " Edema ")) == ["positive", "ignore"]
    with pytest.raises(UserError, match="' Edema ': no such finding; did you mean Edema?"):
        by_finding(kept, ("Edema",))
