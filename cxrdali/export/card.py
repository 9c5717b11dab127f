"""The model card: README.md as the Hugging Face Hub reads it. Its numbers stand in README.json beside it."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxrdali.report.kit.numbers import FORMATS
from shards import __version__
from shards.storage.files import sha256_bytes
from shards.words import counted

SEAL = "<!-- cxrdali.export {} -->\n"  # the card's last line: the hash of all above it


def card(facts: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> bytes:
    """README.md. facts: of `cxrdali.export.facts`; weights: config.json of the weights beside it (None: it is alone)."""
    from huggingface_hub import ModelCardData

    tags = ["timm", "image-classification", "multi-label-classification", "chest-x-ray", "medical", "cxrdali"]
    front = ModelCardData(
        library_name="timm", pipeline_tag="image-classification", license="other", license_name="not-stated",
        tags=tags + (["synthetic"] if facts["synthetic"] else []),
    ).to_yaml()  # fmt: skip
    given = {**facts, "front": Markup(front), "weights": weights, "version": __version__}
    text = _environment().get_template("card.md.j2").render(given)
    return text.encode() + SEAL.format(sha256_bytes(text.encode())).encode()


def is_untouched(data: bytes) -> bool:
    """Whether this is a card of ours as it was written: one that was edited by hand is somebody's work."""
    text, _, _ = data.rpartition(b"<!-- ")
    return data == text + SEAL.format(sha256_bytes(text)).encode()


def _escaped(value: object) -> str:
    """Text of a file in Markdown: a finding named `<b>` or `a|b` is a name, not an instruction."""
    if isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", " ".join(str(value).split()))


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= FORMATS | {"counted": counted, "code": Markup, "known": _known}
    return found


def _known(value: object, otherwise: str = "not recorded") -> str:
    """A number or a word; `otherwise` of what nobody wrote down."""
    if value is None or value == "":
        return otherwise
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
