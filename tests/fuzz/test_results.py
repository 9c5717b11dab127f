"""What commands write for one another, with entries of any kind under a right checksum: read as something, or one line.

`python -m tests.fuzz.fuzz --only results` tries more of the same.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.evaluate import evaluate, write
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.postprocess import calibration, thresholds, views
from cxrdali.report.training.page import SECTIONS
from cxrdali.report.training.sources import ReportOptions, read_sources
from cxrdali.runs.layout import CONFIG, PROGRESS
from cxrdali.runs.oversampling import read_ap
from cxrdali.runs.reader import Run
from cxrdali.runs.steps import Book, Step
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.comparable_runs import LABELS, change_config, write_run
from tests.cxrdali.held_out import written

pytestmark = pytest.mark.slow

ENTRIES = [None, True, 0, -1, 10**400, 2**70, 1e300, float("nan"), float("inf"), "", "..", "x\ny", "32", 1.5]
ENTRIES += [[], {}, [None], [[]], {"": {}}, {"name": 3}, [[[]] * 9] * 9, "\ud800"]
DOUBLED = {"findings": ["x"], "without_ap": [], "images_doubled": 3, "epoch_images": 40, "below": 0.5, "from": "x"}


def results(folder: Path, dataset: PackedDataset) -> dict[str, Callable[[], object]]:
    """Files in `folder`, by their names in it, and what reads each."""
    for number, name in enumerate(("one", "two")):
        write_run(folder / "runs" / name, dataset, 1.0, number)
    recipe = {"name": "model0", "starts_from": None, "overridden": {"lr": 0.1}}
    change_config(folder / "runs" / "one", recipe=recipe, oversampling=DOUBLED, processes=2, versions={"torch": "2"})
    labels, table = dataset.labels(LABELS), folder / "val.parquet"
    written(table, dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "ENOUGH", 10)  # else isotonic's file holds lines
        for name in ("platt", "isotonic"):
            calibration.fit(table, dataset, labels, name).write(folder / f"{name}.json")
    limits = thresholds.fit(table, dataset, labels, "f1")
    limits.write(folder / "thresholds.json")
    views.fit(table, dataset, labels).write(folder / "views.json")
    write(evaluate(table, dataset, labels, EvaluateOptions(draws=2), limits), folder / "val.metrics")
    (folder / "evaluations").mkdir()
    shutil.copy(folder / "val.metrics.json", folder / "evaluations" / "model0.val.json")
    steps = [{"name": "train model0", "status": "done", "seconds": 1.5}]
    record = {"models": ["model0"], "tables": ["model0"], "steps": steps}
    (folder / "paper.json").write_bytes(sealed_json(record))
    step = Step("make", ("made",), {"a": 1}, (), lambda: shutil.copy(table, folder / "made"))
    Book(folder).make(step)

    def page() -> None:
        sources = read_sources([folder], dataset, [folder / "val.metrics.json"], ReportOptions("x"))
        for section in SECTIONS:
            section.data(sources)

    def runs() -> None:
        run = Run.open(folder / "runs" / "one")
        run.settings.model_options(), run.settings.loader_options("cpu"), run.progress, run.device, run.best_ap
        page()
        compare([folder / "runs"], dataset, CompareOptions(draws=0, folds=2))

    return {
        f"runs/one/{CONFIG}": runs,
        f"runs/one/{PROGRESS}": runs,
        "platt.json": lambda: calibration.apply(table, calibration.read(folder / "platt.json")),
        "isotonic.json": lambda: calibration.apply(table, calibration.read(folder / "isotonic.json")),
        "thresholds.json": lambda: evaluate(
            table, dataset, labels, EvaluateOptions(draws=0), thresholds.read(folder / "thresholds.json")
        ),
        "views.json": lambda: (views.apply(table, views.read(folder / "views.json"), dataset), page()),
        "val.metrics.json": lambda: (read_ap(folder / "val.metrics.json"), page()),
        "evaluations/model0.val.json": page,
        "paper.json": page,
        ".steps/make.made.json": lambda: (Book(folder).reason(step), Book(folder).recorded(["make"])),
    }


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of every entry of a JSON value; of a long list the first three."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(min(3, len(value))) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def check(path: Path, read_it: Callable[[], object], place: tuple, entry: object, remove: bool) -> None:
    """One entry of a file replaced or removed, under a right checksum: it is read, or refused in one line."""
    before = path.read_bytes()
    stored = holder = json.loads(before)
    for key in place[:-1]:
        holder = holder[key]
    if remove:
        del holder[place[-1]]
    else:
        holder[place[-1]] = entry
    try:
        path.write_bytes(sealed_json(stored))
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        path.write_text(json.dumps(stored))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_it()
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def found(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, results(folder, dataset)


def test_they_are_read_as_they_were_written(found):
    for read_it in found[1].values():
        read_it()


@given(data=st.data())
@settings(max_examples=80)
def test_an_entry_of_any_kind_is_read_or_refused_in_one_line(found, data):
    folder, readers = found
    name = data.draw(st.sampled_from(sorted(readers)))
    place = data.draw(st.sampled_from(list(places(json.loads((folder / name).read_bytes())))))
    check(folder / name, readers[name], place, data.draw(st.sampled_from(ENTRIES)), data.draw(st.booleans()))


@pytest.mark.parametrize(
    ("name", "place", "entry", "remove"),
    [
        ("val.metrics.json", ("level",), None, True),
        ("val.metrics.json", ("all", "findings"), [], False),
        ("evaluations/model0.val.json", ("split",), "x\ny", False),
        ("runs/one/config.json", ("dataset", "id"), "x\ny", False),
    ],
)
def test_what_trying_every_entry_once_has_found(found, name, place, entry, remove):
    folder, readers = found
    check(folder / name, readers[name], place, entry, remove)
