"""Grids, groups, ensembles and steps of a study's file, planned and not done."""

import pytest

from cxrdali.runs import recipes
from cxrdali.runs.steps import Step
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.reader import read_study
from cxrdali.studies.source import Source
from cxrdali.studies.work import Part, only
from shards.errors import UserError

START = """
[settings]
model = { arch = "test_efficientnet", pretrained = false }
optimizer = { epochs = 2, batch = 8 }
data = { size = 48, folds = 3, labels = "cxr-lt-2023" }
"""


@pytest.fixture
def plan(dataset, tmp_path):
    def make(text, **options):
        file = tmp_path / "study.toml"
        file.write_text(START + text)
        return make_plan(tmp_path / "out", {"": dataset}, read_study(file), recipes.load(), StudyOptions(**options))

    return make


def test_runs_of_a_grid_have_its_values_and_their_names(plan):
    grid = "[runs.n]\nstage = 1\ngrid = { lr = [1e-3, 0.00035, 1.5], loss = ['bce', 'asl'], seed = [0, 7] }\n"
    found = plan(grid)
    assert len(found.models) == 12
    settings = found.models["n-lr35e-5-lossasl-seed7"][0]
    assert (settings.optimizer.lr, settings.loss.name, settings.seed) == (0.00035, "asl", 7)
    assert found.models["n-lr15e-1-lossbce-seed0"][0].optimizer.lr == 1.5
    assert found.record["runs"]["n-lr1e-3-lossbce-seed7"]["cell"] == "n-lr1e-3-lossbce"
    assert [step.name for step in found.steps[12:]] == ["compare runs", "compare seeds", "report"]


def test_every_fold_once_follows_the_number_of_folds(plan):
    text = "[runs.n]\nstage = 1\ngrid.fold = 'all'\n[[predict]]\n[[ensembles]]\nname = 'all'\nmembers = 'n'\n"
    found = plan(text)
    assert [settings.data.fold for settings, _ in found.models.values()] == [0, 1, 2]
    steps = {step.name: step for step in found.steps}
    assert steps["all test"].needs == tuple(f"predict n-fold{fold} test" for fold in range(3))
    assert "all val" not in steps and any("validate on different images" in note for note in found.notes)
    assert "compare runs" not in steps and "compare seeds" in steps
    assert found.problems == ()
    assert len(plan(text, overrides={"": {"folds": 4}}).models) == 4
    rows = [set(base.splits["val"].tolist()) for base in found.bases.values()]
    assert not rows[0] & rows[1] and len(set().union(*rows)) == sum(map(len, rows))


def test_a_run_starts_from_the_one_of_a_grid_with_the_same_values(plan):
    text = "[runs.a]\nstage = 1\ngrid = { seed = [0, 1] }\n[runs.b]\nlike = 'a'\nstage = 2\nstarts_from = 'a'\n"
    found = plan(text + "grid = { seed = [0, 1], lr = [1e-3, 1e-2] }\n")
    assert list(found.models)[:3] == ["a-seed0", "a-seed1", "b-seed0-lr1e-3"]
    assert found.models["b-seed1-lr1e-2"][1]["starts_from"] == "a-seed1"
    steps = {step.name: step for step in found.steps}
    assert steps["train b-seed0-lr1e-2"].needs == ("train a-seed0",)


def test_a_recipe_brings_what_it_starts_from_unless_the_study_says_none(plan):
    text = "[runs.mine]\nrecipe = 'model2'\n"
    assert list(plan(text).models) == ["model0", "mine"]
    assert plan(text).models["model0"][0].data.size == 48, "settings of the study are of all runs"
    assert list(plan(text + "starts_from = ''\nstage = 1\n").models) == ["mine"]


def test_names_stand_for_grids_cells_and_groups(plan):
    text = "[runs.a]\nstage = 1\ngrid = { lr = [1e-3, 1e-2], seed = [0, 1] }\n[runs.b]\nstage = 1\nloss = 'asl'\n"
    text += "[groups.odd]\nwhere = { loss = 'asl' }\n[groups.alike]\nlike = 'b'\nsame = ['lr', 'epochs']\n"
    text += "[[predict]]\nof = ['a-lr1e-2', 'odd']\nsplits = 'test'\n"
    text += "[[ensembles]]\nname = 'e'\nmembers = ['a-lr1e-2', 'b']\n"
    found = plan(text)
    predicted = [each.model for each in found.asked]
    assert predicted == ["a-lr1e-2-seed0", "a-lr1e-2-seed1", "b"]
    assert found.record["groups"] == {"odd": ["b"], "alike": ["a-lr1e-3-seed0", "a-lr1e-3-seed1", "b"]}
    (step,) = [step for step in found.steps if step.name == "e test"]
    assert step.settings["members"] == predicted


