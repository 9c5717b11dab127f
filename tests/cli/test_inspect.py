"""cxrdali inspect, as its options are given."""

import json
import shutil

import pytest
from click.testing import CliRunner

from cli.inspect import inspect
from shards.errors import UserError


def call(*arguments):
    return CliRunner().invoke(inspect, [str(argument) for argument in arguments])


def test_it_prints_what_the_dataset_holds(pack_folder):
    result = call(pack_folder)
    assert result.exit_code == 0, result.output
    for title in ("DATASET", "REJECTS", "LABELS CXR-LT-2023 (THE DEFAULT)", "LABELS CHEXPERT", "IN TWO SPLITS"):
        assert f"\n{title}\n" in f"\n{result.stdout}"
    info = json.loads((pack_folder / "dataset.json").read_text())
    assert info["id"][:12] in result.stdout and "nothing is known" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_one_label_release(pack_folder):
    result = call(pack_folder, "--labels", "chexpert")
    assert "LABELS CHEXPERT" in result.stdout and "CXR-LT-2023" not in result.stdout


def test_the_page_holds_pictures_only_when_asked_for(pack_folder, tmp_path):
    out = tmp_path / "page.html"
    result = call(pack_folder, "--html", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith(f"{out}: ")
    plain = out.read_text()
    assert "data:image/jpeg" not in plain and "<img" not in plain  # drawings may be saved
    assert call(pack_folder, "--html", out, "--images").exit_code == 0
    assert "data:image/jpeg;base64," in out.read_text()


def test_pictures_need_a_page(pack_folder):
    result = call(pack_folder, "--images")
    assert result.exit_code == 2 and "give --html FILE too" in result.stderr


def test_where_the_page_goes_is_checked_before_the_work(pack_folder, tmp_path):
    broken = shutil.copytree(pack_folder, tmp_path / "pack")
    (broken / "catalog.parquet").write_bytes(b"")
    result = call(broken, "--html", tmp_path / "absent" / "page.html")
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == f"{tmp_path}/absent: no such folder; make it, or give another --html"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tmp}/absent"], "{tmp}/absent: no packed dataset; run `cxrdali shard` first"),
        (["{tmp}"], "{tmp}: no packed dataset; run `cxrdali shard` first"),
        (["{tmp}/begun"], "{tmp}/begun: an unfinished packed dataset; run the same `cxrdali shard` again to finish it"),
        (["{pack}", "--labels", "other"], "{pack}: no labels 'other'; attached are cxr-lt-2023, chexpert "
         "(cxrdali label attaches others)"),
        (["{pack}", "--html", "{pack}/a.html"], "{pack}/a.html: inside the packed dataset, whose files it could "
         "replace; give another --html"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(pack_folder, tmp_path, arguments, said):
    (tmp_path / "begun" / ".packing").mkdir(parents=True)
    places = {"tmp": tmp_path, "pack": pack_folder}
    result = call(*(argument.format(**places) for argument in arguments))
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == said.format(**places)
    assert not (pack_folder / "a.html").exists()
