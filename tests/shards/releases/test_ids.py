"""Ids: what spreadsheets, data frames and databases do to them is undone or refused, and never joins two patients."""

import numpy as np
import pandas as pd
import pytest

from shards.errors import UserError
from shards.releases.ids import alike, ids, twins

MANY = np.random.default_rng(0).integers(10**7, 10**8, 50)  # as MIMIC-CXR numbers its studies


def read(tmp_path, *values, prefix=""):
    return ids(
        pd.DataFrame({"patient": pd.Series(values, dtype="str")}), "patient", tmp_path / "t.csv", prefix
    ).tolist()


def refused(tmp_path, *values, prefix=""):
    with pytest.raises(UserError) as error:
        read(tmp_path, *values, prefix=prefix)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 't.csv'}: column 'patient' ") and "\n" not in said
    return said


# ---------------------------------------------------------------- words, signs, invisible characters

MISSING = (
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "NULL",
    "None",
    "<NA>",
    "NaT",
    "nil",
    "-",
    ".",
    "?",
    "missing",
    "Unknown",
    "(null)",
)
MISSING += ("nan", "NaN", "-nan", "\\N", "undefined", "#NULL!", "#REF!", "#VALUE!", "TRUE", "false", " NA ")


@pytest.mark.parametrize("word", MISSING)
@pytest.mark.parametrize("others", [("1", "2"), ("P1", "img-2")], ids=["numbers", "text"])
def test_a_word_for_a_missing_value_is_no_id(tmp_path, word, others):
    said = refused(tmp_path, *others, word, word)
    assert f"holds {word!r} in line 4, a word for a missing or a logical value" in said and "its own id" in said


@pytest.mark.parametrize(
    "text", ["0", "-1", "nana", "P-", "no", "naT1", "NA-1", "1.2.840.10008", "Unknown-7", "a b", "É1"]
)
def test_what_only_resembles_such_a_word_is_kept(tmp_path, text):
    assert read(tmp_path, "x1", text) == ["x1", text]


@pytest.mark.parametrize(
    "text", ["5-Mar", "05-Mar-24", "Mar-05", "DEC-2024", "1-sep", "5. Mrz", "05. Dez", "Okt 24", "05-mai-24", "5-déc."]
)
def test_a_date_that_a_spreadsheet_has_made_is_refused(tmp_path, text):
    assert f"holds {text!r} in line 3, a date that a spreadsheet has made of it" in refused(tmp_path, "4-A", text)


@pytest.mark.parametrize("text", ["1,000,032", "10,000", "1'000'032", "1’000"])
def test_separators_within_a_number_are_refused(tmp_path, text):
    assert f"holds {text!r} in line 3, a number with separators; write it without" in refused(tmp_path, "5", text)


@pytest.mark.parametrize("text", ["'00123", '="00123"', '"00123"', "'A'", "+123", "=A1"])
def test_quotes_signs_and_apostrophes_before_an_id_are_refused(tmp_path, text):
    assert f"holds {text!r} in line 3, an id in quotes" in refused(tmp_path, "5", text)


@pytest.mark.parametrize(
    "text", ["A\u200b1", "\ufeffA1", "A1\u200d", "A\u00a01", "A\x001", "A\n1", "A\u3000 1", "A\u00ad1"]
)
def test_an_invisible_character_is_shown_and_refused(tmp_path, text):
    assert f"holds {text!r} in line 3, which has an invisible character" in refused(tmp_path, "A2", text)


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "\u3000"])
def test_blanks_around_an_id_do_not_count(tmp_path, blank):
    assert read(tmp_path, f"{blank}A1{blank}", "A1", f"7{blank}", "7") == ["A1", "A1", "7", "7"]


def test_letters_with_accents_are_composed(tmp_path):
    assert read(tmp_path, "Jose\u0301", "x") == ["Jos\u00e9", "x"]
    assert "'Jos\\xe9' and 'Jose\\u0301', which would be one id" in refused(tmp_path, "Jos\u00e9", "Jose\u0301")


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("two", [("1", "1.0"), ("1.0", "1"), ("1.0", "1.00"), ("7.", " 7 "), ("x", "1", "1.0")])
def test_two_texts_never_become_one_id(tmp_path, two):
    said = refused(tmp_path, *two)
    assert f"{ascii(two[-2].strip())} and" in said or f"and {ascii(two[-2].strip())}" in said
    assert "which would be one id" in said


