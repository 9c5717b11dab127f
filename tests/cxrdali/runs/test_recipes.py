"""Recipes: Yamagishi & Hanaoka's table setting for setting, own files, overrides, and what is wrong in one."""

from pathlib import Path

import pytest

from cxrdali.report import published
from cxrdali.runs import recipes
from cxrdali.runs.oversampling import choose
from cxrdali.runs.settings import settings_of
from shards.errors import UserError


def test_the_recipes_are_the_paper_s_table():
    known = recipes.read(recipes.PAPER)
    table = published.models()
    ruled = [name for name in known if not name.endswith("-printed")]
    assert ruled == list(table.index) == [f"model{number}" for number in range(8)]
    for name, row in table.iterrows():
        settings, about = known[name].resolve(Path("runs"))
        assert (settings.stage, settings.data.size, settings.optimizer.batch, settings.optimizer.lr) == (
            row.stage,
            row["size"],
            row.batch,
            row.max_lr,
        )
        start = None if row.starts_from == "ImageNet" else row.starts_from
        assert known[name].starts_from == about["starts_from"] == start
        assert settings.model.init == (None if start is None else f"runs/{start}")
        below = None if row.oversample_below != row.oversample_below else row.oversample_below
        assert settings.data.oversample_below == below
        assert settings.data.oversample_from == (None if below is None else "runs/model2")
        assert (settings.optimizer.epochs, settings.optimizer.warmup_epochs, settings.optimizer.weight_decay) == (
            30,
            1,
            1e-6,
        )
        assert (settings.data.group, settings.data.folds, settings.data.cutout, settings.model.pretrained) == (
            "study",
            5,
            "published",
            True,
        )
        assert settings.model.arch == "tf_efficientnetv2_s.in21k_ft_in1k"
        assert about["overridden"] == {}


@pytest.mark.parametrize("file", [recipes.PAPER, recipes.DEMO])
def test_the_printed_lists_are_what_the_rule_gives_on_the_printed_development_column(file):
    known, ap = recipes.read(file), published.finding_ap()["stage2_dev"].drop("Mean").to_dict()
    printed = [name for name in known if name.endswith("-printed")]
    assert printed == [f"model{number}-printed" for number in (3, 4, 5, 6, 7)]
    for name in printed:
        ruled = known[name.removesuffix("-printed")]
        chosen, _ = choose(ap, ruled.settings["oversample_below"])
        assert len(chosen) == (11 if name == "model5-printed" else 7)
        assert set(known[name].settings["oversample"]) == set(chosen)
        # all else is the model of that number
        start = "model3-printed" if name == "model7-printed" else ruled.starts_from
        settings, about = known[name].resolve(Path("runs"))
        there = ruled.resolve(Path("runs"), {"oversample": settings.data.oversample})[0].flat()
        assert settings.flat() == there | {"init": f"runs/{start}"} and about["overridden"] == {}
        assert "model2" not in recipes.in_order(known, [name])


def test_the_demo_has_the_same_models_in_the_same_order_of_need():
    paper, demo = recipes.read(recipes.PAPER), recipes.load(recipes.DEMO)
    assert {name: recipe.needs for name, recipe in paper.items()} == {name: demo[name].needs for name in paper}
    assert all(demo[name].settings["size"] <= 128 for name in paper)


def test_the_loss_design_recipes_have_the_paper_s_settings():
    known = recipes.read(recipes.LOSS_DESIGN)
    assert set(known) < set(recipes.load()) and all(name.startswith("ld-") for name in known)
    for name, recipe in known.items():
        settings, about = recipe.resolve(Path("runs"))
        how, flat, ours = settings.optimizer, settings.flat(), name.endswith("-ours")
        assert (settings.data.size, how.min_lr, how.warmup_epochs) == (512, 1e-6, 0)
        assert (settings.data.flips, settings.data.cutout, settings.runtime.precision) == ("none", "off", "fp32")
        assert (settings.data.group, settings.data.folds) == ("subject", 10)
        assert how.patience == (3 if name == "ld-bce" else 5)
        if settings.loss.name in ("ldam-drw", "drw"):
            assert flat["cb_beta"] == 0.9999 and flat["drw_epoch"] == (10 if ours else 4), "re-weighted in epoch 5"
        if settings.loss.name.startswith("ldam"):
            assert (flat["ldam_margin"], flat["ldam_scale"]) == (0.5, 30)
        if not ours or name == "ld-cb-focal-ours":
            assert (settings.model.dropout, how.batch) == (0.5, 12)
            second = name.startswith("ld-crt") and not name.endswith("-focal")
            step = (20 if name.endswith("-focal") and name != "ld-focal" and "crt" in name else 15, 1e-4, "epoch", 1e-5)
            assert (how.epochs, how.lr, how.lr_schedule, how.weight_decay) == (
                (10, 1e-3, "constant", 1e-4) if second else step
            )
            if second:
                assert (settings.model.frozen, settings.model.new_head) == (True, False)
                assert (settings.data.sampler.name, settings.loss.name) == ("class-balanced", "cb-focal")
                assert (about["starts_from"], flat["cb_terms"]) == (f"{name}-focal", "positives")
    assert {name for name in known if "crt" in name} == {
        f"ld-crt-{network}{step}"
        for network in ("resnet50", "efficientnetv2-s", "convnext-base") for step in ("-focal", "")
    } | {"ld-crt-ours"}  # fmt: skip
    bce, plain = (known[name].resolve(Path("runs"))[0].flat() for name in ("ld-bce", "ld-bce-plain"))
    assert (bce["pos_weight"], plain["pos_weight"]) == ("ratio", "none")
    crt, _ = known["ld-crt-ours"].resolve(Path("runs"))
    assert (crt.model.init, crt.model.frozen, crt.model.new_head) == ("runs/ld-convnext-large-ours", True, True)
    assert (crt.data.sampler.name, crt.loss.name, crt.optimizer.batch) == ("class-balanced", "bce", 48)
    assert known["ld-asl-sqrt"].settings["sampler"] == "sqrt" and known["ld-ldam-cosine"].settings["head"] == "cosine"


