"""A study's runs and predictions of each of its packs, where the file says packs = "each"."""

import re
from collections.abc import Sequence
from dataclasses import replace

from cxrdali.studies.schema import EACH, Predict, RunTable, Study
from cxrdali.studies.source import Path_
from shards.errors import UserError


def of_each_pack(study: Study, packs: Sequence[str]) -> Study:
    """With a run NAME-PACK in the place of NAME, and predictions on each pack.

    Args:
        packs: Their names.

    Raises UserError naming the line if there is one pack alone, a name is no part of a file's name, or two runs would
    have one name; or a pack that is called as the word for all of them.
    """
    if EACH in packs:
        raise UserError(f"a pack is called {EACH!r}, which means all of them; give it another name, as NAME=PACK")
    spread = {table.name: [f"{table.name}-{pack}" for pack in packs] for table in study.runs if table.packs == (EACH,)}
    places: list[Path_] = [("runs", name, "packs") for name in spread]
    places += [("predict", number, "pack") for number, each in enumerate(study.predict) if each.pack == EACH]
    places += [("matrix",)] if study.matrix else []
    for at in places:
        if len(packs) < 2:
            raise study.source.error(
                at,
                "this is of several packs; give --data NAME=PACK for each of them (--scale demo: [demo] in the file)",
            )
        for pack in packs:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", pack):
                text = f"pack {pack!r} names runs and files here; give it as NAME=PACK, of letters, digits, - and _"
                raise study.source.error(at, text)
    runs: list[RunTable] = []
    for table in study.runs:
        runs += _spread(table, packs) if table.name in spread else [table]
    names = [table.name for table in runs]
    for table in runs:
        if names.count(table.name) > 1:
            raise study.source.error(("runs", table.name), f"two runs are called {table.name}; rename one of them")
    predict: list[Predict] = []
    for each in study.predict:
        of = tuple(name for given in each.of for name in spread.get(given, [given]))
        predict += [replace(each, of=of, pack=pack) for pack in (packs if each.pack == EACH else [each.pack])]
    return study.changed(runs=tuple(runs), predict=tuple(predict))


def _spread(table: RunTable, packs: Sequence[str]) -> list[RunTable]:
    return [replace(table, name=f"{table.name}-{pack}", packs=(pack,)) for pack in packs]
