"""Ids as text: what is the same id, what is none, and what has lost digits on its way into a table.

An id that is read wrongly joins two patients, or parts one in two, and no later check can see it. So whatever a
spreadsheet, a data frame or a database may have done to ids is refused with the value, unless it can be undone.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import UserError
from shards.storage.location import Location

_EXACT_FLOAT = 2**53  # from here on a float stands for several whole numbers
_SPREADSHEET_DIGITS = 15
_SURE = 20.0  # bits: by chance one table in a million has ids that look as round
_WHOLE_FLOAT = re.compile(r"([0-9]+)\.0*")
_EXPONENT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+")
_BARE_EXPONENT = re.compile(r"[0-9]+[eE][0-9]+")  # hexadecimal ids look like this too
# of pandas, R, SQL and people; a spreadsheet's errors begin with #
_MISSING = (
    "nan", "-nan", "na", "n/a", "n.a.", "<na>", "null", "(null)", "none", "nat", "nil", r"\n", "undefined", "missing",
    "unknown", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "not available", "-", "--", ".", "?", "true", "false",
)  # fmt: skip
# as spreadsheets in English, German and French write them
_MONTH = (
    "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mrz|mär|mai|okt|dez|janv|févr|mars|avr|juin|juil|août|sept|déc)"
)
_DATE = rf"[0-9]{{1,2}}(?:-|\.? ){_MONTH}\.?(?:[- ][0-9]{{2,4}})?|{_MONTH}\.?[- ][0-9]{{2,4}}"
# What is no id as it stands -> how to fix it. Of the text in lower case.
_NO_IDS = {
    re.compile("|".join(map(re.escape, _MISSING)) + "|#(?:n/?a(?: n/a)?|null|num|name|ref|value|div/0)[!?]?"): (
        "a word for a missing or a logical value, which all such rows would share; give each its own id"
    ),
    re.compile(_DATE): (
        "a date that a spreadsheet has made of it; use a copy of the table in which ids were kept as text"
    ),
    re.compile(r"[0-9]{1,3}(?:[,'’][0-9]{3})+"): "a number with separators; write it without",
    re.compile(r"(?s)\+[0-9].*|=.*|'[0-9].*|([\"']).*\1"): (
        "an id in quotes, or with a sign or an apostrophe before it; write it without"
    ),
}
# RE2. Most ids are of these letters, and need no look at each unless they may be a number, a word or a date.
_PLAIN = r"^[0-9A-Za-z](?:[0-9A-Za-z_./ -]*[0-9A-Za-z_./-])?$"
_TO_LOOK_AT = rf"(?i)^(?:[0-9]*\.[0-9]*(?:e[+-]?[0-9]+)?|[0-9]+e[+-]?[0-9]+|[a-z./ ]+|{_DATE})$"
_TEXT_WITH_DIGITS = r"^[0-9A-Za-z]*[A-DF-Za-df-z][0-9A-Za-z]*$"


def ids(table: pd.DataFrame, column: str, path: Location, prefix: str = "") -> pd.Series:
    """An id column as text: "10000032", "10000032.0" and (with prefix "p") "p10000032" are the same id.

    Blanks around an id do not count, and letters with accents are composed (NFC).

    Raises UserError on what is no id (`_NO_IDS`), a blank, an invisible character, numbers that have lost digits, and
    two texts that would become one id, unless there is a prefix: then ids are numbers, however they are written.
    """
    texts = pa.array(table[column], pa.large_string(), from_pandas=True)
    digits = pc.match_substring_regex(texts, "^[0-9]+$")
    if pc.all(digits).as_py():  # most columns of ids
        _check_digits(texts, column, path)
        return table[column]
    floats = pc.match_substring_regex(texts, r"^[0-9]{1,15}\.0*$")
    if pc.all(pc.or_(digits, floats)).as_py():
        made = pc.replace_substring_regex(texts, r"\.0*$", "")
        if prefix or pc.count_distinct(made).as_py() == pc.count_distinct(texts).as_py():
            _check_digits(made, column, path)
            _check_floats(made.filter(floats).unique(), column, path)
            return pd.Series(made.to_pandas().to_numpy(), table.index, table[column].dtype, column)
    plain = pc.and_not(pc.match_substring_regex(texts, _PLAIN), pc.match_substring_regex(texts, _TO_LOOK_AT))
    if prefix:
        plain = pc.and_not(plain, pc.match_substring_regex(texts, f"^{prefix}[0-9]+$"))
    others = texts.filter(pc.invert(pc.or_(plain, digits))).unique().to_pylist()  # ids repeat: look at each once
    clean = {value: _clean(value, table[column], path, prefix) for value in others}
    _check_digits(texts.filter(digits), column, path)
    _check_exponents(clean, texts, column, path)
    _check_floats([text for value, text in clean.items() if _WHOLE_FLOAT.fullmatch(value.strip())], column, path)
    if not prefix:
        _check_one_text_each(clean, texts, column, path)
    changed = {value: text for value, text in clean.items() if value != text}
    return table[column].map(lambda value: changed.get(value, value)) if changed else table[column]


def has_lost_digits(text: str) -> bool:
    """Whether an id was written as a float that stands for several whole numbers: 1.90E+38, or 2**53 and above.

    5e10 is one only if no other id of its column is text: it may be hexadecimal.
    """
    if _EXPONENT.fullmatch(text):
        return _BARE_EXPONENT.fullmatch(text) is None
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole is not None and float(text) >= _EXACT_FLOAT


def line(path: Location, row: int) -> str:
    """Where a row of a table stands, for a message; the first is row 0."""
    if re.search(r"\.jsonl?(?:\.|$)", path.name, re.IGNORECASE):
        return f"entry {row + 1}"
    return f"row {row + 1}" if path.suffix.lower() == ".parquet" else f"line {row + 2}"


def line_of(path: Location, column: pd.Series, at: int) -> str:
    """Where the value at a position of a column stands; the column's index, if it counts, has its rows."""
    label = column.index[at]
    return line(path, int(label) if isinstance(label, int | np.integer) else at)


