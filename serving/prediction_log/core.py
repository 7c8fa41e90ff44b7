"""CloudEvents into records for the journal; whatever is wrong with an event is refused here, by name, whole.

Three forms come in: our batch and structured JSON, and the binary mode of KServe's logger, whose bodies `inference.py`
reads. A record is a JSON object with its `kind`; `writer.py` makes rows of it. Pure functions, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NotRequired

import orjson
from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from millrace.errors import InvalidInput
from serving.logged import decode_logged
from serving.prediction_log.inference import LOGGED, REQUEST, RESPONSE, Payloads
from serving.protocol import JSON_LENGTH_HEADER

PREDICTION: Final = "io.millrace.prediction"
BATCH_TYPE: Final = b"application/cloudevents-batch+json"
EVENT_TYPE: Final = b"application/cloudevents+json"
MAX_TEXT: Final = 256
MAX_FEATURES: Final = 1024
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2200

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]  # PostgreSQL takes no NUL
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
TransactionId = Annotated[int, Field(ge=-(2**63), lt=2**63)]

_STRICT: Final = ConfigDict(strict=True, extra="ignore")


class PredictionData(TypedDict):
    """The record of one scored transaction, docs/architecture.md (Prediction events)."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    transaction_id: TransactionId
    event_timestamp: AwareDatetime
    customer_id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
    terminal_id: Text
    amount: Annotated[Number, Field(ge=0)]
    model_name: Name
    model_version: Name
    score: Annotated[float, Field(ge=0, le=1)]
    decision: Literal["review", "approve"]
    degraded: bool
    stage: Literal["full", "cheap"]
    arm: Literal["champion", "challenger", "shadow"]
    latency_ms: Annotated[Number, Field(ge=0)]
    features: Annotated[list[Number | None], Field(max_length=MAX_FEATURES)]
    feature_service: Text


