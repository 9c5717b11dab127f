"""Settings: groups and flat names, JSON and back, what is wrong said in one line, and no heavy import."""

import subprocess
import sys

import pytest

from cli.options.settings import given_settings
from cxrdali.models.loss import LOSSES
from cxrdali.runs.progress import Progress
from cxrdali.runs.settings import MAY_DIFFER, TrainSettings, assigned, names, settings_of
from shards.errors import UserError

HEAVY = ("torch", "torchvision", "timm", "sklearn", "pandas", "scipy", "matplotlib", "nvidia.dali")


def test_flat_and_dotted_names_are_the_same():
    flat = settings_of(stage=2, lr=1e-4, size=96, loss="asl", asl_clip=0.1, sampler="sqrt")
    dotted = settings_of({
        "stage": 2, "optimizer.lr": 1e-4, "data.size": 96, "loss.name": "asl", "loss.asl_clip": 0.1,
        "data.sampler": "sqrt",
    })  # fmt: skip
    assert flat == dotted
    assert (flat.optimizer.lr, flat.data.size, flat.loss, flat.data.sampler.name) == (
        1e-4, 96, LOSSES["asl"](asl_clip=0.1), "sqrt",
    )  # fmt: skip


def test_every_name_is_unique_and_every_setting_says_what_it_is():
    from cxrdali.runs.names import leaves

    found = [each.field.name for each in leaves(TrainSettings)]
    parameters = [name for registry in names().choices.values() for name in registry.parameters()]
    assert len({*found, *parameters}) == len(found) + len(parameters)
    assert all(each.field.metadata["help"].rstrip()[-1] in '.:)"' for each in leaves(TrainSettings))


def test_size_and_batch_are_the_stage_s_unless_given():
    made = settings_of(stage=3)
    assert (made.data.size, made.optimizer.batch) == (512, 48)
    assert settings_of(stage=3, size=64, batch=None).data.size == 64


@pytest.mark.parametrize("loss", LOSSES)
def test_json_and_back(loss):
    made = settings_of(stage=1, loss=loss, oversample=("Mass",), patience=3, micro_batch="auto")
    assert TrainSettings.from_json(made.as_json()) == made
    assert made.difference(made.as_json()) is None


def test_another_loss_keeps_what_both_have():
    made = settings_of(stage=1, loss="ldam-drw", ldam_scale=20, cb_beta=0.99, drw_epoch=3)
    assert made.changed(loss="drw").loss == LOSSES["drw"](cb_beta=0.99, drw_epoch=3)
    assert made.changed(lr=0.5).loss == made.loss


def test_a_continued_run_may_have_another_machine_and_nothing_else():
    made = settings_of(stage=1)
    assert made.difference(made.changed(device="cpu", threads=1, decode="cpu", micro_batch=1).as_json()) is None
    # what auto means is the machine's: `cxrdali.train.identity` compares what it became
    assert made.difference(made.changed(precision="bf16").as_json()) is None
    assert made.difference(made.changed(sync_bn=True).as_json()) == ("sync_bn", True, False)
    assert made.difference(made.changed(loss="focal").as_json()) == ("loss", "focal", "bce")
    assert {"precision", "sync_bn", "limit_batches"}.isdisjoint(MAY_DIFFER) and "compile" in MAY_DIFFER


def test_a_run_of_before_has_the_folds_and_weights_of_before():
    """Its config.json says nothing of the fold's rule, its seed and the cap: it never silently takes others."""
    stored = settings_of(stage=1, loss="drw").as_json()
    for name in ("fold_rule", "fold_seed", "stratify"):
        del stored["data"][name]
    del stored["loss"]["cb_cap"]
    made = TrainSettings.from_json(stored)
    assert (made.data.fold_rule, made.data.fold_seed, made.data.stratify) == ("catalog", 0, False)
    assert made.loss == LOSSES["drw"](cb_cap=0) and made.data.how == ", by the catalog's order"
    assert settings_of(stage=1, loss="drw").difference(stored) == ("fold_rule", "catalog", "ids")
    assert settings_of(stage=1, loss="drw", fold_rule="catalog").difference(stored) == ("cb_cap", 0.0, 50.0)
    assert settings_of(stage=1, loss="drw", fold_rule="catalog", cb_cap=0).difference(stored) is None
    assert "fold_rule" not in stored["data"], "what is stored stays as it is"


