"""Requests that come as CloudEvents and are answered with one: KServe's second door to a route, in either mode.

The SDK has its own code for them; an attribute that it lacks, or data that it cannot read, is a 500 there. Its type and
source of answers are kept. Logged traffic comes by `cloudevents.py`.
"""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from millrace.errors import InvalidInput
from serving.lean import Handler, Headers, Reply
from serving.protocol import decode_json, encode_json, rewritten
from serving.tensors import kind

STRUCTURED: Final = b"application/cloudevents+json"
NEEDED: Final = ("specversion", "id", "source", "type")
BINARY: Final = tuple(f"ce-{name}".encode() for name in NEEDED)
"""Headers that make a request an event; `ce-id` alone is a client's id of an ordinary one."""
ANSWER: Final = "io.kserve.inference.response"


def events_too(handler: Handler, model_name: str) -> Handler:
    """The handler, which also takes its request as a CloudEvent; errors are answered as to anybody."""

    async def answer(body: bytes, headers: Headers) -> Reply:
        if headers.get(b"content-type", b"").lower().startswith(STRUCTURED):
            event = decode_json(body)
            reply = await handler(_data(event), {**headers, b"ce-id": str(event["id"]).encode()})
            return _structured(reply, model_name)
        reply = await handler(body, headers)
        return _binary(reply, model_name) if all(name in headers for name in BINARY) else reply

    return answer


def _data(event: dict[str, Any]) -> bytes:
    """The data of an event in structured mode, as a body; raises InvalidInput."""
    for name in NEEDED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise InvalidInput(f"the event's {name!r} is a {kind(event.get(name))}; wanted text")
    if not isinstance(event.get("data"), dict):
        raise InvalidInput(f"the event's 'data' is a {kind(event.get('data'))}; wanted an object")
    return rewritten(event["data"])


def _attributes(model_name: str) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": f"io.kserve.inference.{model_name}",
        "type": ANSWER,
        "time": datetime.now(UTC).isoformat(),
    }


def _binary(reply: Reply, model_name: str) -> Reply:
    about = tuple((f"ce-{name}".encode(), value.encode()) for name, value in _attributes(model_name).items())
    return dataclasses.replace(reply, headers=(*reply.headers, *about))


def _structured(reply: Reply, model_name: str) -> Reply:
    if reply.content_type != b"application/json":
        raise InvalidInput("an event in structured mode is answered in JSON; ask for no binary outputs")
    event = {**_attributes(model_name), "datacontenttype": "application/json", "data": decode_json(reply.body)}
    return dataclasses.replace(reply, body=encode_json(event), content_type=STRUCTURED)
