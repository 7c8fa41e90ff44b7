"""The seam: what the platform asks of a workload, on one page.

A workload is a package. Its parts are modules; each protocol below says what one of them holds, with shapes and units,
in the words of `millrace.fields`. `millrace.installed` finds a workload by its name and imports a part when it is first
asked for, so a server loads no torch and a training step no request parser. Everything else is the platform's.

Conventions: times are integer microseconds since 1970 UTC (`*_us`); B events, F scalar features, L steps of history, C
channels; every entity has one text key; `event_timestamp` is the event's time and `label_timestamp` the instant from
which its label is known, in every table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.config import Config
from millrace.features.days import DayFeatures, Events
from millrace.features.histories import Histories
from millrace.features.shards import Shard
from millrace.fields import Entity, Field, Input, Kept, Label, View
from millrace.inputs import Requests, States
from millrace.judge.rows import Columns

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Task(StrEnum):
    """What is predicted. It decides the loss, the figures, the rules and the pages."""

    RANKING = "ranking"
    """A rare class, most likely first: scores in [0, 1] are probabilities, a threshold makes a decision."""
    CLASSIFICATION = "classification"
    """One of two classes, neither rare: scores in [0, 1] are probabilities."""
    REGRESSION = "regression"
    """A quantity in the label's unit, answered with an interval."""


class Package(Protocol):
    """The package itself. Beside the modules it has `<component>.yaml` where it sets a component's limits."""

    TITLE: str
    """For pages: what this is, in a few words."""
    TASK: str
    """A value of `Task`."""
    MODEL_NAME: str
    """Registered model and InferenceService."""
    EVENT: tuple[str, str]
    """What an event is called: singular and plural."""


class Schema(Protocol):
    """`schema`: the events."""

    VERSION: int
    FIELDS: tuple[Field, ...]
    """Columns of a snapshot, in order: with an id, `event_timestamp`, the label, and last `label_timestamp`."""
    EVENTS: pa.Schema
    """The same for Arrow: `events_of(FIELDS)`. The label and its time are null while the label is not known."""
    EVENT_ID: str
    ALIASES: Mapping[str, str]
    """Public names → ours, read in any case."""
    HINTS: Mapping[str, str]
    """Field → regular expression of what others call it, in lower case with `_`; its first group has the better names.
    May be absent."""
    RULES: Mapping[str, str]
    """Reason → SQL over the fields that is true of a row to be rejected for it."""
    EDGE_SHARE: float
    """Days at either end of the data with less than this share of an ordinary day's events are rejected; 0: none."""
    CARRIED_TYPES: Mapping[str, pa.DataType]
    """Columns that no feature reads, with one name and type whatever the source."""
    ENTITIES: tuple[Entity, ...]
    LABEL: Label


class World(Protocol):
    """`world`: what the demo simulates."""

    def simulate(self, below: Path) -> Path:
        """Raw events of the default world, a folder of files below `below`; made once, returned when it is there."""
        ...


class Features(Protocol):
    """`features`: names and order of what the model reads."""

    FEATURE_SERVICE: str
    """Name and version; a change of meaning is a new version."""
    FEATURE_NAMES: tuple[str, ...]
    """The F scalar inputs, in the order of `features[B, F]`."""
    HISTORY_CHANNELS: tuple[str, ...]
    """The C channels of `history[B, L, C]`; empty for a model that reads scalars alone."""
    VIEWS: tuple[View, ...]
    REFRESHES_PER_DAY: int
    """How often the states of views that are not recent are renewed."""


