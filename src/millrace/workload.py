"""The seam: what the platform asks of a workload, on one page.

A workload is a package that an entry point of the group `millrace.workloads` names. Its parts
are modules; each protocol below says what one of them holds, with shapes and units. A part is imported when it is first
asked for, so a server loads no torch and a training step no request parser. Everything else is the platform's.

Conventions: times are integer microseconds since 1970 UTC (`*_us`); B events, F scalar features, L steps of history, C
channels; every entity has one text key; `event_timestamp` is the event's time and `label_timestamp` the instant from
which its label is known, in every table.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.config import Config
from millrace.errors import ConfigError
from millrace.features.days import DayFeatures, Events
from millrace.features.histories import Histories
from millrace.features.shards import Shard
from millrace.inputs import Requests, States
from millrace.judge.rows import Columns

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

GROUP: Final = "millrace.workloads"
"""Entry point group: name of a workload → its package."""
DEFAULT_GROUP: Final = "millrace.default_workload"
"""Entry point group with one name: the workload where nothing names one."""


class Task(StrEnum):
    """What is predicted. It decides the loss, the figures, the rules and the pages."""

    RANKING = "ranking"
    """A rare class, most likely first: scores in [0, 1] are probabilities, a threshold makes a decision."""
    CLASSIFICATION = "classification"
    """One of two classes, neither rare: scores in [0, 1] are probabilities."""
    REGRESSION = "regression"
    """A quantity in the label's unit, answered with an interval."""


class Kind(StrEnum):
    """What the values of a field are, and so how they are read and kept."""

    ID = "id"
    """A whole number of 64 bits that no other event has."""
    INSTANT = "instant"
    """A time between 1970 and 2200, UTC."""
    KEY = "key"
    """An entity's id, as text: 596, "596" and 596.0 are the same."""
    MONEY = "money"
    """A sum of money with two decimals: decimal(12, 2)."""
    NUMBER = "number"
    """float64; neither NaN nor infinite."""
    WHOLE = "whole"
    """int64."""
    CLASS = "class"
    """0 or 1, int8."""
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column of the events; a row whose value cannot be read or lies outside the range goes to quarantine."""

    name: str
    kind: Kind
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    empty: bool = False
    """A row may lack it."""
    optional: bool = False
    """A source may lack it, and then every row does."""
    sql: str = ""
    """Makes it where a source lacks it: DuckDB's SQL over the other fields that are not made."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Somebody or something that events are about, and that has a past."""

    name: str
    key: str
    """Column of the events that holds its id."""
    pseudonymised: bool = False
    """Replace the id by a keyed hash at ingest and at the endpoint; the raw id is never stored or logged."""
    parts: tuple[str, ...] = ()
    """Entities whose ids, joined by `|`, are this one's id; empty: the id is a column of its own."""
    constant: str = ""
    """The id of an entity that there is only one of; no event has a column for it."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """States of an entity in the online store: one Feast feature view."""

    name: str
    entity: str
    fields: Mapping[str, pa.DataType]
    """Field → type, in order: int64 or floats. No other view of the workload has a field of the same name, since an
    answer of the store names fields alone. A recent view has lists: ids of events, `event_us`, then what else is
    remembered, under the names of columns that a feature set's `events` have."""
    recent: bool
    """True: the entity's last N events, appended as events are scored. False: integers as of each refresh."""
    same_day: bool = True
    """Of a refreshed view: a state may depend on events of its own day. False: on those of earlier days alone, so
    that the states of a day are known, and kept, before its events come."""


@dataclass(frozen=True, slots=True)
class Label:
    """What becomes known of an event, and when."""

    column: str
    unit: str
    """Of a quantity, such as `minutes`; empty for classes."""
    delay_days: int
    """From an event until its label is known, in whole days; 0: the same day, by `label_timestamp`."""


@dataclass(frozen=True, slots=True)
class Input:
    """What an explanation holds responsible: a part of a request that can be exchanged for another event's."""

    name: str
    shows: str
    """What it was: a field of the request, `event_timestamp`, an entity for its id, or a recent view for its length."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the request → features that say the same of a reference event; what follows from them is made again."""
    features: tuple[str, ...] = ()
    """Features that are taken from the reference event as they are."""
    views: tuple[str, ...] = ()
    """Recent views that are taken as of an entity that nobody has seen."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the prediction log keeps of one field of a request; null where the request had none."""

    type: pa.DataType
    """float64, int64 or string."""
    least: float | None = None

    def takes(self, value: float | str) -> bool:
        if pa.types.is_string(self.type) or isinstance(value, str):
            return pa.types.is_string(self.type) and isinstance(value, str)
        return self.least is None or value >= self.least

    def __str__(self) -> str:
        if pa.types.is_string(self.type):
            return "text"
        return "a number" if self.least is None else f"a number of at least {self.least:g}"


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
    """Environment of the drill's servers."""
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


