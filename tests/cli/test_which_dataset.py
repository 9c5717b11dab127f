"""inspect, verify and label take the dataset as the other commands do, or as an argument."""

import shutil

import pytest

from tests.cli.cli import run

COMMANDS = ("inspect", "verify", "label")


@pytest.fixture(scope="module")
def folder(pack_folder, tmp_path_factory):
    """Its default dataset, another one, and none."""
    folder = tmp_path_factory.mktemp("which")
    for place in ("data/packed", "other"):
        shutil.copytree(pack_folder, folder / place)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_an_option_a_variable_and_the_default(folder, command):
    asked = run(command, "other", cwd=folder)
    assert asked.returncode == 0 and asked.stderr == ""
    for arguments, variables, said in (
        (("--data", "other"), {"CXRDALI_DATA": "absent"}, ""),
        ((), {"CXRDALI_DATA": "other"}, "packed dataset: other (CXRDALI_DATA)\n"),
        ((), {}, "packed dataset: data/packed (the default)\n"),
    ):
        result = run(command, *arguments, cwd=folder, **variables)
        where = "other" if arguments or variables else "data/packed"
        assert (result.returncode, result.stderr) == (0, said)
        assert result.stdout.replace(where, "other") == asked.stdout
    twice = run(command, "other", "--data", "data/packed", cwd=folder)
    assert twice.returncode == 2 and "two datasets, other and --data data/packed; give one of them" in twice.stderr
