"""Pseudo-labels: a run's predictions on a pack without labels, attached, and trained on beside labels with a weight."""

import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from cxrdali import predictions
from cxrdali.data import label_weight
from cxrdali.data.options import FoldOptions
from cxrdali.data.pairs import Pairs
from cxrdali.data.splits import fold_positives, train_and_validation
from cxrdali.data.targets import check_labelled, counts, targets
from cxrdali.evaluate.evaluate import evaluate
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.postprocess import thresholds
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.predict.pseudo_labels import make
from cxrdali.predict.pseudo_options import PseudoOptions
from cxrdali.predictions import Predictions, Provenance
from cxrdali.report.dataset.facts import read_facts
from cxrdali.runs.reader import Run
from cxrdali.runs.seen import read_list, seen_by
from cxrdali.runs.settings import sampling_seed, settings_of
from cxrdali.runtime.device import Hardware
from cxrdali.train.hooks import Hooks
from cxrdali.train.selection import select_data
from cxrdali.train.step import Step, grad_scaler
from cxrdali.train.trainer import train
from shards.dataset.labels import SEEN_KEY, Labels
from shards.dataset.packed import PackedDataset
from shards.dataset.union import Union, UnionOptions
from shards.errors import UserError
from shards.packing.attach import attach, detach
from shards.packing.verify import verify
from shards.releases.release import LabelTable
from tests.cli.cli import done, refused
from tests.dying import dies_before
from tests.faults.trainers import in_child
from tests.heard import heard
from tests.releases import contents

pytestmark = pytest.mark.slow