@pytest.mark.slow
def test_the_weights_are_ones_that_timm_has():
    from timm import list_pretrained

    arches = {recipe.settings["arch"] for recipe in recipes.read(recipes.LOSS_DESIGN).values()}
    assert arches <= set(list_pretrained())


def test_another_loss_has_its_own_parameters(tmp_path):
    (tmp_path / "r.toml").write_text(
        '[a]\nstage = 1\nloss = "ldam-drw"\ndrw_epoch = 3\ncb_beta = 0.99\nldam_scale = 20\n'
    )
    recipe = recipes.load(tmp_path / "r.toml")["a"]
    settings, about = recipe.resolve(Path("r"), {"loss": "drw"})
    # what both have stays the recipe's
    assert (settings.flat().get("drw_epoch"), settings.flat().get("cb_beta"), settings.flat().get("ldam_scale")) == (
        3,
        0.99,
        None,
    )
    assert about["overridden"] == {"loss": "drw"}
    settings, _ = recipe.resolve(Path("r"), {"loss": "asl", "asl_clip": 0.1})
    assert (
        settings.flat().get("asl_clip"),
        settings.flat().get("asl_gamma_neg"),
        settings.flat().get("drw_epoch"),
        settings.flat().get("cb_beta"),
    ) == (0.1, 4, None, None)
    with pytest.raises(UserError, match="a: loss 'lsep': choose one of apl, asl, bce"):
        recipe.resolve(Path("r"), {"loss": "lsep"})
    with pytest.raises(UserError, match="a: drw-epoch 3: the loss asl has no such parameter"):
        recipe.resolve(Path("r"), {"loss": "asl", "drw_epoch": 3})


def test_what_is_needed_comes_first():
    known = recipes.load()
    assert recipes.in_order(known, ["model7"]) == ["model0", "model2", "model3", "model7"]
    assert recipes.in_order(known, ["model4", "model1"]) == ["model1", "model0", "model2", "model4"]


def test_overrides_are_recorded_only_where_they_change_something():
    model3 = recipes.load()["model3"]
    settings, about = model3.resolve(Path("r"), {"epochs": 30, "lr": 5e-4, "init": "other.pt"})
    assert (settings.optimizer.epochs, settings.optimizer.lr, settings.model.init) == (30, 5e-4, "other.pt")
    assert about == {"name": "model3", "starts_from": "model0", "overridden": {"lr": 5e-4, "init": "other.pt"}}


def test_naming_findings_replaces_choosing_them():
    settings, about = recipes.load()["model3"].resolve(Path("r"), {"oversample": ("Hernia",)})
    assert (settings.data.oversample, settings.data.oversample_below, settings.data.oversample_from) == (
        ("Hernia",),
        None,
        None,
    )
    assert about["overridden"] == {"oversample": ["Hernia"]}