def alike(texts: Sequence[str] | pd.Index, among: Sequence[str] | pd.Series) -> tuple[str, str, int] | None:
    """The first of the texts that differs from one of the others only in zeros or letters before its number, in upper
    and lower case, folders or a suffix; that other, and how many such there are. None if there is none."""
    texts, among = (pa.array(each, pa.large_string(), from_pandas=True) for each in (texts, among))
    found = pc.index_in(_folded(texts), _folded(among))
    if found.null_count == len(found):
        return None
    first = pc.index(pc.is_valid(found), True).as_py()
    return texts[first].as_py(), among[found[first].as_py()].as_py(), len(found) - found.null_count


def twins(texts: pd.Series) -> tuple[str, str, int] | None:
    """Two different ids of a column that differ only in upper and lower case, width or leading zeros, and how many
    ids have such a twin; None if all differ in more."""
    unique = pa.array(texts, pa.large_string(), from_pandas=True).unique()
    folded = pc.utf8_lower(pc.utf8_normalize(unique, "NFKC"))
    folded = pc.replace_substring_regex(folded, r"^0+([^0])", r"\1")
    first = pc.index_in(folded, folded).to_numpy()
    second = np.flatnonzero(first != np.arange(len(first)))
    if not len(second):
        return None
    return unique[int(first[second[0]])].as_py(), unique[int(second[0])].as_py(), len(second)


def _folded(texts: pa.Array) -> pa.Array:
    texts = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    for pattern, kept in (
        (r"^(?s:.*)[/\\]", ""),
        (r"\.(?:jpe?g|png|dcm|dicom|tiff?|bmp|webp)$", ""),
        (r"^[a-z]{1,3}[_-]?([0-9]+)$", r"\1"),
        (r"^0+([^0])", r"\1"),
    ):
        texts = pc.replace_substring_regex(texts, pattern, kept)
    return texts


