"""What a synthetic release will hold, without drawing: subjects, studies, their images and findings.

Every number comes from a Philox stream named by the seed and by the study, subject or picture it is for.
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import IntEnum
from statistics import NormalDist

import numpy as np

from shards.errors import UserError
from shards.synthetic import facts
from shards.synthetic.copies import Copy
from shards.synthetic.hospital import NIH, Hospital
from shards.synthetic.scanner import Scanner

NATIVE = (3056, 2544)  # height and width in pixels of most of MIMIC-CXR-JPG
MOST_STUDIES = 9_999_991  # the largest prime with seven digits: ids are a walk modulo this
MOST_PER_SUBJECT = 60
OFTEN = 0.4  # share of the studies with each finding of a release that has only a few

_LOADINGS = np.array(list(facts.LOADINGS.values()))  # float64 (26, facts.CAUSES + 1)
_OWN = np.sqrt(1 - (_LOADINGS[:, : facts.CAUSES] ** 2).sum(axis=1))


@dataclass(frozen=True)
class SyntheticOptions:
    """What to write. `size` is the side of square pictures in pixels, or "native": 2544 wide, 3056 high.

    only: the findings to draw, each in OFTEN of the studies and independent of the others, so that a network meets
    them in few pictures; without it all 26, as frequent as in CXR-LT 2023 and occurring together as there.
    hospital: whose patients, machines and tables these are; without it the default release.
    copies: so many studies more, each of another subject of another release, with its images changed and other ids.
    """

    studies: int = 200
    size: int | str = 512
    seed: int = 0
    only: tuple[str, ...] = ()
    hospital: Hospital | None = None
    copies: "tuple[int, SyntheticOptions] | None" = None

    def __post_init__(self):
        if not isinstance(self.studies, int) or not 1 <= self.studies <= MOST_STUDIES:
            raise UserError(f"studies is {self.studies!r}; give a whole number from 1 to {MOST_STUDIES}")
        if self.size != "native" and not (isinstance(self.size, int) and 32 <= self.size <= 4096):
            raise UserError(f"size is {self.size!r}; give 32 to 4096 pixels, or 'native' for 2544 x 3056")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed!r}; give a whole number from 0 to 2**64 - 1")
        for finding in self.only:
            if finding not in facts.FREQUENCIES or finding == "No Finding":
                names = ", ".join(name for name in facts.FREQUENCIES if name != "No Finding")
                raise UserError(f"only names {finding!r}; give some of {names}")
        if self.copies and not (self.hospital and self.copies[0] > 0):
            raise UserError(f"copies is {self.copies[0]}; give 1 or more, and the hospital that holds them")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every picture, in pixels."""
        return NATIVE if isinstance(self.size, str) else (self.size, self.size)

    @property
    def key(self) -> int:
        """What the streams are named by: the seed, and of a hospital all that it is, so that no two share patients."""
        if not self.hospital:
            return self.seed
        return int(hashlib.sha256(f"{self.seed} {self.hospital}".encode()).hexdigest()[:16], 16)

    @property
    def protocols(self) -> tuple[tuple[tuple[str, ...], float], ...]:
        """What a study consists of, and how often."""
        if not self.hospital:
            return facts.PROTOCOLS
        return tuple((tuple(views.split(" ")), share) for views, share in self.hospital.views.items())


@dataclass(frozen=True)
class Image:
    """One picture to draw. `view` is the ViewPosition as the tables give it, blank included."""

    dicom_id: str
    view: str
    lateral: bool


@dataclass(frozen=True)
class Study:
    """One study as planned: everything that the tables say, nothing that needs drawing."""

    index: int  # position in the release; names the study's random stream
    subject: int  # position of its subject
    ordinal: int  # position among its subject's studies
    portable: bool
    images: tuple[Image, ...]
    findings: frozenset[str]  # of FINDINGS_2023
    unseen: frozenset[str]  # of facts.UNSEEN_2024 and facts.UNSEEN_TASK3
    subject_id: int
    study_id: int
    sex: str = ""  # this and what follows: of hospitals only
    age: int = 0
    scanner: Scanner | None = None
    copy: Copy | None = None

    @property
    def folder(self) -> str:
        """The study's folder below the release, as the tables spell it."""
        return f"files/p{self.subject_id // 1_000_000}/p{self.subject_id}/s{self.study_id}"


class Purpose(IntEnum):
    """What a Philox stream is for: the third word of its counter."""

    PLAN = 0
    SIGNS = 1
    SUBJECT = 2
    RELEASE = 3
    PICTURE = 4