def test_a_file_of_one_s_own_may_start_from_the_paper_s_and_replace_them(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '[every]\nepochs = 5\n[model1]\nstage = 1\nsize = 192\n[mine]\nstage = 2\nstarts_from = "model0"\nlr = 1\n'
        'oversample = ["Hernia"]\n'
    )
    known = recipes.load(file)
    assert known["model0"].settings["epochs"] == 30
    assert (known["model1"].settings["size"], known["model1"].settings["epochs"]) == (192, 5)
    settings, _ = known["mine"].resolve(Path("runs"))
    assert settings == settings_of(stage=2, epochs=5, lr=1, oversample=("Hernia",), init="runs/model0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nstage = 1\nsizes = 224\n", "r.toml: a: unknown setting 'sizes'; did you mean size?"),
        ("[a]\nstage = 1\ninit = 'x'\n", "r.toml: a: unknown setting 'init'"),
        ("[a]\nstage = 1\nsize = '224'\n", "r.toml: a: size = '224' is of the wrong kind; size is a whole number"),
        ("[a]\nstage = 1\nwarmup_epochs = -1\n", "r.toml: a: warmup-epochs -1: 0 or more"),
        ("[a]\nstage = 1\nweight_decay = nan\n", "r.toml: a: weight-decay nan: 0 or more"),
        ("[a]\nstage = 2\nstarts_from = ''\n", "r.toml: a: no recipe ''; there are"),
        ("[a]\nstage = 1\noversample_below = 0.1\noversample_from = ''\n", "needs --oversample-from"),
        ("[a]\nstage = true\n", "r.toml: a: stage = True is of the wrong kind"),
        ("[a]\nstage = 1\noversample = 'Hernia'\n", "oversample is a list of names"),
        ("[a]\nstage = 1\ncompile = 1\n", "compile is true or false"),
        ("[a]\nsize = 224\n", "r.toml: a: stage is missing"),
        ("[a]\nstage = 4\n", "r.toml: a: stage 4: choose 1, 2 or 3"),
        ("[a]\nstage = 1\nlr = -1\n", "r.toml: a: lr -1: above 0"),
        ("[a]\nstage = 2\nstarts_from = 'b'\n", "r.toml: a: no recipe 'b'; there are model0"),
        ("[a]\nstage = 2\noversample_below = 0.1\noversample_from = 'b'\n", "r.toml: a: no recipe 'b'"),
        ("[a]\nstage = 2\noversample_below = 0.1\n", "oversampling by AP needs --oversample-from"),
        (
            "[a]\nstage = 2\nstarts_from = 'b'\n[b]\nstage = 2\nstarts_from = 'a'\n",
            "a needs b needs a; break the circle",
        ),
        ("stage = 1\n", "stage = 1 stands outside a recipe"),
        ("[every]\nstage = 1\n", "r.toml: holds no recipe"),
        ("[a\n", "r.toml: no recipes (Expected"),
        (None, "r.toml: no recipes (No such file or directory)"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UserError) as error:
        recipes.load(tmp_path / "r.toml")
    assert message in str(error.value)


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(
        UserError, match=r"no recipe 'model9'; did you mean model7 or model6 or model5\? there are model0, model1"
    ):
        recipes.find(recipes.load(), "model9")


def test_a_printed_recipe_reads_back_as_itself(tmp_path):
    from cli.recipes import as_toml

    for name, recipe in recipes.load().items():
        (tmp_path / "r.toml").write_text(as_toml(recipe))
        back = recipes.load(tmp_path / "r.toml")[name]
        assert back.resolve(Path("runs"))[0] == recipe.resolve(Path("runs"))[0]
        assert back.about == recipe.about


def test_a_file_of_windows_notepad_is_read(tmp_path):
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[a]\nstage = 1\n")
    assert "a" in recipes.load(tmp_path / "r.toml")


def test_choosing_findings_replaces_naming_them(tmp_path):
    (tmp_path / "r.toml").write_text('[a]\nstage = 1\noversample = ["Hernia"]\n')
    recipe = recipes.load(tmp_path / "r.toml")["a"]
    settings, about = recipe.resolve(Path("r"), {"oversample_below": 0.2, "oversample_from": "m.csv", "lr": 1e-3})
    assert (settings.data.oversample, settings.data.oversample_below, settings.data.oversample_from) == (
        (),
        0.2,
        "m.csv",
    )
    assert about["overridden"] == {"oversample_below": 0.2, "oversample_from": "m.csv"}
    settings, about = recipes.load()["model3"].resolve(Path("r"), {"oversample": (), "epochs": 30})
    assert (settings.data.oversample, settings.data.oversample_below) == ((), None)


def test_named_findings_beside_others_overridden_are_recorded_alone():
    _, about = recipes.load()["model3"].resolve(Path("r"), {"oversample": ("Hernia",), "epochs": 30})
    assert about["overridden"] == {"oversample": ["Hernia"]}


def test_overrides_that_do_not_go_together_name_the_recipe():
    with pytest.raises(UserError, match="^model3: micro-batch 100: must divide the batch, 128"):
        recipes.load()["model3"].resolve(Path("r"), {"micro_batch": 100})


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "a.b", "ensemble", "replaced", "mine-views"])
def test_a_name_that_would_be_another_s_file_is_refused(tmp_path, name):
    (tmp_path / "r.toml").write_text(f'["{name}"]\nstage = 1\n')
    with pytest.raises(UserError, match=r"cannot be a recipe's name, .*; use letters, digits, - and _") as error:
        recipes.load(tmp_path / "r.toml")
    assert f"[{name}]" in str(error.value)


def test_a_continued_run_may_spell_its_paths_otherwise_but_not_lack_them():
    given = {"stage": 2, "oversample_below": 0.1, "oversample_from": "runs/model2", "init": "runs/model0"}
    here = settings_of(**{**given, "oversample_from": "/r/model2", "init": "/r/model0"})
    assert settings_of(**given).difference(here.as_json()) is None
    assert settings_of(**given).difference(settings_of(**{**given, "init": None}).as_json())[0] == "init"
