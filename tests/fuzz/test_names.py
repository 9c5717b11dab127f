"""The names of tables: whatever a file is called, its labels have a name that can be written and read back, or it is
refused before anything is written."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.dataset.description import DATASET, check_label_name, description_bytes, labels_name, parse_description
from shards.errors import UserError
from shards.releases.table import label_name
from shards.storage.files import write_bytes
from tests.fuzz.test_shards import make_pack

LETTERS = [
    *"aA1 ._-=+@'\"<>&%\\:*?\t\n\r\x00\x1b\x7f\x85",
    *("\u00a0", "\u200b", "\ufeff", "\u202e", "\u2028", "é", "e\u0301", "ß", "İ", "名", "ا", "\U0001d4b3", "\udcff"),
    *("..", "../", ".csv", ".gz", "CON", "n" * 60),
]


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("names"))


def check_name(pack: Path, folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    stem = "".join(rng.choices(LETTERS, k=rng.randrange(8)))
    file = Path("/data") / f"{stem}.csv"
    name = label_name(file)
    try:
        check_label_name(name, file)
    except UserError:
        return
    write_bytes(folder / Path(labels_name(name)).name, b"table")  # its temporary name too
    assert [path.read_bytes() for path in folder.iterdir()] == [b"table"]
    next(folder.iterdir()).unlink()
    info = json.loads((pack / DATASET).read_bytes())
    info |= {"labels": {name: "0" * 64}, "stored_labels": {name: "0" * 64}, "default_labels": name}
    read, sealed = parse_description(pack / DATASET, description_bytes(pack / DATASET, info))
    assert sealed and [*read["labels"]] == [name] and (pack / labels_name(name)).parent == pack / "labels"


@given(st.integers(0, 2**32))
@settings(max_examples=150)
def test_a_name_is_read_back_or_refused(pack, tmp_path_factory, seed):
    check_name(pack, tmp_path_factory.mktemp("labels"), seed)