class Batch(Protocol):
    """`batch`: features of whole days, from all events before them."""

    COLUMNS: pa.Schema
    """Columns of a feature set's events, in order, before those that are carried and the features: columns of the
    schema, and others that `DayFeatures.remembered` gives. The fields of a recent view are among them."""
    SMALL_STEPS: frozenset[str]
    """Fields of refreshed views that differ little from row to row: files hold the differences."""
    RELEVANT: str
    """SQL condition on rows of `past`: whether features of the events in `probes` may depend on them."""
    SHARDS: tuple[Shard, ...]
    """The same in parts, for Spark; empty where that is not supported."""

    def events(self, rows: pa.Table) -> Events:
        """`rows` with the columns of the schema, or those of COLUMNS, as columns to compute with."""

    def daily(
        self, connection: DuckDBPyConnection, events: Events, history_length: int, first_day: int, last_day: int
    ) -> Iterator[DayFeatures]:
        """Every day from first_day to last_day (days since 1970), with or without events.

        Earlier events count as past only; none may be later than last_day. A label counts from `label_timestamp` on.
        """

    def history(self, now_us: NDArray[np.int64], past: Histories, length: int) -> NDArray[np.float32]:
        """[B] times and the histories before them → history[B, length, C]. Absent where there are no channels."""


