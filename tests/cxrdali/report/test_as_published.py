"""What a paper says of its settings beside what runs have: all of a recipe's settings, by hand, and on a page."""

from pathlib import Path

import pytest

from cxrdali.report import as_published
from cxrdali.runs import recipes
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import MAY_DIFFER
from shards.storage.sealed import read_json, sealed_json
from tests.cxrdali.paper_folder import Model, write_model


def run_of(folder, name, **changes):
    """A run of a recipe of the loss-design paper, as its config.json has it."""
    settings, about = recipes.read(recipes.LOSS_DESIGN)[name].resolve(folder)
    path = write_model(folder, Model(name, 1, 64, 8, (0.1,)), ["Edema"])
    config = read_json(path / "config.json")
    config |= {"settings": settings.changed(**changes).as_json(), "recipe": about}
    (path / "config.json").write_bytes(sealed_json(config))
    return Run.open(path)


def rows(table):
    return {(row[0], row[4] if isinstance(row[4], str) else tuple(row[4])): row[1:4] for row in table.rows}


def test_every_setting_of_a_recipe_of_the_paper_is_in_its_file(tmp_path):
    """Nothing that decides a run is passed over: the value of the paper, or that it has none."""
    for name, recipe in recipes.read(recipes.LOSS_DESIGN).items():
        settings, about = recipe.resolve(tmp_path)
        wanted = {"starts_from", *settings.flat()} - {*MAY_DIFFER, "init"}
        run = run_of(tmp_path / name, name)
        found = as_published.as_published("loss-design", [run])
        if found is None:
            words = ("-ours", "not in the paper")
            assert any(each in f"{name} {recipe.about}" for each in words)
            continue
        said = {row[0].replace(" ", "_") for key in ("other", "same") for row in found[key].rows}
        assert wanted <= said, name
        assert about["overridden"] == {} and found["strangers"] == []


def test_the_recipes_are_as_published_but_for_what_timm_or_we_have_otherwise(tmp_path):
    differing = {
        row[0]
        for name in recipes.read(recipes.LOSS_DESIGN)
        if (found := as_published.as_published("loss-design", [run_of(tmp_path / name, name, labels="cxr-lt-2026")]))
        for row in found["other"].rows
        if row[3] == "differs"
    }
    assert differing == {
        "seed", "arch", "split", "patience counts", "probabilities of margin losses", "weight of negatives",
        "batch normalisation of the frozen backbone", "kept weights",
    }  # fmt: skip


def test_runs_are_read_and_not_the_recipe(tmp_path):
    runs = [run_of(tmp_path, "ld-bce"), run_of(tmp_path, "ld-ldam-drw", drw_epoch=10, lr=3e-4, seed=42)]
    runs.append(run_of(tmp_path, "ld-ldam-cosine"))
    found = as_published.as_published("loss-design", runs)
    other, same = rows(found["other"]), rows(found["same"])
    assert other["drw epoch", ("ld-ldam-drw",)] == ("4", "10", "differs")
    assert other["lr", ("ld-ldam-drw",)] == ("0.0001", "0.0003", "differs")
    assert same["lr", ("ld-bce",)] == ("0.0001", "0.0001", "as published")
    assert other["seed", ("ld-bce",)] == ("42", "0", "differs")
    assert other["fold", "all"] == ("not said", "0", "not said")
    assert same["pos weight", ("ld-bce",)] == ("ratio", "ratio", "as published")
    assert same["dropout", "all"] == ("0.5", "0.5", "as published")
    assert same["precision", "all"] == ("fp32", "fp32", "as published")
    assert found["strangers"] == ["ld-ldam-cosine"]
    assert {found["other"].rows[row][3] for row, _ in found["other"].best} == {"differs"}
    assert len(found["other"].best) == 2 * sum(row[3] == "differs" for row in found["other"].rows)
    assert as_published.as_published("loss-design", runs[2:]) is None


def test_the_precision_is_what_auto_became(tmp_path):
    run = run_of(tmp_path, "ld-bce", precision="auto")
    config = read_json(run.path / "config.json")
    for became, verdict in (("fp32", "as published"), ("bf16", "differs")):
        (run.path / "config.json").write_bytes(sealed_json({**config, "precision": became}))
        found = as_published.as_published("loss-design", [Run.open(run.path)])
        both = rows(found["other"]) | rows(found["same"])
        assert both["precision", "all"] == ("fp32", became, verdict)


def test_a_run_of_an_older_version_has_what_it_had(tmp_path):
    """Before there was dropout, a schedule and cb_terms, positives alone were weighted."""
    run = run_of(tmp_path, "ld-cb-focal")
    config = read_json(run.path / "config.json")
    for group, name in (("model", "dropout"), ("optimizer", "lr_schedule"), ("loss", "cb_terms")):
        config["settings"][group].pop(name)
    (run.path / "config.json").write_bytes(sealed_json(config))
    old = Run.open(run.path)
    found = rows(as_published.as_published("loss-design", [old])["other"])
    assert found["dropout", "all"] == ("0.5", "0", "differs")
    assert found["lr schedule", "all"] == ("epoch", "step", "differs")
    assert old.settings.flat()["cb_terms"] == "positives"
    # it continues as it began, and with nothing else
    stored, same = old.settings.as_json(), {"dropout": 0.0, "lr_schedule": "step"}
    assert old.settings.difference(stored) is None
    assert run.settings.changed(**same).difference(stored) is None
    changed = run.settings.changed(**same, cb_terms="all")
    assert changed.difference(stored) == ("cb_terms", "positives", "all")


@pytest.mark.parametrize("name", ["loss-design"])
def test_a_file_of_published_settings_names_recipes_and_settings_that_there_are(name):
    import tomllib

    folder = Path(as_published.__file__).with_name("papers")
    tables = tomllib.loads((folder / f"settings-{name}.toml").read_text())
    from cxrdali.runs.settings import names

    known = {*names().all(), "starts_from"}
    assert set(tables) - {"every"} <= set(recipes.load())
    for table in tables.values():
        for key, value in table.items():
            assert set(value) == {"published", "here"} if isinstance(value, dict) else key in known, key
