"""The default network over scalar features, for either task: its columns, and what each member says.

`classes` and `quantity` are what a workload takes; the sizes that both have are in `architecture`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, StrictFloat
from torch import Tensor

from millrace.tabular.architecture import Architecture
from millrace.tabular.network import ClassNetwork, QuantityNetwork


class QuantityArchitecture(Architecture):
    """The sizes of a network that puts an interval around a quantity."""

    coverage: StrictFloat = Field(gt=0, lt=1)
    """Share of labels that the interval is meant to hold; it is then set to hold so many of the validation rows."""


class PlainClassNetwork(ClassNetwork):
    """features[B, F] → logit[B]."""

    def __init__(self, architecture: Architecture, feature_names: Sequence[str]) -> None:
        super().__init__(architecture, feature_names)
        self.encoding = architecture.encoding(len(feature_names))
        self.tower = architecture.tower(self.encoding.size, 1)

    def member_outputs(self, *inputs: Tensor) -> Tensor:
        raw: Tensor = self.tower(self.encoding(self.columns(*inputs)))
        return raw.squeeze(2)


class PlainQuantityNetwork(QuantityNetwork):
    """features[B, F] → [B, 3] in the label's unit."""

    def __init__(self, architecture: QuantityArchitecture, feature_names: Sequence[str]) -> None:
        super().__init__(architecture, feature_names, architecture.coverage)
        self.encoding = architecture.encoding(len(feature_names))
        self.tower = architecture.tower(self.encoding.size, 3)

    def member_outputs(self, *inputs: Tensor) -> Tensor:
        return self.quantiles(self.tower(self.encoding(self.columns(*inputs))))
