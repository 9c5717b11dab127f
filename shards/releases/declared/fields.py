"""The texts that a declaration makes of columns: a match, a template, words; and ids, which keep every digit."""

import re
import string
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.declared.schema import Field
from shards.releases.declared.tables import Stack
from shards.releases.ids import ids
from shards.releases.join import Rows

IDS = ("image_id", "study_id", "subject_id")


class Fields:
    """Texts of a stack's rows by the names of fields, each made when it is asked for.

    may_lack: ids that may be blank.
    """

    def __init__(self, stack: Stack, fields: Mapping[str, Field], may_lack: tuple[str, ...] = ()):
        self._stack, self._fields, self._may_lack = stack, fields, may_lack
        self._made: dict[str, pd.Series] = {}
        self._asked: list[str] = []

    def text(self, name: str) -> pd.Series:
        """A field's text of every row. Raises UserError naming file, column, value and line."""
        if name not in self._made:
            self._asked.append(name)
            values = self.made(self._fields[name], name)
            self._made[name] = self._ids(values, name) if name in IDS else values
            self._asked.pop()
        return self._made[name]

    def made(self, field: Field, name: str) -> pd.Series:
        """The text of a field that has no name of its own; `name` is for messages."""
        values = self._source(field, name).str.strip()
        called = field.column or name
        if field.match:
            pattern = re.compile(field.match)
            values = self.mapped(values, lambda text: _matched(pattern, text, field), called, "does not match")
        if field.words:
            folded = {word.strip().casefold(): meaning for word, meaning in field.words.items()}
            known = {**folded, **field.words}

            def worded(text: str) -> str | None:
                found = known.get(text, known.get(text.casefold(), field.otherwise))
                return "" if found is None and text == "" else found

            values = self.mapped(values, worded, called, f"is none of {', '.join(map(repr, field.words))}")
        elif field.otherwise is not None:
            values = values.where(values != "", field.otherwise)
        return values

    def _source(self, field: Field, name: str) -> pd.Series:
        if field.column:
            return self._stack.column(field.column)
        if not field.first:
            return self._template(field, name)
        found = pd.Series("", self._stack.frame.index, dtype="str")
        for each in field.first:
            if not each.column or each.column in self._stack.frame:
                found = found.where(found != "", self.made(each, name))
        return found

    def _template(self, field: Field, name: str) -> pd.Series:
        made = pd.Series("", self._stack.frame.index, dtype="str")
        blank = np.zeros(len(made), dtype=bool)
        for literal, part, spec, _ in string.Formatter().parse(field.template):
            made += literal
            if part is not None:
                is_field = part in self._fields and part not in self._asked
                values = self.text(part) if is_field else self._stack.column(part)
                blank |= (values == "").to_numpy()
                made += values.map(lambda text, spec=spec: format(text, spec)) if spec else values
        return made.where(~blank, "")

    def mapped(self, values: pd.Series, made: Callable[[str], str | None], what: str, wrong: str) -> pd.Series:
        """What is made of each text, of every different one once. Raises UserError for a None, saying what is wrong."""
        codes, found = pd.factorize(values)
        new = [made(text) for text in found]
        if None in new:
            at = int((codes == new.index(None)).argmax())
            raise self._stack.refuse(at, f"{what!r} holds {values[at]!r}, which {wrong},")
        return pd.Series(np.array(new, dtype=object)[codes], values.index, dtype="str") if len(values) else values

    def _ids(self, values: pd.Series, name: str) -> pd.Series:
        """Checked in each file, whose line is named, and all together."""
        called = self._fields[name].column or name
        check_letters(self._stack, values, called)
        given = values != "" if name in self._may_lack else None
        if given is not None and not given.all():
            made = values.copy()
            made[given] = ids(values[given].to_frame(called), called, self._stack.files[0][0])
            return made
        self._stack.each_file(values, lambda part, path: ids(part.to_frame(called), called, path))
        return ids(values.to_frame(called), called, self._stack.files[0][0])


def check_letters(stack: Stack, values: pd.Series, called: str) -> None:
    """Raises UserError for an id or a path that a guess of the encoding has decided."""
    if stack.guessed and (guess := values.str.contains(r"[^\x00-\x7f]", regex=True).to_numpy()).any():
        at = int(guess.argmax())
        raise stack.refuse(
            at,
            f"{called!r} holds {values[at]!r}, whose letters are guessed, as {stack.guessed[0].name} is no UTF-8: save "
            "it again in UTF-8. It is",
        )


def _matched(pattern: re.Pattern, text: str, field: Field) -> str | None:
    found = pattern.search(text)
    if found is None:
        return text if text == "" and field.otherwise is None else field.otherwise
    return found.group(pattern.groups) or ""


def one_value(stack: Stack, rows: Rows, values: pd.Series, key: pd.Series, name: str) -> pd.Series:
    """A field's text of each image, in the order of their first rows. Raises UserError if rows of one image disagree.

    key: what the rows are of, for the message.
    """
    if (differs := rows.differs(values)).any():
        one, two = rows.second(differs)
        (path, where), (other, there) = stack.place(one), stack.place(two)
        raise UserError(
            f"{other}: {there} and {where}{f' of {path.name}' if path != other else ''} are of {key[one]!r}, and "
            f"{name} is {values[two]!r} in the first of them and {values[one]!r} in the other; correct one of them"
        )
    return values.iloc[rows.first].reset_index(drop=True)
