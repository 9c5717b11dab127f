"""`cxrdali shard` and `cxrdali verify` in processes of their own: what they print, and how they exit."""

import re
import shutil

import pytest

from tests.cli.cli import call, run
from tests.releases import contents, write_release, write_table

pytestmark = pytest.mark.slow

OPTIONS = ["--sizes", "32,40:raw", "--shard-images", "8", "--jobs", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """release/ and the packed dataset pack/ that `cxrdali shard` made of it; read-only by agreement."""
    root = tmp_path_factory.mktemp("cli")
    write_release(root / "release", subjects=8)
    made = run("shard", "--source", "release", "--out", "pack", *OPTIONS, cwd=root)
    assert made.returncode == 0, made.stderr
    (root / "said").write_text(made.stdout)
    return root


def failed(result, code=1):
    """The one line on stderr that begins with error:, of a command that exited with `code`."""
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.splitlines()[-1] == line
    return line


# ---------------------------------------------------------------- shard


def test_a_run_says_what_it_found_and_what_it_made(folder):
    said = (folder / "said").read_text()
    shards = len(list((folder / "pack" / "32").glob("*.tar")))
    assert "mimic-cxr-jpg: 32 images in release" in said
    assert "labels cxr-lt-2023: 5 findings; 24 train, 8 dev, 0 test" in said
    assert "labels chexpert: 3 findings; 24 train, 8 dev, 0 test" in said
    assert re.search(rf"pack: 32 of 32 images packed, {shards} shards per size, [\d.]+ KB\n", said)
    assert re.search(r"32 images in [\d.]+ s, [\d,]+ images/s\n", said)
    assert "rejected" not in said


def test_a_second_run_does_nothing_and_says_so(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "pack").rglob("*")}
    again = run("shard", "--source", "release", "--out", "pack", *OPTIONS, cwd=folder)
    assert again.returncode == 0
    assert "pack: already finished, nothing to do" in again.stdout and "images/s" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "pack").rglob("*")} == before


def test_other_options_are_refused_by_name(folder):
    other = run("shard", "--source", "release", "--out", "pack", *OPTIONS, "--quality", "90", cwd=folder)
    line = failed(other)
    assert "another option 'quality': 95 there, 90 now" in line and "another --out folder" in line


