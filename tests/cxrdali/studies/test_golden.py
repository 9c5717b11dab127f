"""Both papers' studies give the steps that they gave before they became files: names, needs, outputs, settings."""

import json
import re
from pathlib import Path

import pytest

from cxrdali.postprocess.template import template_of
from cxrdali.runs import recipes
from cxrdali.runs.names import under_present_names
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.shipped import open_study

GOLDEN = Path(__file__).parent / "golden"
DEMO = {"draws": 100, "synthetic": True}
NO_TTA = {"tta": ("none",), "draws": 0}
MODELS = ("model0", "model2", "model3", "model5", "model6", "model7")
# by study and case: the recipes, None for the papers', and the options
CASES = {
    "stage-training.demo": (recipes.DEMO, {"title": "The stage-training paper, demo", **DEMO}),
    "stage-training.full": (None, {}),
    "stage-training.one-more": (None, {"models": (*MODELS, "model3-printed"), **NO_TTA}),
    "stage-training.three": (
        None, {"models": ("model3", "model2"), "overrides": {"": {"epochs": 5}, "model3": {"lr": 5e-4}}},
    ),
    "stage-training.single": (recipes.DEMO, {"models": ("model2",), "labels": "chexpert"}),
    "stage-training.template": (recipes.DEMO, {"models": ("model3", "model5"), "templates": "test"}),
    "loss-design.demo": (recipes.LOSS_DESIGN_DEMO, {"title": "The loss-design paper, demo", **DEMO}),
    "loss-design.full": (None, {}),
    "loss-design.few": (
        None,
        {"models": ("ld-bce", "ld-asl", "ld-ldam-drw"), "tta": ("none",), "calibration": "isotonic", "draws": 0,
         "thresholds": "recall=0.9"},
    ),
    "loss-design.crt": (
        recipes.LOSS_DESIGN_DEMO, {"models": ("ld-crt-ours", "ld-crt-byobnet", "ld-ldam-drw"), "tta": ("hflip",)},
    ),
    "loss-design.single": (recipes.LOSS_DESIGN_DEMO, {"models": ("ld-crt-byobnet",), "labels": "chexpert"}),
    "loss-design.limited": (
        recipes.LOSS_DESIGN_DEMO,
        {"models": ("ld-bce", "ld-ldam-drw", "ld-convnext"),
         "overrides": {"": {"limit_batches": 1}, "ld-bce": {"batch": 8}}},
    ),
}  # fmt: skip


def normal(value, seen):
    """Hashes as their number in the order in which they come; of what decides the pixels' bytes the names alone."""
    if isinstance(value, dict):
        return {key: sorted(each) if key == "packed" else normal(each, seen) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [normal(each, seen) for each in value]
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return seen.setdefault(value, f"#{len(seen) + 1}")
    return value


def as_json(plan, root, pack):
    seen = {}
    found = {
        "steps": [{**{key: getattr(step, key) for key in ("name", "outputs", "needs", "folder")},
                   "settings": normal(step.settings, seen)} for step in plan.steps],
        "models": {name: [normal(settings.flat(), seen), about] for name, (settings, about) in plan.models.items()},
        "asked": [vars(asked) for asked in plan.asked],
        "notes": plan.notes, "problems": plan.problems,
    }  # fmt: skip
    found |= {"record": plan.record} if plan.record else {}
    text = json.dumps(found, default=str)
    return json.loads(text.replace(str(root), "ROOT").replace(str(pack), "PACK"))


def golden(case):
    """The plan of before, of which settings have today's names."""
    plan = json.loads((GOLDEN / f"{case}.json").read_text())["plan"]
    steps = [{**step, "settings": under_present_names(step["settings"])} for step in plan["steps"]]
    models = {name: [under_present_names(settings), about] for name, (settings, about) in plan["models"].items()}
    return {**plan, "steps": steps, "models": models}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_the_one_before(case, dataset, tmp_path):
    file, given = CASES[case]
    given = {"labels": "cxr-lt-2023", **given}
    if "templates" in given:
        template = tmp_path / "t.csv"
        template.write_bytes(template_of(dataset, dataset.labels("cxr-lt-2023"), "test"))
        given["templates"] = {"test": template}
    study, root = open_study(case.partition(".")[0]), tmp_path / "root"
    plan = make_plan(root, {"": dataset}, study, recipes.load(file), StudyOptions(**given))
    found, before = as_json(plan, root, dataset.root), golden(case)
    assert [step["name"] for step in found["steps"]] == [step["name"] for step in before["steps"]]
    for one, other in zip(found["steps"], before["steps"], strict=True):
        assert one == other
    for name, (settings, about) in before["models"].items():
        now, record = found["models"].pop(name)
        assert (now | settings, record) == (now, about), "settings that there were, as they were"
    assert found == {**before, "models": {}}