def _clean(value: str, column: pd.Series, path: Location, prefix: str) -> str:
    def refuse(words: str) -> None:
        where = line_of(path, column, int((column == value).to_numpy().argmax()))
        raise UserError(f"{path}: column {column.name!r} holds {value!r} in {where}, {words}")

    text = unicodedata.normalize("NFC", value.strip())
    if not text:
        where = line_of(path, column, int((column == value).to_numpy().argmax()))
        raise UserError(f"{path}: column {column.name!r} is blank in {where}; every image needs one")
    if not text.isprintable():
        refuse("which has an invisible character; remove it")
    for pattern, words in _NO_IDS.items():
        if pattern.fullmatch(text.lower()):
            refuse(words)
    if prefix and re.fullmatch(f"{prefix}[0-9]+", text):
        return text.removeprefix(prefix)
    if has_lost_digits(text):
        raise UserError(
            f"{path}: column {column.name!r} holds {value!r}, a number that has lost digits; "
            "use a copy of the table in which ids were kept as text"
        )
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole.group(1) if whole else text


def _check_exponents(clean: dict[str, str], texts: pa.Array, column: str, path: Location) -> None:
    """Refuse ids such as 5e104226, unless others of the column are text too."""
    bare = next((value for value, text in clean.items() if _BARE_EXPONENT.fullmatch(text)), None)
    if bare is None:
        return
    others = pc.and_(pc.match_substring_regex(texts, _TEXT_WITH_DIGITS), pc.match_substring_regex(texts, "[0-9]"))
    if not pc.any(others).as_py():
        raise UserError(
            f"{path}: column {column!r} holds {bare!r}, a number that has lost digits; use a copy of the table in "
            "which ids were kept as text; if they are hexadecimal, of which no other id has a letter, write a letter "
            "before each"
        )


def _check_floats(texts: Iterable[object], column: str, path: Location) -> None:
    """Refuse whole floats that have been rounded to 32 bits."""
    numbers = (int(str(text)) for text in texts)
    _refuse_rounded(numbers, 2**24, lambda number: 2 ** (number.bit_length() - 24), f"{path}: column {column!r}")


def _check_digits(texts: pa.Array, column: str, path: Location) -> None:
    """Refuse long numbers that a spreadsheet or a float has rounded: to 15 digits, or to 53 bits."""
    if not len(texts) or pc.max(pc.utf8_length(texts)).as_py() <= _SPREADSHEET_DIGITS:
        return
    numbers = [int(text) if len(text) < 4000 else 1 for text in texts.unique().to_pylist()]
    where = f"{path}: column {column!r}"
    least = 10**_SPREADSHEET_DIGITS
    _refuse_rounded(numbers, least, lambda number: 10 ** (len(str(number)) - _SPREADSHEET_DIGITS), where)
    _refuse_rounded(numbers, _EXACT_FLOAT, lambda number: 2 ** (number.bit_length() - 53), where)


def _refuse_rounded(numbers: Iterable[int], least: int, step: Callable[[int], int], where: str) -> None:
    """Refuse numbers of which all from `least` on are multiples of their `step`, unless chance may explain it."""
    bits, found = 0.0, []
    for number in numbers:
        if number < least:
            continue
        if number % step(number):
            return
        bits += math.log2(step(number))
        found.append(number)
    if bits >= _SURE and len(found) > 1:
        raise UserError(
            f"{where} holds {str(found[0])!r}, and all its long numbers are as round: they have lost digits; use a "
            "copy of the table in which ids were kept as text; if they are right, write a letter before each"
        )


def _check_one_text_each(clean: dict[str, str], texts: pa.Array, column: str, path: Location) -> None:
    """No two texts become one id: "1" and "1.0" may be two patients."""
    first: dict[str, str] = {}
    for value, text in clean.items():
        if first.setdefault(text, value.strip()) != value.strip():
            _refuse_two(first[text], value.strip(), column, path)
    made = [text for text, value in first.items() if text != value]
    there = pc.is_in(pa.array(made, pa.large_string()), texts) if made else []
    for text, too in zip(made, there, strict=True):
        if bool(too):
            _refuse_two(text, first[text], column, path)


def _refuse_two(one: str, other: str, column: str, path: Location) -> None:
    raise UserError(
        f"{path}: column {column!r} holds {ascii(one)} and {ascii(other)}, which would be one id; write an id the same "
        "way in every row, and different ids so that they differ in more"
    )
