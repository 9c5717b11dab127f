"""What tells a model's weights from others that would fit it: written into every weights file, compared when one is
loaded. Networks with the same tensors may compute other things (efficientnet_b0 and tf_efficientnet_b0 pad otherwise).
"""

import json
from pathlib import Path

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cxrdali.models.options import ModelOptions
from shards.errors import UserError

IN_THE_RUN = "give the run that these weights belong to with --run"  # what to do where the model is a run's


def identity_of(options: ModelOptions, mean: tuple, std: tuple) -> dict[str, str]:
    """Entries of a weights file's metadata. mean, std: of the pixels' channels, on a scale of 0 to 1."""
    pool = {} if options.pool == "own" else {"pool": options.pool}
    return {
        "arch": options.arch,
        "size": str(options.size),
        "norm": options.norm,
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "head": json.dumps({**options.head.as_json(), **pool}, sort_keys=True),
        "logit_scale": repr(options.logit_scale),
    }


def check(path: Path, stored: dict[str, str], own: dict[str, str], kept_head: bool, fix: str = "") -> None:
    """Raises UserError if a file's weights are of another network, of pixels scaled otherwise, or have another kind of
    classifier. What the file does not say is not compared. fix: in place of the advice to a run that begins."""
    arch = stored.get("arch")
    if arch and own and arch.split(".")[0] != own["arch"].split(".")[0]:  # the tag names pretrained weights
        raise UserError(f"{path}: holds weights of {arch}, this run is {own['arch']}; {fix or f'give --arch {arch}'}")
    if fix and stored.get("fusion", own.get("fusion")) != own.get("fusion"):
        there, now = (each.get("fusion", "of single images") for each in (stored, own))
        raise UserError(f"{path}: its fusion of a study's images is {there}, this run is {now}; {fix}")
    scaled, here = _scaling(stored), _scaling(own)
    if stored.get("norm") and own and (scaled != here if scaled else stored["norm"] != own["norm"]):
        there, now = (
            f"--norm {each['norm']}" + (f" (mean {numbers[0]}, std {numbers[1]})" if scaled and numbers else "")
            for each, numbers in ((stored, scaled), (own, here))
        )
        same = f"give --arch {arch}" if stored["norm"] == own["norm"] else "give the same"
        raise UserError(f"{path}: was trained with {there}, this run has {now}; {fix or same}")
    if kept_head and stored.get("head", own.get("head")) != own.get("head"):
        raise UserError(
            f"{path}: its classifier is {stored['head']}, this run's is {own['head']}; "
            + (fix or "give the same --head, or leave it out with --new-head")
        )


def _scaling(about: dict[str, str]) -> tuple[str, str] | None:
    """Mean and standard deviation of the pixels, as JSON; None where they are not known."""
    if "mean" in about and "std" in about:
        return about["mean"], about["std"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if about.get("norm") != "imagenet":  # an older version named the kind alone
        try:
            known = timm.get_pretrained_cfg(about.get("arch", ""))
        except RuntimeError:  # a tag that this timm does not know
            known = None
        if known is None:
            return None
        mean, std = known.mean, known.std
    return json.dumps(mean), json.dumps(std)