def test_settings_of_a_grid_s_name_are_of_all_its_runs(plan):
    text = "[runs.a]\nstage = 1\ngrid.seed = [0, 1]\n[runs.b]\nstage = 1\n"
    found = plan(text, overrides={"a": {"lr": 5e-4}, "a-seed1": {"epochs": 3}})
    assert {name: (each.optimizer.lr, each.optimizer.epochs) for name, (each, _) in found.models.items()} == {
        "a-seed0": (5e-4, 2), "a-seed1": (5e-4, 3), "b": (1e-3, 2),
    }  # fmt: skip
    with pytest.raises(UserError, match="c.lr: c is not among the models"):
        plan(text, overrides={"c": {"lr": 5e-4}})


@pytest.mark.parametrize("of", ["", "a", "a-seed1"])
def test_a_setting_of_the_grid_is_changed_in_the_file_alone(plan, of):
    """Else runs of several seeds would all have one, and their standard deviation would be 0."""
    text = "[runs.a]\nstage = 1\ngrid.seed = [0, 1]\n[runs.b]\nstage = 1\n"
    with pytest.raises(UserError, match=r"--set seed=7: a-seed[01] has its seed from its grid .* the grid in the file"):
        plan(text, overrides={of: {"seed": 7}})
    assert plan(text, overrides={"b": {"seed": 7}}).models["b"][0].seed == 7


def test_tables_of_a_grid_are_compared_by_cell_and_seed(plan):
    text = "[runs.a]\nstage = 1\ngrid = { lr = [1e-3, 1e-2], seed = [0, 1] }\n[[predict]]\nname = '{run}+tta'\n"
    text += "tta = 'hflip'\nsplits = 'test'\n[[ensembles]]\nname = 'e'\nmembers = 'a+tta'\n"
    compare = "[[comparisons]]\nname = 'seeds'\nby = 'seed'\ntables = 'a+tta'\n"
    (step,) = [step for step in plan(text + compare).steps if step.name.startswith("compare")]
    assert step.name == "compare seeds.test"
    assert step.settings["cells"] == {
        f"a-lr{lr}+tta": {f"seed {seed} fold 0": f"a-lr{lr}-seed{seed}+tta" for seed in (0, 1)}
        for lr in ("1e-3", "1e-2")
    }
    with pytest.raises(UserError, match=r"line \d+: e is no table of a run, so it has no seed"):
        plan(text + compare.replace("'a+tta'", "'e'"))


def test_claims_are_of_tables_or_of_runs_own_validation(plan):
    text = "[runs.a]\nstage = 1\ngrid.seed = [0, 1]\n[runs.b]\nlike = 'a'\nloss = 'asl'\ngrid.seed = [0, 1]\n"
    claim = "[[claims]]\nhigher = 'b'\nthan = 'a'\nprinted = [0.3, 0.2]\n"
    (step,) = [step for step in plan(text + claim).steps if step.name == "claims"]
    assert set(step.needs) == {f"train {run}-seed{seed}" for run in "ab" for seed in (0, 1)}
    predicted = text + "[[predict]]\nsplits = ['val', 'test']\n[[ensembles]]\nname = 'e'\nmembers = 'a'\n"
    for given, needs in (
        (claim, ["predict b-seed0 val", "predict b-seed1 val", "predict a-seed0 val", "predict a-seed1 val"]),
        (claim.replace("'b'", "'e'").replace("'a'", "'a-seed1'"), ["e val", "predict a-seed1 val"]),
    ):
        (step,) = [step for step in plan(predicted + given).steps if step.name == "claims"]
        assert list(step.needs) == needs
    with pytest.raises(UserError, match=r"line \d+: b-seed0 has no table of dev; predict it on that split too"):
        plan(predicted + claim + "split = 'dev'\n")
    with pytest.raises(UserError, match=r"line \d+: b stands for 2 runs, a-seed0 for 1; name as many"):
        plan(text + claim.replace("'a'", "'a-seed0'"))


@pytest.mark.parametrize("weights", ["map", "fitted", "greedy"])
def test_weights_are_found_on_validation_and_kept(plan, weights):
    text = "[runs.a]\nstage = 1\ngrid.seed = [0, 1]\n[[predict]]\n"
    found = plan(text + f"[[ensembles]]\nname = 'e'\nmembers = 'a'\nmethod = 'rank'\nweights = '{weights}'\n")
    steps = {step.name: step for step in found.steps}
    assert steps["weights e"].outputs == ("weights/e.json",)
    assert steps["weights e"].needs == ("predict a-seed0 val", "predict a-seed1 val")
    assert steps["e test"].needs[0] == "weights e" and steps["e test"].settings["method"] == "rank"
    if weights != "map":
        assert steps["weights e"].settings["weights"] == weights