class PredictionEvent(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    specversion: Literal["1.0"]
    type: Literal["io.millrace.prediction"]
    id: Name
    source: Name
    time: AwareDatetime
    traceparent: NotRequired[Text | None]
    data: PredictionData


class InferenceEvent(TypedDict):
    """What KServe's logger sends; `data` is a V1 or V2 body."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    specversion: Literal["1.0"]
    type: Literal["org.kubeflow.serving.inference.request", "org.kubeflow.serving.inference.response"]
    id: Name
    source: Name
    time: NotRequired[AwareDatetime | None]
    inferenceservicename: NotRequired[Text | None]
    data: dict[str, Any]


class Label(TypedDict):
    """What is known of a transaction; without a time it is known from when it arrives."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    transaction_id: TransactionId
    is_fraud: Annotated[Literal[0, 1] | bool, Field(union_mode="left_to_right")]
    label_timestamp: NotRequired[AwareDatetime | None]


class Labels(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    labels: list[Label]


Event = Annotated[PredictionEvent | InferenceEvent, Field(discriminator="type")]

_ONE: Final[TypeAdapter[Any]] = TypeAdapter(Event)
_MANY: Final[TypeAdapter[Any]] = TypeAdapter(list[Event])
_LABELS: Final[TypeAdapter[Any]] = TypeAdapter(Labels)


def decode(headers: Mapping[bytes, bytes], body: bytes, received: datetime, payloads: Payloads) -> list[dict[str, Any]]:
    """The records of a request, all or none; `received` stands for a time that an event lacks. Raises InvalidInput."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == BATCH_TYPE:
        events = parse(_MANY, body)
    elif kind == EVENT_TYPE:
        events = [parse(_ONE, body)]
    elif b"ce-specversion" in headers or b"ce-type" in headers:
        events = [parse(_ONE, _structured(headers, body))]
    else:
        raise InvalidInput(
            f"content-type is {kind.decode('latin-1')!r} and there are no ce- headers; wanted a CloudEvent: "
            f"{BATCH_TYPE.decode()}, {EVENT_TYPE.decode()}, or binary mode"
        )
    return [_record(place, event, received, payloads) for place, event in enumerate(events)]


def decode_labels(body: bytes, received: datetime) -> list[dict[str, Any]]:
    """`{"labels": [{transaction_id, is_fraud, label_timestamp?}]}` → records; raises InvalidInput naming the label."""
    return [label_record(label, received) for label in parse(_LABELS, body)["labels"]]


def label_record(label: Mapping[str, Any], received: datetime) -> dict[str, Any]:
    """A label as the journal keeps it; `dated` says whether its time was told or is that of its arrival."""
    known = label.get("label_timestamp")
    return {
        "kind": "label",
        "received": received,
        "dated": known is not None,
        "transaction_id": label["transaction_id"],
        "label_timestamp": _plausible("label_timestamp", known or received),
        "is_fraud": bool(label["is_fraud"]),
    }


def parse(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """The body, checked; raises InvalidInput with every fault's place, what it got and what was wanted."""
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        shown = "; ".join(_fault(fault) for fault in faults[:3])
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InvalidInput(shown + more) from error


def _structured(headers: Mapping[bytes, bytes], body: bytes) -> bytes:
    """A binary-mode event in structured form: attributes are ce- headers, the body is the data."""
    event: dict[str, Any] = {
        name[3:].decode("latin-1"): value.decode("latin-1") for name, value in headers.items() if name[:3] == b"ce-"
    }
    told = headers.get(JSON_LENGTH_HEADER.encode())
    data = decode_logged(body, LOGGED, None if told is None else told.decode("latin-1"))
    return orjson.dumps(event | {"data": data})


def _record(place: int, event: Mapping[str, Any], received: datetime, payloads: Payloads) -> dict[str, Any]:
    at = _plausible(f"event {place}: time", event.get("time") or received)
    if event["type"] == PREDICTION:
        return _prediction(place, event, at, received)
    try:
        half = "request" if event["type"] == REQUEST else "response"
        rows = payloads.request(event["data"]) if half == "request" else payloads.response(event["data"])
    except InvalidInput as error:
        raise InvalidInput(f"event {place} ({event['type']}): {error}") from error
    name = event.get("inferenceservicename") or event["source"].rstrip("/").rpartition("/")[2]
    return {
        "kind": half,
        "received": received,
        "request_id": event["id"],
        "at": at,
        "model_name": name,
        "rows": rows,
    }


def _prediction(place: int, event: Mapping[str, Any], at: datetime, received: datetime) -> dict[str, Any]:
    data = event["data"]
    _plausible(f"event {place}: data.event_timestamp", data["event_timestamp"])
    row = {
        **data,
        "event_id": event["id"],
        "request_id": event["id"].removesuffix(f":{data['arm']}").rpartition(":")[0] or event["id"],
        "scored_at": at,
        "traceparent": event.get("traceparent"),
        "features": orjson.dumps(data["features"]).decode(),
    }
    return {"kind": "prediction", "received": received, "row": row}


def _plausible(what: str, instant: datetime) -> datetime:
    if not FIRST_YEAR <= instant.year < LAST_YEAR:
        raise InvalidInput(f"{what} is {instant.isoformat()}; wanted a year from {FIRST_YEAR} to {LAST_YEAR - 1}")
    return instant


def _fault(fault: Mapping[str, Any]) -> str:
    """`1.data.score: Input should be a valid number, got 'x'`; a customer id is not repeated."""
    place = ".".join(str(part) for part in fault["loc"] if part not in (PREDICTION, REQUEST, RESPONSE))
    if fault["type"] == "missing" or fault["type"] == "json_invalid" or place.endswith("customer_id"):
        return f"{place or 'body'}: {fault['msg']}"
    got = repr(fault["input"])
    return f"{place or 'body'}: {fault['msg']}, got {got if len(got) <= 60 else got[:57] + '...'}"
