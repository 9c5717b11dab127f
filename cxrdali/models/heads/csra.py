"""Class-specific residual attention (Zhu & Wu, ICCV 2021): the mean of an image's places, and where its finding is."""

import contextlib
from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.head import Head
from cxrdali.setting import Legal, from_zero_below, one_of, setting
from shards.errors import UserError

ATTENTIONS = ("classifier", "own")


def _temperatures(given: str) -> str:
    with contextlib.suppress(ValueError):
        found = [float(each) for each in given.split(",")]
        if all(each > 0 for each in found):
            return ",".join(str(each).removesuffix(".0") for each in found)
    raise UserError(f"csra-temperatures {given!r}: numbers above 0 with commas between them, as 1,2,4,99,inf")


@dataclass(frozen=True)
class Csra(Head):
    name: ClassVar[str] = "csra"
    scales: ClassVar[bool] = False

    csra_lambda: float = setting(0.1, "share of the attention's logits, beside the mean's.", from_zero_below(100))
    csra_temperatures: str = setting(
        "1",
        "a classifier for each, whose logits are summed; high looks at fewer places, inf at one.",
        Legal(lambda value: True, "temperatures", read=_temperatures),
        metavar="T,T",
    )
    csra_attention: str = setting(
        "classifier",
        "by the classifier's own weights, as published, or by weights for the attention alone.",
        one_of(ATTENTIONS),
    )
    csra_norm: bool = setting(False, "batch normalisation of the feature map.")

    def __post_init__(self):
        super().__post_init__()
        if self.csra_attention == "own" and "inf" in self.csra_temperatures:
            raise UserError(
                "csra-attention own: a maximum gives its weights no gradient; leave inf out of csra-temperatures"
            )

    def attach(self, backbone, num_findings):
        from cxrdali.models.csra import CsraHead
        from cxrdali.models.map_head import attach_map_head

        own, temperatures = self.csra_attention == "own", [float(each) for each in self.csra_temperatures.split(",")]
        attach_map_head(
            backbone,
            lambda width: CsraHead(width, num_findings, self.csra_lambda, temperatures, own, self.csra_norm),
        )  # fmt: skip
