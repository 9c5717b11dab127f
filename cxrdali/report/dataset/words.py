"""What was counted, in words and tables that the terminal and the page both show."""

import pandas as pd

from cxrdali.report.dataset.facts import NO_SPLIT, DatasetFacts, ReleaseFacts, pairs
from cxrdali.report.kit.numbers import count, percent, sentence
from cxrdali.report.kit.tables import Table
from shards.dataset.description import stored_otherwise
from shards.dataset.labels import SOFT
from shards.dataset.pixels import LARGE_PATIENT
from shards.words import counted

SHOWN_PAIRS = 10
FEW = 5  # images; a lift from fewer is mostly chance
Block = Table | str  # a table or a paragraph


def part_of(part: float, every: float) -> float | None:
    """A share, 0 to 1; None of nothing."""
    return float(part / every) if every else None


def title(facts: DatasetFacts, release: ReleaseFacts) -> str:
    pseudo = f" ({release.pseudo})" if release.pseudo else ""
    return f"Labels {release.name}{' (the default)' if release.name == facts.info['default_labels'] else pseudo}"


def dataset(facts: DatasetFacts) -> list[Block]:
    return [
        Table("The dataset", [("", "text"), ("", "text")], _description(facts), kind="text"),
        _stored_sizes(facts),
        _views(facts),
        _images_per_study(facts),
        *_large_patient(facts),
    ]


def _large_patient(facts: DatasetFacts) -> list[str]:
    packed = facts.info["counts"]["packed"]
    if facts.largest <= max(1, LARGE_PATIENT * packed):
        return []
    share = percent(facts.largest / packed)
    return [
        f"One patient has {count(facts.largest)} of {counted(packed, 'image')} ({share}). If that is not so, the "
        "column of patients is a wrong one, and splits and folds do not keep patients apart."
    ]


def _description(facts: DatasetFacts) -> list[tuple[str, str]]:
    info, counts = facts.info, facts.info["counts"]
    rejected = sum(counts["rejected"].values())
    rows = [
        ("Release", info["release"] + (", synthetic" if info["options"].get("synthetic") else "")),
        ("Dataset", info["id"][:12]),
        ("Made by", info["made_by"]),
        ("Options", ", ".join(_options(info))),
        ("Images", f"{count(counts['planned'])} planned: {count(counts['packed'])} packed, {count(rejected)} rejected"),
        ("Studies", _packed_of(facts.studies, counts["studies"])),
        ("Subjects", _packed_of(facts.subjects, counts["subjects"])),
    ]
    if facts.native["height"].notna().any():
        rows += [(f"Native {side}", _range(facts.native[side])) for side in ("height", "width")]
    if counts.get("converted"):
        converted = [f"{mode} {count(number)}" for mode, number in counts["converted"].items()]
        rows.append(("Converted", f"{', '.join(converted)} (images that were not 8-bit gray, baseline and upright)"))
    known = [
        f"{name} of {count(number)}" + (f" (from {source})" if source else "") for name, number, source in facts.people
    ]
    people = f"{', '.join(known)} images" if known else "nothing is known; attach it with cxrdali subjects"
    return [*rows, ("People", people)]


def _options(info: dict) -> list[str]:
    options = info["options"]
    made = [f"sizes {', '.join(options['sizes'])}", f"fit {options['fit']}", f"JPEG quality {options['quality']}"]
    made += [f"seed {options['seed']}", f"at most {count(options['shard_images'])} images a shard"]
    made += [f"limited to {counted(options['limit'], 'image')}"] if options.get("limit") else []
    made += ["hashes of the source checked"] if options.get("check_hashes") else []
    made += ["links followed"] if options.get("allow_links") else []
    deep = "window" in options and "16-bit" in info["counts"].get("converted", {})
    return made + ([f"16-bit images by {options['window']}"] if deep else [])


