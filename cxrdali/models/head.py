"""What a classifier's head is; each is a file in `cxrdali.models.heads`, found by its name. Free of torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from cxrdali.registry import Named, Registry
from shards.errors import UserError

Module = Any  # torch.nn.Module: nothing here imports torch, which takes seconds, not even for its types


@dataclass(frozen=True)
class Head(Named):
    """Base of a head: a frozen dataclass of its parameters, with `attach`.

    bounded: its output lies between -1 and 1, so that only a loss with a scale makes probabilities of it.
    scales: its logits grow as its last weights do.
    """

    bounded: ClassVar[bool] = False
    scales: ClassVar[bool] = True

    def attach(self, backbone: Module, num_findings: int) -> None:
        """Give a timm model its classifier, so that its output is float [B, num_findings].

        The model comes with timm's own, a linear one; another must be what `backbone.get_classifier()` returns.
        """
        raise UserError(f"the head {self.name!r} is not installed; give the file that defines it with --plugins")


HEADS = Registry("head", "cxrdali.models.heads", Head)
