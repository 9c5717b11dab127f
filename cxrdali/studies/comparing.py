"""Which comparisons a study makes: those of its file, or the usual ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cxrdali.runs.steps import Step
from cxrdali.studies.expand import REPEATS
from cxrdali.studies.ground import FIT
from cxrdali.studies.schema import Comparison
from cxrdali.studies.source import Path_
from shards.errors import UserError

if TYPE_CHECKING:
    from cxrdali.studies.plan import Planner


class Comparisons:
    """Makes their steps. names: knows what names of runs and tables stand for."""

    def __init__(self, names: "Planner"):
        self.names = names

    def steps(self) -> Iterable[Step]:
        wanted = self.names.study.comparisons or self._usual()
        of_runs: list[tuple[Comparison, str, list[str]]] = []
        for number, each in enumerate(wanted):
            at: Path_ = ("comparisons", number)
            if each.runs and each.by == "patient":
                of_runs += self._of_runs(each, at)
        for number, each in enumerate(wanted):
            at = ("comparisons", number)
            if each.by == "seed":
                yield from self._of_seeds(each, at)
            elif each.tables:
                found = self._first(each, self.names.tables, (*at, "tables"))
                for split in (split for split in each.splits if self._has(each.name, found, split)):
                    yield self.names.results.of_tables(each, found, split)
            elif each.runs:
                for _, what, names in (row for row in of_runs if row[0] is each):
                    if self._comparable(what, names):
                        yield self.names.results.of_runs(what, names)
            else:
                pairs = self._pairs(each, at)
                names = list(dict.fromkeys(name for pair in pairs for name in pair))
                for split in (split for split in each.splits if pairs and self._has(each.name, names, split)):
                    yield self.names.results.of_pairs(each, pairs, split)

    def _usual(self) -> tuple[Comparison, ...]:
        """Where the file has none: all runs on their validation images, and grids over their seeds."""
        repeated = any(set(REPEATS) & set(self.names.ground.runs[name].axes) for name in self.names.models)
        alike = len({id(self.names.ground.of(name)) for name in self.names.models}) == 1
        if self.names.study.page != "study" or len(self.names.models) < 2:
            return ()
        every = tuple(self.names.models)
        usual = [Comparison("runs", every)] if alike else []
        return tuple(usual + [Comparison("seeds", every, by="seed")] if repeated else usual)

    @staticmethod
    def _first(
        each: Comparison, find: Callable[[Iterable[str], Path_], tuple[list[str], list[str]]], at: Path_
    ) -> list[str]:
        """Names of its runs or tables that there are, the baseline before the others."""
        baseline = find([each.baseline], (*at[:-1], "baseline"))[0] if each.baseline else []
        return list(dict.fromkeys([*baseline, *find(each.runs or each.tables, at)[0]]))

    def _has(self, what: str, names: Sequence[str], split: str) -> bool:
        """Whether there are all of these tables of a split, with labels, and of the same images; else it is noted."""
        made = self.names.made
        there = [made.bases[name] for name in names if (name, split) in made.makers]
        if len(there) < max(len(names), 2) or not there[0].labelled(split):
            return False
        images = {(each.judged_on, id(each) if split == FIT else 0) for each in there}
        if len(images) > 1:
            made.notes.append(f"no comparison of {what or ', '.join(names)} on {split}: their images are not the same")
        return len(images) == 1

    def _of_runs(self, each: Comparison, at: Path_) -> list[tuple[Comparison, str, list[str]]]:
        names = self._first(each, self.names.runs, (*at, "runs"))
        if self.names.single:
            return []
        if not each.start:
            return [(each, each.name, names)]
        found: dict[str, list[str]] = {}
        for name in names:
            start = self.names.models[name][1]["starts_from"] or self.names.groups.get("main", [name])[0]
            found.setdefault(start, [start]).append(name)
        if not found:
            why = [self.names.study.groups[name].without for name in each.runs if name in self.names.groups]
            self.names.notes.append(f"no comparison of {each.name}: {why[0] if why else 'no such run is trained'}")
        single = len(found) == 1
        return [(each, each.name if single else f"{each.name}-{start}", names) for start, names in found.items()]

    def _comparable(self, what: str, names: Sequence[str]) -> bool:
        if len(names) < 2:
            self.names.notes.append(f"no comparison of {what}: {names[0] if names else 'none'} alone")
        elif len({self._validated(name) for name in names}) > 1:
            self.names.notes.append(f"no comparison of {what}: limit_batches leaves them different validation images")
        elif len({id(self.names.ground.of(name)) for name in names}) > 1:
            self.names.notes.append(f"no comparison of {what}: they validate on different images")
        else:
            return True
        return False

    def _validated(self, name: str) -> int:
        """How many images a model validates on while it trains: a trial, by limit_batches, on a batch's multiple."""
        settings, every = self.names.models[name][0], len(self.names.ground.of(name).splits[FIT])
        limit = settings.runtime.limit_batches
        return min(every, limit * settings.optimizer.batch) if limit else every

    def _pairs(self, each: Comparison, at: Path_) -> list[tuple[str, str]]:
        """Every table of the chain with the one before that there is, and those `against` one that there is."""
        chain = [found[0] for names in each.chain if (found := self.names.tables(names, (*at, "chain"))[0])]
        pairs = [*zip(chain[1:], chain, strict=False)]
        for other, names in each.against.items():
            if self.names.tables([other], (*at, "against", other))[0]:
                pairs += [(name, other) for name in self.names.tables(names, (*at, "against", other))[0]]
        return pairs

    def _cells(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Runs, or their tables, by cell and repeat."""
        found: dict[str, dict[str, str]] = {}
        for name in names:
            if (known := self.names.repeat(name)) is None:
                raise UserError(
                    f"{name} is no table of a run, so it has no seed; compare runs by seed, or their tables"
                )
            run, repeat = known
            found.setdefault(name.replace(run, self.names.ground.runs[run].cell, 1), {})[repeat] = name
        return found

    def _of_seeds(self, each: Comparison, at: Path_) -> Iterable[Step]:
        if each.runs:
            names = self._first(each, self.names.runs, (*at, "runs"))
            if names:
                if len({self.names.ground.of(name).judged_on for name in names}) > 1:
                    self.names.notes.append(f"{each.name}: no differences of runs that validate on other packs")
                yield self.names.results.of_seeds(each.name, self._cells(names), None)
            return
        names = self._first(each, self.names.tables, (*at, "tables"))
        with self.names.study.source.at((*at, "tables")):
            cells = self._cells(names)
        for split in (split for split in each.splits if self._has(each.name, names, split)):
            yield self.names.results.of_seeds(f"{each.name}.{split}", cells, split)
