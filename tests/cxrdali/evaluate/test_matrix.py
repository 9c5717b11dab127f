"""Runs by where they were trained, each judged everywhere, against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali.evaluate.matrix import Cell, matrix
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.predictions import read
from shards.errors import UserError
from tests.cxrdali.evaluate.hospitals import hospital

OPTIONS = ExternalOptions(draws=100)


@pytest.fixture
def cells(tmp_path):
    """Two hospitals, whose labels differ, and a run of each: the one of north does not know C, that of south no A."""
    made = []
    for place, findings, seed in (("north", ("A", "B", "D"), 0), ("south", ("B", "C"), 1)):
        there = hospital(tmp_path, place, [0.3] * len(findings), seed=seed, findings=findings)
        truth = there.labels.values
        for number, (trained, known) in enumerate((("north", ("D", "B", "A")), ("south", ("C", "B")))):
            table, rng = read(there.path), np.random.default_rng(10 * seed + number)
            values = rng.normal(size=(len(truth), len(known)))
            for column, name in enumerate(known):
                if name in findings:
                    values[:, column] += (2 - number) * truth[:, findings.index(name)]
            path, order = tmp_path / f"{trained}-on-{place}.parquet", rng.permutation(len(truth))
            made_by = replace(table, findings=known, values=values.astype(np.float32), ids=table.ids)
            replace(made_by, ids=table.ids.iloc[order], values=made_by.values[order]).write(path)
            made.append(Cell(trained, replace(there, path=path)))
    return made


def aligned(cell):
    table = read(cell.place.path)
    rows = cell.place.dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
    return {name: (cell.place.labels.values[rows, cell.place.labels.findings.index(name)],
                   table.values[:, table.findings.index(name)]) for name in cell.place.labels.findings
            if name in table.findings}  # fmt: skip


def test_a_column_is_over_the_findings_that_all_its_runs_know(cells):
    found = matrix(cells, OPTIONS)
    assert found["trained"] == ["north", "south"]
    for column, (one, other) in zip(found["columns"], (cells[:2], cells[2:]), strict=True):
        assert column["findings"] == ["B"] and column["scored"] == 1
        for cell, row in zip((one, other), column["cells"], strict=True):
            truth, values = aligned(cell)["B"]
            assert row["mAP"] == pytest.approx(average_precision_score(truth, values))
            assert row["macro_AUROC"] == pytest.approx(roc_auc_score(truth, values))
            assert row["mAP_low"] < row["mAP"] < row["mAP_high"] and row["trained"] == cell.trained
    north, south = found["columns"]
    assert (north["judged"], north["left_out"], north["images"], north["patients"]) == ("north", ["A", "D"], 800, 400)
    assert [row["own"] for row in north["cells"]] == [True, False] and north["cells"][0]["difference"] is None
    worse = north["cells"][1]["difference"]
    assert worse["difference"] == pytest.approx(north["cells"][1]["mAP"] - north["cells"][0]["mAP"])
    assert worse["low"] < worse["difference"] < worse["high"] < 0 and worse["p_holm"] == worse["p"]
    assert south["cells"][0]["difference"]["low"] > 0  # north's run is the better one there, too


def test_with_one_run_of_a_column_all_that_it_knows_counts(cells):
    (column,) = matrix(cells[:1], OPTIONS)["columns"]
    assert column["findings"] == ["A", "B", "D"] and column["scored"] == 3
    wanted = [average_precision_score(*aligned(cells[0])[name]) for name in "ABD"]
    assert column["cells"][0]["mAP"] == pytest.approx(np.mean(wanted))


def test_a_map_may_name_what_one_run_alone_has_though_tables_are_called_alike(cells, tmp_path):
    """As val_predictions.parquet of each run is."""
    moved = []
    for cell, old in zip(cells[:2], ("D", "C"), strict=True):
        table, path = read(cell.place.path), tmp_path / cell.trained / "p.parquet"
        path.parent.mkdir()
        renamed = tuple(f"{name} of {cell.trained}" if name == old else name for name in table.findings)
        replace(table, findings=renamed).write(path)
        moved.append(Cell(cell.trained, replace(cell.place, path=path)))
    for own in (moved, moved[::-1]):
        names = '{"D of north": "D", "C of south": "D"}'
        (column,) = matrix(own, replace(OPTIONS, draws=0, findings=names))["columns"]
        assert column["findings"] == ["B", "D"] and column["left_out"] == ["A"]


def test_cells_that_do_not_compare_are_refused(cells, tmp_path):
    part = read(cells[1].place.path)
    replace(part, ids=part.ids[:700], values=part.values[:700]).write(tmp_path / "part.parquet")
    other = Cell("south", replace(cells[1].place, path=tmp_path / "part.parquet"))
    with pytest.raises(UserError, match="part.parquet: is of other images or labels than .*; predict the same split"):
        matrix([cells[0], other], OPTIONS)
    only = replace(part, findings=("D", "X"))
    only.write(tmp_path / "part.parquet")
    part.of(["B"]).write(tmp_path / "b.parquet")
    apart = [Cell(name, replace(cells[1].place, path=tmp_path / f"{name}.parquet")) for name in ("b", "part")]
    with pytest.raises(UserError, match="north: the runs that are judged there have no finding in common"):
        matrix(apart, OPTIONS)
