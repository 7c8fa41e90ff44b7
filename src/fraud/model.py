"""The deep model: scalar features and the customer's last transactions in, one logit out.

`FraudModel` takes raw inputs: what it derives from the history, scaling and piecewise encoding are inside it, fitted on
training rows only, so that the exported graph needs nothing beside it. The loop that trains it is `components/train`,
the served graph `components/optimise`. Shapes: B rows, F features, L history steps, C channels
(`fraud.features`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS, NO_EVENT_DAYS, TYPICAL_WITHIN
from fraud.segments import edges_of
from millrace.errors import ArtifactCorrupt, ConfigError, NotFound
from millrace.lake.atomic import replacing_file, write_text

WEIGHTS: Final = "weights.safetensors"
DESCRIPTION: Final = "model.json"

DECAY_DAYS: Final = (0.5, 2.0, 7.0, 21.0)
"""Time constants with which the encoding of a past transaction fades; the patterns to find last 14 and 28 days."""

CAMPAIGN_DAYS: Final = 14.0
"""A compromised customer's large amounts are looked for this far back."""
LARGE: Final = 2.2
"""An amount of more than so many typical ones is large."""
DERIVED: Final = (
    "typical_amount",
    "typical_ratio",
    "large_count_14d",
    "largest_ratio_3d",
    "largest_ratio_14d",
    "days_since_large",
    "days_since_first_large",
)
"""What `derive` makes of the history: scalars that neither sums in SQL nor attention give, for they need a median."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Everything that decides the shape of the weights."""

    feature_names: tuple[str, ...] = FEATURE_NAMES
    history_channels: tuple[str, ...] = HISTORY_CHANNELS
    sequence_length: int = 32
    """L: past transactions that the model reads, at most the history length N."""
    attended: int = 32
    """The newest of them that attention looks at; the rest only tell what is typical."""
    bins: int = 24
    """Segments of the piecewise-linear encoding of each scalar feature."""
    embedding: int = 0
    """Units that each feature's segments become before they meet the other features'; 0 joins them as they are."""
    width: int = 128
    """Units of a residual block."""
    blocks: int = 2
    """Residual blocks after the inputs are joined."""
    members: int = 4
    """Networks side by side over the same encoding; each learns by itself, the answer is their mean."""
    history_width: int = 32
    """Units of the encoding of one past transaction; a multiple of `heads`."""
    heads: int = 4
    """Attention heads with which the current transaction reads its history."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name)
            for name in ("sequence_length", "attended", "bins", "width", "members", "history_width", "heads")
        }
        wrong = {name: size for name, size in sizes.items() if size < 1}
        if wrong or self.blocks < 0 or self.embedding < 0 or not 0 <= self.dropout < 1:
            named = wrong or "blocks, embedding or dropout"
            raise ConfigError(f"model spec {self}: {named} out of range. Correct the YAML.")
        if self.history_width % self.heads:
            raise ConfigError(f"history_width {self.history_width} is not a multiple of heads {self.heads}")

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`; raises ConfigError for unknown keys."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ConfigError(f"model spec has unknown keys {sorted(unknown)}; known are {sorted(known)}")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)


class PiecewiseLinear(nn.Module):
    """x[B, F] → [B, F, K]: per feature, how far x has come through each of K segments, each in [0, 1].

    Values beyond the outermost edges saturate, so no input however wild can leave the range seen in training
    (Gorishniy et al. 2022, "On Embeddings for Numerical Features"; `fraud.segments` chooses the edges).
    """

    low: Tensor
    scale: Tensor

    def __init__(self, features: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(features, bins))
        self.register_buffer("scale", torch.ones(features, bins))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.unsqueeze(-1) - self.low) * self.scale).clamp(0.0, 1.0)

    @torch.no_grad()
    def fit(self, x: Tensor, label: Tensor) -> None:
        """Segments between `edges_of` each column: x[n, F], label[n]; unused ones are constant 0."""
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


class HistoryAttention(nn.Module):
    """The current transaction asks its customer's past: tokens[B, L, T], query[B, D], present[B, L] → [B, D + D].

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


