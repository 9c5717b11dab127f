"""A page: plain data, a template that formats it, and the same data as a JSON file beside it.

Everything that a page shows is made once, as dictionaries, `tables.Table` and `Figure`. The template alone has the
words and the HTML, and escapes whatever comes from a file, so a finding named `<b>` is a name and not an instruction.
"""

import base64
import dataclasses
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing

from cxrdali.report.kit.numbers import FORMATS, sentence, written
from cxrdali.report.kit.svg import as_file, as_svg
from cxrdali.runs.words import command_line
from shards import __version__
from shards.errors import UserError
from shards.storage.files import read_regular, write_bytes
from shards.words import counted

_source: ContextVar[str] = ContextVar("source", default="")  # what the page that is being rendered is, for its files


@dataclass(frozen=True)
class Figure:
    """A figure, and the numbers that it shows: the arguments of the function that draws it.

    name: keeps the ids of a page's drawings apart.
    """

    name: str
    draw: Callable[..., Drawing]
    shown: tuple

    def svg(self) -> Markup:
        return Markup(as_svg(lambda: self.draw(*self.shown), self.name))

    def numbers(self) -> dict[str, object]:
        return dict(zip(inspect.signature(self.draw).parameters, self.shown, strict=False))


def render(template: str, data: Mapping[str, object]) -> str:
    """The whole page, or a part of one, of a template in this package ("training/page.html.j2")."""
    data = {"made": made(), "synthetic": False, **data}
    synthetic = "Synthetic data, of no patient. " if data["synthetic"] else ""
    token = _source.set(f"{synthetic}{data.get('title', '')}. {data['made']}".replace("`", ""))
    try:
        return _environment().get_template(template).render(data)
    finally:
        _source.reset(token)


def made() -> str:
    """When (now, or at SOURCE_DATE_EPOCH, so that equal files make equal pages), by which version and command line."""
    given = os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time()))
    try:
        at = datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError):
        raise UserError(f"SOURCE_DATE_EPOCH is {given!r}; give seconds since 1970, or unset it") from None
    command = command_line()
    return f"Made on {at:%Y-%m-%d at %H:%M} UTC by cxrdali {__version__}{f' with `{command}`' if command else ''}."


def write(path: Path, template: str, data: Mapping[str, object]) -> Path:
    """Write the page to `path`, and its numbers beside it as .json; return `path`.

    Raises UserError if there is another file in the place of the .json.
    """
    check_numbers_file(path)
    data = {"made": made(), **data}
    source = render(template, data)
    numbers = json.dumps({"page": template.partition("/")[0], **plain(data)}, indent=1, ensure_ascii=False)
    write_bytes(path.with_suffix(".json"), f"{numbers}\n".encode(errors="backslashreplace"))
    write_bytes(path, source.encode(errors="backslashreplace"))  # a path may be no UTF-8
    return path


def check_numbers_file(path: Path) -> None:
    """Raises UserError if the page's .json would replace a file that is not a page's."""
    target = path.with_suffix(".json")
    if target == path:
        raise UserError(f"{path}: a page is HTML, and its numbers go beside it as .json; give another name")
    if not target.exists():
        return
    try:
        json.loads(read_regular(target, 2**31))["page"]
    except (ValueError, LookupError, TypeError, OSError, RecursionError):
        raise UserError(
            f"{target}: is not of a page, and the numbers of {path.name} go there; give another name"
        ) from None


def plain(value: object) -> object:
    """What JSON can hold: NaN is null, a figure is its numbers, and a picture (bytes) is left out."""
    if isinstance(value, Figure):
        return plain(value.numbers())
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items() if not isinstance(each, bytes)}
    if isinstance(value, pd.DataFrame):
        index = {} if isinstance(value.index, pd.RangeIndex) else {value.index.name or "name": value.index.tolist()}
        return plain(index | {name: value[name].tolist() for name in value})
    if isinstance(value, pd.Series):
        return plain(dict(zip(value.index.tolist(), value.tolist(), strict=True)))
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if isinstance(value, str | int | None) else str(value)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= FORMATS | {"sentence": sentence, "written": written, "counted": counted}
    found.filters["base64"] = lambda data: base64.b64encode(data).decode()
    found.filters["svg_file"] = lambda svg, description, caption: as_file(
        str(svg), description, caption.striptags(), _source.get()
    ).encode()
    return found
