"""How frequent a finding is in training: head, medium or tail, in the groups of CXR-LT's reports."""

from collections.abc import Sequence

from shards.errors import UserError

GROUPS = ("head", "medium", "tail")
HEAD, MEDIUM = 10, 100  # one training image in so many, at least
RULE = "share of the training images that have the finding: head at least 10 %, medium 1 % to 10 %, tail below 1 %"


def groups(positives: Sequence[int], images: int) -> list[str]:
    """The group of each finding. positives: int [F], training images with the finding (before any resampling);
    images: how many training images there are.

    "head": at least 10 % of the images have it; "medium": 1 % to 10 %; "tail": below 1 %, also one that no image has.
    """
    if images < 1:
        raise UserError(f"{images} training images: there must be one to group findings by how frequent they are")
    for count in positives:
        if not 0 <= count <= images:
            raise UserError(f"{count} images with a finding of {images} training images: must be 0 to {images}")
    # whole numbers, so that the border is where it says
    return [
        "head" if HEAD * count >= images else "medium" if MEDIUM * count >= images else "tail"
        for count in map(int, positives)
    ]


def without_training(findings: Sequence[str], positives: Sequence[int], train_positives: Sequence[int]) -> list[str]:
    """Findings that count in mAP though no training image has them. positives: 0 of those that do not count."""
    columns = zip(findings, positives, train_positives, strict=True)
    return [name for name, scored, trained in columns if scored and not trained]
