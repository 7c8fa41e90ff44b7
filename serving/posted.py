"""CloudEvents that are posted to a server, as events for the stream: ours as they are, KServe's logger's as halves.

Whatever is wrong with a POST is refused here, by name, whole. How events arrive is `serving.cloudevents`', what they
say `millrace.events.kinds`'. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from millrace.errors import InvalidInput
from millrace.events.kinds import half_of
from millrace.events.prediction import EVENT_TYPE, PredictionEvent, check, plausible
from serving.cloudevents import LOGGED_REQUEST, Decoder, LoggedEvent
from serving.logged_rows import Bodies

Headers = Mapping[bytes, bytes]


class Posted:
    """Reads POSTs; a logged body that names no model is of the model `default`."""

    def __init__(self, bodies: Bodies, default: str = "") -> None:
        self._bodies, self._default = bodies, default
        self._decoder = Decoder(PredictionEvent, LoggedEvent, tensors=bodies.tensors)

    def read(self, headers: Headers, body: bytes, received: datetime) -> list[dict[str, Any]]:
        """The events of a request, all or none; `received` stands for a time that an event lacks."""
        events = []
        for place, event in enumerate(self._decoder.read(headers, body)):
            try:
                events.append(self._event(event, received))
            except InvalidInput as error:
                raise InvalidInput(f"event {place} ({event['type']}): {error}") from error
        return events

    def _event(self, event: dict[str, Any], received: datetime) -> dict[str, Any]:
        at = plausible("time", event.get("time") or received)
        if event["type"] == EVENT_TYPE:
            check(event["data"])
            return event

        named = event.get("inferenceservicename") or self._default
        model_name = named or event["source"].rstrip("/").rpartition("/")[2]
        payloads = self._bodies.of(model_name)
        asked = event["type"] == LOGGED_REQUEST
        return half_of(
            {
                "kind": "request" if asked else "response",
                "request_id": event["id"],
                "at": at,
                "received": received,
                "workload": payloads.workload,
                "model_name": model_name,
                "rows": payloads.request(event["data"]) if asked else payloads.response(event["data"]),
            }
        )