SMALL = {
    "stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": False, "device": "cpu",
    "folds": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    train(settings_of(**SMALL, labels="cxr-lt-2023"), dataset, out)
    return Run.open(out)


@pytest.fixture(scope="module")
def bare(nih, tmp_path_factory):
    """Another hospital's pack without labels, and what the teacher predicts of it."""
    root = tmp_path_factory.mktemp("bare")
    shutil.copytree(nih.root, root / "other")
    detach(root / "other", "chestx-ray14")
    return root


@pytest.fixture(scope="module")
def predicted(bare, teacher):
    table = predict(teacher.path, PackedDataset.open(bare / "other"), "all", PredictOptions(device="cpu"))
    table.write(bare / "other.parquet")
    return bare / "other.parquet"


@pytest.fixture
def pack(bare, tmp_path):
    return shutil.copytree(bare / "other", tmp_path / "other")


def attached(pack, predicted, teachers=(), name="pseudo", **options):
    made = make(predicted, PackedDataset.open(pack), PseudoOptions(**options), teachers)
    attach(pack, (), tables=[LabelTable(name, made.findings, made.table, (predicted,), pseudo=made.metadata)])
    return PackedDataset.open(pack)


def of_both(dataset, pack, **options):
    union = Union.of({"mimic": dataset, "other": pack}, UnionOptions(**options))
    return union, union.labels("mimic=cxr-lt-2023,other=pseudo")


# ---------------------------------------------------------------- attaching


def test_a_pack_without_labels_is_predicted_whole(bare, predicted, teacher):
    pack, table = PackedDataset.open(bare / "other"), predictions.read(predicted)
    assert table.ids["image_id"].tolist() == pack.catalog["image_id"].tolist() and table.findings == teacher.findings
    assert (table.provenance.labels, table.provenance.split, table.provenance.seen) == (None, "all", ())
    with pytest.raises(UserError, match="no label release is attached"):
        predict(teacher.path, pack, "test", PredictOptions(device="cpu"))


def test_soft_labels_are_the_probabilities_and_touch_nothing_else(pack, predicted, teacher):
    before, old = contents(pack), PackedDataset.open(pack)
    found = attached(pack, predicted, [teacher.path], soft=True)
    after = contents(pack)
    assert {name for name in after if after[name] != before.get(name)} == {"dataset.json", "labels/pseudo.parquet"}
    assert found.id == old.id and verify(pack).problems == () and found.info["default_labels"] is None
    labels, values = found.labels("pseudo"), predictions.read(predicted).values
    np.testing.assert_allclose(labels.soft, expit(values.astype(np.float64)), rtol=1e-6)
    np.testing.assert_array_equal(labels.values, (labels.soft >= 0.5).astype(np.int8))
    assert set(labels.split[:]) == {"train"} and labels.findings == teacher.findings
    assert (labels.pseudo["run"], labels.pseudo["how"], labels.pseudo["labels"]) == ("teacher", "soft", None)
    attached(pack, predicted, [teacher.path], soft=True)
    assert contents(pack) == after
    with pytest.raises(UserError, match="'pseudo' are attached with other content; give another --name, or remove th"):
        attached(pack, predicted, above=0.9, below=0.1)
    for name in ("a/b", "Pseudo"):
        with pytest.raises(UserError, match=f"'{name}' .*; give another --name"):
            attached(pack, predicted, name=name, soft=True)
    detach(pack, "pseudo")
    assert contents(pack) == before


def test_they_do_not_become_the_default_when_it_is_removed(nih, predicted, tmp_path):
    pack = shutil.copytree(nih.root, tmp_path / "other")
    table = nih.labels("chestx-ray14")
    values = {name: pd.array([0] * len(table.values), dtype="Int8") for name in table.findings}
    real = pd.DataFrame({"split": "train", **values}, index=pd.Index(nih.catalog["image_id"], name="image_id"))
    attach(pack, (), tables=[LabelTable("z-real", table.findings, real, (predicted,))])
    attached(pack, predicted, name="a-pseudo", soft=True)
    detach(pack, "chestx-ray14")
    assert PackedDataset.open(pack).info["default_labels"] == "z-real"
    detach(pack, "z-real")
    assert PackedDataset.open(pack).info["default_labels"] is None
    attach(pack, (), tables=[LabelTable("z-real", table.findings, real, (predicted,))])
    assert PackedDataset.open(pack).label_names == ["z-real", "a-pseudo"]


def test_of_an_ensemble_what_the_runs_have_seen_that_are_not_given_is_unknown(pack, predicted, teacher, tmp_path):
    table = predictions.read(predicted)
    for run, unknown in (
        ("ensemble of teacher, other", ("other",)),
        ("ensemble of teacher, other + mean.safetensors, third", ("other", "third")),
        ("teacher + last.pt", ()),
        (None, ()),
    ):
        replace(table, provenance=replace(table.provenance, run=run)).write(tmp_path / "t.parquet")
        made = make(tmp_path / "t.parquet", PackedDataset.open(pack), PseudoOptions(soft=True), [teacher.path])
        seen = read_list(tmp_path, made.metadata[SEEN_KEY])
        assert ([each.name for each in seen.runs], seen.unknown) == (["teacher"], unknown)
    replace(table, provenance=replace(table.provenance, run="teacher-2")).write(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="is not teacher-2, which predicted"):  # whose name begins alike
        make(tmp_path / "t.parquet", PackedDataset.open(pack), PseudoOptions(soft=True), [teacher.path])


def test_between_two_probabilities_nothing_is_known(pack, predicted):
    p = expit(predictions.read(predicted).values.astype(np.float64))
    low, high = (float(np.quantile(p, q)) for q in (0.3, 0.8))
    labels = attached(pack, predicted, above=high, below=low).labels("pseudo")
    wanted = np.where(p >= high, 1, np.where(p <= low, 0, Labels.UNKNOWN))
    np.testing.assert_array_equal(labels.values, wanted)
    assert labels.soft is None and 0.2 < (wanted == Labels.UNKNOWN).mean() < 0.8
    facts = read_facts(PackedDataset.open(pack), ["pseudo"]).releases[0]
    found = facts.counts["train"]
    assert found.at[labels.findings[0], "not known"] == (wanted[:, 0] == Labels.UNKNOWN).sum()
    assert not found["blank"].any()
    assert facts.splits.at["train", "unlabelled"] == (wanted == Labels.UNKNOWN).all(axis=1).sum()
    seen = targets(labels, "positive")[:]
    np.testing.assert_array_equal(seen, np.where(wanted == Labels.UNKNOWN, np.nan, wanted).astype(np.float32))


def test_thresholds_call_them_and_a_finding_without_one_is_not_known(pack, predicted, tmp_path):
    table = predictions.read(predicted)
    limits = thresholds.fixed(table.findings, 0.4)
    none = replace(limits.rules[1], threshold=None)
    about = {"predictions": "v", "run": "teacher", "split": "val", "tta": "none", "calibrated": [], "folds": 5}
    macros = {f"macro_{name}": None for name in thresholds.SCORES}
    rules = (limits.rules[0], none, *limits.rules[2:])
    limits = replace(limits, rules=rules, made_from=about, macros=macros)
    limits.write(tmp_path / "limits.json")
    labels = attached(pack, predicted, threshold=str(tmp_path / "limits.json")).labels("pseudo")
    wanted = (expit(table.values.astype(np.float64)) >= 0.4).astype(int)
    wanted[:, 1] = Labels.UNKNOWN
    np.testing.assert_array_equal(labels.values, wanted)
    assert labels.pseudo["how"] == "called by limits.json"


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "pseudo-labels: give one of --soft, --threshold, and --above with --below"),
        ({"soft": True, "threshold": "0.5"}, "pseudo-labels: give one of"),
        ({"above": 0.9}, "above and below belong together; give both"),
        ({"above": 0.1, "below": 0.1}, "below 0.1: is not below 0.1, the probability of --above"),
        ({"above": 1.1, "below": 0.1}, "above 1.1: 0 to 1"),
    ],
)
def test_options_that_make_no_labels_are_named(options, message):
    with pytest.raises(UserError, match=message):
        PseudoOptions(**options)


