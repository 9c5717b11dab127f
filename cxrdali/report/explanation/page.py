"""What a run looks at, as one self-contained page: per finding its best-scored images, misses, false positives."""

from pathlib import Path

import numpy as np

from cxrdali.predict.explain import Example, Explanation, Shown
from cxrdali.report.explanation.pictures import EMPTY, STRONGEST, colours, pair
from cxrdali.report.kit import page


def write_gallery(out: Path, explanation: Explanation, *, synthetic: bool = False) -> Path:
    """Write the page to `out`, and its numbers beside it as .json; return `out`.

    synthetic: say that the images are synthetic, instead of their terms.
    """
    return page.write(out, "explanation/page.html.j2", gallery(explanation, synthetic))


def gallery(explanation: Explanation, synthetic: bool) -> dict:
    """The page's data."""
    parts = np.linspace(0, 1, 9)
    return {
        "title": f"Heat maps of {explanation.run}",
        "contents": [(f"finding-{number}", each.finding) for number, each in enumerate(explanation.findings)],
        "synthetic": synthetic,
        **{
            name: getattr(explanation, name)
            for name in ("run", "split", "labels", "size", "method", "layer", "without")
        },
        "places": explanation.findings[0].best[0].heat.shape,
        "scale": [(*rgb, STRONGEST * part) for part, rgb in zip(parts, 255 * colours(parts), strict=True)],
        "findings": [_finding(explanation, shown) for shown in explanation.findings],
    }


def _finding(explanation: Explanation, shown: Shown) -> dict:
    kinds = {"best": True, "misses": True, "false_positives": False}  # and whether their images have the finding
    examples = {
        name: [_example(explanation, each, present) for each in getattr(shown, name)] for name, present in kinds.items()
    }
    return {**vars(shown), **examples}


def _example(explanation: Explanation, example: Example, present: bool) -> dict:
    at = explanation.dataset.catalog.iloc[example.row]
    columns = ("image_id", "study_id", "view", "view_position")
    return {
        **{name: at[name] for name in columns},
        "present": present,
        "score": example.score,
        "probability": example.probability,
        "rank": example.rank,
        "empty": None if example.heat.any() else EMPTY,
        "jpeg": pair(example),
    }
