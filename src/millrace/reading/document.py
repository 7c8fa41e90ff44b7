"""`columns.yaml`: how a source is to be read, and where each field of the workload comes from.

A file or a pipeline's parameter in, a checked `ColumnsDocument` out. Which fields there are is the workload's `schema`;
what an option does to a value is `kinds.py`'s. `features` and `aggregates` are checked for their form alone here.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias
from zoneinfo import ZoneInfo

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from millrace.config import Config
from millrace.errors import ConfigError, InvalidInput, NotFound

Epoch: TypeAlias = Literal["s", "ms", "us", "ns"]
StepUnit: TypeAlias = Literal["second", "minute", "hour", "day", "week"]
Scalar: TypeAlias = str | int | float | bool


def _texts(value: Any) -> Any:
    """One text, or a list of scalars, as a list of texts; `true` and `1.0` as people write them in a file."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(scalar_text(one) if isinstance(one, Scalar) else one for one in values)


def scalar_text(value: Scalar) -> str:
    """A scalar of YAML or JSON as the text that it stands for: 1.0 is `1`, as KFP makes a float of every number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


Texts: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class ReadOptions(Config):
    """How the bytes of every file of the source become columns; what is left out is found out."""

    delimiter: str = ""
    """One character between fields of delimited text."""
    quote: str = ""
    """The character around fields of delimited text; `"` by default."""
    encoding: str = ""
    """A name that Python knows, such as `cp1252`."""
    skip: int = Field(default=0, ge=0)
    """Lines above the header that are not part of the table."""
    names: Texts = ()
    """Names of the columns of a file without a header line."""
    sheet: str = ""
    """Sheet of a spreadsheet; the first by default."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of numbers that are text."""
    thousands: Literal["", ".", ",", " ", "'", "_"] = ""
    """Mark between thousands of numbers that are text."""
    timezone: str = "UTC"
    """IANA name of the timezone of times without an offset."""

    @field_validator("delimiter", "quote", mode="before")
    @classmethod
    def _one_character(cls, value: Any) -> Any:
        text = {"\\t": "\t", "tab": "\t"}.get(value, value)
        if isinstance(text, str) and len(text) > 1:
            raise ValueError("wanted one character")
        return text

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(value or "utf-8")
        except LookupError as error:
            raise ValueError("wanted a name Python knows, like latin-1") from error
        return value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        check_timezone(value)
        return value

    @model_validator(mode="after")
    def _marks_differ(self) -> ReadOptions:
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}; wanted two different marks")
        return self