def test_tables_that_are_no_pseudo_labels_are_refused(dataset, pack, predicted, teacher, tmp_path):
    table = predictions.read(predicted)
    for kind, words in (("rank", "mean ranks are no probabilities"), (None, None)):
        about = replace(table.provenance, kind=kind or "logit", run="another")
        replace(table, provenance=about).write(tmp_path / "t.parquet")
        with pytest.raises(UserError, match=words or "is not another, which predicted"):
            make(tmp_path / "t.parquet", PackedDataset.open(pack), PseudoOptions(soft=True), [teacher.path])
    with pytest.raises(UserError, match="is not in .*; give the dataset it was predicted on"):
        make(predicted, dataset, PseudoOptions(soft=True))


def killed(pack, predicted, step):
    """For a child: attaches, and dies before its `step`-th rename, flush or removal."""
    dies_before(step, ("replace", "rename", "fsync", "unlink", "rmdir"))
    attached(pack, predicted, soft=True)


def test_a_kill_leaves_the_old_labels_or_the_new(bare, predicted, tmp_path):
    codes, step = [], 0
    while not codes or codes[-1] != 0:
        step += 9
        pack = shutil.copytree(bare / "other", tmp_path / str(step))
        codes.append(in_child(killed, pack, predicted, step))
        names = PackedDataset.open(pack).label_names
        assert names in ([], ["pseudo"])
        if names:
            assert PackedDataset.open(pack).labels("pseudo").soft is not None
        assert attached(pack, predicted, soft=True).label_names == ["pseudo"] and verify(pack).problems == ()
        shutil.rmtree(pack)
    assert len(codes) > 1 and set(codes[:-1]) == {-signal.SIGKILL}


def test_files_that_hold_no_probabilities_are_refused(pack, predicted):
    made = make(predicted, PackedDataset.open(pack), PseudoOptions(soft=True))
    for table, words in (
        (made.table.assign(Edema=pd.array([1.5] * len(made.table), dtype="Float32")), "that are no probabilities"),
        (made.table.assign(Edema="0.5"), "not a table of labels"),
    ):
        attach(pack, (), tables=[LabelTable("bad", made.findings, table, (predicted,), pseudo=made.metadata)])
        with pytest.raises(UserError, match=words):
            PackedDataset.open(pack).labels("bad")
        detach(pack, "bad")


# ---------------------------------------------------------------- training on them


def test_soft_labels_reach_the_loss_as_they_are_and_never_validate(dataset, pack, predicted, tmp_path):
    union, labels = of_both(dataset, attached(pack, predicted, soft=True))
    given = settings_of(**SMALL, labels=labels.name, label_weight="other=0.3")
    data = select_data(given, union, labels, tmp_path / "run")
    start, rows = len(dataset.catalog), len(union.catalog)
    own = train_and_validation(dataset, dataset.labels("cxr-lt-2023"), FoldOptions(folds=3))
    assert data.val_rows.tolist() == own[1].tolist()
    assert data.train_rows.tolist() == [*own[0], *range(start, rows)]
    p = expit(predictions.read(predicted).values.astype(np.float64))
    order = [predictions.read(predicted).findings.index(name) for name in labels.findings]
    hard = (dataset.labels("cxr-lt-2023").values == 1).astype(float)
    wanted = np.concatenate([hard, p[:, order]])
    np.testing.assert_allclose(data.targets.in_training[np.arange(rows)], wanted, rtol=1e-6)
    np.testing.assert_array_equal(data.targets[np.arange(rows)], wanted >= 0.5)
    sums = hard[own[0]].sum(axis=0) + p[:, order].sum(axis=0)
    np.testing.assert_allclose(data.positives, sums, atol=0.51)
    np.testing.assert_array_equal(data.positives + data.negatives, len(data.train_rows))
    assert data.row_weights.tolist() == pytest.approx([1.0] * start + [0.3] * (rows - start))
    alone = PackedDataset.open(pack)
    with pytest.raises(UserError, match="are pseudo-labels, on which nothing is validated; train on them beside"):
        select_data(settings_of(**SMALL, labels="pseudo"), alone, alone.labels("pseudo"), tmp_path / "run")
    stratified = fold_positives(union, labels, FoldOptions(folds=3, stratify=True))
    assert (
        sum(stratified["Edema"])
        == (dataset.labels("cxr-lt-2023").values[np.sort(np.concatenate(own))] == 1)[
            :, labels.findings.index("Edema")
        ].sum()
    )