class WhatIf(Protocol):
    """What B events looked like when they were scored, in a form that can be changed and scored again."""

    @property
    def label(self) -> NDArray[Any]:
        """[B] the truth: bool of classes, float of a quantity. A stress may change it."""
        ...

    @property
    def value(self) -> NDArray[Any]:
        """[B] what is at stake, where a missed positive costs something."""
        ...

    def __len__(self) -> int: ...

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Only the events of mask[B]."""
        ...

    def tensors(self, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """features[B, F] and history[B, length, C], as serving would compute them; no history where none is read."""
        ...


class Judging(Protocol):
    """`judging`: who and what is judged, where it may fail, and the words for it."""

    UNIT: str
    """Entity that the bootstrap draws, and that is reviewed: events of two units do not depend on each other."""
    UNIT_NOUN: tuple[str, str]
    """What a unit is called on pages: singular and plural."""
    COLUMNS: Columns
    """Where the events of a feature set or a training set keep what judging needs."""
    LOG_COLUMNS: Columns
    """Where the prediction log does."""
    LIMITS: Path
    """YAML of what is demanded (`components.evaluate.config`, by task)."""
    TITLES: Mapping[str, str]
    """Figure → what people call it, `{k}` for the review capacity; figures that are not here go by their own name."""
    PURPOSE: str
    """What the model is for, for its model card; `{service}` stands for the feature service."""
    CAVEATS: tuple[str, ...]
    """Sentences for the model card: what is known to be beyond the model."""
    BASELINES: Mapping[str, Callable[[Any, NDArray[np.int64]], NDArray[np.float64]]]
    """The workload's own, beside those of the task: predictions of rows[B], learned from its training rows."""
    STRESSES: Mapping[str, Callable[[Any], Any]]
    """Bad days: `WhatIf` in, the same events on such a day out."""

    def slices(self, rows: pa.Table, features: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
        """Slice → mask[N] over rows[N] of a training set with features[N, F]. Slices overlap; one may be empty."""
        ...

    def what_if(self, data: Any, rows: NDArray[np.int64]) -> WhatIf:
        """Rows[B] of a training set, unchanged."""
        ...


class Ranked(Protocol):
    """`judging` of a rare class has, besides: words for it, and those who dodge the model."""

    POSITIVE_NOUN: tuple[str, str]
    """What a positive is called: singular and plural."""
    NEGATIVE: str
    """What the other rows are, as an adjective."""
    MARKED: str
    """What a unit with a positive is, as an adjective."""
    ATTACKS: Mapping[str, Callable[[Any], Iterator[Any]]]
    """What is done in place of each positive: `WhatIf` in, one after the other out. Empty: nobody dodges."""
    ATTACK_STORY: str
    """What an attack is, in a sentence or two."""


class Online(Protocol):
    """`online`: what the model reads of a request and the states of its entities; one code for every way to a score."""

    def model_inputs(
        self, requests: Requests, states: States, *, history_length: int, sequence_length: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """B requests and their states → `features[B, F]`, `history[B, L, C]`; None where the model reads no history.

        What a state holds at or after its request is left out. `history_length` is N, the events of a recent view that
        the features see; `sequence_length` (≤ N) is L, those that the model reads itself.
        """
        ...

    def remembered(self, requests: Requests, states: States) -> Sequence[tuple[Any, ...]]:
        """[B] what the recent view keeps of each event beside its id and time, in the order of the view's fields.

        Made of the request and refreshed states. Absent where no view is recent.
        """
        ...


class Exchange(Protocol):
    """`exchange`: the request beside event id, time and ids of entities; the answer beside what all answers have."""

    ASKED: tuple[str, ...]
    """Fields of the schema, in order: numbers, money, classes or text. One that may be empty may be left out."""
    ANSWER: Mapping[str, str]
    """Figures of the model (`score`; `low` and `high` of a regression) → what the answer calls them, in order."""
    EXAMPLE: Mapping[str, Any]
    """A request as somebody would try it: ids of entities and fields."""


class Explain(Protocol):
    """`explain`: why an event got its score."""

    GROUPS: tuple[str, ...]
    """What a reason may name: the K groups of inputs that `variants` replaces."""
    MIN_EFFECT: float
    """A group that moves the score by less is no reason."""

    def variants(
        self, requests: Requests, states: States, *, history_length: int, sequence_length: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """One request → `features[K, F]`, `history[K, L, C]`, in each of which one group is nothing remarkable."""
        ...

    INPUTS: tuple[Input, ...]
    """What a whole explanation (Shapley values against reference events) divides the score among."""
    HISTORY: Mapping[str, tuple[str, int]]
    """Fields of the recent view beside id and time → how they are shown: a name, and what a value is divided by."""


class Watch(Protocol):
    """`watch`: what is kept of a prediction, and what is watched once a model serves."""

    FIELDS: Mapping[str, Kept]
    """Fields of a request that the prediction log keeps beside event id, time and keys."""
    FEED: str
    """Entity whose neighbouring ids one sender delivers: its ranges are watched for silence. Empty: the whole alone."""
    PER_REQUEST: tuple[str, ...]
    """Features that are fresh in every request: tested for small shifts."""
    AGGREGATE: tuple[str, ...]
    """Features that move slowly and that requests share: judged for large shifts. What is in neither is only shown."""
    HOUR: str
    """Feature with the hour of the day, in [0, 24)."""
    WEEKEND: str
    """Feature that is 1 on a weekend, else 0."""


class Model(Protocol):
    """`model`: the network, and the trees beside it; the one part that imports torch.

    Ready-made for any table, to be imported whole: `millrace.tabular.classes`, `millrace.tabular.quantity`.
    """

    Architecture: type[Config]
    """Sizes of the network: what train.yaml has under `model`."""
    TRAIN_CONFIG: Path
    """YAML of hyper-parameters (`components.train.core.TrainConfig`)."""
    TREES: Any
    """Boosted trees beside the network, a `millrace.tabular.boosting.BoostConfig`; of 0 rounds: none."""

    def network(self, architecture: Any, feature_names: Sequence[str]) -> Any:
        """A `millrace.tabular.network.Network` with random weights: what it computes, and how it learns by its task."""


class Drill(Protocol):
    """`drill`: the days that the drill plays. A workload without this part has no drill."""

    OVERRIDES: Path
    """YAML of limits and hyper-parameters for a world so small."""
    SETTINGS: Mapping[str, str]
    """Settings of the drill's home: field of `millrace.settings.Settings` → its value."""
    SHIFT: str
    """What is different from the day of the shift on, in words."""
    SHIFTED: str
    """Features with this in their name move then."""
    PATTERN: str
    """What is new from the day of the pattern on: inputs look the same and mean something else."""

    def days(
        self, *, start: date, size: int, count: int, seed: int, shift_day: int, shift_pct: float, pattern_day: int
    ) -> Iterator[pa.Table]:
        """Raw events of `count` days from `start` on, a table each; the others are numbers of days from there."""
        ...