def test_every_option_reaches_the_bytes(folder, tmp_path):
    options = ["--fit", "pad", "--quality", "80", "--seed", "7", "--limit", "9", "--labels", folder / "release"]
    made = run("shard", "--source", folder / "release", "--out", "pack", *OPTIONS, *options, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    description = (tmp_path / "pack" / "dataset.json").read_text()
    for part in ('"fit": "pad"', '"quality": 80', '"seed": 7', '"limit": 9', '"shard_images": 8', '"40:raw"'):
        assert part in description


def test_a_dry_run_prints_counts_bytes_and_minutes_and_writes_nothing(folder, tmp_path):
    before = contents(folder / "release")
    dry = run("shard", "--source", folder / "release", "--out", "new", *OPTIONS, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    shards = len(list((folder / "pack" / "32").glob("*.tar")))
    assert f"would pack 32 images, 16 studies, 8 subjects into {shards} shards per size" in dry.stdout
    assert re.search(r"32 px: about [\d.]+ KB\n  40 px: about [\d.]+ KB", dry.stdout)
    assert re.search(r"about [\d.]+ KB and [\d.]+ minutes with 1 job ", dry.stdout)
    assert "nothing was written" in dry.stdout
    assert list(tmp_path.iterdir()) == [] and contents(folder / "release") == before


def test_rejects_are_counted_by_reason_and_their_list_is_named(folder, tmp_path):
    release = shutil.copytree(folder / "release", tmp_path / "release")
    images = sorted((release / "files").rglob("*.jpg"))
    images[0].write_bytes(b"")
    images[1].write_bytes(b"")
    images[2].unlink()
    many = ("--max-reject-fraction", "0.1")
    made = run("shard", "--source", "release", "--out", "pack", *OPTIONS, *many, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "pack: 29 of 32 images packed" in made.stdout
    assert "  2 rejected: empty file\n" in made.stdout
    assert "  1 rejected: absent\n" in made.stdout
    assert "listed in pack/rejects.csv" in made.stdout
    assert len((tmp_path / "pack" / "rejects.csv").read_text().splitlines()) == 4


def test_folders_from_the_environment_are_announced(folder, tmp_path):
    made = run(
        *("shard", *OPTIONS, "--limit", "3"),
        cwd=tmp_path,
        CXRDALI_SOURCE=str(folder / "release"),
        CXRDALI_DATA=str(tmp_path / "here"),
    )
    assert made.returncode == 0, made.stderr
    assert f"release: {folder / 'release'} (CXRDALI_SOURCE)" in made.stderr
    assert f"packed dataset: {tmp_path / 'here'} (CXRDALI_DATA)" in made.stderr
    assert (tmp_path / "here" / "dataset.json").exists()


def test_default_folders_are_announced(folder, tmp_path):
    shutil.copytree(folder / "release", tmp_path / "data" / "mimic-cxr-jpg")
    made = run("shard", *OPTIONS, "--limit", "3", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "release: data/mimic-cxr-jpg (the default)" in made.stderr
    assert "packed dataset: data/packed (the default)" in made.stderr
    assert (tmp_path / "data" / "packed" / "dataset.json").exists()


def test_given_folders_are_not_announced_and_win_over_the_environment(folder, tmp_path):
    made = run(
        *("shard", "--source", folder / "release", "--out", "mine", *OPTIONS, "--limit", "3"),
        cwd=tmp_path,
        CXRDALI_SOURCE="/nowhere",
        CXRDALI_DATA="/nowhere",
    )
    assert made.returncode == 0 and "CXRDALI" not in made.stderr
    assert (tmp_path / "mine" / "dataset.json").exists()


def test_a_release_without_labels_is_packed_and_says_what_that_means(folder, tmp_path):
    release = tmp_path / "release"
    shutil.copytree(folder / "release" / "files", release / "files")
    shutil.copy(folder / "release" / "mimic-cxr-2.0.0-metadata.csv.gz", release)
    made = run("shard", "--source", "release", "--out", "pack", *OPTIONS, "--limit", "3", cwd=tmp_path)
    assert made.returncode == 0 and "no labels found: give --labels DIR" in made.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--source", "absent"], "absent: no such folder; give the release's folder with --source"),
        (["--source", "."], "release in it is one, give that with --source"),
        (["--sizes", "224,big"], "size 'big': write pixels, or pixels:raw"),
        (["--sizes", "224,224:raw"], "size 224 is given twice"),
        (["--quality", "101"], "quality 101: JPEG quality is 1 to 100"),
        (["--limit", "0"], "limit 0: at least 1 image"),
        (["--labels", "absent"], "absent: no such folder; give a label release's folder with --labels"),
        (
            ["--out", "release"],
            "release: lies in the release, which is only read; give an --out folder outside release",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_with_the_value_and_the_way_out(folder, options, said):
    before = contents(folder)
    assert said in failed(call("shard", "--source", "release", "--out", "new", *options, cwd=folder))
    assert contents(folder) == before


def test_an_error_in_a_table_names_file_column_and_value(folder, tmp_path):
    path = write_table(tmp_path / "train.csv", "dicom_id,Edema", "a,maybe")
    line = failed(run("shard", "--source", folder / "release", "--out", "new", "--labels", ".", cwd=tmp_path))
    assert f"{path.name}: column 'Edema' holds 'maybe'" in line
    assert not (tmp_path / "new").exists()


def test_sizes_are_added_dropped_and_missed_by_name(folder, tmp_path):
    pack, release = shutil.copytree(folder / "pack", tmp_path / "pack"), folder / "release"
    given = ("shard", "--source", release, "--out", "pack", "--shard-images", "8", "--jobs", "1")
    own = call(*given, cwd=tmp_path)
    assert own.returncode == 0 and "pack: already finished, nothing to do\n" in own.stdout, own.stderr
    added = run(*given, "--sizes", "48", cwd=tmp_path)
    assert added.returncode == 0 and "pack: size 48 is to be added\n" in added.stderr + added.stdout, added.stderr
    assert "sizes that are not asked for stay as they are: 32, 40" in added.stderr + added.stdout
    shutil.move(pack / "48", tmp_path / "48")
    checked = call("verify", "pack", "--jobs", "1", cwd=tmp_path)
    assert checked.returncode == 0 and "pack/48: not here, so not checked; --sizes 48 asks for it\n" in checked.stdout
    asked = call("verify", "pack", "--jobs", "1", "--sizes", "32,48", cwd=tmp_path)
    assert "pack/48: the folder is missing\n" in asked.stderr and asked.returncode == 1
    assert "no size '64'; it has 32, 40, 48" in failed(call("verify", "pack", "--sizes", "64", cwd=tmp_path))
    dropped = call("shard", "--out", "pack", "--drop-size", "48,40", cwd=tmp_path)
    assert dropped.stdout == "pack: dropped 48 px, 40 px; nothing else has changed\n"
    again = call("verify", "pack", "--jobs", "1", cwd=tmp_path)
    assert again.stdout.startswith("pack: whole; ") and sorted(path.name for path in pack.glob("[0-9]*")) == ["32"]
    both = call("shard", "--out", "pack", "--drop-size", "32", "--sizes", "48", cwd=tmp_path)
    assert both.returncode == 2 and "--drop-size takes no other option than --out, not --sizes" in both.stderr
    labels = call("shard", "--out", "pack", "--drop-size", "32", "--labels", "x", cwd=tmp_path)
    assert labels.returncode == 2 and "--drop-size takes no other option than --out, not --labels\n" in labels.stderr


def test_rejects_are_told_whenever_there_is_nothing_to_do(folder, tmp_path):
    release = shutil.copytree(folder / "release", tmp_path / "release")
    next(release.rglob("*.jpg")).unlink()
    given = ("shard", "--source", "release", "--out", "pack", *OPTIONS)
    assert call(*given, "--max-reject-fraction", "0.1", cwd=tmp_path).returncode == 0
    again = call(*given, "--max-reject-fraction", "0.1", cwd=tmp_path)
    assert "nothing to do; rejected files: 1, none of which has changed since\n" in again.stdout
    assert "  1 rejected: absent\n" in again.stdout
    assert "1 of 32 images (3.12%) were rejected, more than" in failed(call(*given, cwd=tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ["shard", "--fit", "stretch"],
        ["shard", "--jobs", "0"],
        ["shard", "--quality", "high"],
        ["shard", "--unknown"],
        ["shard", "extra"],
        ["verify", "pack", "extra"],
        ["unknown"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_shows_the_usage(folder, arguments):
    result = call(*arguments, cwd=folder)
    assert result.returncode == 2
    assert "Usage: " in result.stderr and arguments[-1].strip("-") in result.stderr.lower()
    assert "Traceback" not in result.stderr


def test_the_process_itself_exits_with_2(folder):
    assert run("shard", "--fit", "stretch", cwd=folder).returncode == 2


def test_help_says_every_default(folder):
    said = call("shard", "--help", cwd=folder)
    assert said.returncode == 0
    for part in ("224,320,384,512", "squash", "95", "4096", "CXRDALI_SOURCE", "CXRDALI_DATA", "all cores", "--dry-run"):
        assert part in said.stdout


def test_debug_shows_where_an_error_came_from(folder):
    result = run("--debug", "verify", "absent", cwd=folder)
    assert result.returncode == 1 and "Traceback" in result.stderr and "UserError" in result.stderr


# ---------------------------------------------------------------- verify


@pytest.mark.parametrize("options", [["--jobs", "1"], ["--deep"]], ids=" ".join)
def test_a_whole_dataset_is_counted_and_exits_with_0(folder, options):
    result = run("verify", "pack", *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    shards = len(list((folder / "pack").glob("*/*.tar")))
    size = sum(path.stat().st_size for path in (folder / "pack").glob("*/*.tar"))
    decoded = "every rendition decoded" if options == ["--deep"] else "not decoded (--deep)"
    assert result.stdout == f"pack: whole; {shards:,} shards, 64 samples, {size:,} bytes; {decoded}\n"


def test_every_problem_is_a_line_with_its_file_and_the_exit_code_is_1(folder, tmp_path):
    pack = shutil.copytree(folder / "pack", tmp_path / "pack")
    (pack / "32" / "000001.idx").unlink()
    tar = pack / "40" / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    result = run("verify", "pack", "--jobs", "1", cwd=tmp_path)
    assert "pack/32/000001.idx: missing\n" in result.stderr
    assert re.search(r"pack/40/000000.tar: \d+ bytes, dataset.json says \d+\n", result.stderr)
    assert "whole" not in result.stdout
    assert "pack: 2 problems" in failed(result)


def test_a_folder_without_a_dataset_is_one_line(folder):
    line = failed(run("verify", "release", cwd=folder))
    assert "release/dataset.json: no such file" in line and "cxrdali shard" in line
