"""Valid requests of each kind, each marked with a number that its answer must repeat.

What a request looks like comes from the workload and from the servers' own metadata, so that no workload is named here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from benchmarks.fuzz.client import Address
from millrace.events.prediction import told_of
from millrace.installed import Workload
from millrace.workload import Task

FIRST_ID: Final = 1 << 52
"""Ids of events from here on are the fuzzer's; below it are those that a mutation makes."""
ROWS: Final = 16
"""Ids of one request lie together: its number times this, and its rows."""
BATCH: Final = "application/cloudevents-batch+json"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it will be written, and what its answer must say."""

    number: int
    kind: str
    address: Address
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    method: str = "POST"
    rows: int = 1
    mutation: str = ""
    """What was done to it; empty: it is valid."""
    pieces: tuple[bytes, ...] = ()
    """What is written instead of head and body."""
    framed: bool = True
    """The server can tell where it ends."""
    ends: bool = False
    """The client closes its sending side behind it."""

    def with_header(self, name: str, value: str) -> Request:
        return replace(self, headers=(*self.headers, (name, value)))

    def head(self, *framing: tuple[str, str]) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: {self.address}"]
        lines += [f"{name}: {value}" for name, value in (*self.headers, *framing)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace")

    def written(self) -> tuple[bytes, ...]:
        return self.pieces or (self.head(("content-length", str(len(self.body)))) + self.body,)


@dataclass(frozen=True, slots=True)
class Servers:
    """Where requests go."""

    model: str
    events: Address
    """Answers events: a gateway, or the transformer."""
    predictor: Address | None = None
    grpc: str = ""
    log: Address | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every prediction, such as a token."""
    event_inputs: tuple[Mapping[str, Any], ...] = ()
    tensor_inputs: tuple[Mapping[str, Any], ...] = ()
    """The tensors of the transformer and of the predictor, as their metadata has them."""