def derive(features: Tensor, history: Tensor, amount: int) -> Tensor:
    """features[B, F], history[B, L, C], raw → [B, len(DERIVED)]: what is typical, and what departs from it.

    Typical is the mean of the past amounts within TYPICAL_WITHIN medians, so that somebody else's purchases do not
    raise it. `amount` is the place of the current amount among the features.
    """
    past, age, _, present = history.unbind(dim=2)
    now = features[:, amount]
    count = present.sum(dim=1)
    ordered = torch.sort(past + (1.0 - present) * 1e9, dim=1).values
    lower = torch.floor((count - 1.0).clamp(min=0.0) / 2.0).long().unsqueeze(1)
    upper = torch.floor(count / 2.0).clamp(max=history.shape[1] - 1.0).long().unsqueeze(1)
    median = 0.5 * (ordered.gather(1, lower) + ordered.gather(1, upper))
    typical = present * (past <= TYPICAL_WITHIN * median).to(past.dtype)
    usual = (past * typical).sum(dim=1) / typical.sum(dim=1).clamp(min=1.0)
    known = (count > 0).to(past.dtype)
    ratio = known * now / usual.clamp(min=0.5) + (1.0 - known)
    recent = present * (age < CAMPAIGN_DAYS).to(past.dtype)
    ratios = recent * past / usual.clamp(min=0.5).unsqueeze(1)
    large = (ratios > LARGE).to(past.dtype)
    columns = [
        usual,
        ratio,
        large.sum(dim=1),
        (ratios * (age < 3.0).to(past.dtype)).amax(dim=1),
        ratios.amax(dim=1),
        (age * large + (1.0 - large) * NO_EVENT_DAYS).amin(dim=1),
        (age * large - (1.0 - large)).amax(dim=1),
    ]
    return torch.stack(columns, dim=1)