def _packed_of(packed: int, planned: int) -> str:
    return count(packed) if packed == planned else f"{count(packed)} with a packed image, of {count(planned)} planned"


def _range(values: pd.Series) -> str:
    if values["min"] == values["max"]:
        return f"{count(values['min'])} px"
    return f"{count(values['min'])} to {count(values['max'])} px, median {count(values['median'])}"


def _stored_sizes(facts: DatasetFacts) -> Table:
    columns = [
        ("Size", "pixels"), ("Encoding", "text"), ("Shards", "count"), ("Samples", "count"), ("Tar bytes", "storage"),
        ("An image", "storage"), ("On this disk", "text"),
    ]  # fmt: skip
    rows = [
        (
            pixels, {"jpeg": "JPEG"}.get(entry["encoding"], entry["encoding"]), entry["shards"], entry["samples"],
            entry["bytes"], part_of(entry["bytes"], entry["samples"]), "yes" if entry["here"] else "no",
        )
        for pixels, entry in facts.sizes.iterrows()
    ]  # fmt: skip
    return Table("Stored sizes", columns, rows)


def _views(facts: DatasetFacts) -> Table:
    positions, packed = facts.positions, facts.info["counts"]["packed"]
    shares = [part_of(number, packed) for number in positions.sum()]
    return Table(
        "Images by view, and by ViewPosition as released",
        [("ViewPosition", "text"), *((name.capitalize(), "count") for name in positions.columns), ("All", "count")],
        [
            ("All", *positions.sum(), positions.to_numpy().sum()),
            ("Share", *(percent(share) for share in shares), ""),
            *((name, *line, line.sum()) for name, line in positions.iterrows()),
        ],
    )


def _images_per_study(facts: DatasetFacts) -> Table:
    per_study = facts.images_per_study
    several = [(str(name), per_study.get(name, 0)) for name in (1, 2, 3)]
    several.append(("4 or more", per_study[per_study.index >= 4].sum()))
    return Table(
        "Packed images of a study",
        [("Images", "text"), ("Studies", "count"), ("Share", "percent")],
        [(name, number, part_of(number, facts.studies)) for name, number in several],
    )


def rejects(facts: DatasetFacts) -> list[Block]:
    if facts.rejects.empty:
        return ["No image was rejected."]
    rows = []
    for reason, entry in facts.rejects.iterrows():
        rows.append((reason, entry["images"], first_ids(entry["ids"], entry["images"])))
    columns = [("Reason", "text"), ("Images", "count"), ("First ids", "text")]
    return [
        Table("Images that were not packed, by reason", columns, rows, kind="text"),
        "rejects.csv lists all of them.",
    ]


def first_ids(first: list[str], number: int) -> str:
    more = number - len(first)
    return ", ".join(first) + (f" and {count(more)} more" if more else "")


def label_releases(facts: DatasetFacts) -> list[str]:
    """What there is to say of the label releases as a whole; nothing if all is well."""
    said = [f"{text[0].upper()}{text[1:]}." for text in stored_otherwise(facts.info).values()]
    if not facts.releases:
        said.append(
            "No label release is attached, so there are no findings and no splits; attach one with `cxrdali label`."
        )
    if facts.absent:
        said.append(
            f"{sentence(facts.absent)} {'is' if len(facts.absent) == 1 else 'are'} named in dataset.json, but not in "
            "the labels folder; restore the file, or take it off the list with `cxrdali label --remove`."
        )
    return said


def splits(release: ReleaseFacts) -> list[Block]:
    table = release.splits
    every = table["images"].sum()
    others = {"studies": "Studies", "subjects": "Subjects", "unlabelled": "Without any label", "rejected": "Rejected"}
    columns = [("Split", "text"), ("Images", "count"), ("Share", "percent")]
    rows = [
        (name, line["images"], part_of(line["images"], every), *(line[column] for column in others))
        for name, line in table.iterrows()
    ]
    columns += [(title, "count") for title in others.values()]
    said: list[Block] = [Table(f"Packed images per split, {release.name}", columns, rows)]
    if empty := [name for name in ("train", "dev", "test") if name not in table.index or not table.at[name, "images"]]:
        said.append(f"No packed image is in {sentence(empty)}.")
    if unlabelled := _unlabelled(release):
        said.append(f"Without labels altogether, so without positives: {sentence(unlabelled)}.")
    return said