@dataclass
class Maker:
    """`make(kind, number)`."""

    servers: Servers
    workload: Workload
    history_length: int
    random: np.random.Generator
    kinds: dict[str, Callable[[int, int], Request]] = field(init=False)

    def __post_init__(self) -> None:
        self.kinds = {"v1": self._v1, "v2": self._v2}
        if self.servers.predictor is not None:
            self.kinds |= {"tensors": self._tensors, "binary": self._binary}
        if self.servers.log is not None:
            self.kinds |= {"labels": self._labels, "events": self._events, "logged": self._logged}

    def make(self, kind: str, number: int) -> Request:
        return self.kinds[kind](number, int(self.random.integers(1, 5)))

    def row(self, number: int, place: int) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        example = dict(self.workload.exchange.EXAMPLE)
        return {self.workload.schema.EVENT_ID: event_id(number, place), "event_timestamp": now, **example}

    def columns(self, number: int, rows: int) -> list[dict[str, Any]]:
        """V2 tensors of so many events."""
        items = [self.row(number, place) for place in range(rows)]
        return [
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": [rows],
                "data": [_as(item[tensor["name"]], tensor["datatype"]) for item in items],
            }
            for tensor in self.servers.event_inputs
            if tensor["name"] in items[0]
        ]

    def inputs(self, rows: int) -> list[dict[str, Any]]:
        """V2 tensors of the predictor, of noise."""
        found = []
        for tensor in self.servers.tensor_inputs:
            shape = [rows, *(self.history_length if size < 0 else size for size in tensor["shape"][1:])]
            data = self.random.uniform(0, 10, int(np.prod(shape))).astype(np.float32)
            found.append({"name": tensor["name"], "datatype": "FP32", "shape": shape, "data": data.tolist()})
        return found

    def _prediction(self, number: int, kind: str, address: Address, path: str, document: Any, rows: int) -> Request:
        headers = (*self.servers.headers, ("x-request-id", f"fuzz-{number}"), ("content-type", "application/json"))
        return Request(number, kind, address, path, headers, json.dumps(document).encode(), rows=rows)

    def _v1(self, number: int, rows: int) -> Request:
        document = {"instances": [self.row(number, place) for place in range(rows)]}
        path = f"/v1/models/{self.servers.model}:predict"
        return self._prediction(number, "v1", self.servers.events, path, document, rows)

    def _v2(self, number: int, rows: int) -> Request:
        document = {"id": f"fuzz-{number}", "inputs": self.columns(number, rows)}
        return self._prediction(number, "v2", self.servers.events, self._infer, document, rows)

    def _tensors(self, number: int, rows: int) -> Request:
        assert self.servers.predictor is not None
        document = {"id": f"fuzz-{number}", "inputs": self.inputs(rows)}
        return self._prediction(number, "tensors", self.servers.predictor, self._infer, document, rows)

    def _binary(self, number: int, rows: int) -> Request:
        assert self.servers.predictor is not None
        inputs = self.inputs(rows)
        chunks = [np.array(tensor.pop("data"), "<f4").tobytes() for tensor in inputs]
        for tensor, chunk in zip(inputs, chunks, strict=True):
            tensor["parameters"] = {"binary_data_size": len(chunk)}
        made = self._prediction(
            number, "binary", self.servers.predictor, self._infer, {"id": f"fuzz-{number}", "inputs": inputs}, rows
        )
        length = str(len(made.body))
        return replace(made, body=made.body + b"".join(chunks)).with_header("inference-header-content-length", length)

    def _labels(self, number: int, rows: int) -> Request:
        assert self.servers.log is not None
        label = self.workload.schema.LABEL.column
        value = 12.5 if self.workload.task is Task.REGRESSION else 0
        names = [{self.workload.schema.EVENT_ID: event_id(number, place), label: value} for place in range(rows)]
        body = json.dumps({"labels": names}).encode()
        path = f"/v1/labels?workload={self.workload.name}"
        return Request(
            number, "labels", self.servers.log, path, (("content-type", "application/json"),), body, rows=rows
        )

    def _events(self, number: int, rows: int) -> Request:
        assert self.servers.log is not None
        body = json.dumps([self._event(number, place) for place in range(rows)]).encode()
        return Request(number, "events", self.servers.log, "/", (("content-type", BATCH),), body, rows=rows)

    def _event(self, number: int, place: int) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        told = told_of(self.workload.name)
        data: dict[str, Any] = {
            "workload": self.workload.name,
            "event_id": event_id(number, place),
            "event_timestamp": now,
            "keys": dict.fromkeys(told.keys, "0123456789abcdef"),
            "fields": {},
            "model_name": self.servers.model,
            "model_version": "fuzz",
            "score": 0.5,
            "degraded": False,
            "stage": "full",
            "arm": "shadow",
            "latency_ms": 1.0,
            "features": [0.5, None],
            "feature_service": "fuzz",
        }
        data |= {"low": 0.4, "high": 0.6} if told.task is Task.REGRESSION else {"decision": "approve"}
        about = {"specversion": "1.0", "type": "io.millrace.prediction", "source": "/fuzz", "time": now}
        return {**about, "id": f"fuzz-{number}:{place}:shadow", "data": data}

    def _logged(self, number: int, rows: int) -> Request:
        """What KServe's logger sends of a request."""
        assert self.servers.log is not None
        body = json.dumps({"instances": [self.row(number, place) for place in range(rows)]}).encode()
        headers = {
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": f"fuzz-{number}",
            "ce-type": "org.kubeflow.serving.inference.request",
            "ce-source": "http://localhost/",
            "ce-inferenceservicename": self.servers.model,
        }
        return Request(number, "logged", self.servers.log, "/", tuple(headers.items()), body, rows=1)

    @property
    def _infer(self) -> str:
        return f"/v2/models/{self.servers.model}/infer"


def event_id(number: int, place: int) -> int:
    return FIRST_ID + number * ROWS + place


def owner_of(id_: int) -> int | None:
    """The number of the request that has this event; None for an id that is not the fuzzer's."""
    return (id_ - FIRST_ID) // ROWS if id_ >= FIRST_ID else None


def _as(value: Any, datatype: str) -> Any:
    if datatype == "BYTES":
        return str(value)
    return float(value) if datatype.startswith("FP") else int(value)


def length_prefixed(values: list[bytes]) -> bytes:
    """Strings as a binary BYTES tensor."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)