class FraudModel(nn.Module):
    """features[B, F] float32, history[B, L, C] float32, both raw → logit[B]; its sigmoid is a probability."""

    centre: Tensor
    spread: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        count = len(spec.feature_names) + len(DERIVED)
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.piecewise = PiecewiseLinear(count, spec.bins)
        encoded = count * (spec.embedding or spec.bins + 1)
        if spec.embedding:
            self.embed = MemberLinear(count, spec.bins + 1, spec.embedding)
        self.query = nn.Linear(encoded, spec.history_width)
        self.history = HistoryAttention(_TOKEN_CHANNELS, spec.history_width, spec.heads)
        members, width = spec.members, spec.width
        self.join = MemberLinear(members, encoded + 2 * spec.history_width, width)
        self.blocks = nn.Sequential(*(Residual(members, width, spec.dropout) for _ in range(spec.blocks)))
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), nn.Dropout(spec.dropout), MemberLinear(members, width, 1)
        )
        self._amount = spec.feature_names.index("amount")
        self._usual = len(spec.feature_names) + DERIVED.index("typical_amount")

    def forward(self, features: Tensor, history: Tensor) -> Tensor:
        return self.member_logits(features, history).mean(dim=0)

    def member_logits(self, features: Tensor, history: Tensor) -> Tensor:
        """What each member says: [M, B]. Training takes the loss of each, so that they stay different."""
        columns = self.columns(features, history)
        encoded = self.encoded(columns)
        tokens, present = self.tokens(columns, history[:, -self.spec.attended :])
        past = self.history(tokens, self.query(encoded), present)
        # Expanded, not broadcast: gradients then have the layout that DistributedDataParallel wants, without a copy.
        joined = torch.cat([encoded, past], dim=1).expand(self.spec.members, -1, -1)
        return self.head(self.blocks(self.join(joined))).squeeze(2)  # type: ignore[no-any-return]

    def encoded(self, columns: Tensor) -> Tensor:
        """Each column's segments and scaled logarithm, or what its own small layer makes of them: [B, encoded]."""
        segments = self.piecewise(columns)
        scaled = ((_signed_log(columns) - self.centre) / self.spread).clamp(-5.0, 5.0)
        if not self.spec.embedding:
            return torch.cat([segments.flatten(1), scaled], dim=1)
        together = torch.cat([segments, scaled.unsqueeze(2)], dim=2).transpose(0, 1)
        return torch.relu(self.embed(together)).transpose(0, 1).flatten(1)

    def columns(self, features: Tensor, history: Tensor) -> Tensor:
        """All scalars that the model encodes: `features`, then DERIVED; [B, F + len(DERIVED)]."""
        return torch.cat([features, derive(features, history, self._amount)], dim=1)

    def tokens(self, columns: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of each past transaction, relative to now and to the customer: [B, L, T] and present[B, L]."""
        amount, age, risk, present = history.unbind(dim=2)
        usual = columns[:, self._usual].clamp(min=0.5).unsqueeze(1)
        now = columns[:, self._amount].clamp(min=0.0).unsqueeze(1)
        log_amount = torch.log1p(amount.clamp(min=0.0))
        age = age.clamp(min=0.0)
        channels = [
            0.5 * (log_amount - 3.0),
            log_amount - torch.log1p(now),
            log_amount - torch.log1p(usual),
            (amount / usual).clamp(max=8.0),
            torch.log1p(age) - 1.5,
            risk,
            torch.sqrt(risk.clamp(min=0.0) + 1e-6),
            *(torch.exp(-age / days) for days in DECAY_DAYS),
        ]
        return torch.stack(channels, dim=2) * present.unsqueeze(2), present

    @torch.no_grad()
    def fit_preprocessing(self, features: Tensor, history: Tensor, label: Tensor, fraud_share: float) -> None:
        """Set scales, edges and the prior: features[n, F], history[n, L, C], label[n] in {0, 1} of training rows.

        They may be a sample; `fraud_share` is that of the rows it was taken from.
        """
        columns = self.columns(features, history)
        logged = _signed_log(columns)
        self.centre.copy_(logged.mean(dim=0))
        self.spread.copy_(logged.std(dim=0).clamp(min=1e-3))
        self.piecewise.fit(columns, label)
        rate = torch.tensor(fraud_share).clamp(1e-4, 1 - 1e-4)
        last = self.head[-1]
        assert isinstance(last, MemberLinear)
        last.bias.fill_(float(torch.logit(rate)))


_TOKEN_CHANNELS: Final = 7 + len(DECAY_DAYS)


def save_model(model: FraudModel, folder: Path, **description: Any) -> None:
    """Write `weights.safetensors` and `model.json`; `description` adds to the latter (name, seeds, …)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing_file(folder / WEIGHTS) as aside:
        save_file(tensors, aside)
    spec = model.spec
    content = {
        "feature_names": list(spec.feature_names),
        "history_channels": list(spec.history_channels),
        "sequence_length": spec.sequence_length,
        "parameters": spec.to_dict(),
    } | description
    write_text(folder / DESCRIPTION, json.dumps(content, indent=2, sort_keys=True) + "\n")


def load_model(folder: Path) -> FraudModel:
    """The model of a folder, on the CPU and in evaluation mode.

    Raises NotFound when a file is absent, ArtifactCorrupt when the weights do not fit `model.json`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise NotFound(f"no {name} in {folder}. Train a model first.")
    try:
        spec = ModelSpec.from_dict(json.loads((folder / DESCRIPTION).read_text())["parameters"])
        model = FraudModel(spec)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactCorrupt(f"{folder} does not hold one whole model: {error}. Train it again.") from error
    return model.eval()


def _signed_log(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(x.abs())
