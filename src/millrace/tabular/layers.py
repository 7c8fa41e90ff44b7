"""Layers of networks over rows of numbers: the encoding of scalar columns, members side by side, attention to a past.

Shapes: B rows, K columns, M members, L steps of a history. What a column means is the workload's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Edges = Callable[[Tensor, Tensor, int], Tensor]
"""values[n] of a column, label[n], bins → at most bins + 1 edges, ascending, distinct (`millrace.tabular.segments`)."""


class PiecewiseLinear(nn.Module):
    """x[B, K] → [B, K, bins]: per column, how far x has come through each of its segments, each in [0, 1].

    Values beyond the outermost edges saturate, so no input however wild can leave the range seen in training
    (Gorishniy et al. 2022, "On Embeddings for Numerical Features"; `millrace.tabular.segments` chooses the edges).
    """

    low: Tensor
    scale: Tensor

    def __init__(self, columns: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(columns, bins))
        self.register_buffer("scale", torch.ones(columns, bins))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.unsqueeze(-1) - self.low) * self.scale).clamp(0.0, 1.0)

    @torch.no_grad()
    def fit(self, x: Tensor, label: Tensor, edges_of: Edges) -> None:
        """Segments between the edges of each column: x[n, K], label[n]; unused ones are constant 0."""
        for index in range(x.shape[1]):
            edges = edges_of(x[:, index], label, self.low.shape[1])
            width = edges.diff()
            self.low[index], self.scale[index] = edges[-1], 0.0
            self.low[index, : len(width)] = edges[:-1]
            self.scale[index, : len(width)] = 1.0 / width


class MemberLinear(nn.Module):
    """One linear layer per member, or per column: x[M, B, I] → [M, B, O]."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight) + self.bias


class Encoding(nn.Module):
    """Raw columns[B, K] → [B, size]: each column's segments and scaled logarithm, made `embedding` units by a layer.

    `embedding` 0 joins segments and logarithms as they are. `fit` sets scales and edges.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, columns: int, bins: int, embedding: int) -> None:
        super().__init__()
        self.size = columns * (embedding or bins + 1)
        self.register_buffer("centre", torch.zeros(columns))
        self.register_buffer("spread", torch.ones(columns))
        self.piecewise = PiecewiseLinear(columns, bins)
        self.embed = MemberLinear(columns, bins + 1, embedding) if embedding else None

    def forward(self, columns: Tensor) -> Tensor:
        segments = self.piecewise(columns)
        scaled = ((_signed_log(columns) - self.centre) / self.spread).clamp(-5.0, 5.0)
        if self.embed is None:
            return torch.cat([segments.flatten(1), scaled], dim=1)
        together = torch.cat([segments, scaled.unsqueeze(2)], dim=2).transpose(0, 1)
        return torch.relu(self.embed(together)).transpose(0, 1).flatten(1)

    @torch.no_grad()
    def fit(self, columns: Tensor, label: Tensor, edges_of: Edges) -> None:
        """Scales and edges of training rows: columns[n, K], label[n]."""
        logged = _signed_log(columns)
        self.centre.copy_(logged.mean(dim=0))
        self.spread.copy_(logged.std(dim=0).clamp(min=1e-3))
        self.piecewise.fit(columns, label, edges_of)


class Residual(nn.Module):
    """[M, B, W] → [M, B, W]: normalise, two layers, add."""

    def __init__(self, members: int, width: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width),
            MemberLinear(members, width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            MemberLinear(members, width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class Tower(nn.Module):
    """x[B, I] → [M, B, O]: members side by side, each `blocks` residual blocks of `width` units."""

    def __init__(self, inputs: int, outputs: int, *, members: int, width: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.members = members
        self.join = MemberLinear(members, inputs, width)
        self.blocks = nn.Sequential(*(Residual(members, width, dropout) for _ in range(blocks)))
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), MemberLinear(members, width, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        # Expanded, not broadcast: gradients then have the layout that DistributedDataParallel wants, without a copy.
        joined = x.expand(self.members, -1, -1)
        return self.head(self.blocks(self.join(joined)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def begin_at(self, value: float) -> None:
        """Make `value` what all outputs begin at, about: the bias of the last layer."""
        last = self.head[-1]
        assert isinstance(last, MemberLinear)
        last.bias.fill_(value)


class HistoryAttention(nn.Module):
    """The current event asks a past: tokens[B, L, T], query[B, D], present[B, L] → [B, D + D].

    Answers the attention-weighted mean of the encoded tokens and their plain mean; zeros where there is no past.
    """

    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.encode = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, tokens: Tensor, query: Tensor, present: Tensor) -> Tensor:
        length = tokens.shape[1]
        encoded = self.encode(tokens)
        key = self.key(encoded).view(-1, length, self.heads, self.head_width).transpose(1, 2)
        value = self.value(encoded).view(-1, length, self.heads, self.head_width).transpose(1, 2)
        logits = (key @ query.view(-1, self.heads, self.head_width, 1)) / math.sqrt(self.head_width)
        mask = present.view(-1, 1, length, 1)
        weight = torch.softmax(logits + (mask - 1.0) * 1e4, dim=2) * mask
        pooled = (weight * value).sum(dim=2).flatten(1)
        mean = (encoded * present.unsqueeze(-1)).sum(dim=1) / present.sum(dim=1, keepdim=True).clamp(min=1.0)
        return torch.cat([pooled, mean], dim=1)


def _signed_log(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(x.abs())