def test_ids_that_only_resemble_numbers_stay_apart(tmp_path):
    apart = ["1.20", "1.2", "01", "1", "1.2.840", "1.2.84", "A1", "a1", "1 2", "12"]
    assert read(tmp_path, *apart) == apart


def test_whole_floats_are_the_numbers_that_they_were(tmp_path):
    assert read(tmp_path, *(f"{number}.0" for number in MANY)) == [str(number) for number in MANY]
    assert read(tmp_path, "1.0", "p2") == ["1", "p2"]


def test_with_the_prefix_of_a_release_numbers_may_be_written_in_any_way(tmp_path):
    assert read(tmp_path, "p7", "7", "7.0", "p8", prefix="p") == ["7", "7", "7", "8"]


@pytest.mark.parametrize(
    "lost",
    [
        [f"{np.float32(number):.1f}" for number in MANY],
        [str(int(np.float64(number) * 1e12 + 77)) for number in MANY],
        [f"{number}{number % 9_999_991:07d}00000" for number in MANY],
        [f"{float(f'2168403661124{number}22290'):.0f}" for number in MANY],
    ],
    ids=["32 bits", "64 bits", "15 digits", "64 bits, printed whole"],
)
def test_numbers_that_were_rounded_have_lost_digits(tmp_path, lost):
    for said in (refused(tmp_path, *lost), refused(tmp_path, "x1", *lost)):
        assert (
            "all its long numbers are as round: they have lost digits" in said and "write a letter before each" in said
        )
    assert read(tmp_path, *(f"n{text}" for text in lost)) == [f"n{text}" for text in lost]


def test_long_numbers_that_are_not_round_lose_nothing(tmp_path):
    exact = [f"2168403661124{number}22290" for number in MANY]
    assert read(tmp_path, *exact) == exact
    assert read(tmp_path, lost := "12345678901234500000", exact[0]) == [lost, exact[0]]
    assert read(tmp_path, lost) == [lost]  # one may be round by chance


HEX = ("a1b2c3d4", "0f3e9a77", "5e104226", "77d0aa31", "9E000001", "12e45678", "c0ffee00", "31415926")


def test_hexadecimal_ids_are_text(tmp_path):
    assert read(tmp_path, *HEX) == list(HEX)
    assert read(tmp_path, "21E00123", "21K00124") == ["21E00123", "21K00124"]


@pytest.mark.parametrize("value", ["1.90E+38", "5e+10", "5.0e10", "1e-7"])
def test_what_can_only_be_a_float_is_refused_among_them(tmp_path, value):
    assert f"holds {value!r}, a number that has lost digits" in refused(tmp_path, *HEX, value)


@pytest.mark.parametrize("value", ["5e104226", "12E45678", "1e10", "12e5"])
@pytest.mark.parametrize("others", [("77000031", "31415926"), ("beef", "no"), ()], ids=["digits", "words", "none"])
def test_what_may_be_a_float_or_hexadecimal_is_refused_with_both_explanations(tmp_path, value, others):
    said = refused(tmp_path, *others, value)
    assert f"holds {value!r}, a number that has lost digits; use a copy" in said and "if they are hexadecimal" in said


# ---------------------------------------------------------------- ids that are nearly the same


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("00123", "123"),
        ("123", "0000123"),
        ("p123", "123"),
        ("s50414267", "50414267"),
        ("a.png", "a"),
        ("a", "a.DCM"),
        ("files/p1/a.jpg", "a"),
        ("dir\\a.jpg", "a"),
        ("ABC", "abc"),
        ("\uff11\uff12", "12"),
    ],
)
def test_an_id_that_is_written_otherwise_is_found(here, there):
    assert alike(["no", here, "77"], pd.Series(["other", there])) == (here, there, 1)
    assert alike(["77"], ["78", there]) is None


def test_twins_of_a_column_are_found():
    assert twins(pd.Series(["A1", "b2", "a1", "007", "7", "A1"])) == ("A1", "a1", 2)
    assert twins(pd.Series(["A1", "b2", "A1", "0", "00a", "10"])) is None
