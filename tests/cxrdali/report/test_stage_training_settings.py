"""What the stage-training paper says of its settings is what its recipes have, and of the rest a choice is named."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from cxrdali.report import published
from cxrdali.report.kit.numbers import setting
from cxrdali.runs import recipes

NOT_SAID = "not said"
SAID = tomllib.loads(files("cxrdali.report").joinpath("papers", "settings-stage-training.toml").read_text("utf-8"))


def test_every_recipe_has_a_table():
    assert set(SAID) == {"every", *recipes.read(recipes.PAPER)}


@pytest.mark.parametrize("name", recipes.read(recipes.PAPER))
def test_a_recipe_has_the_published_values(name):
    recipe = recipes.read(recipes.PAPER)[name]
    here = {"starts_from": recipe.starts_from, **recipe.resolve(Path())[0].flat()}
    for key, value in {**SAID["every"], **SAID[name]}.items():
        if isinstance(value, dict):
            assert set(value) == {"published", "here"} and all(isinstance(each, str) for each in value.values())
        elif value != NOT_SAID:
            assert setting(value) == setting(here[key]), key
    row = published.models().loc[name.removesuffix("-printed")]
    said = {**SAID["every"], **SAID[name]}
    assert (said["stage"], said["size"], said["batch"], said["lr"]) == (row.stage, row["size"], row.batch, row.max_lr)


def test_what_the_paper_does_not_say_is_named_as_that():
    """Fold, first weights, selector, 5 % of what, doubling, seed, the weights' name."""
    said = {**SAID["every"], **SAID["model3"]}
    unsaid = {key for key, value in said.items() if NOT_SAID in (value, isinstance(value, dict) and value["published"])}
    assert unsaid >= {
        "fold", "seed", "select_by", "weights that it starts from", "5 % of cutout", "tag of timm's weights",
        "image with several such findings",
    }  # fmt: skip
