"""The default network over scalar features, for either task: its sizes, its columns and what each member says.

`classes` and `quantity` are what a workload takes; this is what both have in common.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, StrictFloat, StrictInt
from torch import Tensor

from millrace.config import Config
from millrace.tabular.layers import Encoding, Tower
from millrace.tabular.network import ClassNetwork, QuantityNetwork


class Architecture(Config):
    """Sizes of the network."""

    bins: StrictInt = Field(ge=1, le=256)
    """Segments of the piecewise-linear encoding of each feature."""
    embedding: StrictInt = Field(ge=0, le=256)
    """Units that each feature's segments become before they meet the other features'; 0 joins them as they are."""
    width: StrictInt = Field(ge=1, le=4096)
    """Units of a residual block."""
    blocks: StrictInt = Field(ge=0, le=16)
    """Residual blocks after the features are joined."""
    members: StrictInt = Field(ge=1, le=64)
    """Networks side by side over the same encoding; each learns by itself, the answer is their mean."""
    dropout: StrictFloat = Field(ge=0, lt=1)


class QuantityArchitecture(Architecture):
    """… and of the interval around a quantity."""

    coverage: StrictFloat = Field(gt=0, lt=1)
    """Share of labels that the interval is meant to hold; it is then set to hold so many of the validation rows."""


class PlainClassNetwork(ClassNetwork):
    """features[B, F] → logit[B]."""

    def __init__(self, architecture: Architecture, feature_names: Sequence[str]) -> None:
        super().__init__(architecture, feature_names)
        self.encoding, self.tower = _parts(architecture, len(feature_names), outputs=1)

    def columns(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def member_outputs(self, *inputs: Tensor) -> Tensor:
        raw: Tensor = self.tower(self.encoding(inputs[0]))
        return raw.squeeze(2)


class PlainQuantityNetwork(QuantityNetwork):
    """features[B, F] → [B, 3] in the label's unit."""

    def __init__(self, architecture: QuantityArchitecture, feature_names: Sequence[str]) -> None:
        super().__init__(architecture, feature_names, architecture.coverage)
        self.encoding, self.tower = _parts(architecture, len(feature_names), outputs=3)

    def columns(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def member_outputs(self, *inputs: Tensor) -> Tensor:
        return self.quantiles(self.tower(self.encoding(inputs[0])))


def _parts(architecture: Architecture, features: int, outputs: int) -> tuple[Encoding, Tower]:
    encoding = Encoding(features, architecture.bins, architecture.embedding)
    tower = Tower(
        encoding.size,
        outputs,
        members=architecture.members,
        width=architecture.width,
        blocks=architecture.blocks,
        dropout=architecture.dropout,
    )
    return encoding, tower