def stream(seed: int, purpose: Purpose, index: int, part: int = 0) -> np.random.Generator:
    """The generator of one study, subject or picture: key (seed, index), counter (_, _, purpose, part)."""
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, index], np.uint64), counter=np.array([0, 0, purpose, part], np.uint64))
    )


def plan_release(options: SyntheticOptions) -> list[Study]:
    """Every study of the release in order, without drawing: about 20,000 studies per second."""
    thresholds = _thresholds(options)
    studies: list[Study] = []
    for subject, count in enumerate(_studies_per_subject(options)):
        causes = stream(options.key, Purpose.SUBJECT, subject).standard_normal(facts.CAUSES)
        for ordinal in range(count):
            study = _plan_study(options, len(studies), subject, ordinal, causes, thresholds)
            studies.append(_of_hospital(study, options.hospital, options.key) if options.hospital else study)
    if options.hospital and options.copies:
        studies += _copies(options.hospital, options.key, *options.copies, studies[-1])
    return studies


def _of_hospital(study: Study, hospital: Hospital, key: int) -> Study:
    """With the patient, of the age on the day of the study, and the machine."""
    sex, age = hospital.person(stream(key, Purpose.SUBJECT, study.subject, 3))
    age += study_day(key, study).year - first_day(key, study.subject).year
    scanner = hospital.scanner(stream(key, Purpose.PLAN, study.index, 4))
    return _named(replace(study, sex=sex, age=age, scanner=scanner), hospital)


def _named(study: Study, hospital: Hospital) -> Study:
    """With image ids as the layout has them."""
    if hospital.layout != NIH:
        return study
    names = [f"{study.subject_id}_{10 * study.ordinal + number:03}.png" for number in range(len(study.images))]
    images = [replace(image, dicom_id=name) for image, name in zip(study.images, names, strict=True)]
    return replace(study, images=tuple(images))


def _copies(hospital: Hospital, key: int, count: int, other: SyntheticOptions, last: Study) -> list[Study]:
    """Studies of `count` subjects of the other release, under ids of this one that follow its `last` study's."""
    views = {view for text in hospital.views for view in text.split(" ")}
    usable: dict[int, tuple[Study, tuple[int, ...]]] = {}
    for study in plan_release(other):
        kept = tuple(n for n, image in enumerate(study.images) if ("LATERAL" if image.lateral else image.view) in views)
        if kept and not study.copy:
            usable.setdefault(study.subject, (study, kept))
    if len(usable) < count:
        raise UserError(f"copies is {count}; the other release has {len(usable)} subjects to copy, give fewer")
    rng, copies = stream(key, Purpose.RELEASE, len(facts.SPLITS) + 1), []
    for number, chosen in enumerate(rng.choice(list(usable), count, replace=False).tolist(), 1):
        study, kept = usable[chosen]
        subject, index = last.subject + number, last.index + number
        own = replace(
            study,
            index=index,
            subject=subject,
            ordinal=0,
            images=tuple(replace(study.images[n], dicom_id=_random_id(rng)) for n in kept),
            subject_id=_subject_id(subject, key),
            study_id=_study_id(index, key),
            copy=Copy(study, other, kept),
        )
        copies.append(_named(own, hospital))
    return copies


def first_day(key: int, subject: int) -> date:
    """The day of a subject's first study, in the future as the real ones are."""
    return date(2110, 1, 1) + timedelta(int(stream(key, Purpose.SUBJECT, subject, 2).integers(30_000)))


def study_day(key: int, study: Study) -> date:
    """The day of a study; a subject's are in order."""
    days = 60 * study.ordinal + int(stream(key, Purpose.PLAN, study.index, 1).integers(60))
    return first_day(key, study.subject) + timedelta(days)


