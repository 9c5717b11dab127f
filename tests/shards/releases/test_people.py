"""Sex and age as releases write them."""

import pandas as pd
import pytest

from shards.releases.people import ages, races, sexes, years


@pytest.mark.parametrize(
    ("text", "sex"),
    [
        ("F", "F"),
        ("female", "F"),
        (" Female ", "F"),
        ("M", "M"),
        ("MALE", "M"),
        ("O", ""),
        ("", ""),
        ("1", ""),
        ("woman", ""),
    ],
)
def test_sexes(text, sex):
    assert sexes(pd.Series([text], dtype="str"))[0].tolist() == [sex]


@pytest.mark.parametrize(
    ("text", "age"),
    [
        *(
            ("45", "45"),
            ("045", "45"),
            ("045Y", "45"),
            ("45y", "45"),
            ("45.0", "45"),
            ("45.5", "45.5"),
            ("45,5", "45.5"),
            ("0", "0"),
        ),
        *(("018M", "1.5"), ("10 years", "10"), ("026W", "0.498289"), ("003D", "0.00821355")),
        *(("75-80", "75"), ("75 - 80", "75"), ("85+", "85"), (">85", "85"), (">= 85", "85"), ("85 or more", "85")),
        *(("120", "120"), ("121", ""), ("412", ""), ("1954", ""), ("-1", ""), ("", ""), ("nan", ""), ("unknown", "")),
    ],
)
def test_ages(text, age):
    assert ages(pd.Series([text], dtype="str"))[0].tolist() == [age]


def test_what_is_not_known_is_counted():
    column = pd.Series(["F", "O", "O", "x", "", "M"], dtype="str", index=[5, 4, 3, 2, 1, 0])
    found, notes = sexes(column)
    assert found.tolist() == ["F", "", "", "", "", "M"] and found.index.tolist() == column.index.tolist()
    assert notes == ("sex is not known of 3 images: 'O' (2), 'x' (1)",)
    assert sexes(pd.Series(["F", ""], dtype="str"))[1] == ()
    assert ages(pd.Series(["75-80", "80-85", "3"], dtype="str"))[1] == (
        "2 ages are given as a bin, as '75-80': its lower bound is taken",
    )


@pytest.mark.parametrize(
    ("text", "race"),
    [
        ("WHITE - RUSSIAN", "White"), ("White, non-Hispanic", "White"), ("BLACK/CAPE VERDEAN", "Black"),
        ("ASIAN - CHINESE", "Asian"), ("HISPANIC/LATINO - CUBAN", "Hispanic"),
        ("AMERICAN INDIAN/ALASKA NATIVE", "Native American"),
        ("NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", "Pacific Islander"), ("MULTIPLE RACE/ETHNICITY", "Other"),
        ("UNKNOWN", ""), ("Patient Declined to Answer", ""), ("UNABLE TO OBTAIN", ""), ("", ""),
    ],
)  # fmt: skip
def test_races(text, race):
    assert [each.tolist() if hasattr(each, "tolist") else each for each in races(pd.Series([text], dtype="str"))] == [
        [race], (),
    ]  # fmt: skip


def test_what_is_no_race_is_told_and_not_kept():
    found, notes = races(pd.Series(["lives in Springfield", "White"], dtype="str"))
    assert found.tolist() == ["", "White"] and notes == ("race is not known of 1 image: 'lives in Springfield' (1)",)


@pytest.mark.parametrize(
    ("text", "year"),
    [("2014", "2014"), ("20140523", "2014"), ("2014-05-23", "2014"), ("2014/05/23", "2014"),
     ("2014-05-23 10:00", "2014"),
     ("2014.0", "2014"), ("1894", ""), ("2178", ""), ("14", ""), ("2014-0523", ""), ("", "")],
)  # fmt: skip
def test_years(text, year):
    assert years(pd.Series([text], dtype="str"))[0].tolist() == [year]
