"""The TOML of a declared release, as dataclasses: every key there is, checked before any table is read."""

import re
import string
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from shards.errors import UserError
from shards.releases.columns import check_join
from shards.storage.files import json_bytes, sha256_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import choices

KINDS = ("columns", "long", "list", "text", "rle")
# that a DICOM's header may give
TAGS = ("study_id", "subject_id", "view_position", "sex", "age", "manufacturer", "model", "year")
OTHERS, ALL = ("others",), ("all",)  # in place of findings: columns that nothing else names; names that occur
LARGEST = 2**20  # bytes of a TOML
NO_KEY = {"key": False}  # of a field that the TOML does not give
_TOML = {str: "a text in quotes", int: "a whole number", bool: "true or false", Mapping: "a table, {key = value}"}


@dataclass(frozen=True)
class Field:
    """A text for each row: of a column, of the first of several that is not blank, or of a template of columns and
    other fields. Blanks around it go; then `match` takes a part, and `words` translate it, in upper or lower case.
    What is blank, or has no match or word, is `otherwise` if that is given; else a blank stays one, and other texts are
    errors."""

    column: str = ""
    first: tuple["Field", ...] = ()
    template: str = ""
    match: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    otherwise: str | None = None

    def __post_init__(self) -> None:
        if sum(map(bool, (self.column, self.first, self.template))) != 1:
            raise ValueError("needs one of column, first and template")
        if self.match and re.compile(self.match).groups > 1:
            raise ValueError(f"match {self.match!r} has more than one group; write the others as (?:...)")
        for _, spec in self.parts():
            if re.search("[0-9]{4}", spec):
                raise ValueError(f"{spec!r} is too wide")
            format("text", spec)

    def parts(self) -> list[tuple[str, str]]:
        """Of a template, the names in it and how each is written."""
        return [(name, spec or "") for _, name, spec, _ in string.Formatter().parse(self.template) if name is not None]

    def names(self) -> tuple[str, ...]:
        """The columns, and perhaps fields, that it is made of."""
        others = [name for each in self.first for name in each.names()]
        return (*filter(None, [self.column]), *others, *(name for name, _ in self.parts()))


@dataclass(frozen=True)
class Join:
    """to: the tables' name; on: a column of both, or that there and that here."""

    to: str
    on: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.on) not in (1, 2):
            raise ValueError('needs on = "column" or ["column there", "column here"]')


@dataclass(frozen=True)
class Table:
    """Files of one form. Those with the same `as` are stacked, unless they are joined to others. paths: they are the
    images themselves, of which each is a row with the column path."""

    as_: str
    file: tuple[str, ...]
    paths: bool = False
    optional: bool = False
    split: str = ""
    set: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    explode: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    join: Join | None = None

    @property
    def constants(self) -> Mapping[str, str]:
        return {**self.set, **({"split": self.split} if self.split else {})}


@dataclass(frozen=True)
class Images:
    """path: alternatives, of which the first is taken whose files are there; search: instead, a file's name."""

    image_id: Field
    path: tuple[Field, ...] = ()
    search: str = ""
    depth: int = 2
    study_id: Field | None = None
    subject_id: Field | None = None
    view_position: Field | None = None
    split: Field | None = None
    sex: Field | None = None
    age: Field | None = None
    race: Field | None = None
    manufacturer: Field | None = None
    model: Field | None = None
    year: Field | None = None
    inverted: Field | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.search) or "/" in self.search:
            raise ValueError("needs path or, without a folder, search")
        if other := next((name for name in self.tags if name not in TAGS), None):
            raise ValueError(f"tags holds {other!r}; {choices(other, TAGS)}")

    @property
    def paths(self) -> tuple[Field, ...]:
        return self.path or (Field(template=self.search),)

    @property
    def given(self) -> dict[str, Field]:
        """By name, those that are given, without the paths."""
        return {each.name: value for each in fields(self) if isinstance(value := getattr(self, each.name), Field)}


@dataclass(frozen=True)
class Views:
    frontal: tuple[str, ...] = ()
    lateral: tuple[str, ...] = ()


@dataclass(frozen=True)
class Key:
    """Labels are joined by a text of theirs and a field of the images, or a column of their table."""

    here: Field
    images: str


@dataclass(frozen=True)
class Readers:
    """column: who read; without it each row is a reading."""

    column: str = ""
    join: str = "majority"

    def __post_init__(self) -> None:
        check_join(self.join)


@dataclass(frozen=True)
class Labels:
    """One label release. words: what a value means: 1, 0, -1; of the kinds "text" and "list", findings. needs: a column
    of the images that is not blank where there are labels; unlabelled: findings that say there are none."""

    name: str
    table: str = "images"
    kind: str = "columns"
    findings: tuple[str, ...] = ()
    blank: str = "unknown"
    absent: str = "negative"
    words: Mapping[str, Any] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    none: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    needs: str = ""
    split: Field | None = None
    finding: str = ""
    value: str = ""
    column: Field | None = None
    separator: str = "|"
    key: Key | None = None
    readers: Readers | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; {choices(self.kind, KINDS)}")
        for key in ("blank", "absent"):
            if (value := getattr(self, key)) not in (known := ("unknown", "negative")):
                raise ValueError(f"{key} is {value!r}; {choices(value, known)}")
        needed = {"long": "finding", "list": "column", "text": "column", "rle": "column"}.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"kind {self.kind!r} needs {needed}")
        wrong = {"columns": ALL, "rle": ALL, "long": OTHERS, "list": OTHERS, "text": OTHERS}.get(self.kind)
        if self.findings in ((), wrong):
            also = {"columns": ', or "others"', "rle": ""}.get(self.kind, ', or "all"')
            raise ValueError(f"kind {self.kind!r} needs findings, a list{also}")
        for word, meaning in self.words.items():
            texts = isinstance(meaning, str) or (isinstance(meaning, list) and all(isinstance(e, str) for e in meaning))
            if not texts if self.kind in ("text", "list") else meaning not in (1, 0, -1, ""):
                raise ValueError(f'words gives {word!r} the meaning {meaning!r}; give 1, 0, -1 or "", of text findings')


