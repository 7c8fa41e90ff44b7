"""CloudEvents over HTTP, decoded once for every server that takes them: batch, structured and binary mode.

A server says which events it takes, as typed dictionaries; the rest is refused whole, by name. Bodies of KServe's
logger come in binary mode (`serving.logged`) and are events like others here; `serving.logged_rows` reads them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import AwareDatetime, Discriminator, Field, TypeAdapter, ValidationError

from millrace.errors import InvalidInput
from millrace.events.kinds import faults_of
from millrace.events.prediction import CloudEvent, Name, Text
from serving.logged import decode_logged
from serving.protocol import BOM, JSON_LENGTH_HEADER, rewritten
from serving.tensors import TooLarge

BATCH: Final = "application/cloudevents-batch+json"
STRUCTURED: Final = "application/cloudevents+json"
LOGGED_REQUEST: Final = "org.kubeflow.serving.inference.request"
MAX_EVENTS: Final = 10_000
"""Events of one batch."""


class LoggedEvent(CloudEvent):
    """What KServe's logger sends; `data` is a V1 or V2 body."""

    type: Literal["org.kubeflow.serving.inference.request", "org.kubeflow.serving.inference.response"]
    id: Name
    time: NotRequired[AwareDatetime | None]
    inferenceservicename: NotRequired[Text | None]
    data: dict[str, Any]


class Decoder:
    """Reads the bodies of POSTs whose events are of these kinds, told apart by their `type`."""

    def __init__(self, *kinds: Any, tensors: Container[str] = ()) -> None:
        """`tensors`: those of a logged body that are read."""
        event: Any = kinds[0]
        for kind in kinds[1:]:
            event = event | kind
        if len(kinds) > 1:
            event = Annotated[event, Discriminator("type")]
        self._one: TypeAdapter[Any] = TypeAdapter(event)
        self._many: TypeAdapter[Any] = TypeAdapter(Annotated[list[event], Field(max_length=MAX_EVENTS)])
        self._tensors = tensors

    def read(self, headers: Mapping[bytes, bytes], body: bytes) -> list[dict[str, Any]]:
        """The events of a POST, all or none; raises InvalidInput, TooLarge."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        if kind == BATCH:
            events: list[dict[str, Any]] = parse(self._many, body)
            return events
        if kind == STRUCTURED:
            return [parse(self._one, body)]
        if b"ce-specversion" in headers or b"ce-type" in headers:
            return [parse(self._one, self._structured(headers, body))]
        raise InvalidInput(
            f"content-type is {kind!r} and there are no ce- headers; wanted a CloudEvent: {BATCH}, {STRUCTURED}, "
            "or binary mode"
        )

    def _structured(self, headers: Mapping[bytes, bytes], body: bytes) -> bytes:
        """A binary-mode event in structured form: attributes are ce- headers, the body is the data."""
        event: dict[str, Any] = {
            name[3:].decode("latin-1"): value.decode("latin-1") for name, value in headers.items() if name[:3] == b"ce-"
        }
        told = headers.get(JSON_LENGTH_HEADER.encode())
        data = decode_logged(body, self._tensors, None if told is None else told.decode("latin-1"))
        return rewritten(event | {"data": data})


def parse(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """The body, checked; raises InvalidInput with every fault's place, what it got and what was wanted, or TooLarge."""
    try:
        return adapter.validate_json(body.removeprefix(BOM))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "too_long" and not first["loc"]:
            raise TooLarge(f"more than {MAX_EVENTS} events in one batch. Send fewer at a time.") from error
        raise InvalidInput(faults_of(error)) from error