def _unlabelled(release: ReleaseFacts) -> list[str]:
    table = release.splits
    return list(table.index[(table["images"] > 0) & (table["unlabelled"] == table["images"])])


def findings(release: ReleaseFacts) -> list[Block]:
    """Positives and their share per split; uncertain and blank where there are any; what has no positive."""
    of = release.splits["images"]
    shown = [name for name in release.splits.index if of[name] and name not in _unlabelled(release)]
    if not shown:
        return []
    rows = []
    for finding in release.findings:
        positives = {name: release.counts[name].at[finding, "positive"] for name in shown}
        cells = [cell for name, number in positives.items() for cell in (number, part_of(number, of[name]))]
        rows.append((finding, *cells))
    ordered = "train" if release.counted == "train" else "all labelled images"
    least = " (a probability of 0.5 or more)" if release.pseudo.endswith(SOFT) else ""
    caption = (
        f"Images with each finding of {release.name}{least}, and their share of the split; by frequency in {ordered}"
    )
    columns = [column for name in shown for column in ((name.capitalize(), "count"), ("share", "percent"))]
    return [
        Table(caption, [("Finding", "text"), *columns], rows),
        *_without_positive(release, shown),
        _open_values(release, shown),
    ]


def _open_values(release: ReleaseFacts, shown: list[str]) -> Block:
    """Uncertain and blank ones, or of pseudo-labels those that are not known, where there are any."""
    words = ("not known",) if release.pseudo else ("uncertain", "blank")
    what = "not known" if release.pseudo else "uncertain, or blank (not mentioned)"
    values = [(name, word) for name in shown for word in words if release.counts[name][word].any()]
    if not values:
        return f"No finding of {release.name} is {' or '.join(words)} in a labelled image."
    return Table(
        f"Images whose finding of {release.name} is {what}",
        [("Finding", "text"), *((f"{name.capitalize()} {word}", "count") for name, word in values)],
        [(finding, *(release.counts[name].at[finding, word] for name, word in values)) for finding in release.findings],
    )


def _without_positive(release: ReleaseFacts, shown: list[str]) -> list[str]:
    positive = pd.DataFrame({name: release.counts[name]["positive"] for name in shown})
    nowhere = list(positive.index[(positive == 0).all(axis=1)])
    said = [f"Without a positive anywhere: {sentence(nowhere)}."] if nowhere else []
    for name in shown:
        missing = [finding for finding in positive.index[positive[name] == 0] if finding not in nowhere]
        if missing:
            where = "among the images without a split" if name == NO_SPLIT else f"in {name}"
            said.append(f"Without a positive {where}: {sentence(missing)}.")
    return said or ["Every finding has a positive in every split."]


def of_images(release: ReleaseFacts) -> str:
    return counted(len(release.rows), f"{'training' if release.counted == 'train' else 'labelled'} image")


def together(release: ReleaseFacts) -> list[Block]:
    """The pairs of findings that meet oftenest, and those that meet oftener than by chance."""
    table = pairs(release)
    if table.empty:
        return [f"No image of {release.name} has two findings."]
    often = table.sort_values("images", ascending=False, kind="stable").head(SHOWN_PAIRS)
    strong = table[table["images"] >= FEW].sort_values("lift", ascending=False, kind="stable").head(SHOWN_PAIRS)
    said: list[Block] = [
        f"Over the {of_images(release)}. A lift of 3: the two meet three times as often as if they were independent.",
        _pairs(f"The pairs with the most images, {release.name}", often),
    ]
    if len(strong):
        said.append(_pairs(f"The pairs with the highest lift in at least {FEW} images, {release.name}", strong))
    return said


