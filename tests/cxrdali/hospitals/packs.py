"""Three synthetic hospitals, packed, and what is true of their images: read from their plans, not from their tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from shards.synthetic.hospital import OWN, open_hospital
from shards.synthetic.plan import Study, SyntheticOptions, plan_release
from shards.synthetic.release import write_release

# each stores another size, and one of them raw
STORED = {"university": Size(48), "clinic": Size(64), "coast": Size(48, raw=True)}
MAP = {"Fluid in the pleura": "Pleural Effusion", "Enlarged heart": "Cardiomegaly", "Devices": "Support Devices"}
NIH = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}


@dataclass(frozen=True)
class Place:
    """A hospital's release and pack. studies: by image id."""

    name: str
    options: SyntheticOptions
    release: Path
    pack: Path
    studies: Mapping[str, Study]

    @cached_property
    def dataset(self) -> PackedDataset:
        return PackedDataset.open(self.pack)

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """As its table has them."""
        return self.dataset.labels().findings

    def truth(self, image: str, finding: str) -> float:
        """1 or 0 of a finding of this hospital, by its own name: what its table must say."""
        own = dict(self.options.hospital.findings) or NIH
        present, what = self.studies[image].findings, own.get(finding, finding)
        if what == "No Finding" and self.name != "university":  # none of those that its table names
            return float(not ({own.get(name, name) for name in self.findings} - {what}) & present)
        return float(what in present)


def place(root: Path, name: str, options: SyntheticOptions, size: Size) -> Place:
    """Write and pack a hospital below `root`."""
    release = root / "releases" / name
    write_release(release, options)
    own = str(release / "release.toml") if options.hospital.layout == OWN else None
    pack(open_release(release, name=own), root / name, PackOptions(sizes=(size,), shard_images=64))
    studies = {image.dicom_id: study for study in plan_release(options) for image in study.images}
    return Place(name, options, release, root / name, studies)


def places(
    root: Path, studies: int = 60, copies: int = 6, size: int = 64, packed: Mapping[str, Size] = STORED
) -> dict[str, Place]:
    """The three that come with the package; clinic and coast hold images of the university."""
    first = SyntheticOptions(studies, size, 7, hospital=open_hospital("university"))
    made = {}
    for name, stored in packed.items():
        options = first
        if name != "university":
            options = SyntheticOptions(studies, size, 7, hospital=open_hospital(name), copies=(copies, first))
        made[name] = place(root, name, options, stored)
    return made


def write_map(path: Path) -> Path:
    """What the shipped synonyms do not know of the coast's names."""
    path.write_text("".join(f'"{own}" = "{name}"\n' for own, name in MAP.items()))
    return path


def average_precision(wanted: np.ndarray, scores: np.ndarray) -> float:
    """By scikit-learn, of the images whose finding is known; NaN without a positive one."""
    from sklearn.metrics import average_precision_score

    known = ~np.isnan(wanted)
    if not (wanted[known] == 1).any():
        return float("nan")
    return float(average_precision_score(wanted[known], scores[known]))
