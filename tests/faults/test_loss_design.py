"""`cxrdali loss-design` killed with SIGKILL at many moments: the same command goes on, to the same results."""

import re
import signal

import pytest

from cxrdali.predictions import read
from shards.storage.sealed import read_json
from tests.cxrdali.studies.test_loss_design import TINY
from tests.faults.test_paper import killed
from tests.faults.trainers import command_line, in_child

# of fork, in a process with threads
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

# Renames between two kills: more than a training has before its first checkpoint, so that every process gets further
STRIDE = 61
TIMES = ("images_per_second", "hours", "folder")


@pytest.fixture(scope="module")
def study(pack_folder, tmp_path_factory):
    """The command line into a folder: two backbones and a retrained classifier."""
    file = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    file.write_text(TINY.replace("epochs = 2", "epochs = 1").replace("drw_epoch = 1", "drw_epoch = 0"))

    def command(out):
        return ["loss-design", "--data", pack_folder, "--out", out, "--recipes", file, "--models", "ldam-drw,crt",
                "--tta", "none", "--draws", 0, "--labels", "cxr-lt-2023", "--set", "device=cpu"]  # fmt: skip

    return command


def results(out):
    """Everything that people look at, as numbers and text; a comparison without the seconds and paths in it."""
    tables = {path.name: read(path).values.tobytes() for path in sorted((out / "predictions").glob("*.parquet"))}
    texts = {
        f"{folder}/{path.name}": path.read_bytes()
        for folder in ("evaluations", "calibrations", "thresholds")
        for path in (out / folder).iterdir()
    }
    compared = {path.name: read_json(path) for path in (out / "comparisons").iterdir()}
    for content in compared.values():
        content.pop("settings")
        content["runs"] = [{key: row[key] for key in row if key not in TIMES} for row in content["runs"]]
    return tables, texts, compared, (out / "weights.json").read_bytes(), (out / "loss-design.json").read_bytes()


def test_killed_again_and_again_it_ends_where_the_unbroken_one_did(study, tmp_path):
    whole, out, log, kills, code = tmp_path / "whole", tmp_path / "study", tmp_path / "log", 0, -signal.SIGKILL
    assert in_child(command_line, log, study(whole)) == 0, log.read_text()
    while code == -signal.SIGKILL:
        assert kills < 20, "it gets no further"
        # a few renames further each time: else the kills would fall on the same kind of file
        code = in_child(killed, log, study(out), STRIDE + 3 * (kills % 5), ("before", "after")[kills % 2])
        kills += code == -signal.SIGKILL
    assert code == 0, log.read_text()
    assert kills >= 3
    assert results(out) == results(whole)
    assert not list(out.rglob("*.part"))
    assert in_child(command_line, log, study(out)) == 0
    assert re.search(r"all \d+ steps were done before", log.read_text())