def _pairs(caption: str, table: pd.DataFrame) -> Table:
    columns = [
        ("Pair", "text"), ("Images", "count"), ("2nd given 1st", "percent"), ("1st given 2nd", "percent"),
        ("Lift", "lift"),
    ]  # fmt: skip
    rows = [
        (f"{line.first} + {line.second}", line.images, line.given_first, line.given_second, line.lift)
        for line in table.itertuples()
    ]
    return Table(caption, columns, rows)


def overlap(facts: DatasetFacts) -> list[Block]:
    """Which held-out images, studies and subjects are in a training split too, within and across label releases."""
    table = facts.overlap
    if table.empty:
        return ["There are not two splits to compare."]
    within = table[(table["release"] == table["seen_release"]) & _later(table)]
    said = _within(within) if len(within) else []
    if len(facts.releases) > 1 and len(table["release"].unique()) > 1:
        across = table[(table["release"] != table["seen_release"]) & (table["seen_split"] == "train")]
        said += _across(across[across["split"] != "train"])
    if facts.twins:
        same = [f"{name} (as {other})" for name, other in facts.twins.items()]
        said.append(f"With the very same splits as a release above, and therefore not repeated: {sentence(same)}.")
    return said


def _within(within: pd.DataFrame) -> list[Block]:
    leaks = (within["subjects"] > 0).sum()
    return [
        _overlap("Within a label release", within),
        f"{counted(leaks, 'pair')} of splits of one label release share subjects."
        if leaks
        else "No two splits of one label release share a subject.",
    ]


def _across(across: pd.DataFrame) -> list[Block]:
    common = across[across["subjects"] > 0].sort_values(["images", "known"], ascending=False, kind="stable")
    said: list[Block] = []
    if len(common):
        said.append(_overlap("Across label releases: held-out images that another release trains on", common))
        said.append(
            "Do not train on one label release and test on another: the test may hold what was trained on. "
            f"{_seen(common.iloc[0])}"
        )
    if hidden := len(across) - len(common):
        find = "comparison finds" if hidden == 1 else "comparisons find"
        said.append(f"{hidden}{' more' if len(common) else ''} such {find} no subject in common.")
    return said


def _later(table: pd.DataFrame) -> pd.Series:
    """One of the two directions of a pair: what is held out against what is before it in train, dev, test."""
    order = {name: place for place, name in enumerate(("train", "dev", "test"))}
    return table["seen_split"].map(order).fillna(3) < table["split"].map(order).fillna(3)


def _seen(worst) -> str:
    held, seen = f"{worst['release']}'s {worst['split']} split", f"{worst['seen_release']}'s train split"
    if worst["images"]:
        return f"Of the {counted(worst['of'], 'image')} of {held}, {count(worst['images'])} are in {seen}."
    return f"Of the {counted(worst['of'], 'image')} of {held}, {count(worst['known'])} are of subjects in {seen}."


def _overlap(caption: str, table: pd.DataFrame) -> Table:
    rows = []
    for line in table.itertuples():
        seen = line.seen_split if line.release == line.seen_release else f"{line.seen_release} {line.seen_split}"
        in_both = (line.images, part_of(line.images, line.of), line.studies, line.subjects)
        known = (line.known, part_of(line.known, line.of))
        rows.append((f"{line.release} {line.split}, in {seen}", line.of, *in_both, *known))
    columns = [
        ("Split", "text"), ("Its images", "count"), ("in both", "count"), ("share", "percent"),
        ("Studies in both", "count"), ("Subjects in both", "count"), ("Images of these subjects", "count"),
        ("share", "percent"),
    ]  # fmt: skip
    return Table(caption, columns, rows)