def test_patients_of_the_fold_do_not_train_through_pseudo_labels(dataset, bare, teacher, tmp_path):
    """The same images twice: labelled, and predicted."""
    twin = shutil.copytree(dataset.root, tmp_path / "twin")
    values = np.zeros((len(dataset.catalog), len(teacher.findings)), dtype=np.float32)
    ids = dataset.catalog[["image_id", "study_id", "view"]]
    Predictions(ids, teacher.findings, values, Provenance("logit", "x", "all")).write(tmp_path / "p.parquet")
    options = {"same_patients": (("mimic", "other"),)}
    union, labels = of_both(dataset, attached(twin, tmp_path / "p.parquet", soft=True), **options)
    asked = settings_of(**SMALL, same_patients="mimic,other").data
    train_rows, val_rows = train_and_validation(union, labels, asked)
    subjects = union.catalog["subject_id"].to_numpy()
    assert not set(subjects[train_rows]) & set(subjects[val_rows])
    left = [row for row in range(len(dataset.catalog), 2 * len(dataset.catalog)) if row not in set(train_rows)]
    assert left and set(subjects[left]) <= set(subjects[val_rows]) | set(subjects[left])
    assert max(val_rows) < len(dataset.catalog)
    # without patients of another pack no image is left out: of a pack that is in no group, and where nothing is shared
    for asked in (settings_of(**SMALL, same_patients="mimic,third").data, FoldOptions(folds=3)):
        rows, _ = train_and_validation(union, labels, asked)
        assert (rows >= len(dataset.catalog)).sum() == len(dataset.catalog)
    # looked at alone, a pack of a run has the images that it had among the others
    for pack, number in (("other", (train_rows >= len(dataset.catalog)).sum()), ("third", len(dataset.catalog))):
        given = settings_of(**SMALL, same_patients="mimic,other").as_json()
        about = {**teacher.config["dataset"], "name": pack}
        own = Run(teacher.path, {**teacher.config, "settings": given, "dataset": about}, "run").fold
        alone = PackedDataset.open(twin)
        assert len(train_and_validation(alone, alone.labels("pseudo"), own)[0]) == number


@pytest.mark.parametrize("how", [{}, {"stratify": True}, {"fold_rule": "catalog"}])
def test_of_fewer_patients_than_folds_all_train(dataset, pack, predicted, how):
    table = predictions.read(predicted)
    few = replace(table, ids=table.ids.iloc[:1], values=table.values[:1])
    few.write(pack.parent / "few.parquet")
    union, labels = of_both(dataset, attached(pack, pack.parent / "few.parquet", soft=True))
    rows, _ = train_and_validation(union, labels, FoldOptions(folds=3, **how))
    image = f"other:{table.ids['image_id'].iloc[0]}"
    assert union.catalog["image_id"].iloc[rows[rows >= len(dataset.catalog)]].tolist() == [image]


def test_a_weighted_step_is_that_of_numpy_with_micro_batches():
    """A linear model, whose gradients are written out: sum of w (p - y) x over the known targets, by their number."""
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(12, 5)), rng.random((12, 3)), rng.random(12) * 2
    y[2] = y[5, 1] = np.nan
    weight = rng.normal(size=(3, 5))
    known = ~np.isnan(y)
    p = expit(x @ weight.T)
    terms = np.where(known, -(np.nan_to_num(y) * np.log(p) + (1 - np.nan_to_num(y)) * np.log(1 - p)), 0)
    loss = (w[:, None] * terms).sum() / known.sum()
    gradient = (w[:, None] * np.where(known, p - np.nan_to_num(y), 0)).T @ x / known.sum()
    for micro_batch in (12, 4, 3):
        model = torch.nn.Linear(5, 3, bias=False).double()
        model.weight.data = torch.from_numpy(weight.copy())
        module = LossModule(LOSSES["bce"](), np.ones(3, dtype=int), np.ones(3, dtype=int))
        hardware = Hardware.resolve("cpu", "fp32")
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        step = Step(model, module, optimizer, grad_scaler(hardware), hardware)
        found = step(torch.from_numpy(x), torch.from_numpy(y), 0, micro_batch, torch.from_numpy(w))
        assert float(found) == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(weight - model.weight.detach().numpy(), gradient, rtol=1e-10)


