"""cxrdali overlap: the images that two packs share."""

import shlex

import click

from cli.options import folders
from cli.options.folders import OUTPUT, PackPlace

SHOWN = 5  # pairs


@click.command()
@click.argument("a", type=PackPlace())
@click.argument("b", type=PackPlace())
@click.option("--out", type=OUTPUT, metavar="CSV", help="List of the pairs, which `cxrdali train --exclude` takes.")
@click.option("--exact-only", is_flag=True, help="Only equal pixels, by the hashes kept at packing: takes seconds.")
@folders.cache_options
def overlap(a, b, out, exact_only):
    """Images of pack A that pack B has too: with the same pixels (exact), or encoded, brightened, windowed, scaled,
    inverted, letterboxed or slightly cropped anew (near).

    RSNA and CXR-LT 2026 hold images of ChestX-ray14, CheXpert Plus those of CheXpert: a model of one must not be judged
    on the other as on strangers. Near pairs are found by a signature of each image, which is kept in --cache for
    the next time, and decided by pixels.
    """
    from cxrdali.evaluate import overlap as library
    from cxrdali.runs.exclusion import write_list
    from shards.errors import UserError

    if out is not None and not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --out")
    packs = folders.open_packs((a, b), option="")
    (name_a, pack_a), (name_b, pack_b) = packs.items()
    cache = None if exact_only else folders.copies("signatures of images") / library.KEPT
    found = library.overlap(pack_a, pack_b, library.OverlapOptions(near=not exact_only, cache=cache))
    pairs = found.listed((name_a, name_b))
    _say(found, (name_a, name_b))
    for pair in pairs.head(SHOWN).itertuples():
        how = "" if pair.kind == library.EXACT else f", correlation {pair.correlation:.3f}"
        click.echo(f"  {pair.image_id_a} = {pair.image_id_b} ({pair.kind}{how})")
    if len(pairs) > SHOWN:
        click.echo(f"  and {len(pairs) - SHOWN:,} more")
    if out is not None:
        write_list(out, pairs, list(packs.items()))
        click.echo(f"written: {out}")
    if len(pairs):
        one, other, given = (shlex.quote(str(each)) for each in (*map(folders.as_given, (a, b)), out or "overlap.csv"))
        first = "" if out else f"cxrdali overlap {one} {other} --out {given}, then "
        click.echo(f"next: {first}cxrdali train --data {one} --exclude {given} ...")


def _say(found, names) -> None:
    """Counts of pairs, images and patients, and of splits where there are labels."""
    from cxrdali.evaluate.overlap import EXACT, NEAR
    from shards.words import counted

    for kind, how in ((EXACT, found.exact), (NEAR, found.near)):
        if how is None:
            click.echo(f"{kind}: not compared" + (f" ({found.why})" if kind == EXACT else ""))
            continue
        number = int((found.pairs["kind"] == kind).sum())
        sides = [
            f"{counted(len(found.rows(side, kind)), 'image')} of {name}" for side, name in zip("ab", names, strict=True)
        ]
        click.echo(f"{kind}: {counted(number, 'pair')}: {' and '.join(sides)} (compared at {how})")
    for side, name, pack in (("a", names[0], found.a), ("b", names[1], found.b)):
        rows = found.rows(side)
        if not len(rows):
            continue
        patients = pack.of_rows(rows, "subject_id")["subject_id"].nunique()
        words = ""
        if pack.label_names:
            labels = pack.labels()
            split = labels.split[rows]
            counts = [f"{int((split == each).sum()):,} {each}" for each in ("train", "dev", "test")]
            words = f"; of {labels.name}: {', '.join(counts)}"
        click.echo(f"{name}: {counted(len(rows), 'image')} of {counted(patients, 'patient')}{words}")
