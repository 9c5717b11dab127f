"""Ids, paths and joined rows, each against a reference that shares no code: no id is joined to or parted from another,
a path leads to the file that the disk means by it, and several readers say what a count by hand says.
"""

import os
import random
import unicodedata
from collections import Counter
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies
from pandas._libs.parsers import STR_NA_VALUES

from shards.errors import UserError
from shards.releases.columns import JOINS, Columns
from shards.releases.ids import ids
from shards.releases.table import label_table, open_table
from tests.fuzz import one_line
from tests.releases import write_table

pytestmark = pytest.mark.slow

SEEDS = strategies.integers(0, 2**32 - 1)
TABLE = Path("/nowhere/t.csv")
WORDS = sorted(STR_NA_VALUES) + ["none", "-", "?", ".", "missing", "TRUE", "#REF!", "5-Mar", "0", "nil", "\\N"]
STYLES = ("{}", "{}.0", "{}.", " {} ", "{}\u00a0", "0{}", "p{}", "{}.00", "'{}", '"{}"', "+{}", "{}e0", "{:,}", "{:e}")
PIECES = (
    "a",
    "A",
    "1",
    "0",
    ".",
    "e",
    "E",
    "+",
    "-",
    " ",
    "_",
    "\u00e9",
    "e\u0301",
    "\u200b",
    "\uff11",
    "f",
    "Mar",
    "#",
)


def some_id(rng: random.Random) -> str:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return f"{rng.getrandbits(32):08x}"
    if kind == 2:
        return "".join(rng.choices(PIECES, k=rng.randint(1, 5)))
    return rng.choice(STYLES).format(rng.choice((rng.randrange(20), rng.randrange(10**8), rng.randrange(2**60))))


def check_ids(seed: int) -> bool:
    """Whether a column is read; then it holds as many ids as texts without the blanks around them."""
    rng = random.Random(seed)
    made = [some_id(rng) for _ in range(rng.randint(1, 6))]
    made += rng.choices(made, k=2)
    table = pd.DataFrame({"who": pd.Series(made, dtype="str")})
    try:
        found = ids(table, "who", TABLE).tolist()
    except UserError as error:
        one_line(error, TABLE)
        assert "column 'who'" in str(error)
        return False
    texts = [text.strip() for text in made]
    assert len(set(found)) == len(set(texts)) == len(set(zip(found, texts, strict=True)))
    for text, read in zip(texts, found, strict=True):
        assert read and read == read.strip() and read.isprintable()
        assert read.lower() not in {word.lower() for word in STR_NA_VALUES}
        if read != unicodedata.normalize("NFC", text):
            assert Decimal(read) == Decimal(text) and abs(Decimal(text)) < 2**53
    return True


WRITERS = {
    "whole": (10**8, str),
    "float64": (10**17, lambda number: f"{float(number):.1f}"),
    "float64 as whole": (10**19, lambda number: f"{float(number):.0f}"),
    "float32": (10**8, lambda number: f"{np.float32(number):.1f}"),
    "15 digits": (10**19, lambda number: str(int(Decimal(f"{Decimal(number):.14e}")))),
    "spreadsheet": (10**13, lambda number: f"{number:.5E}"),
    "repr": (10**20, lambda number: repr(float(number))),
    "separators": (10**8, "{:,}".format),
}


