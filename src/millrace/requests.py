"""An event as a request: what fields it has, and how a batch of them is checked before anything is looked up.

Every refusal names the row, the field, what it got and what was wanted. Values are quoted, except ids of pseudonymised
entities: they never reach a log or an answer. Which fields there are is the workload's (`schema`, `exchange`); an edge
package carries this module, which therefore needs NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from millrace.errors import ConfigError, InvalidInput
from millrace.event_ids import event_key
from millrace.inputs import Requests
from millrace.instants import instant_of, microseconds
from millrace.pseudonyms import canonical

if TYPE_CHECKING:
    from millrace.fields import Entity, Field
    from millrace.packaged import Workload

TIME: Final = "event_timestamp"
"""Optional in every request: without it an event happens now."""
MAX_TEXT: Final = 128
"""Characters of an id, and of any other text."""
TEXTS: Final = frozenset({"text", "key"})
"""Kinds whose values are text; every other is kept as a number, an instant as microseconds since 1970 UTC."""
SEPARATOR: Final = "|"
"""Between the ids of an entity that is made of others."""

_EARLIEST: Final = instant_of(0)
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
_INT64: Final = np.iinfo(np.int64)
_MOST: Final = 1e300
_RANGES: Final = {"money": (-9_999_999_999.99, 9_999_999_999.99), "whole": (-(2**53), 2**53), "class": (0, 1)}
"""Of kinds that say no more themselves; decimal(12, 2), and what a double holds exactly."""

Check = Callable[[int, Any], Any]
"""Row and value → what is kept of it; raises InvalidInput."""


class RequestFormat:
    """The requests of one workload: event id, time, ids of its entities and its fields, in this order.

    Further fields are passed over, or refused where it is `strict`.
    """

    def __init__(
        self, event_id: str, entities: Sequence[Entity], fields: Sequence[Field], *, strict: bool = False
    ) -> None:
        self.event_id = event_id
        self.strict = strict
        self.entities, self.fields = tuple(entities), tuple(fields)
        self.asked = tuple(entity for entity in entities if not (entity.parts or entity.constant))
        """Entities that a request names; the others follow from these."""
        self.names = (event_id, TIME, *(entity.key for entity in self.asked), *(field.name for field in fields))
        self.optional = frozenset({TIME, *(field.name for field in fields if field.empty)})
        self._keys = [(entity, _key_check(entity)) for entity in self.asked]
        self._values = [(field, _value_check(field), _dtype(field)) for field in fields]

    @classmethod
    def of(cls, workload: Workload, *, strict: bool = False) -> RequestFormat:
        """Raises ConfigError for a field that the schema lacks, or of a kind that no request can have."""
        fields = {field.name: field for field in workload.schema.FIELDS}
        for name in workload.exchange.ASKED:
            if name not in fields or fields[name].kind not in _CHECKS:
                raise ConfigError(
                    f"{workload.package}.exchange asks for {name!r}; wanted fields of the schema that are "
                    f"{', '.join(_CHECKS)}"
                )

        return cls(
            workload.schema.EVENT_ID,
            workload.schema.ENTITIES,
            [fields[name] for name in workload.exchange.ASKED],
            strict=strict,
        )

    def from_rows(self, rows: Sequence[Any], now_us: int) -> Requests:
        """One object per event → Requests; without a time it is dated `now_us`. Raises InvalidInput."""
        for row, item in enumerate(rows):
            if not isinstance(item, Mapping):
                raise InvalidInput(f"row {row} is {_show(item)}; wanted an object with {', '.join(self.names)}")
            self._require_fields(row, item)
        return self.from_columns({name: [item.get(name) for item in rows] for name in self.names}, now_us)

    def from_columns(self, columns: Mapping[str, Sequence[Any]], now_us: int) -> Requests:
        """One list per field → Requests; an optional field may be missing, or None in a row. Raises InvalidInput."""
        given = columns[self.event_id]
        ids = [self._event_id(row, value) for row, value in enumerate(given)]
        if len(set(ids)) < len(ids):
            raise InvalidInput(f"field {self.event_id!r} has a value twice in one request; wanted each event once")

        times = columns.get(TIME) or [None] * len(ids)
        event_us = [now_us if value is None else _event_us(row, value) for row, value in enumerate(times)]
        texts = any(isinstance(value, str) for value in given)
        return Requests(
            np.array(ids, np.int64),
            np.array(event_us, np.int64),
            {entity.name: _each(columns[entity.key], check) for entity, check in self._keys},
            {
                field.name: np.array(_each(columns.get(field.name) or [None] * len(ids), check), dtype)
                for field, check, dtype in self._values
            },
            tuple(given) if texts else None,
        )

    def require_past(self, requests: Requests, now_us: int, tolerance_s: float) -> None:
        """Raise InvalidInput for an event later than now and what clocks may differ by, in seconds."""
        latest_us = now_us + int(tolerance_s * 1e6)
        if not len(requests) or int(requests.event_us.max()) <= latest_us:
            return

        row = int(np.argmax(requests.event_us > latest_us))
        got, now = instant_of(requests.event_us[row]).isoformat(), instant_of(now_us).isoformat(timespec="seconds")
        raise InvalidInput(
            f"row {row}: field {TIME!r} is {got}; wanted at most {tolerance_s:g} s after now ({now}). "
            "Check the sender's clock, or allow more with MILLRACE_FUTURE_TOLERANCE_S."
        )

    def keys(self, requests: Requests, pseudonym: Callable[[str], str]) -> dict[str, list[str]]:
        """Entity → [B] ids as the states have them: pseudonyms where the workload says so, composed or constant."""
        found: dict[str, list[str]] = {}
        for entity in self.asked:
            ids = requests.keys[entity.name]
            found[entity.name] = [pseudonym(one) for one in ids] if entity.pseudonymised else ids

        for entity in self.entities:
            if entity.constant:
                found[entity.name] = [entity.constant] * len(requests)
            elif entity.parts:
                parts = zip(*(found[part] for part in entity.parts), strict=True)
                found[entity.name] = [SEPARATOR.join(ids) for ids in parts]

        return found

    def shown(self, requests: Requests, row: int) -> dict[str, float | str | None]:
        """The fields of a row as the client wrote them; None for what it left out."""
        return {field.name: shown(field, requests.values[field.name][row]) for field in self.fields}

    def _require_fields(self, row: int, item: Mapping[str, Any]) -> None:
        unknown = sorted(str(name) for name in item.keys() - set(self.names)) if self.strict else []
        if unknown:
            raise InvalidInput(f"row {row}: unknown field {unknown[0]!r}; wanted {', '.join(self.names)}")
        missing = [name for name in self.names if name not in item and name not in self.optional]
        if missing:
            raise InvalidInput(f"row {row}: field {missing[0]!r} is missing")

    def _event_id(self, row: int, value: Any) -> int:
        """The number that stands for an id: a whole number for itself, a text as at ingest."""
        if isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable() and value.strip():
            return event_key(value)
        if not isinstance(value, int) or isinstance(value, bool) or not _INT64.min <= value <= _INT64.max:
            raise InvalidInput(
                f"row {row}: field {self.event_id!r} is {_show(value)}; wanted a whole number of 64 bits, or text of 1 "
                f"to {MAX_TEXT} characters"
            )
        return int(value)


def shown(field: Field, value: Any) -> float | str | None:
    """A kept value as the client wrote it; None where it was left out."""
    if field.kind in TEXTS:
        return str(value) or None
    if np.isnan(value):
        return None
    if field.kind == "instant":
        return instant_of(int(value)).isoformat()
    if field.kind == "money":
        return int(value) / 100
    return float(value) if field.kind == "number" else int(value)


def _each(values: Sequence[Any], check: Check) -> list[Any]:
    return [check(row, value) for row, value in enumerate(values)]


def _event_us(row: int, value: Any, name: str = TIME) -> int:
    wanted = "wanted ISO 8601 with an offset, like 2018-09-30T12:00:00Z"
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"row {row}: field {name!r} is {_show(value)}; {wanted}") from error
    if when.tzinfo is None:
        raise InvalidInput(f"row {row}: field {name!r} is {_show(value)}, of no time zone; {wanted}")
    if not _EARLIEST <= when < _LATEST:
        raise InvalidInput(f"row {row}: field {name!r} is {_show(value)}; wanted a year from 1970 to 2199")
    return microseconds(when)


def _key_check(entity: Entity) -> Check:
    def check(row: int, value: Any) -> str:
        text = _id(value)
        if text is None:
            if not entity.pseudonymised:
                got = _show(value)
            else:
                got = "empty" if value == "" else f"a {type(value).__name__} that is no id"
            raise InvalidInput(f"row {row}: field {entity.key!r} is {got}; wanted text of 1 to {MAX_TEXT} characters")
        return text

    return check


def _id(value: Any) -> str | None:
    """Ids are text, without surrounding blanks; a whole number stands for its decimal digits, as at ingest."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return None
    text = canonical(value)
    return text if 0 < len(text) <= MAX_TEXT and text.isprintable() else None