def _studies_per_subject(options: SyntheticOptions) -> list[int]:
    """Studies of each subject, summing to `studies`: 3.5 on average with a long tail, as in MIMIC-CXR.

    No subject has more than a fifth of the release, so that 20 studies suffice for three splits.
    """
    most = min(MOST_PER_SUBJECT, max(1, options.studies // 5))
    rng = stream(options.key, Purpose.RELEASE, 0)
    counts, left = [], options.studies
    while left > 0:
        count = min(1 + int(np.exp(0.48 + 1.15 * rng.standard_normal())), most, left)
        counts.append(count)
        left -= count
    return counts


def _thresholds(options: SyntheticOptions) -> dict[str, float]:
    """The latent value above which each finding is present.

    Solved so that the share over images is FREQUENCIES, or the hospital's, although bedside studies show more
    of it, have fewer images, and although No Finding excludes the others. Latent values are standard normal, plus a
    bedside shift.
    """
    counts = np.array([[len(views) * ("AP" in views), len(views) * ("PA" in views)] for views, _ in options.protocols])
    weights = (counts * np.array([[share] for _, share in options.protocols])).sum(axis=0)
    weights = weights / weights.sum()
    frequencies = {**facts.FREQUENCIES, **(options.hospital.shares if options.hospital else {})}
    normal = _solve(weights, facts.LOADINGS["No Finding"][-1], frequencies["No Finding"])
    free = 1 - _above(normal, facts.LOADINGS["No Finding"][-1])
    thresholds = {"No Finding": normal}
    for finding, share in frequencies.items():
        if finding != "No Finding":
            kept = free + (1 - free) * (facts.DEVICES_KEPT if finding == "Support Devices" else 0)
            thresholds[finding] = _solve(weights * kept, facts.LOADINGS[finding][-1], share)
    return thresholds


def _above(threshold: float, shift: float) -> np.ndarray:
    """Probability of a latent value above `threshold`: float64 (2,), at the bedside and elsewhere."""
    return np.array([1 - NormalDist(mean).cdf(threshold) for mean in (shift, 0.0)])


def _solve(weights: np.ndarray, shift: float, share: float) -> float:
    """The threshold at which the weighted probability is `share`, by bisection."""
    low, high = -6.0, 6.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if weights @ _above(middle, shift) > share else (low, middle)
    return low


def _plan_study(
    options: SyntheticOptions, index: int, subject: int, ordinal: int, causes: np.ndarray, thresholds: dict[str, float]
) -> Study:
    rng = stream(options.key, Purpose.PLAN, index)
    shares = np.array([share for _, share in options.protocols])
    views = options.protocols[rng.choice(len(shares), p=shares / sum(shares))][0]
    portable = views[0] == "AP"
    blank = rng.random() < facts.BLANK
    images = tuple(_plan_image(view, blank, rng) for view in views)
    mixed = np.sqrt(facts.OF_SUBJECT) * causes + np.sqrt(1 - facts.OF_SUBJECT) * rng.standard_normal(facts.CAUSES)
    if options.only:
        dice = rng.random(len(options.only)) < OFTEN
        findings = frozenset(np.array(options.only)[dice].tolist() or ["No Finding"])
    else:
        findings = _plan_findings(mixed, portable, thresholds, rng)
    unseen: frozenset[str] = frozenset()
    if "No Finding" not in findings:
        rest = {**facts.UNSEEN_2024, **facts.UNSEEN_TASK3}
        chances = np.array(list(rest.values())) / (1 - facts.FREQUENCIES["No Finding"])
        unseen = frozenset(np.array(list(rest))[rng.random(len(rest)) < chances].tolist())
    return Study(
        index=index,
        subject=subject,
        ordinal=ordinal,
        portable=portable,
        images=images,
        findings=findings,
        unseen=unseen,
        subject_id=_subject_id(subject, options.key),
        study_id=_study_id(index, options.key),
    )


def _subject_id(subject: int, key: int) -> int:
    return 10_000_000 + _scatter(subject, key)


def _study_id(index: int, key: int) -> int:
    return 50_000_000 + _scatter(index, key)


def _scatter(position: int, seed: int) -> int:
    """A different number below 10 million for every position: a walk modulo a prime, started by the seed."""
    return (position * 3_141_593 + seed * 2_718_281 + 1_234_567) % MOST_STUDIES


def _plan_image(view: str, blank: bool, rng: np.random.Generator) -> Image:
    lateral = view == "LATERAL"
    if lateral and rng.random() < facts.LEFT:
        view = "LL"
    if rng.random() < facts.RARE:
        rare = facts.RARE_LATERAL if lateral else facts.RARE_FRONTAL
        view = rng.choice(list(rare), p=np.array(list(rare.values())) / sum(rare.values()))
    return Image(_random_id(rng), "" if blank else str(view), lateral)


def _random_id(rng: np.random.Generator) -> str:
    text = rng.bytes(20).hex()
    return "-".join(text[i : i + 8] for i in range(0, 40, 8))


def _plan_findings(
    causes: np.ndarray, portable: bool, thresholds: dict[str, float], rng: np.random.Generator
) -> frozenset[str]:
    """The findings of one study, from `causes` float64 (facts.CAUSES,)."""
    own = _OWN * rng.standard_normal(len(facts.LOADINGS))
    latent = _LOADINGS @ np.append(causes, portable) + own
    present = {
        finding for finding, value in zip(facts.LOADINGS, latent.tolist(), strict=True) if value > thresholds[finding]
    }
    if "No Finding" not in present:
        return frozenset(present)
    devices = "Support Devices" in present and rng.random() < facts.DEVICES_KEPT
    return frozenset({"No Finding", "Support Devices"} if devices else {"No Finding"})