def test_a_loss_and_a_sampler_that_are_not_installed_keep_their_name_and_parameters():
    stored = settings_of(stage=1).as_json()
    stored["loss"] = {"name": "mine", "mine_power": 2.0}
    stored["data"]["sampler"] = {"name": "theirs"}
    made = TrainSettings.from_json(stored)
    assert made.as_json() == stored and made.changed(threads=1).flat()["mine_power"] == 2.0
    with pytest.raises(UserError, match="the sampler 'theirs' is not installed; give the file that defines it"):
        made.data.sampler.weights(None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"lr": 1e-3}, "no settings of this version .*lr.*; restore"),
        ({"data": 3}, "no settings of this version .*; restore config.json"),
        ({"loss": {"asl_clip": 0.1}}, "no settings of this version .*; restore config.json"),
        ({"loss": {"name": "asl", "power": 1}}, "no settings of this version .*; restore config.json"),
        ({"stage": 5}, "stage 5: choose 1, 2 or 3"),
    ],
)
def test_damaged_settings_of_a_run_are_one_line(damage, message):
    with pytest.raises(UserError, match=message):
        TrainSettings.from_json({**settings_of(stage=1).as_json(), **damage})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lrr": 1}, "unknown setting 'lrr'; did you mean lr?"),
        ({"data.lr": 1}, "unknown setting 'data.lr'; did you mean optimizer.lr?"),
        ({"lr": "fast"}, "lr = 'fast' is of the wrong kind; lr is a number"),
        ({"epochs": 2.5}, "epochs = 2.5 is of the wrong kind; epochs is a whole number"),
        ({"compile": 1}, "compile = 1 is of the wrong kind; compile is true or false"),
        ({"oversample": "Mass"}, "oversample = 'Mass' is of the wrong kind; oversample is a list of names"),
        ({"head": "queries"}, "head 'queries': choose one of cosine, csra, linear, ml-decoder"),
        ({"sampler": "sqrt", "oversample": ["Mass"]}, "sampler sqrt: oversampling too changes how often an image"),
        ({"loss": "drw", "drw_epoch": 30}, "drw-epoch 30: re-weighting would begin after the last of 30 epochs"),
        ({"clip_norm": float("inf")}, "clip-norm inf: give a finite number, or leave it out"),
        ({"loss": "db", "db_beta": float("inf")}, "db-beta inf: give a finite number, or leave it out"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(UserError) as error:
        settings_of({"stage": 1}, given)
    assert message in str(error.value)


def test_a_stage_is_needed():
    with pytest.raises(UserError, match="stage is missing; give stage = 1, 2 or 3"):
        settings_of(lr=1e-3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=3e-4", ("lr", 3e-4)),
        ("compile=true", ("compile", True)),
        ("loss.name=asl", ("loss", "asl")),
        ("arch=resnet50", ("arch", "resnet50")),
        ("optimizer.patience=none", ("patience", None)),
        ('oversample=["A", "B"]', ("oversample", ("A", "B"))),
    ],
)
def test_an_assignment_reads_as_toml(text, expected):
    assert assigned(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr", "--set optimizer.lr: give a value too, as NAME=VALUE"),
        ("optimizer=3", "'optimizer' is a group of settings; give one of them, as optimizer.NAME"),
        ("loss.clip=0.1", "unknown setting 'loss.clip'; did you mean loss.asl_clip?"),
        ("optimizer.lrr=1", "unknown setting 'optimizer.lrr'; did you mean optimizer.lr?"),
        ("optimzer.lr=1", "unknown setting 'optimzer.lr'; did you mean optimizer.lr?"),
        ("lr=none", "lr = 'none' is of the wrong kind; lr is a number"),
    ],
)
def test_a_wrong_assignment_is_named_with_what_was_meant(text, message):
    with pytest.raises(UserError) as error:
        assigned(text)
    assert message in str(error.value)


def test_a_stage_is_not_a_setting_of_the_command_line():
    """A run of stage 2 starts from stage 1's weights, of which --set would know nothing."""
    with pytest.raises(UserError, match="--set stage=2: a stage also decides what a run starts from; give --stage"):
        given_settings({}, ("stage=2",))


def test_reading_settings_and_recipes_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from cxrdali.runs import recipes, plugins\n"
        "[recipe.resolve(recipes.Path()) for recipe in recipes.load().values()]\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "epoch", "finished"),
    [
        ({"head_epochs": 4, "init": "run"}, 5, False),  # the backbone has had one epoch
        ({"head_epochs": 4, "init": "run"}, 6, True),
        ({"loss": "drw", "drw_epoch": 4}, 5, False),
        ({}, 3, True),
    ],
)
def test_patience_waits_for_what_the_run_is_about(given, epoch, finished):
    made = settings_of(stage=1, patience=2, epochs=10, **given)
    assert Progress.of(epoch, 1, 0.5, made).finished is finished
