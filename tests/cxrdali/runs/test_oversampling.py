"""Oversampling: which findings, which images, and where the AP comes from; Yamagishi & Hanaoka's lists from theirs."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from cxrdali.report import published
from cxrdali.runs.oversampling import choose, chosen_findings, oversampled, read_ap
from cxrdali.runs.progress import Progress
from shards.errors import UserError
from shards.storage.sealed import sealed_json

BELOW_10 = {
    "Infiltration", "Lung Lesion", "Pleural Other", "Pleural Thickening", "Pneumomediastinum", "Pneumoperitoneum",
    "Tortuous Aorta",
}  # fmt: skip
BELOW_15 = BELOW_10 | {"Calcification of the Aorta", "Fibrosis", "Fracture", "Nodule"}


@pytest.mark.parametrize(("below", "names"), [(0.10, BELOW_10), (0.15, BELOW_15)])
def test_the_rule_on_the_paper_s_table_gives_the_paper_s_lists(below, names):
    ap = published.finding_ap()["stage2_dev"].drop("Mean").to_dict()
    chosen, without = choose(ap, below)
    assert set(chosen) == names
    assert chosen == tuple(name for name in ap if name in names)
    assert without == ()


def test_the_threshold_is_excluded_and_no_ap_is_reported_not_chosen():
    chosen, without = choose({"a": 0.1, "b": 0.0999, "c": None, "d": float("nan"), "e": 0.0}, 0.1)
    assert chosen == ("b", "e")
    assert without == ("c", "d")


def test_an_image_with_several_findings_is_doubled_once():
    #                    row 0   row 1   row 2   row 3 (not selected)   row 4: ignored in B
    targets = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0], [1, 1, 1], [0, np.nan, 0]], dtype=np.float32)
    rows = np.array([0, 1, 2, 4])
    assert oversampled(rows, targets, ("A", "B", "C"), ("A", "B")).tolist() == [0, 0, 1, 2, 2, 4]
    assert oversampled(rows, targets, ("A", "B", "C"), ("C",)).tolist() == [0, 1, 1, 2, 4]
    assert oversampled(rows, targets, ("A", "B", "C"), ()).tolist() == [0, 1, 2, 4]


def test_ap_is_read_from_an_evaluation_s_json_and_csv(tmp_path):
    rows = [{"finding": "Mass", "AP": 0.25}, {"finding": "Hernia", "AP": None}]
    (tmp_path / "e.json").write_bytes(sealed_json({"all": {"findings": rows}}))
    (tmp_path / "e.csv").write_text("view,finding,AP\nall,Mass,0.25\nall,Hernia,\nfrontal,Mass,0.9\n")
    for name in ("e.json", "e.csv"):
        ap = read_ap(tmp_path / name)
        assert list(ap) == ["Mass", "Hernia"]
        assert choose(ap, 0.3) == (("Mass",), ("Hernia",))


def test_ap_of_a_run_is_that_of_its_best_epoch(tmp_path):
    config = {
        "settings": {"stage": 1, "optimizer": {"epochs": 3}},
        "findings": ["Mass"],
        "dataset": {"id": ""},
        "labels": {"name": ""},
    }
    (tmp_path / "config.json").write_bytes(sealed_json(config))
    rows = [{"epoch": epoch, "finding": "Mass", "AP": epoch / 10} for epoch in (1, 2, 3)]
    pd.DataFrame(rows).assign(AUROC=0.5, positives=1, negatives=9).to_csv(tmp_path / "findings.csv", index=False)
    progress = Progress(3, 3, True, 2, 0.2, "mAP")
    (tmp_path / "progress.json").write_bytes(sealed_json(asdict(progress)))
    assert read_ap(tmp_path) == {"Mass": 0.2}
    unfinished = replace(progress, epoch=2, finished=False)
    (tmp_path / "progress.json").write_bytes(sealed_json(asdict(unfinished)))
    with pytest.raises(UserError, match="has finished 2 of 3 epochs; finish it first, or oversample from the metrics"):
        read_ap(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "gone.json: no such run or metrics; give a run folder"),
        ("a.json", "{}", "a.json: no table of AP per finding"),
        ("a.json", "nonsense", "a.json: no table of AP per finding"),
        ("a.csv", "finding,score\nMass,1\n", "a.csv: no table of AP per finding (KeyError('AP'))"),
        ("a.csv", "finding,AP\nMass,high\n", "a.csv: no table of AP per finding"),
        ("a.csv", "finding,AP\nMass,0.1\nMass,0.2\n", "a.csv: finding 'Mass' is duplicated"),
        ("a.csv", "finding,AP\nMass,12.5\n", "a.csv: the AP of 'Mass' is 12.5; give numbers from 0 to 1"),
        ("a.csv", "finding,AP\nMass,-inf\n", "a.csv: the AP of 'Mass' is -inf; give numbers from 0 to 1"),
    ],
)
def test_a_source_that_is_none_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        read_ap(tmp_path / name)
    assert message in str(error.value)


def test_metrics_of_other_findings_are_refused(tmp_path):
    (tmp_path / "e.csv").write_text("finding,AP\nMass,0.05\nBulla,0.05\n")
    with pytest.raises(UserError) as error:
        chosen_findings((), 0.1, tmp_path / "e.csv", ("Mass", "Hernia"))
    assert "e.csv: finding 'Bulla' (and 1 more) is only there; oversample from a run on the same --labels" in str(
        error.value
    )


def test_named_findings_must_exist():
    assert chosen_findings(("Hernia",), None, None, ("Mass", "Hernia")) == (("Hernia",), ())
    with pytest.raises(UserError, match=r"oversample 'hernia': no such finding; the labels have Mass, Hernia"):
        chosen_findings(("hernia",), None, None, ("Mass", "Hernia"))


def test_the_means_that_evaluate_writes_are_no_findings(tmp_path):
    rows = "view,finding,AP,group\nall,Mass,0.1,tail\nall,Edema,0.5,head\nall,,0.3,all\nall,,0.5,head\nall,,0.1,tail\n"
    (tmp_path / "test.metrics.csv").write_text(rows)
    assert read_ap(tmp_path / "test.metrics.csv") == {"Mass": 0.1, "Edema": 0.5}