def _value_check(field: Field) -> Check:
    check = _CHECKS[field.kind](field)
    if not field.empty:
        return check
    absent = "" if field.kind in TEXTS else math.nan
    nothing = ("",) if field.kind in ("key", "instant") else ()  # a tensor of texts has no null
    return lambda row, value: absent if value in nothing or _is_absent(value) else check(row, value)


def _is_absent(value: Any) -> bool:
    """Null, or NaN: a tensor has no null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number_check(field: Field) -> Check:
    low, high = _range(field)
    wanted = f"wanted a number from {low} to {high}"

    def check(row: int, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise InvalidInput(f"row {row}: field {field.name!r} is {_show(value)}; {wanted}")
        return float(value)

    return check


def _money_check(field: Field) -> Check:
    number = _number_check(field)

    def check(row: int, value: Any) -> int:
        money = number(row, value)
        cents: int = round(money * 100)
        if abs(money * 100 - cents) > 1e-4:
            raise InvalidInput(f"row {row}: field {field.name!r} is {_show(value)}; wanted at most two decimals")
        return cents

    return check


def _whole_check(field: Field) -> Check:
    number = _number_check(field)

    def check(row: int, value: Any) -> int:
        whole = number(row, value)
        if not whole.is_integer():
            raise InvalidInput(f"row {row}: field {field.name!r} is {_show(value)}; wanted a whole number")
        return int(whole)

    return check


def _class_check(field: Field) -> Check:
    """0 and 1, and the words of JSON for them."""
    whole = _whole_check(field)
    return lambda row, value: whole(row, int(value) if isinstance(value, bool) else value)


def _instant_check(field: Field) -> Check:
    return lambda row, value: _event_us(row, value, field.name)


def _level_check(field: Field) -> Check:
    """A level is read as an id is, so that a source and a client name the same one."""

    def check(row: int, value: Any) -> str:
        text = _id(str(value).lower() if isinstance(value, bool) else value)
        if text is None:
            wanted = f"wanted text of 1 to {MAX_TEXT} characters, or a number"
            raise InvalidInput(f"row {row}: field {field.name!r} is {_show(value)}; {wanted}")
        return text

    return check


def _text_check(field: Field) -> Check:
    def check(row: int, value: Any) -> str:
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            wanted = f"wanted text of at most {MAX_TEXT} characters"
            raise InvalidInput(f"row {row}: field {field.name!r} is {_show(value)}; {wanted}")
        return value

    return check


def _range(field: Field) -> tuple[float, float]:
    low, high = _RANGES.get(field.kind, (-_MOST, _MOST))
    return low if field.minimum is None else field.minimum, high if field.maximum is None else field.maximum


def _dtype(field: Field) -> Any:
    if field.kind in TEXTS:
        return object
    return np.float64 if field.kind == "number" or field.empty else np.int64


_CHECKS: Final[Mapping[str, Callable[[Field], Check]]] = {
    "number": _number_check,
    "money": _money_check,
    "whole": _whole_check,
    "class": _class_check,
    "text": _text_check,
    "key": _level_check,
    "instant": _instant_check,
}
"""By the kind of a field (`millrace.fields.Kind`)."""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