class FieldSource(Config):
    """Where one field of the workload comes from, and how its values are written."""

    column: str = ""
    columns: Texts = ()
    """Several columns whose texts are joined: a date and a time by a blank, the parts of an id by `|`."""
    constant: Scalar | None = None
    """The same value for every row."""
    absent: bool = False
    """The source does not have it, and that is known."""
    of_row: bool = False
    """An id is made of the row: a hash of all columns but the label."""

    format: Texts = ()
    """Of a time: `strptime` formats, tried in order."""
    epoch: Epoch | None = None
    """Of a time: the unit since 1970."""
    unit: StepUnit | None = None
    """Of a time that is the number of a step: how long a step is."""
    start: str = ""
    """Of a time that is the number of a step: ISO date or time of step 0."""

    decimal: Literal[".", ","] | None = None
    thousands: Literal["", ".", ",", " ", "'", "_"] | None = None
    minor_units: bool = False
    """Of money: hundredths, as cents are."""
    round: bool = False
    """Of money: more than two decimals are rounded; by default such a row is rejected."""

    positive: Texts = ()
    """Of a class: the texts of 1."""
    negative: Literal["drop", "keep", "turn"] | Texts = ()
    """Of a class: the texts of 0; empty with `positive`: all others. Of money and numbers: whether a negative value is
    rejected, kept (not where the field has a minimum), or its size taken; by default the field's minimum decides."""

    @field_validator("start", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return value if isinstance(value, str) else str(value)

    @field_validator("negative", mode="before")
    @classmethod
    def _negative(cls, value: Any) -> Any:
        return value if value in ("drop", "keep", "turn") else _texts(value)

    @model_validator(mode="after")
    def _one_origin(self) -> FieldSource:
        origins = [bool(self.column), bool(self.columns), self.constant is not None, self.absent, self.of_row]
        if sum(origins) != 1:
            raise ValueError("wanted exactly one of column, columns, constant, absent: true and of_row: true")
        if (self.unit is None) != (not self.start):
            raise ValueError("unit and start belong together: the length of a step, and the time of step 0")
        if sum((bool(self.format), self.epoch is not None, self.unit is not None)) > 1:
            raise ValueError("wanted one of format, epoch, and unit with start")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The raw columns that it reads."""
        return self.columns or ((self.column,) if self.column else ())


class FeatureColumn(Config):
    """A column of one's own that the model reads."""

    column: str = ""
    """Its name in the source; empty: the feature's own."""
    kind: Literal["numeric", "categorical", "boolean", "time"]
    entity: str = ""
    """Name of the entity that it is a property of; empty: it comes with each request."""


class Aggregate(Config):
    """A number over the past events of an entity within a window that ends before the event."""

    of: str = ""
    """The numeric column; empty for a count of events."""
    over: str
    """Name of an entity of the workload."""
    stat: Literal["mean", "count", "sum", "max", "last"]
    window: str = Field(pattern=r"^[1-9][0-9]{0,3}[hd]$")
    """Hours or days, such as `1h` or `90d`."""

    @model_validator(mode="after")
    def _something_to_aggregate(self) -> Aggregate:
        if self.stat != "count" and not self.of:
            raise ValueError(f"stat {self.stat} wants `of`, the numeric column")
        return self


def _source(value: Any) -> Any:
    """A plain name is short for {column: name}."""
    return {"column": scalar_text(value)} if isinstance(value, Scalar) else value


class ColumnsDocument(Config):
    """All that is said about a source beyond where it lies."""

    read: ReadOptions = Field(default_factory=ReadOptions)
    columns: dict[str, Annotated[FieldSource, BeforeValidator(_source)]] = Field(default_factory=dict)
    """Our field → where it comes from."""
    features: dict[str, FeatureColumn] = Field(default_factory=dict)
    aggregates: dict[str, Aggregate] = Field(default_factory=dict)

    def reading(self) -> ColumnsDocument:
        """The same without columns that are features: those are a variant's, and its schema has them."""
        return self.model_copy(update={"features": {}, "aggregates": {}})

    def argument(self) -> dict[str, Any]:
        """The document as a pipeline's parameter: JSON of what differs from the defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)


EMPTY: Final = ColumnsDocument()
DEFAULTS: Final = ReadOptions()


def parse(document: Mapping[str, Any] | None, where: str = "columns") -> ColumnsDocument:
    """A document as a mapping → checked; raises ConfigError naming `where`, key, value and what was wanted."""
    if document is not None and not isinstance(document, Mapping):
        raise ConfigError(f"{where} is {document!r}; wanted a mapping with read, columns, features or aggregates")
    try:
        return ColumnsDocument.model_validate(dict(document or {}))
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(_told(item) for item in error.errors())}") from error


def read_document(path: Path) -> ColumnsDocument:
    """The document in a YAML file; raises NotFound, ConfigError naming the file."""
    try:
        return parse(yaml.load(path.read_text(encoding="utf-8"), _Plain), str(path))  # noqa: S506 - a SafeLoader
    except FileNotFoundError as error:
        raise NotFound(f"no columns document at {path}. Write one: millrace inspect DATA --write {path}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error


def merged(document: ColumnsDocument, *others: Mapping[str, Any]) -> ColumnsDocument:
    """The document with what `others` say; later ones win, inside `read`, `columns` and the like key by key."""
    whole = document.argument()
    for other in others:
        for part, keys in other.items():
            whole[part] = {**whole.get(part, {}), **keys}
    return parse(whole)


def parse_column_map(text: str) -> dict[str, str]:
    """`raw=ours,raw=ours` as our name → raw; raises InvalidInput naming the part that is none."""
    pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
    for raw, equals, ours in pairs:
        if not (raw.strip() and equals and ours.strip()):
            raise InvalidInput(f"column map has {raw + equals + ours!r}; wanted raw=ours, for example value_eur=value")
    named = [ours.strip() for _, _, ours in pairs]
    if len(set(named)) < len(named):
        raise InvalidInput(f"column map names {named}; wanted one raw column for each of ours")
    return {ours.strip(): raw.strip() for raw, _, ours in pairs}


def check_timezone(name: str) -> None:
    """Raises ValueError for a timezone that this machine or DuckDB, which reads the times, does not know."""
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ValueError("wanted an IANA name like Europe/Berlin") from error
    if name == "UTC":
        return
    import duckdb  # knows fewer names than the system: no posix/Europe/Berlin

    with duckdb.connect() as engine:
        if not engine.execute("SELECT 1 FROM pg_timezone_names() WHERE name = ?", [name]).fetchone():
            raise ValueError("wanted an IANA name like Europe/Berlin")


def _told(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"] if part != "function-before[_texts(), tuple[str, ...]]")
    got = "" if isinstance(item["input"], Mapping) else f" is {item['input']!r}"
    return f"{place}{got}: {item['msg'].removeprefix('Value error, ')}"


class _Plain(yaml.SafeLoader):
    """YAML 1.2's plain values: `no`, `N` and `off` are words, a date is its text, only true and false are booleans."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp",)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if first not in "yYnNoO"
}
