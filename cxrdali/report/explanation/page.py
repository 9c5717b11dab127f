"""What a run looks at, as one self-contained page: per finding its best-scored images and its worst misses."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import simplejpeg

from cxrdali.predict.explain import Example, Explanation, Shown
from cxrdali.report.kit import html as page
from cxrdali.report.kit.html import Html, count, join, paragraph, percent, sentence
from shards.storage.files import write_bytes

PANEL, GAP = 320, 6  # pixels: side of a picture at most, white between the two
COLOURS = "inferno"  # even steps of lightness, and distinct for the colour-blind
STRONGEST = 0.65  # opacity of the strongest place; the weakest have none, so that the radiograph stays to be seen


def write_gallery(out: Path, explanation: Explanation, *, synthetic: bool = False) -> Path:
    """Write the page to `out` and return it. synthetic: say that the images are drawn, not their terms."""
    write_bytes(out, render(explanation, synthetic).encode())
    return out


def render(explanation: Explanation, synthetic: bool) -> Html:
    title = f"Heat maps of {explanation.run}"
    anchors = {f"finding-{number}": each for number, each in enumerate(explanation.findings)}
    header = join(
        Html(f"<h1>{page.safe(title)}</h1>"),
        paragraph(
            f"Which places of an image raise this run's score of a finding: Grad-CAM on images of the split "
            f"{explanation.split}, labels {explanation.labels}.",
            "lead",
        ),
        page.notice("Synthetic data.", "All images and labels of this page were generated. They belong to nobody.")
        if synthetic
        else page.medical_images("patients"),
        _how_to_read(explanation),
        page.navigation({anchor: each.finding for anchor, each in anchors.items()}),
    )
    *main, last = [page.section(anchor, each.finding, _finding(explanation, each)) for anchor, each in anchors.items()]
    return page.document(title, header, join(*main), last, _style())


def _how_to_read(explanation: Explanation) -> Html:
    places = " x ".join(map(str, explanation.findings[0].best[0].heat.shape))
    layer = f"layer <code>{page.safe(explanation.layer)}</code>, {explanation.size} px"
    return join(
        paragraph(
            "Only images that have the finding are shown: those with the highest scores, and the worst misses, those "
            "with the lowest. Left the image as the model saw it, right the same with its heat map; below them the "
            "score as a probability, and its rank among the scores of all images."
        ),
        Html('<p class="scale"><span>no effect</span><i></i><span>raises the score most, in this image</span></p>'),
        paragraph(
            Html(
                f"A map has {places} places ({layer}) and is smoothed for the eye. Colours compare places within one "
                "image, never two images. A coloured place is what the model used, not where the finding must be."
            ),
            "soft",
        ),
        page.missing(f"Without a positive image in {explanation.split}, so not shown: {sentence(explanation.without)}.")
        if explanation.without
        else None,
    )


def _finding(explanation: Explanation, shown: Shown) -> Html:
    images = "image has" if shown.positives == 1 else "images have"
    parts = [
        paragraph(f"{count(shown.positives)} of {count(shown.images)} {images} it."),
        page.heading("Highest scores"),
        _gallery(explanation, shown, shown.best),
    ]
    if shown.worst:
        parts += [page.heading("Worst misses"), _gallery(explanation, shown, shown.worst)]
    return join(*parts)


def _gallery(explanation: Explanation, shown: Shown, examples: Sequence[Example]) -> Html:
    return Html(f'<div class="gallery">{join(*(_card(explanation, shown, example) for example in examples))}</div>')


def _card(explanation: Explanation, shown: Shown, example: Example) -> Html:
    at = explanation.dataset.catalog.iloc[example.row]
    taken = ", ".join(filter(None, [at["view"], at["view_position"]]))
    blank = "" if example.heat.any() else "<br>No place raises this score, so nothing is coloured."
    image, others = f"image {at['image_id']}", f"study {at['study_id']}, subject {at['subject_id']}"
    return page.picture(
        pair(example),
        f"{shown.finding}, image {at['image_id']}: without and with heat map",
        Html(
            f"{page.bold(percent(example.probability))}, rank {count(example.rank)} of {count(shown.images)}, "
            f"{page.safe(taken)}{blank}<br><small>{page.safe(image)}<br>{page.safe(others)}</small>"
        ),
    )


def pair(example: Example) -> bytes:
    """The image and the same under its heat map, side by side, as a JPEG in colour."""
    side = example.pixels.shape[0]
    shown = min(side, PANEL) if side >= PANEL else side * (PANEL // side)
    how = cv2.INTER_AREA if shown < side else cv2.INTER_NEAREST  # small pixels stay pixels
    gray = cv2.resize(example.pixels, (shown, shown), interpolation=how)
    plain = np.repeat(gray[:, :, None], 3, axis=2)
    gap = np.full((shown, GAP, 3), 255, dtype=np.uint8)
    both = np.concatenate([plain, gap, overlay(plain, example.heat)], axis=1)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(both), quality=85, colorspace="RGB")


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 [S, S, 3] under the heat map [h, w] stretched over it; an image whose map is all zero stays as it is."""
    most = heat.max()
    if not most > 0:
        return image
    part = cv2.resize(heat / most, image.shape[:2], interpolation=cv2.INTER_LINEAR)[:, :, None]
    colour = _colours(part[:, :, 0]) * 255
    return np.rint(image + STRONGEST * part * (colour - image)).astype(np.uint8)


def _colours(part: np.ndarray) -> np.ndarray:
    """float64 [..., 3], 0 to 1, for 0 to 1; without the black and the white end, which tissue has too."""
    return matplotlib.colormaps[COLOURS](0.3 + 0.6 * part)[..., :3]


def _style() -> str:
    parts = np.linspace(0, 1, 9)
    colours = ", ".join(
        f"rgba({red:.0f}, {green:.0f}, {blue:.0f}, {STRONGEST * part:.2f})"
        for part, (red, green, blue) in zip(parts, _colours(parts) * 255, strict=True)
    )
    return f"""
.gallery {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(25rem, 100%), 1fr)); gap: 1.25rem; }}
.gallery figure {{ margin: 0; }}
.gallery figcaption {{ overflow-wrap: anywhere; line-height: 1.4; }}
.scale {{ display: flex; flex-wrap: wrap; align-items: center; gap: .6rem; font-size: .9rem; }}
.scale i {{ width: 9rem; height: .9rem; background: linear-gradient(to right, {colours}), #777; }}
@media print {{ .scale i {{ print-color-adjust: exact; }} }}
"""
