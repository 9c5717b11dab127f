"""Steps that make a table of another one, image by image, without a fit: study means and normal gating."""

from cxrdali.postprocess import gate, study_mean
from cxrdali.runs.layout import Table
from cxrdali.runs.steps import Step
from cxrdali.studies.schema import Gate
from cxrdali.studies.tables import Tables
from shards.errors import UserError
from shards.words import choices


def study_means(tables: Tables, of: str) -> list[Step]:
    """Of every split of the table `of`, as OF-study."""
    name, base = f"{of}-study", tables.bases[of]
    tables.begin(Table(name, "study-mean", of, ""), base)
    return [
        tables.table(
            f"study mean {of} {split}", name, split, {}, (tables.makers[of, split],),
            lambda out, split=split: study_mean.apply(tables.file(of, split), base.dataset)[0].write(out),
        )
        for split in tables.splits(of)
    ]  # fmt: skip


def gated(tables: Tables, of: str, wanted: Gate) -> list[Step]:
    """Of every split of the table `of`, as OF-gated. Raises UserError if there is no such finding."""
    name, base, settings = f"{of}-gated", tables.bases[of], {"normal": wanted.normal, "strength": wanted.strength}
    if wanted.normal not in base.labels.findings:
        known = choices(wanted.normal, base.labels.findings, "there are")
        raise UserError(f"no finding {wanted.normal!r} among labels {base.labels.name!r}; {known}")
    tables.begin(Table(name, "gated", of, wanted.normal), base)
    return [
        tables.table(
            f"gate {of} {split}", name, split, settings, (tables.makers[of, split],),
            lambda out, split=split: gate.apply(tables.file(of, split), **settings).write(out),
        )
        for split in tables.splits(of)
    ]  # fmt: skip
