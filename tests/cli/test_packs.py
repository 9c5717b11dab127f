"""Several packs on the command line: names, a map of findings, and every command on all of them or on one."""

import json
import shlex

import pytest

from cxrdali import predictions
from cxrdali.runs.layout import CONFIG
from tests.cli.cli import done, refused

SMALL = (
    *("--stage", 1, "--size", 48, "--batch", 8, "--epochs", 1, "--folds", 3, "--arch", "test_byobnet"),
    *("--no-pretrained", "--device", "cpu"),
)
BOTH = ("--data", "mimic", "--data", "N=nih")


@pytest.fixture(scope="module")
def work(tmp_path_factory, pack_folder, nih):
    """A folder with two packs, and a run of both in it."""
    work = tmp_path_factory.mktemp("work")
    (work / "mimic").symlink_to(pack_folder)
    (work / "nih").symlink_to(nih.root)
    (work / "map.toml").write_text('"Mass" = "Mass"\n[packs.N]\n"No Finding" = "No Finding (N)"\n')
    said = done(work, "train", *SMALL, *BOTH, "--findings", "map.toml", "--out", "both").stdout
    (work / "said").write_text(said)
    return work


def test_names_and_the_map_are_the_run_s(work):
    config = json.loads((work / "both" / CONFIG).read_text())
    assert [(each["name"], each["root"]) for each in config["dataset"]["packs"]] == [("mimic", "mimic"), ("N", "nih")]
    assert "No Finding" in config["findings"] and "No Finding (N)" in config["findings"]
    given = '{"Mass": "Mass", "packs": {"N": {"No Finding": "No Finding (N)"}}}'
    assert config["settings"]["data"]["findings"] == given
    (line,) = [line for line in (work / "said").read_text().splitlines() if line.startswith("next: ")]
    following, evaluation = (shlex.split(each) for each in line.removeprefix("next: ").split("  # or: "))
    assert following[following.index("--findings") + 1] == evaluation[evaluation.index("--findings") + 1] == given
    assert following[-4:] == evaluation[-4:] == ["--data", "mimic", "--data", "N=nih"]


def test_the_same_command_does_nothing_on_a_finished_run(work):
    said = done(work, "train", *SMALL, *BOTH, "--findings", "map.toml", "--out", "both").stdout
    assert "was already finished" in said
    (work / "moved").symlink_to("nih")
    said = done(
        work, "train", *SMALL, "--data", "mimic", "--data", "N=moved", "--findings", "map.toml", "--out", "both"
    )
    assert "was already finished" in said.stdout


def test_a_pack_that_is_given_twice_by_another_path_is_refused(work):
    (work / "again").symlink_to("nih")
    said = "error: %sagain: is the same dataset as nih; give each pack once"
    train = ("train", *SMALL, "--data", "nih", "--data", "again", "--out", "twice")
    refused(*train, cwd=work, code=1, said=said % "--data ")
    refused("overlap", "nih", "again", cwd=work, code=1, said=said % "")


def test_predict_and_evaluate_on_both_packs_and_on_one(work):
    """The packs under their folders' names, in another order: their images say which they are."""
    done(
        work, *("predict", "--run", "both", "--data", "nih", "--data", "mimic", "--device", "cpu", "--out", "b.parquet")
    )
    ids = predictions.read(work / "b.parquet").ids["image_id"].str.split(":").str[0]
    assert ids.tolist() == ["mimic"] * (ids == "mimic").sum() + ["N"] * (ids == "N").sum() and ids.nunique() == 2
    done(work, *("predict", "--run", "both", "--data", "nih", "--device", "cpu", "--out", "n.parquet"))
    alone = predictions.read(work / "n.parquet")
    assert len(alone.ids) == (ids == "N").sum() and not alone.ids["image_id"].str.contains(":").any()
    done(work, "evaluate", "b.parquet", *BOTH, "--findings", "map.toml", "--draws", 0)
    both = json.loads((work / "b.metrics.json").read_text())
    assert both["images"] == len(ids) and len(both["all"]["findings"]) == 16
    done(work, "explain", "--run", "both", "--data", "nih", "--findings", "Pleural Effusion", *("--device", "cpu"),
         *("--images", 1, "--out", "page.html"))  # fmt: skip
    assert "Pleural Effusion" in (work / "page.html").read_text()


def test_a_report_of_both_packs(work):
    done(work, "report", "both", *BOTH, "--out", "report.html")
    assert "No Finding (N)" in (work / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (
            ("train", *SMALL, "--data", "mimic", "--data", "mimic", "--out", "x"),
            1,
            "is given twice; give each pack once",
        ),
        (
            ("train", *SMALL, "--data", "A=mimic", "--data", "A=nih", "--out", "x"),
            1,
            "mimic is called 'A' too; give one",
        ),
        (
            ("inspect", "--data", "mimic", "--data", "nih"),
            1,
            "`inspect` reads one pack; give one --data and run it for",
        ),
        (("train", *SMALL, *BOTH, "--findings", "gone.toml", "--out", "x"), 1, "no map of findings (No such file"),
        (
            ("train", *SMALL, *BOTH, "--set", 'findings={"Efusion":"Mass"}', "--out", "x"),
            1,
            "'Efusion': no such finding",
        ),
        (("train", *SMALL, *BOTH, "--same-patients", "mimic,M", "--out", "x"), 1, "same-patients 'M': no such pack"),
        (("train", *SMALL, *BOTH, "--labels", "N=nope", "--out", "x"), 1, "no labels 'nope'"),
        (("train", *SMALL, "--data", "mimic", "--data", "N=gone", "--out", "x"), 1, "gone: no packed dataset"),
        (("retrain-head", "--run", "both", "--data", "nih", "--out", "x"), 1, "(are of several packs; give"),
        (("predict", "--run", "both", *BOTH, "--data", "N2=nih", "--out", "x.csv"), 1, "nih: is given twice"),
    ],
)
def test_mistakes(work, arguments, code, said):
    refused(*arguments, cwd=work, code=code, said=said)
