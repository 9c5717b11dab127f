"""ML-Decoder (Ridnik et al., WACV 2023): a query for each finding, or for several, looks at the places of an image."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.head import Head
from cxrdali.setting import Legal, at_least, setting
from shards.errors import UserError


@dataclass(frozen=True)
class MlDecoder(Head):
    name: ClassVar[str] = "ml-decoder"

    ml_decoder_width: int = setting(
        768, "numbers of a query.", Legal(lambda value: value > 0 and value % 8 == 0, "a multiple of 8")
    )
    ml_decoder_groups: int | None = setting(
        None, "queries, if findings share them.", at_least(1), otherwise="one for each finding"
    )

    def attach(self, backbone, num_findings):
        from cxrdali.models.map_head import attach_map_head
        from cxrdali.models.ml_decoder import MlDecoderHead

        width, groups = self.ml_decoder_width, self.ml_decoder_groups
        if groups and groups > num_findings:
            raise UserError(f"ml-decoder-groups {groups}: at most as many as findings, {num_findings}")
        attach_map_head(
            backbone,
            lambda channels: MlDecoderHead(channels, num_findings, width, groups),
        )  # fmt: skip