@pytest.mark.parametrize(
    "given, kept, rows",
    [
        ("0.3", "0.3", [0.3] * 5),
        ("b=0.3", "b=0.3", [1, 1, 0.3, 0.3, 0.3]),
        ("b = 2, a=.5", "a=0.5,b=2", [0.5, 0.5, 2, 2, 2]),
        ("1", None, None),
        ("a=1", None, None),
    ],
)
def test_weights_of_packs(given, kept, rows):
    assert label_weight.canonical(given) == kept == settings_of(stage=1, label_weight=given).data.label_weight
    found = label_weight.of_rows(kept, {"a": 0, "b": 2}, 5)
    assert found is None if rows is None else found.tolist() == pytest.approx(rows)


@pytest.mark.parametrize("given", ["0", "-1", "x", "a=0.3,a=0.4", "0.3,b=0.4", "a=", "nan", "101", ""])
def test_what_is_no_weight_is_named(given):
    with pytest.raises(UserError, match=f"label-weight '{given}': give one number above 0"):
        label_weight.canonical(given)


def test_weights_of_packs_that_are_not_there_are_named():
    with pytest.raises(UserError, match="no pack 'c'; there are a, b"):
        label_weight.of_rows("c=0.3", {"a": 0, "b": 2}, 5)
    with pytest.raises(UserError, match="no pack 'a'; there is one pack; give the number alone"):
        label_weight.of_rows("a=0.3", {"": 0}, 5)


def test_a_run_trains_on_both_and_says_so_and_weight_changes_it(dataset, pack, predicted, teacher, tmp_path):
    found = attached(pack, predicted, [teacher.path], soft=True)
    union, labels = of_both(dataset, found)
    said, losses = [], []
    for number, weight in enumerate((None, "other=0.01")):
        out = tmp_path / str(number)
        with heard(said):
            train(settings_of(**SMALL, labels=labels.name, label_weight=weight), union, out)
        losses.append(Run.open(out).metrics["train_loss"][0])
    assert losses[1] < 0.75 * losses[0], "two of five images are the other pack's"
    number = len(found.catalog)
    line = f"labels pseudo: pseudo-labels of {number} images, predicted by teacher, soft; they train and never validate"
    assert line in said
    assert "labels count other=0.01 in the training loss" in said
    trained, val = Run.open(tmp_path / "0"), Run.open(tmp_path / "0").val_predictions
    same = predict(trained.path, union, "val", PredictOptions(device="cpu"))
    np.testing.assert_array_equal(same.values, predictions.read(val).values)
    scored = evaluate(val, union, labels, EvaluateOptions(draws=0))
    assert scored["images"] == len(same.values) and scored["all"]["mAP"] == pytest.approx(trained.best["mAP"])
    with pytest.raises(UserError, match="no image in split 'val'; give another --split"):
        predict(trained.path, found, "val", PredictOptions(device="cpu"))
    assert [each.name for each in seen_by(Run.open(tmp_path / "0"), union).runs] == ["teacher", "0", "0"]


def test_weights_are_mixed_as_their_images_are(dataset, pack, predicted, tmp_path, monkeypatch):
    union, labels = of_both(dataset, attached(pack, predicted, soft=True))
    given = settings_of(**SMALL, labels=labels.name, label_weight="other=0.3", mixup=0.4, limit_batches=2)
    seen, steps, real = [], [], Step.__call__

    def noted(self, images, wanted, epoch, micro_batch, weights=None):
        seen.append(weights.numpy().copy())
        return real(self, images, wanted, epoch, micro_batch, weights)

    monkeypatch.setattr(Step, "__call__", noted)
    train(given, union, tmp_path / "run", hooks=Hooks(on_step=steps.append))
    assert len(steps) == 2
    for step, found in zip(steps, seen, strict=True):
        own = np.where(step.rows.numpy() < len(dataset.catalog), 1, 0.3)
        stays, _ = Pairs(0.4, 0, sampling_seed(0, 1)).decide(0, step.position, 8, 48)
        one, other = own[::2], own[1::2]
        np.testing.assert_allclose(found[::2], stays * one + (1 - stays) * other, rtol=1e-5)
        np.testing.assert_allclose(found[1::2], stays * other + (1 - stays) * one, rtol=1e-5)


