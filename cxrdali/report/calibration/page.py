"""What a calibration did: reliability diagrams, ECE and Brier score before and after, as a page or as a section."""

from pathlib import Path

from cxrdali.postprocess.calibration import WHEN, Calibration, FindingCalibration
from cxrdali.postprocess.calibration_maps import LEAST, Isotonic
from cxrdali.report.calibration.errors import error_table
from cxrdali.report.calibration.plots import FEW, diagram, multiples
from cxrdali.report.kit.numbers import MINUS
from cxrdali.report.kit.page import Figure, render
from cxrdali.report.kit.tables import Table
from shards.storage.files import write_bytes
from shards.words import counted

WORDS = {
    "temperature": "one temperature for all findings",
    "per-finding-temperature": "a temperature per finding",
    "platt": "Platt scaling per finding",
    "isotonic": "isotonic regression per finding",
}


def write_page(calibration: Calibration, path: Path) -> Path:
    """A self-contained page at `path`, which is returned. It shows no image and no id.

    Its numbers are those of the rules' own .json (`Calibration.write`).
    """
    made_from = calibration.made_from
    title = f"Calibration of {made_from['run'] or made_from['predictions']}: {WORDS[calibration.method]}"
    about = {"made_from": made_from, "synthetic": made_from.get("synthetic", False)}
    data = {"title": title, **about, "calibration": reliability(calibration)}
    write_bytes(path, render("calibration/page.html.j2", data).encode())
    return path


def reliability(calibration: Calibration, name: str = "reliability") -> dict:
    """Diagrams and table, for the template's `reliability`. `name` keeps the ids of several on one page apart."""
    rules = sorted(calibration.rules, key=lambda rule: -rule.positives)
    reasons = dict.fromkeys(rule.kept for rule in rules)
    before, after = calibration.pooled_before, calibration.pooled_after
    shown = [(rule.finding, rule.before.curve, rule.after.curve) for rule in rules if rule.positives >= LEAST]
    return {
        **{
            f"macro_{score}_{when}": calibration.macro(score, when)
            for score in ("ece", "brier")
            for when in ("before", "after")
        },
        "bins": len(before.curve.images),
        "folds": calibration.made_from["folds"],
        "images": calibration.made_from.get("images"),
        "least_positives": LEAST,
        "few": FEW,
        "pooled": Figure(name, diagram, (before.curve, after.curve)),
        "findings": Figure(f"{name}-findings", multiples, (shown,)) if shown else None,
        "scores": Table(
            "Before and after, cross-fitted",
            [("Finding", "text"), ("Positives", "count"), ("ECE before", "small"), ("After", "small"),
             ("Brier before", "small"), ("After", "small"), ("Rule", "text")],
            [
                *((rule.finding, rule.positives, *_scores(rule.before, rule.after), _rule(rule)) for rule in rules),
                ("All findings, pooled", None, *_scores(before, after), ""),
            ],
        ),
        "errors": error_table("Calibration error", "", [(when, calibration.errors.get(when)) for when in WHEN]),
        "brier": calibration.brier_difference,
        "verdict": calibration.verdict,
        "kept": [f"{', '.join(rule.finding for rule in rules if rule.kept == why)} ({why})" for why in reasons if why],
        "others": [f"{rule.finding} ({rule.remark})" for rule in rules if rule.remark],
        "mixed": [f"{rule.finding} (no fit in {rule.parts_kept})" for rule in rules if rule.parts_kept],
    }  # fmt: skip


def _scores(before, after) -> tuple[float, ...]:
    return before.ece, after.ece, before.brier, after.brier


def _rule(rule: FindingCalibration) -> str:
    """What the map is, in a few letters."""
    if rule.kept:
        return "as it is"
    if isinstance(rule.map, Isotonic):
        return f"{counted(len(rule.map.logits), 'knot')}"
    if rule.map.offset:
        return f"{rule.map.slope:.2f} · logit {MINUS if rule.map.offset < 0 else '+'} {abs(rule.map.offset):.2f}"
    return f"T = {1 / rule.map.slope:.3f}"
