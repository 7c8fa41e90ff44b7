"""Sizes of a network over rows of numbers, and the two parts that are made by them: its encoding and its tower."""

from __future__ import annotations

from pydantic import Field, StrictFloat, StrictInt

from millrace.config import Config
from millrace.tabular.layers import Encoding, Tower


class Architecture(Config):
    """The sizes that every network has; a workload that builds its own adds to them."""

    bins: StrictInt = Field(ge=1, le=256)
    """Segments of the piecewise-linear encoding of each scalar feature."""
    embedding: StrictInt = Field(ge=0, le=256)
    """Units that each feature's segments become before they meet the other features'; 0 joins them as they are."""
    width: StrictInt = Field(ge=1, le=4096)
    """Units of a residual block."""
    blocks: StrictInt = Field(ge=0, le=16)
    """Residual blocks after the inputs are joined."""
    members: StrictInt = Field(ge=1, le=64)
    """Networks side by side over the same encoding; each learns by itself, the answer is their mean."""
    dropout: StrictFloat = Field(ge=0, lt=1)

    def encoding(self, columns: int) -> Encoding:
        """The encoding of so many scalar columns."""
        return Encoding(columns, self.bins, self.embedding)

    def tower(self, inputs: int, outputs: int) -> Tower:
        """The members side by side: x[B, inputs] → [M, B, outputs]."""
        return Tower(inputs, outputs, members=self.members, width=self.width, blocks=self.blocks, dropout=self.dropout)