def test_what_the_teacher_has_seen_counts_as_seen(dataset, pack, predicted, teacher, tmp_path):
    union, labels = of_both(dataset, attached(pack, predicted, [teacher.path], soft=True))
    given = settings_of(**SMALL, labels=labels.name, fold=1)
    with pytest.raises(UserError, match=r"validation images were trained on by teacher .*give --fold 0 as teacher had"):
        select_data(given, union, labels, tmp_path / "run")
    assert select_data(given.changed(allow_leak=True), union, labels, tmp_path / "run").leak
    data = select_data(given.changed(fold=0), union, labels, tmp_path / "run")
    assert data.leak == () and data.seen.runs[0].name == "teacher"
    detach(pack, "pseudo")
    union, labels = of_both(dataset, attached(pack, predicted, soft=True))
    with heard([]) as lines:
        data = select_data(given, union, labels, tmp_path / "run")
    assert data.leak is None and any("it is not known which images teacher was trained on" in line for line in lines)


def test_nothing_is_scored_on_pseudo_labels(pack, predicted):
    found = attached(pack, predicted, above=0.5, below=0.49)
    with pytest.raises(
        UserError, match="labels 'pseudo' are pseudo-labels, predicted by teacher: a score on them says"
    ):
        evaluate(predicted, found, found.labels("pseudo"), EvaluateOptions(draws=0))
    check_labelled(found.labels("pseudo"), np.arange(3), "training", may_be_pseudo=True)


def test_a_loss_of_hard_targets_is_refused_before_training(dataset, pack, predicted, tmp_path):
    hard = [name for name in LOSSES if not LOSSES[name].soft]
    union, labels = of_both(dataset, attached(pack, predicted, soft=True))
    for name in hard:
        with pytest.raises(UserError, match=f"loss {name}: takes no targets between 0 and 1, as soft pseudo-labels"):
            select_data(settings_of(**SMALL, labels=labels.name, loss=name), union, labels, tmp_path / "run")


def test_counts_of_soft_labels_are_sums_where_they_are_given():
    values = np.array([[1, 0], [0, 1], [9, 8], [1, 0]], dtype=np.int8)
    soft = np.array([[0.9, np.nan], [0.2, 0.7], [np.nan, np.nan], [0.6, 0.1]], dtype=np.float32)
    labels = Labels("x", ("A", "B"), np.array(["train"] * 4, dtype=object), values, "", soft=soft)
    found = targets(labels)
    positives, negatives = counts(found, np.arange(4))
    assert positives.tolist() == [round(0.9 + 0.2 + 0.6), round(0.7 + 0.1)] == [2, 1]
    assert negatives.tolist() == [4 - 2, 3 - 1]
    seen = found.of([1]).in_training[np.arange(4)]
    np.testing.assert_allclose(seen[:, 0], [0, 0.7, np.nan, 0.1], rtol=1e-6)


# ---------------------------------------------------------------- the command line


def test_on_the_command_line(pack, predicted, teacher, tmp_path):
    asked = ["label", pack, "--from", predicted]
    refused(*asked, "--soft", cwd=tmp_path, code=2, said="give --name NAME")
    refused("label", pack, "--name", "x", cwd=tmp_path, code=2, said="--name belongs to --from")
    refused(*asked, "--name", "x", cwd=tmp_path, code=1, said="give one of --soft, --threshold")
    out = done(tmp_path, *asked, "--name", "mine", "--soft", "--teacher", teacher.path).stdout
    number = len(PackedDataset.open(pack).catalog)
    assert f"{number} images, {len(teacher.findings)} findings\n" in out
    assert f"mine: {len(teacher.findings)} findings; {number} train, 0 dev, 0 test; pseudo-labels by teacher, soft" in (
        done(tmp_path, "label", pack).stdout
    )
    done(tmp_path, *asked, "--name", "sure", "--above", 0.7, "--below", 0.2)
    shown = done(tmp_path, "inspect", pack).stdout.lower()
    assert "labels mine (pseudo-labels by teacher, soft)" in shown
    assert "images with each finding of mine (a probability of 0.5 or more)" in shown
    assert "finding of sure (a probability" not in shown
    assert "labels sure (pseudo-labels by teacher, called from 0.7 on, and not up to 0.2)" in shown
