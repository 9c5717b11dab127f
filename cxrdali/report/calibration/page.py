"""What a calibration did: reliability diagrams, ECE and Brier score before and after, as a page or as a section."""

from pathlib import Path

from cxrdali.postprocess.calibration import Calibration, FindingCalibration
from cxrdali.postprocess.calibration_maps import LEAST, Isotonic
from cxrdali.report.calibration.plots import FEW, diagram, multiples
from cxrdali.report.kit import html as page
from cxrdali.report.kit import svg as plots
from cxrdali.report.kit.html import Html, count, join, paragraph
from shards.storage.files import write_bytes

WORDS = {
    "temperature": "one temperature for all findings",
    "per-finding-temperature": "a temperature per finding",
    "platt": "Platt scaling per finding",
    "isotonic": "isotonic regression per finding",
}


def write_page(calibration: Calibration, path: Path) -> Path:
    """A self-contained page at `path`, which is returned. It shows no image and no id."""
    name = calibration.made_from["run"] or calibration.made_from["predictions"]
    title = f"Calibration of {name}: {WORDS[calibration.method]}"
    header = join(Html(f"<h1>{page.safe(title)}</h1>"), paragraph(_origin(calibration), "soft"))
    write_bytes(path, page.document(title, header, reliability(calibration), Html("")).encode())
    return path


def reliability(calibration: Calibration, name: str = "reliability") -> Html:
    """Diagrams and table. `name` keeps the ids of several on one page apart."""
    rules = sorted(calibration.rules, key=lambda rule: -rule.positives)
    enough = [rule for rule in rules if rule.positives >= LEAST]
    shown = [(rule.finding, rule.before.curve, rule.after.curve) for rule in enough]
    kept = [rule for rule in rules if rule.kept]
    before, after = (calibration.macro("ece", when) for when in ("before", "after"))
    return join(
        paragraph(
            f"Mean ECE over findings {_small(before)} before, {_small(after)} after; mean Brier score "
            f"{_small(calibration.macro('brier', 'before'))} before, "
            f"{_small(calibration.macro('brier', 'after'))} after (lower is better)."
        ),
        paragraph(
            "ECE, the expected calibration error: the mean distance between predicted probability and the share that "
            f"has the finding, over {len(calibration.pooled_before.curve.images)} bins of equal width. Brier score: "
            "the mean squared distance between probability and label. Both are cross-fitted over subjects: each "
            f"image is judged by rules that the other {calibration.made_from['folds'] - 1} of "
            f"{calibration.made_from['folds']} parts taught. Most findings are rare, so most values lie in the lowest "
            "bin and weigh most in both.",
            "soft",
        ),
        page.figure(
            plots.svgs(diagram(calibration.pooled_before.curve, calibration.pooled_after.curve), name),
            "Reliability diagram of all findings pooled, before and after calibration; the table below has the "
            "scores per finding.",
            "All findings pooled. On the dashed line a probability means what it says; below it, it promises too "
            f"much. Small and faint: bins of fewer than {FEW} values. Lower panel: values per bin, each step a "
            "hundredfold.",
        ),
        page.table(
            "Before and after, cross-fitted",
            ("Finding", "Positives", "ECE before", "After", "Brier before", "After", "Rule"),
            [*map(_row, rules), _pooled_row(calibration)],
        ),
        paragraph(f"Kept as they are: {', '.join(f'{rule.finding} ({rule.kept})' for rule in kept)}.", "soft")
        if kept
        else None,
        page.details(
            "A diagram per finding",
            page.figure(
                plots.svgs(multiples(shown), f"{name}-findings"),
                "Small reliability diagrams, one per finding, before and after calibration.",
                "Before in vermillion dots, after in blue squares; horizontal: predicted probability, vertical: share "
                f"that has the finding. Findings with at least {LEAST} positive images; small and faint: bins of fewer "
                f"than {FEW} images.",
            ),
        )
        if shown
        else None,
    )


def _origin(calibration: Calibration) -> str:
    made_from = calibration.made_from
    split = f", split {made_from['split']}" if made_from["split"] else ""
    return (
        f"Learnt from {made_from['predictions']}{split}: {count(made_from['images'])} images against labels "
        f"{made_from['labels']}."
    )


def _row(rule: FindingCalibration) -> tuple:
    scores = (rule.before.ece, rule.after.ece, rule.before.brier, rule.after.brier)
    return rule.finding, count(rule.positives), *map(_small, scores), _rule(rule)


def _pooled_row(calibration: Calibration) -> tuple:
    before, after = calibration.pooled_before, calibration.pooled_after
    scores = map(_small, (before.ece, after.ece, before.brier, after.brier))
    return "All findings, pooled", page.NOTHING, *scores, ""


def _rule(rule: FindingCalibration) -> str:
    """What the map is, in a few letters."""
    if rule.kept:
        return "as it is"
    if isinstance(rule.map, Isotonic):
        return f"{len(rule.map.logits)} knots"
    if rule.map.offset:
        return f"{rule.map.slope:.2f} · logit {'−' if rule.map.offset < 0 else '+'} {abs(rule.map.offset):.2f}"
    return f"T = {1 / rule.map.slope:.3f}"


def _small(value: float) -> str:
    """An ECE or Brier score, which are often a few thousandths."""
    return page.NOTHING if value != value else f"{value:.4f}"