@dataclass(frozen=True)
class Workload:
    """A workload by name; its parts are properties."""

    name: str
    package: str

    @cached_property
    def _root(self) -> ModuleType:
        return importlib.import_module(self.package)

    @property
    def title(self) -> str:
        """For pages: what this is, in a few words."""
        return cast(str, self._root.TITLE)

    @property
    def task(self) -> Task:
        return Task(self._root.TASK)

    @property
    def model_name(self) -> str:
        """Registered model and InferenceService."""
        return cast(str, self._root.MODEL_NAME)

    @property
    def event(self) -> tuple[str, str]:
        """What an event is called: singular and plural."""
        return cast(tuple[str, str], self._root.EVENT)

    @cached_property
    def schema(self) -> Schema:
        return cast(Schema, self._part("schema", Schema))

    @cached_property
    def world(self) -> World:
        return cast(World, self._part("world", World))

    @cached_property
    def features(self) -> Features:
        return cast(Features, self._part("features", Features))

    @cached_property
    def batch(self) -> Batch:
        absent = set() if self.features.HISTORY_CHANNELS else {"history"}
        return cast(Batch, self._part("batch", Batch, absent))

    @cached_property
    def judging(self) -> Judging:
        return cast(Judging, self._part("judging", Judging))

    @cached_property
    def ranked(self) -> Ranked:
        """Of a ranking alone."""
        return cast(Ranked, self._part("judging", Ranked))

    @cached_property
    def online(self) -> Online:
        absent = {"remembered"} if self.recent is None else set()
        return cast(Online, self._part("online", Online, absent))

    @cached_property
    def exchange(self) -> Exchange:
        return cast(Exchange, self._part("exchange", Exchange))

    @cached_property
    def explain(self) -> Explain:
        return cast(Explain, self._part("explain", Explain))

    @cached_property
    def recent(self) -> View | None:
        """The recent view, where there is one; raises ConfigError for more."""
        views = [view for view in self.features.VIEWS if view.recent]
        if len(views) > 1:
            names = ", ".join(view.name for view in views)
            raise ConfigError(f"workload {self.name!r} has recent views {names}; wanted one at most")
        return views[0] if views else None

    @property
    def refreshed(self) -> tuple[View, ...]:
        """The views that are not recent."""
        return tuple(view for view in self.features.VIEWS if not view.recent)

    @cached_property
    def watch(self) -> Watch:
        return cast(Watch, self._part("watch", Watch))

    @cached_property
    def drill(self) -> Drill:
        """Raises ConfigError where the workload has none."""
        return cast(Drill, self._part("drill", Drill))

    @cached_property
    def model(self) -> Model:
        return cast(Model, self._part("model", Model))

    def entity(self, name: str) -> Entity:
        """Raises ConfigError for one that the workload does not have."""
        for entity in self.schema.ENTITIES:
            if entity.name == name:
                return entity
        raise ConfigError(
            f"workload {self.name!r} has no entity {name!r}; it has {[e.name for e in self.schema.ENTITIES]}"
        )

    def limits(self, component: str) -> dict[str, Any]:
        """The workload's own limits of a component, `<component>.yaml` in its package; empty where it has none."""
        import yaml  # servers have no use for it

        path = Path(cast(str, self._root.__file__)).with_name(f"{component}.yaml")
        return cast(dict[str, Any], yaml.safe_load(path.read_text())) if path.is_file() else {}

    def files(self, *parts: str) -> list[Path]:
        """Source files of these parts, for ids that follow from code (`millrace.lake.provenance.code_of`)."""
        specs = (importlib.util.find_spec(f"{self.package}.{part}") for part in parts)
        return [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """It travels between processes by name."""
        return load, (self.name,)

    def _part(self, name: str, protocol: Any, absent: Set[str] = frozenset()) -> ModuleType:
        try:
            module = importlib.import_module(f"{self.package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{self.package}.{name}":
                raise
            raise ConfigError(
                f"workload {self.name!r} has no module {self.package}.{name}; see millrace.workload"
            ) from error
        missing = sorted(name for name in _asked(protocol) - absent if not hasattr(module, name))
        if missing:
            raise ConfigError(
                f"{module.__name__} lacks {', '.join(missing)}; see {protocol.__name__} in millrace.workload"
            )
        return module


_ARROW: Final[Mapping[Kind, pa.DataType]] = {
    Kind.ID: pa.int64(),
    Kind.INSTANT: pa.timestamp("us", tz="UTC"),
    Kind.KEY: pa.string(),
    Kind.MONEY: pa.decimal128(12, 2),
    Kind.NUMBER: pa.float64(),
    Kind.WHOLE: pa.int64(),
    Kind.CLASS: pa.int8(),
    Kind.TEXT: pa.string(),
}


def events_of(fields: tuple[Field, ...]) -> pa.Schema:
    """The columns of a snapshot for Arrow."""
    return pa.schema([pa.field(field.name, _ARROW[field.kind], nullable=field.empty) for field in fields])


def names() -> list[str]:
    """Workloads that are installed."""
    return sorted(point.name for point in entry_points(group=GROUP))


def packages() -> list[str]:
    """Their packages."""
    return sorted(point.value for point in entry_points(group=GROUP))


def default_name() -> str:
    """The workload where nothing names one: the installation's own choice, or the only one; empty where there is none.

    The first of two that claim to be it, in the order of their names, is taken.
    """
    chosen = sorted(point.name for point in entry_points(group=DEFAULT_GROUP))
    installed = names()
    only = installed if len(installed) == 1 else [""]
    return (chosen or only)[0]


@cache
def load(name: str) -> Workload:
    """The workload called so; raises ConfigError that names those there are."""
    for point in entry_points(group=GROUP):
        if point.name == name:
            return Workload(name, point.value)
    known = ", ".join(names()) or "none"
    raise ConfigError(f"there is no workload {name!r}; installed are: {known}. Name one of them (MILLRACE_WORKLOAD).")


def _asked(protocol: Any) -> set[str]:
    """What a protocol wants: its annotations and methods."""
    methods = {name for name, value in vars(protocol).items() if callable(value) and not re.match("_", name)}
    return set(protocol.__annotations__) | methods
