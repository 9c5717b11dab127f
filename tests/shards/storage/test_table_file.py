"""What a table's file is: detected by content whatever its name, read where safe, else named with what to do."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import sqlite3
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest

from shards.errors import UserError
from shards.storage import table_file
from shards.storage.csv import column_names, read_table
from shards.storage.table_file import ALWAYS, DOWNLOAD, RATIO, SAVE

TEXT = "id,Edema\n007,1.0\né,\n"
ROWS = {"id": ["007", "é"], "Edema": ["1.0", ""]}


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def zipped(*names: str, data: bytes = TEXT.encode(), compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name in names:
            file.writestr(name, data)
    return buffer.getvalue()


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def refused(path, data: bytes | None = None, again: str = SAVE) -> str:
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_table(path, again=again)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


NAMES = ["t.csv", "t.csv.gz", "t.CSV.GZ", "t.tsv", "t.txt", "t.parquet", "t", "t.zip"]
CONTENTS = {
    "plain": TEXT.encode(),
    "gzip": gzip.compress(TEXT.encode()),
    "gzip in two members": gzip.compress(TEXT[:11].encode()) + gzip.compress(TEXT[11:].encode()),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "zstd": zstd(TEXT.encode()),
    "zip": zipped("deep/t.csv"),
    "zip of macOS": zipped("t.csv", "__MACOSX/._t.csv"),
    "parquet": parquet(pd.DataFrame(ROWS)),
    "gzip of parquet": gzip.compress(parquet(pd.DataFrame(ROWS))),
    "BOM": TEXT.encode("utf-8-sig"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 BE": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "UTF-16 in gzip": gzip.compress(TEXT.encode("utf-16")),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", CONTENTS)
def test_content_decides_and_not_the_name(tmp_path, name, kind):
    (tmp_path / name).write_bytes(CONTENTS[kind])
    assert read_table(tmp_path / name, ("id", "Edema")).to_dict("list") == ROWS
    if "parquet" not in kind and "zip of" not in kind and kind != "zip":
        assert column_names(tmp_path / name) == ["id", "Edema"]


def feather() -> bytes:
    buffer = io.BytesIO()
    pa.feather.write_feather(pd.DataFrame(ROWS), buffer)
    return buffer.getvalue()


def orc() -> bytes:
    buffer = io.BytesIO()
    pa.orc.write_table(pa.table(ROWS), buffer)
    return buffer.getvalue()


def stata(version: int) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"id": [1, 2]}).to_stata(buffer, version=version)
    return buffer.getvalue()


def sqlite() -> bytes:
    with sqlite3.connect(":memory:") as base:
        base.execute("create table t (id)")
        return base.serialize()


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("t.csv"))
    return buffer.getvalue()


PAGE = b"\n<!DOCTYPE html>\n<html><title>Log in, please</title></html>"
OTHERS = {
    "xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel or OpenDocument file; save it again as a CSV"),
    "ods": (zipped("mimetype", "content.xml"), "an Excel or OpenDocument file; save it again as a CSV"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an old Excel or Office file; save it again as a CSV"),
    "feather": (feather(), "a Feather (Arrow) file; save it again as a CSV in UTF-8 or as parquet"),
    "Stata 118": (stata(118), "a Stata file; save it again"),
    "Stata 114": (stata(114), "a Stata file; save it again"),
    "SPSS": (b"$FL2@(#) SPSS DATA FILE" + bytes(100), "an SPSS file; save it again"),
    "SAS": (bytes(12) + b"\xc2\xea\x81\x60\xb3\x14" + bytes(100), "a SAS file; save it again"),
    "RDS": (gzip.compress(b"X\n\0\0\0\x03\0\x04\x02\0"), "an R data file; save it again"),
    "RData": (gzip.compress(b"RDX3\nX\n\0\0\0\x03"), "an R data file; save it again"),
    "SQLite": (sqlite(), "an SQLite database; save it again"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file; save it again"),
    "NumPy": (numpy_file(), "a file of arrays or objects; save it again"),
    "pickle": (pickle.dumps(ROWS), "a file of arrays or objects; save it again"),
    "ORC": (orc(), "an ORC, Avro or encrypted parquet file; save it again"),
    "PDF": (b"%PDF-1.7\n", "a PDF; save it again"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "an image; save it again"),
    "DICOM": (bytes(128) + b"DICM\x02\0", "an image; save it again"),
    "HTML": (PAGE, "a web page (HTML); log in where it is published and download the file itself"),
    "HTML in gzip": (gzip.compress(PAGE), "a web page (HTML); log in where it is published and download"),
    "XHTML": (b'<?xml version="1.0"?>\n' + PAGE, "a web page (HTML); log in"),
    "S3 error": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "an error message of a store (XML)",
    ),
    "XML": (b'<?xml version="1.0"?>\n<rows/>', "XML; save it again"),
    "JSON": (b' {"id": ["007"]}', "JSON; save it again"),
    "JSON of records": (b'[{"id": "007"}]', "JSON; save it again"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer, which only names"),
    "tar": (tar(), "an archive; unpack it and give the table"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04", "an archive; unpack it"),
    "tar in gzip": (gzip.compress(tar()), "an archive; unpack it"),
    "sep": (b"sep=;\r\nid;Edema\r\n1;0\r\n", "a CSV after Excel's line 'sep='; remove its first line"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), "UTF-16 without a byte order mark; save it again"),
}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_table_is_named_with_what_to_do(tmp_path, name, kind):
    data, said = OTHERS[kind]
    assert f"not a CSV table or parquet, but {said}" in refused(tmp_path / name, data)


@pytest.mark.parametrize("kind", ["xlsx", "Stata 118", "JSON", "UTF-16 without a mark"])
def test_a_table_of_a_release_is_to_be_downloaded_again(tmp_path, kind):
    assert refused(tmp_path / "t.csv", OTHERS[kind][0], DOWNLOAD).endswith("download it again")


def locked() -> bytes:
    data = bytearray(zipped("t.csv"))
    data[6] |= 1  # the local header's flags
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped("a.csv", "b.csv"), "a zip of 2 files; unpack it and give the table"),
        (zipped(), "a zip of 0 files; save it again"),
        (locked(), "a zip with a password; unpack it and give the table"),
        (zipped("t.csv", data=zipped("t.csv")), "is packed twice; unpack it and give the table"),
        (gzip.compress(gzip.compress(TEXT.encode())), "is packed twice; unpack it and give the table"),
        (zipped("t.csv").replace(b"\xcbLI", b"\xcbLJ", 1)[:-30], "cannot be read"),
        (lzma.compress(TEXT.encode())[:-9], "cannot be read"),
        (bz2.compress(TEXT.encode())[:-9], "cannot be read"),
        (zstd(TEXT.encode() * 100)[:-9], "cannot be read"),
        (parquet(pd.DataFrame(ROWS))[:-9], "not a readable table"),
    ],
    ids=[
        "files",
        "none",
        "password",
        "zip twice",
        "gzip twice",
        "cut zip",
        "cut xz",
        "cut bz2",
        "cut zst",
        "cut parquet",
    ],
)
def test_what_is_packed_otherwise_or_cut_is_refused(tmp_path, data, said):
    assert said in refused(tmp_path / "t.csv", data)


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, zstd, lambda data: zipped("t", data=data)]
)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, pack):
    path, always = tmp_path / "t.csv", 2**21  # for speed
    monkeypatch.setattr(table_file, "ALWAYS", always)
    path.write_bytes(pack(b"," * (2 * always)))
    assert path.stat().st_size * RATIO < always < ALWAYS
    assert f"unpack to more than {always:,}; " in refused(path) and "unpack it yourself" in refused(path)
    path.write_bytes(pack(b"id,Edema\n" + b"1,0\n" * (always // 8)))  # as high a ratio, and half as large
    assert len(read_table(path)) == always // 8


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(2**31)
    assert "it has 2,147,483,648 bytes; at most 2,147,483,647 bytes and 268,435,456 values are" in refused(
        tmp_path / "t.csv"
    )


def test_folders_and_pipes_are_refused_at_once(tmp_path):
    (tmp_path / "t.parquet").mkdir()
    assert "is a folder; give one file (of a folder of parquet files, joined into one)" in refused(
        tmp_path / "t.parquet"
    )
    os.mkfifo(tmp_path / "t.csv")
    assert "is no regular file" in refused(tmp_path / "t.csv")