def test_a_claim_over_seeds_pairs_the_same_ones(plan):
    text = "[runs.a]\nstage = 1\ngrid.seed = [0, 1]\n[runs.b]\nlike = 'a'\nloss = 'asl'\ngrid.seed = [1, 0]\n"
    claim = "[[claims]]\nhigher = 'b'\nthan = 'a'\n"
    (step,) = [step for step in plan(text + claim).steps if step.name == "claims"]
    assert step.settings["claims"][0][1:] == [["b-seed0", "b-seed1"], ["a-seed0", "a-seed1"]]
    with pytest.raises(UserError, match=r"line \d+: both sides are to have the same seeds and folds"):
        plan(text.replace("[1, 0]", "[1, 2]") + claim)


def test_a_baseline_is_the_first_and_need_not_be_among_the_others(plan):
    text = "".join(
        f"[runs.{run}]\nstage = 1\ngrid.seed = [0, 1]\nweight_decay = 0.0{n}\n" for n, run in enumerate("abc")
    )
    compare = "[[comparisons]]\nname = 'x'\nruns = ['a', 'c']\nbaseline = 'b'\n"
    (step,) = [step for step in plan(text + compare).steps if step.name == "compare x"]
    assert step.settings["runs"] == [f"{run}-seed{seed}" for run in "bac" for seed in (0, 1)]
    (step,) = [step for step in plan(text + compare + "by = 'seed'\n").steps if step.name == "compare x"]
    assert list(step.settings["cells"]) == ["b", "a", "c"]


def test_tables_named_before_the_run_are_of_its_cell_too(plan):
    text = "[runs.a]\nstage = 1\ngrid.seed = [0, 1]\n[[predict]]\nname = 'flip-{run}'\nsplits = 'test'\n"
    text += "[[comparisons]]\nname = 'x'\nby = 'seed'\ntables = ['flip-a-seed0', 'flip-a-seed1']\n"
    (step,) = [step for step in plan(text).steps if step.name == "compare x.test"]
    assert step.settings["cells"] == {"flip-a": {f"seed {n} fold 0": f"flip-a-seed{n}" for n in (0, 1)}}


def test_two_steps_with_one_record_are_refused(plan):
    text = (
        "[runs.a]\nstage = 1\n[runs.b]\nstage = 1\n[[predict]]\n[[comparisons]]\nname = 'x-test'\nruns = ['a', 'b']\n"
    )
    both = text + "[[comparisons]]\nname = 'x'\ntables = ['a', 'b']\n"
    assert "compare x-test" in {step.name for step in plan(text).steps}
    with pytest.raises(UserError, match="two steps are called 'compare x-test'; give one another"):
        plan(both)
    weighed = "[[ensembles]]\nname = 'e'\nmembers = ['a', 'b']\nweights = 'map'\nfile = 'table.json'\n"
    with pytest.raises(UserError, match="two steps write table.json; give one another name or file"):
        plan(text + weighed)


def test_lines_are_those_of_whole_statements(tmp_path):
    text = "[[comparisons]]\nchain = [\n  'a',\n  ['b', 'c']\n]\nagainst.x = 'a'\n[[comparisons]]\n"
    text += 'name = """\n[runs.a]\n"""\n[comparisons.against]\ny = "b"\n[runs.a]\ngrid = { seed = [0,\n 1] }\n'
    (tmp_path / "s.toml").write_text(text)
    source, _ = Source.read(tmp_path / "s.toml")
    places = {
        ("comparisons", 0, "chain"): 2, ("comparisons", 0, "against", "x"): 6, ("comparisons", 0, "runs"): 1,
        ("comparisons", 1): 7, ("comparisons", 1, "name"): 8, ("comparisons", 1, "against", "y"): 12,
        ("runs", "a", "grid", "seed"): 14, ("runs", "a", "lr"): 13, ("views",): None,
    }  # fmt: skip
    assert {at: source.line(at) for at in places} == places


def step(name, *needs, folder=None):
    return Step(name, (f"{name}.txt",), {}, needs, lambda: None, folder)


STEPS = (
    step("train a-seed0", folder="a"), step("train b", folder="b"), step("train c", "train b", folder="c"),
    step("predict b test", "train b"), step("report", "predict b test", "train a-seed0"),
)  # fmt: skip


def test_only_takes_what_is_called_so_and_what_it_needs():
    def names(pattern):
        return [each.name for each in only(STEPS, pattern)]

    assert names("c") == ["train b", "train c"]
    assert names("a-*") == ["train a-seed0"]
    assert names("predict*") == ["train b", "predict b test"]
    assert names("report") == ["train a-seed0", "train b", "predict b test", "report"]
    with pytest.raises(UserError, match="--only 'x': no step is called so"):
        only(STEPS, "x")


def test_a_part_begins_with_its_own_runs_and_has_all_steps():
    for number, first in ((1, ["train a-seed0", "train c"]), (2, ["train b"])):
        order = [each.name for each in Part(number, 2).first(STEPS)]
        assert order[: len(first)] == first and sorted(order) == sorted(each.name for each in STEPS)
    assert Part.read("2/4") == Part(2, 4)
    for text in ("0/4", "5/4", "1", "a/b", ""):
        with pytest.raises(UserError, match="write I/N"):
            Part.read(text)