def check_writers(seed: int) -> bool:
    """Many numbers that some program has written are these numbers, or refused."""
    rng = random.Random(seed)
    most, write = WRITERS[rng.choice(sorted(WRITERS))]
    numbers = [rng.randrange(most // 10, most) for _ in range(40)]
    table = pd.DataFrame({"who": pd.Series([write(number) for number in numbers], dtype="str")})
    try:
        found = ids(table, "who", TABLE).tolist()
    except UserError as error:
        one_line(error, TABLE)
        return False
    assert found == [str(number) for number in numbers]
    return True


# ---------------------------------------------------------------- paths

FILES = ("1.png", "img/1.png", "img/2 b.png", "img/ni\u00f1o.png", "de/ep/1.png", "img/50%25.png", "C/x.png")


def make_files(root: Path) -> Path:
    """root/data with files, a link to it, a link to a folder in it and one out of it."""
    for name in FILES:
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    (root / "again").symlink_to(root / "data")
    (root / "data" / "inside").symlink_to(root / "data" / "de" / "ep")
    (root / "secret.png").write_bytes(b"")
    (root / "data" / "out").symlink_to(root)
    return root


def spelt(name: str, root: Path, rng: random.Random) -> str:
    """Another spelling of a file below root/data."""
    text = name
    for _ in range(rng.randint(0, 3)):
        at = rng.choice([place for place, letter in enumerate(text) if letter == "/"] or [0])
        piece = rng.choice(("/", "/.", "/img/..", "/de/ep/../..")) if text[at] == "/" and "/" not in text[:at] else "/"
        text = text[:at] + (piece if text[at] == "/" and piece != "/img/.." else "") + text[at:]
        text = rng.choice((text, f"./{text}", f"img/../{text}", f"de/./ep/../../{text}"))
    if (kind := rng.randrange(7)) < 3:
        start = rng.choice((f"{root}/data", f"{root}/again", f"{root}/data/img/..", f"/{root}//again/."))
        text = f"{start}/{text}"
        text = f"file://{quote(text)}" if kind == 0 else text
    elif kind == 3 and "%" not in text:
        text = unicodedata.normalize("NFD", text)
    elif kind == 4:
        text = text.replace("/", "\\")
    elif kind == 5 and not any(ord(letter) > 127 for letter in text) and "%" not in text:
        text = text.replace(" ", "%20")
    return rng.choice((text, f" {text}", f"{text} "))


def opened(root: Path, paths: list[str]):
    table = pd.DataFrame({"id": [f"i{n}" for n in range(len(paths))], "file": paths, "x": "1"})
    table.to_csv(root / "t.csv", index=False)
    return open_table(root / "t.csv", Columns("id", "x", "file"), root / "data")


def check_spellings(root: Path, seed: int) -> None:
    """However files are spelt, each is found; two spellings of one are refused."""
    rng = random.Random(seed)
    names = rng.sample(FILES, rng.randint(1, len(FILES)))
    spellings = [spelt(name, root, rng) for name in names]
    if any("\\" in text for text in spellings) and any("%" in name for name in names):
        names, spellings = names[:1], spellings[:1]
    found = opened(root, spellings).images["path"].tolist()
    assert found == names, spellings
    with pytest.raises(UserError, match="is in more than one row"):
        opened(root, [*spellings, spelt(names[0], root, rng)])


LETTERS = (
    "/",
    "\\",
    "..",
    ".",
    "img",
    "1.png",
    "de/ep",
    "inside",
    "out",
    "secret.png",
    "%2e",
    "%2F",
    "C:",
    "file:",
    " ",
)


def check_any_path(root: Path, seed: int) -> bool:
    """Whether a table with a path of any letters opens; then no part of it leads above the folder, but for links."""
    rng = random.Random(seed)
    path = "".join(rng.choices((*LETTERS, str(root), "\u00e9", "\n", "\0"), k=rng.randint(1, 7)))
    try:
        (_, found) = opened(root, ["1.png", path]).images["path"]
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and (str(root / "t.csv") in str(error) or "data" in str(error))
        return False
    assert os.path.normpath(root / "data" / found) == str(root / "data" / found), found
    assert str(root / "data" / found).startswith(f"{root}/data/") and ".." not in found.split("/")
    return True


# ---------------------------------------------------------------- rows of one image


def check_rows(root: Path, seed: int) -> None:
    """Joined rows say what a count by hand says."""
    rng = random.Random(seed)
    rows = [(rng.choice("abc"), rng.choice(("1", "0", "-1", "", "1.0"))) for _ in range(rng.randint(1, 12))]
    write_table(root / "rows.csv", "id,x", *(",".join(row) for row in rows))
    expected: dict[str, dict[str, int | None]] = {how: {} for how in JOINS}
    for image in {name for name, _ in rows}:
        said = Counter(int(float(value)) for name, value in rows if name == image and value)
        most, count = said.most_common(1)[0] if said else (None, 0)
        expected["any"][image] = next((value for value in (1, -1, 0) if value in said), None)
        expected["majority"][image] = most if not said or 2 * count > said.total() else -1
        sure = said[1] + said[0]
        expected["mean"][image] = (int(2 * said[1] >= sure) if sure else -1) if said else None
    for how in JOINS:
        table = label_table(root / "rows.csv", Columns("id", "x", join_rows=how)).table
        assert {name: None if pd.isna(value) else int(value) for name, value in table["x"].items()} == expected[how]


# ---------------------------------------------------------------- as tests


@given(SEEDS)
@settings(max_examples=400)
def test_no_id_is_joined_to_another_or_parted(seed):
    check_ids(seed)


@given(SEEDS)
def test_numbers_that_programs_have_written_are_these_or_refused(seed):
    check_writers(seed)


def test_every_writer_is_read_or_refused_as_it_must_be():
    read = {name for name in WRITERS for seed in range(60) if (_writer(seed) == name and check_writers(seed))}
    assert read == {"whole"}


def _writer(seed: int) -> str:
    return random.Random(seed).choice(sorted(WRITERS))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("paths"))


@given(seed=SEEDS)
@settings(max_examples=100)
def test_every_spelling_leads_to_its_file(root, seed):
    check_spellings(root, seed)


@given(seed=SEEDS)
def test_no_path_leads_above_the_folder(root, seed):
    check_any_path(root, seed)


@given(seed=SEEDS)
@settings(max_examples=100)
def test_joined_rows_say_what_is_counted(root, seed):
    check_rows(root, seed)
