"""The report's HTML pieces: escaped text, numbers as people read them, tables, figures, one style sheet.

Whatever comes from a file passes through `safe`, so a finding named `<b>` is a name and not an instruction.
"""

import base64
import html
import math
import re
from collections.abc import Sequence

NOTHING = "–"  # an undefined or unknown value


class Html(str):
    """Text that is markup already; any other text is escaped where it meets a page."""


def safe(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(*parts: Html | None) -> Html:
    return Html("\n".join(safe(part) for part in parts if part))


def score(value: float | None) -> str:
    """An AP, AUROC or loss: 0.412."""
    return NOTHING if _unknown(value) else f"{value:.3f}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """0.412 (0.398 to 0.430); without the bracket if there are no bounds."""
    bounds = "" if _unknown(low) or _unknown(high) else f" ({low:.3f} to {high:.3f})"
    return score(value) + bounds


def count(value: float | None) -> str:
    """12,345"""
    return NOTHING if _unknown(value) else f"{value:,.0f}"


def percent(fraction: float | None) -> str:
    """31.2 %, and two digits for the tail: 0.31 %, 0.031 %."""
    if _unknown(fraction):
        return NOTHING
    value = fraction * 100
    if value == 0:
        return "0 %"
    return f"{value:.{1 if value >= 1 else 1 - math.floor(math.log10(value))}f} %"


def duration(seconds: float | None) -> str:
    """0.42 s, 4.2 s, 43 s, 12.4 min, 3.2 h."""
    if _unknown(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.{2 if seconds < 0.995 else 1}f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3597 else f"{seconds / 3600:.1f} h"


def _unknown(value: float | None) -> bool:
    return value is None or math.isnan(value)


def sentence(names: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def bold(text: str) -> Html:
    return Html(f"<strong>{safe(text)}</strong>")


def paragraph(text: str, kind: str = "") -> Html:
    return Html(f"<p{_class(kind)}>{safe(text)}</p>")


def missing(text: str) -> Html:
    """A sentence saying what is not there, and how to get it; `commands` and `--options` stand in backticks."""
    return paragraph(Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", safe(text))), "missing")


def notice(title: str, text: str) -> Html:
    return Html(f'<aside class="notice" role="note"><p>{bold(title)} {safe(text)}</p></aside>')


def medical_images(whose: str) -> Html:
    """The notice of a page that shows pictures of `whose`: "patients", "the training set"."""
    return notice(
        "Contains medical images.",
        f"This page shows images of {whose}. Their data-use terms hold for the page: "
        "pass it on only to people who have signed them.",
    )


def heading(text: str, level: int = 3) -> Html:
    return Html(f"<h{level}>{safe(text)}</h{level}>")


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], kind: str = "") -> Html:
    """The first column names its row; the others are numbers, set right (kind="text": left).

    The last cell of a short row spans the columns that are left.
    """
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in columns)
    body = "\n".join(
        f'<tr><th scope="row">{safe(first)}</th>{_cells(rest, len(columns) - 1)}</tr>' for first, *rest in rows
    )
    label = html.escape(caption)
    return Html(
        # no <caption>: it is as wide as the table and would scroll out of sight with it
        f'<p class="caption">{label}</p>\n<div class="scroll" role="region" tabindex="0" aria-label="{label}">\n'
        f"<table{_class(kind)}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cells(values: Sequence[object], columns: int) -> str:
    wide = columns - len(values) + 1
    *most, last = [f"<td>{safe(value)}</td>" for value in values]
    return "".join(most) + (last if wide == 1 else last.replace("<td>", f'<td colspan="{wide}">', 1))


def details(summary: str, content: Html) -> Html:
    return Html(f"<details><summary>{safe(summary)}</summary>\n{content}\n</details>")


def figure(svgs: dict[str, str], description: str, caption: str) -> Html:
    """The same drawing for wide and for narrow screens; the style sheet shows one of them."""
    label = html.escape(description)
    drawings = "\n".join(
        f'<div class="{width}" role="img" aria-label="{label}">{svg}</div>' for width, svg in svgs.items()
    )
    return Html(f"<figure>\n{drawings}\n<figcaption>{safe(caption)}</figcaption></figure>")


def picture(jpeg: bytes, description: str, caption: str) -> Html:
    data = base64.b64encode(jpeg).decode()
    return Html(
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{html.escape(description)}">\n'
        f"<figcaption>{safe(caption)}</figcaption></figure>"
    )


def section(anchor: str, title: str, content: Html) -> Html:
    return Html(f'<section id="{anchor}">\n<h2>{safe(title)}</h2>\n{content}\n</section>')


def navigation(titles: dict[str, str]) -> Html:
    links = "".join(f'<li><a href="#{anchor}">{safe(title)}</a></li>' for anchor, title in titles.items())
    return Html(f'<nav aria-label="Contents"><ul>{links}</ul></nav>')


def document(title: str, header: Html, main: Html, footer: Html, style: str = "") -> Html:
    """The whole page; `style` is added to the common one."""
    return Html(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        f"<header>\n{header}\n</header>\n<main>\n{main}\n</main>\n<footer>\n{footer}\n</footer>\n</body>\n</html>\n"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --accent: #0b5394; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.5rem 4rem; background: #fff; color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif !important; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .75rem; padding-top: 1.25rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
section { margin-top: 3rem; scroll-margin-top: 1rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: break-word; }
a { color: var(--accent); }
.lead { font-size: 1.125rem; }
.soft, figcaption, .caption { color: var(--soft); font-size: .9rem; }
.missing { border-left: 4px solid #b08800; background: #fff8e5; padding: .6rem .9rem; }
.notice p { max-width: none; }
.notice { border: 2px solid #a33b00; background: #fff3e8; padding: .5rem 1rem; margin: 1.25rem 0; border-radius: 4px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem 1.25rem; margin: 1.25rem 0 0; padding: 0; }
.scroll { overflow-x: auto; margin: 0 0 1rem; background:
  linear-gradient(to left, #fff 30%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, #c3cad3, transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: separate; border-spacing: 0; border-bottom: 1px solid var(--line); min-width: 100%;
  font-size: .94rem; font-variant-numeric: tabular-nums; }
.caption { margin: 1.25rem 0 .25rem; }
code { font: .95em ui-monospace, Menlo, Consolas, monospace; white-space: nowrap; }
th, td { padding: .38rem .75rem; text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; line-height: 1.3; min-width: 4.2rem; }
tbody th, tbody td { border-top: 1px solid var(--line); }
tbody tr:first-child > * { border-top: 2px solid var(--ink); }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: #fff; }
tbody th { font-weight: 400; white-space: normal; min-width: 5rem; }
td:last-child, th:last-child { padding-right: .25rem; }
td strong { font-weight: 700; }
.steps thead th { white-space: nowrap; }
.gain { color: var(--soft); font-size: .82em; display: inline-block; min-width: 3.2em; }
.text th, .text td { text-align: left; vertical-align: top; }
.text td { white-space: normal; min-width: 9rem; overflow-wrap: break-word; }
figure { margin: 1.25rem 0; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure img { max-width: 40rem; border-radius: 3px; }
figcaption { margin-top: .5rem; max-width: 46rem; }
.narrow { display: none; max-width: 30rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); padding: .35rem 0; }
footer { margin-top: 3rem; }
@media screen and (max-width: 700px) {
  body { padding: 1.25rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  .wide { display: none; }
  .narrow { display: block; }
  th, td { padding: .38rem .55rem; }
  table { font-size: .9rem; }
  tbody th { max-width: 13rem; overflow-wrap: break-word; }
}
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  section { margin-top: 2rem; }
  figure img { max-width: 28rem; }
  h2, h3, .caption { break-after: avoid; }
  figure, tr, .notice { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  .soft, figcaption, .caption, .lead { font-size: 9pt; }
  th, td { padding: .2rem .35rem; }
  thead th { min-width: 0; }
  .text td { min-width: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
