"""What was counted, in words and tables that the terminal and the page both show."""

import math
from dataclasses import dataclass

import pandas as pd

from cxrdali.report.dataset.facts import NO_SPLIT, DatasetFacts, ReleaseFacts, pairs
from cxrdali.report.kit.html import NOTHING, count, percent, sentence

SHOWN_PAIRS = 10
FEW = 5  # images; a lift from fewer is mostly chance


@dataclass(frozen=True)
class Table:
    """The first column names its row, the others are numbers (kind="text": text, set left)."""

    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    kind: str = ""


Block = Table | str  # a table or a paragraph


def size(amount: float) -> str:
    """512 B, 4.2 MB, 19.0 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 999.95:
            return f"{amount:,.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"


def share(part: float, whole: float) -> str:
    return percent(part / whole) if whole else NOTHING


def images(number: int) -> str:
    return "1 image" if number == 1 else f"{count(number)} images"


def dataset(facts: DatasetFacts) -> list[Block]:
    info, counts, options = facts.info, facts.info["counts"], facts.info["options"]
    rejected = sum(counts["rejected"].values())
    made = [f"sizes {', '.join(options['sizes'])}", f"fit {options['fit']}", f"JPEG quality {options['quality']}"]
    made += [f"seed {options['seed']}", f"at most {count(options['shard_images'])} images a shard"]
    made += [f"limited to {images(options['limit'])}"] if options.get("limit") else []
    made += ["hashes of the source checked"] if options.get("check_hashes") else []
    made += ["links followed"] if options.get("allow_links") else []
    deep = "window" in options and "16-bit" in counts.get("converted", {})
    made += [f"16-bit images by {options['window']}"] if deep else []
    rows = [
        ("Release", info["release"]),
        ("Dataset", info["id"][:12]),
        ("Made by", info["made_by"]),
        ("Options", ", ".join(made)),
        (
            "Images",
            f"{count(counts['planned'])} planned: {count(counts['packed'])} packed, {count(rejected)} rejected",
        ),
        ("Studies", _packed_of(facts.studies, counts["studies"])),
        ("Subjects", _packed_of(facts.subjects, counts["subjects"])),
    ]
    if facts.native["height"].notna().any():
        rows += [(f"Native {side}", _range(facts.native[side])) for side in ("height", "width")]
    if counts.get("converted"):
        converted = [f"{mode} {count(number)}" for mode, number in counts["converted"].items()]
        rows.append(("Converted", f"{', '.join(converted)} (images that were not 8-bit gray)"))
    per_study = facts.images_per_study
    several = [(name, per_study.get(name, 0)) for name in (1, 2, 3)]
    several.append(("4 or more", per_study[per_study.index >= 4].sum()))
    positions = facts.positions
    by_view = [("All", *map(count, positions.sum()), count(positions.to_numpy().sum()))]
    by_view.append(("Share", *(share(number, counts["packed"]) for number in positions.sum()), ""))
    by_view += [(name, *map(count, line), count(line.sum())) for name, line in positions.iterrows()]
    stored = [
        (
            f"{pixels} px",
            {"jpeg": "JPEG"}.get(entry["encoding"], entry["encoding"]),
            count(entry["shards"]),
            count(entry["samples"]),
            size(entry["bytes"]),
            size(entry["bytes"] / entry["samples"]) if entry["samples"] else NOTHING,
            "yes" if entry["here"] else "no",
        )
        for pixels, entry in facts.sizes.iterrows()
    ]
    return [
        Table("The dataset", ("", ""), rows, kind="text"),
        Table(
            "Stored sizes", ("Size", "Encoding", "Shards", "Samples", "Tar bytes", "An image", "On this disk"), stored
        ),
        Table(
            "Images by view, and by ViewPosition as released",
            ("ViewPosition", *(name.capitalize() for name in positions.columns), "All"),
            by_view,
        ),
        Table(
            "Packed images of a study",
            ("Images", "Studies", "Share"),
            [(str(name), count(number), share(number, facts.studies)) for name, number in several],
        ),
    ]


def _packed_of(packed: int, planned: int) -> str:
    return count(packed) if packed == planned else f"{count(packed)} with a packed image, of {count(planned)} planned"


def _range(values: pd.Series) -> str:
    if values["min"] == values["max"]:
        return f"{count(values['min'])} px"
    return f"{count(values['min'])} to {count(values['max'])} px, median {count(values['median'])}"


def rejects(facts: DatasetFacts) -> list[Block]:
    if facts.rejects.empty:
        return ["No image was rejected."]
    rows = []
    for reason, entry in facts.rejects.iterrows():
        more = entry["images"] - len(entry["ids"])
        ids = ", ".join(entry["ids"]) + (f" and {count(more)} more" if more else "")
        rows.append((reason, count(entry["images"]), ids))
    return [
        Table("Images that were not packed, by reason", ("Reason", "Images", "First ids"), rows, kind="text"),
        "All of them stand in rejects.csv.",
    ]


def label_releases(facts: DatasetFacts) -> list[Block]:
    """What there is to say of the label releases as a whole; nothing if all is well."""
    said: list[Block] = []
    if not facts.releases:
        said.append(
            "No label release is attached, so there are no findings and no splits; attach one with `cxrdali label`."
        )
    if facts.absent:
        verb = "is" if len(facts.absent) == 1 else "are"
        said.append(
            f"{sentence(facts.absent)} {verb} named in dataset.json, but not in the labels folder; "
            "restore the file, or take it off the list with `cxrdali label --remove`."
        )
    return said


def splits(release: ReleaseFacts) -> list[Block]:
    table = release.splits
    every = table["images"].sum()
    columns = ("Split", "Images", "Share", "Studies", "Subjects", "Without any label", "Rejected")
    rows = [
        (
            name,
            count(line["images"]),
            share(line["images"], every),
            *(count(line[column]) for column in ("studies", "subjects", "unlabelled", "rejected")),
        )
        for name, line in table.iterrows()
    ]
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
    columns = [column for name in shown for column in (_title(name), "share")]
    rows = []
    for finding in release.findings:
        positives = {name: release.counts[name].at[finding, "positive"] for name in shown}
        cells = [cell for name, number in positives.items() for cell in (count(number), share(number, of[name]))]
        rows.append((finding, *cells))
    ordered = "train" if release.counted == "train" else "all labelled images"
    said: list[Block] = [
        Table(
            f"Images with each finding of {release.name}, and their share of the split; by frequency in {ordered}",
            ("Finding", *columns),
            rows,
        ),
        *_without_positive(release, shown),
    ]
    open_values = [
        (name, word) for name in shown for word in ("uncertain", "blank") if release.counts[name][word].any()
    ]
    if open_values:
        rows = [
            (finding, *(count(release.counts[name].at[finding, word]) for name, word in open_values))
            for finding in release.findings
        ]
        columns = [f"{_title(name)} {word}" for name, word in open_values]
        said.append(
            Table(
                f"Images whose finding of {release.name} is uncertain, or blank (not mentioned)",
                ("Finding", *columns),
                rows,
            )
        )
    else:
        said.append(f"No finding of {release.name} is uncertain or blank in a labelled image.")
    return said


def _title(split: str) -> str:
    return split.capitalize()


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
    return f"{count(len(release.rows))} {'training' if release.counted == 'train' else 'labelled'} images"


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
    rows = [
        (
            f"{line.first} + {line.second}",
            count(line.images),
            percent(line.given_first),
            percent(line.given_second),
            _lift(line.lift),
        )
        for line in table.itertuples()
    ]
    return Table(caption, ("Pair", "Images", "2nd given 1st", "1st given 2nd", "Lift"), rows)


def _lift(value: float) -> str:
    return count(value) if value >= 99.5 else f"{value:.{max(0, 1 - math.floor(math.log10(max(value, 0.1))))}f}"


def overlap(facts: DatasetFacts) -> list[Block]:
    """Which held-out images, studies and subjects stand in a training split too, within and across label releases."""
    table = facts.overlap
    if table.empty:
        return ["There are not two splits to compare."]
    within = table[(table["release"] == table["seen_release"]) & _later(table)]
    across = table[(table["release"] != table["seen_release"]) & (table["seen_split"] == "train")]
    across = across[across["split"] != "train"]
    said: list[Block] = []
    if len(within):
        leaks = within[within["subjects"] > 0]
        said.append(_overlap("Within a label release", within))
        said.append(
            f"{_pairs_of_splits(len(leaks))} of one label release share subjects."
            if len(leaks)
            else "No two splits of one label release share a subject."
        )
    if len(facts.releases) > 1 and len(facts.overlap["release"].unique()) > 1:
        common = across[across["subjects"] > 0].sort_values(["images", "known"], ascending=False, kind="stable")
        if len(common):
            worst = common.iloc[0]
            said.append(_overlap("Across label releases: held-out images that another release trains on", common))
            said.append(
                "Do not train on one label release and test on another: the test may hold what was trained on. "
                f"{_seen(worst)}"
            )
        if hidden := len(across) - len(common):
            verb = "comparison finds" if hidden == 1 else "comparisons find"
            said.append(f"{hidden}{' more' if len(common) else ''} such {verb} no subject in common.")
    if facts.twins:
        same = [f"{name} (as {other})" for name, other in facts.twins.items()]
        said.append(f"With the very same splits as a release above, and therefore not repeated: {sentence(same)}.")
    return said


def _later(table: pd.DataFrame) -> pd.Series:
    """One of the two directions of a pair: what is held out against what is before it in train, dev, test."""
    order = {name: place for place, name in enumerate(("train", "dev", "test"))}
    return table["seen_split"].map(order).fillna(3) < table["split"].map(order).fillna(3)


def _pairs_of_splits(number: int) -> str:
    return "1 pair of splits" if number == 1 else f"{count(number)} pairs of splits"


def _seen(worst) -> str:
    held, seen = f"{worst['release']}'s {worst['split']} split", f"{worst['seen_release']}'s train split"
    if worst["images"]:
        return f"Of the {images(worst['of'])} of {held}, {count(worst['images'])} stand in {seen}."
    return f"Of the {images(worst['of'])} of {held}, {count(worst['known'])} are of subjects in {seen}."


def _overlap(caption: str, table: pd.DataFrame) -> Table:
    rows = []
    for line in table.itertuples():
        own = line.release == line.seen_release
        seen = line.seen_split if own else f"{line.seen_release} {line.seen_split}"
        rows.append(
            (
                f"{line.release} {line.split}, in {seen}",
                count(line.of),
                count(line.images),
                share(line.images, line.of),
                count(line.studies),
                count(line.subjects),
                count(line.known),
                share(line.known, line.of),
            )
        )
    columns = ("Split", "Its images", "in both", "share", "Studies in both", "Subjects in both")
    return Table(caption, (*columns, "Images of these subjects", "share"), rows)