@dataclass(frozen=True)
class Recognise:
    files: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.files and not self.columns:
            raise ValueError("needs files or columns")


@dataclass(frozen=True)
class Schema:
    """A declared release; `text` is its TOML."""

    name: str
    title: str
    tables: tuple[Table, ...]
    images: Images
    home: str = ""
    needs: str = ""
    order: int = 500
    notes: tuple[str, ...] = ()
    recognise: tuple[Recognise, ...] = ()
    views: Views = Views()
    labels: tuple[Labels, ...] = ()
    text: str = field(default="", metadata=NO_KEY)

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z0-9][a-z0-9-]*", self.name):
            raise ValueError(f"name is {self.name!r}; write it with a-z, 0-9 and -")
        known = {table.as_ for table in self.tables}
        used = ["images", *(table.join.to for table in self.tables if table.join)]
        used += [labels.table for labels in self.labels]
        if absent := next((name for name in used if name not in known), None):
            raise ValueError(f"no tables are called as = {absent!r}; {choices(absent, known, 'there are')}")
        names = [labels.name for labels in self.labels]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"labels {double!r} are there twice; give each a name of its own")

    @property
    def digest(self) -> str:
        """Of all that decides what is read: a release read by another declaration is another one."""
        table = tomllib.loads(self.text)
        read = {name: table.get(name) for name in ("tables", "images", "views", "labels")}
        return sha256_bytes(json_bytes(read))[:16]

    def columns(self) -> set[str]:
        """The columns that are named anywhere, but as findings."""
        made = [*self.images.given.values(), *self.images.paths]
        found = set[str]()
        for table in self.tables:
            found |= {*table.constants, *table.explode, *table.where, *(table.join.on if table.join else ())}
        for labels in self.labels:
            made += filter(None, (labels.split, labels.column, labels.key.here if labels.key else None))
            found |= {labels.finding, labels.value, labels.needs}
            found |= {labels.readers.column if labels.readers else "", labels.key.images if labels.key else ""}
        return found.union(*(each.names() for each in made))


def read_schema(file: Location, text: str | None = None) -> Schema:
    """The declaration in a TOML file. Raises UserError naming file, key and what is near it."""
    try:
        if text is None:
            data = storage_of(file).read_bytes(stop=LARGEST + 1)
            if len(data) > LARGEST:
                raise ValueError(f"it has more than {LARGEST:,} bytes")
            text = data.decode("utf-8-sig")
        table = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a release's TOML") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a TOML of a release ({error}); `cxrdali releases NAME` prints one") from error
    return replace(_made(Schema, table, f"{file}: ", ""), text=text)


def _made(kind: Any, value: Any, file: str, key: str) -> Any:
    """A value of TOML as the type of a field: tables become dataclasses, a text a field's column or a list of one."""
    if isinstance(kind, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if kind is Field and isinstance(value, str):
        value = {"column": value}
    if is_dataclass(kind):
        return _dataclass(kind, value, file, key)
    origin, of = get_origin(kind), get_args(kind)
    if origin is tuple:
        given = value if isinstance(value, list) else [value]
        return tuple(_made(of[0], each, file, f"{key}[{place}]") for place, each in enumerate(given, 1))
    if origin is Mapping and isinstance(value, dict):
        return {name: _made(of[1], each, file, f"{key}.{name}") for name, each in value.items()}
    if kind is Any or type(value) is kind:
        return value
    raise UserError(f"{file}{key} is {value!r}; write {_TOML[origin or kind]}")


def _dataclass(kind: Any, value: Any, file: str, key: str) -> Any:
    hints = get_type_hints(kind)
    known = {each.name.rstrip("_"): each for each in fields(kind) if "key" not in each.metadata}
    if not isinstance(value, dict):
        raise UserError(f"{file}{key} is {value!r}; write {_TOML[Mapping]} of {', '.join(known)}")
    start = f"{key}." if key else ""
    for name in value:
        if name not in known:
            raise UserError(f"{file}{start}{name} is no key; {choices(name, known, 'there are')}")
    for name, each in known.items():
        if name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise UserError(f"{file}{start}{name} is missing; `cxrdali releases NAME` prints a whole declaration")
    made = {known[name].name: _made(hints[known[name].name], each, file, start + name) for name, each in value.items()}
    try:
        return kind(**made)
    except (ValueError, re.error, UserError) as error:
        raise UserError(f"{file}{key}{': ' if key else ''}{error}") from error
