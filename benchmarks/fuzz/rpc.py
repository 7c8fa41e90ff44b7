"""The same over gRPC: valid messages, and messages and metadata that are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from grpc import StatusCode, aio
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from benchmarks.fuzz.judge import HANG, RIGHT, STATUS_500, WRONG
from benchmarks.fuzz.report import encoded
from benchmarks.fuzz.requests import Maker, length_prefixed, owner_of

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
DTYPES: Final = {"INT64": "<i8", "FP64": "<f8", "FP32": "<f4"}
CONTENTS: Final = {"INT64": "int64_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}
BROKEN: Final = (StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS, StatusCode.UNIMPLEMENTED)
BUSY: Final = (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)
METADATA: Final = (
    ("x-trace-bin", b"\x00\xff"),
    ("grpc-tags-bin", b"\x80"),
    ("x-deadline-ms", "60000 "),
    ("x-deadline-ms", "x"),
    ("traceparent", "00-zz"),
    ("content-encoding", "gzip"),
    ("ce-id", "7"),
    ("x-millrace-keys", "?"),
)


@dataclass(frozen=True, slots=True)
class Called:
    """What came of one call."""

    status: str
    fault: str
    about: dict[str, Any]


class Caller:
    """Calls of ModelInfer at one address, as bytes."""

    def __init__(self, maker: Maker, address: str, timeout_s: float) -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = aio.insecure_channel(address, options)
        self._call = self._channel.unary_unary(INFER)
        self._maker, self._timeout_s = maker, timeout_s

    async def close(self) -> None:
        await self._channel.close()

    async def ask(self, number: int, *, valid: bool) -> Called:
        """One call, and what came of it."""
        random = self._maker.random
        message = self._message(number)
        metadata: list[tuple[str, Any]] = [("x-request-id", f"fuzz-{number}"), *self._maker.servers.headers]
        mutation = "" if valid else str(random.choice(list(MUTATIONS)))
        data = message.SerializeToString()
        if mutation == "metadata":
            metadata.append(METADATA[random.integers(len(METADATA))])
        elif mutation:
            data = MUTATIONS[mutation](message, random)
        try:
            async with asyncio.timeout(self._timeout_s + 5):
                answer = await self._call(data, metadata=metadata, timeout=self._timeout_s)
        except aio.AioRpcError as error:
            return _called(number, mutation, *_failed(error, valid=valid), error.code().name, data)
        except TimeoutError:
            return _called(number, mutation, HANG, "no answer, and no end by its deadline", "none", data)
        made = mutation in ("flipped", "raw")  # another id, perhaps
        judged = (RIGHT, "") if made else _answered(answer, number)
        return _called(number, mutation, *judged, "OK", data, answer)

    def _message(self, number: int) -> Any:
        rows = int(self._maker.random.integers(1, 5))
        columns = self._maker.columns(number, rows)
        message = pb.ModelInferRequest(model_name=self._maker.servers.model, id=f"fuzz-{number}")
        raw = self._maker.random.random() < 0.5
        for column in columns:
            item = message.inputs.add(name=column["name"], datatype=column["datatype"], shape=column["shape"])
            data = column["data"]
            if column["datatype"] == "BYTES":
                data = [value.encode() for value in data]
            if not raw:
                getattr(item.contents, CONTENTS[column["datatype"]]).extend(data)
            elif column["datatype"] == "BYTES":
                message.raw_input_contents.append(length_prefixed(data))
            else:
                message.raw_input_contents.append(np.array(data, DTYPES[column["datatype"]]).tobytes())
        return message


def _called(
    number: int, mutation: str, fault: str, why: str, status: str, sent: bytes, received: bytes = b""
) -> Called:
    about: dict[str, Any] = {"number": number, "mutation": mutation, "why": why}
    if fault:
        about |= {"sent": encoded(sent), "received": encoded(received)}
    return Called(status, fault, about)


def _failed(error: aio.AioRpcError, *, valid: bool) -> tuple[str, str]:
    code, why = error.code(), f"{error.code().name}: {(error.details() or '')[:200]}"
    if code in BROKEN:
        return STATUS_500, why
    if code == StatusCode.DEADLINE_EXCEEDED:
        return HANG, why
    return (WRONG, why) if valid and code not in BUSY else (RIGHT, "")


def _answered(data: bytes, number: int) -> tuple[str, str]:
    answer = pb.ModelInferResponse.FromString(data)
    owners = {int(answer.id[5:])} if answer.id.startswith("fuzz-") and answer.id[5:].isdigit() else set()
    for place, output in enumerate(answer.outputs):
        if output.datatype == "INT64" and answer.raw_output_contents:
            ids = np.frombuffer(answer.raw_output_contents[place], "<i8").tolist()
            owners |= {owner for owner in map(owner_of, ids) if owner is not None}
    return (WRONG, f"an answer of {owners} to {number}") if owners - {number} else (RIGHT, "")


def _tensor(change: Callable[[Any, np.random.Generator], None]) -> Callable[[Any, np.random.Generator], bytes]:
    def mutate(message: Any, random: np.random.Generator) -> bytes:
        change(message.inputs[random.integers(len(message.inputs))], random)
        return bytes(message.SerializeToString())

    return mutate


def _set(field: str, values: Sequence[Any]) -> Callable[[Any, np.random.Generator], bytes]:
    def mutate(message: Any, random: np.random.Generator) -> bytes:
        setattr(message, field, values[random.integers(len(values))])
        return bytes(message.SerializeToString())

    return mutate


def _shape(tensor: Any, random: np.random.Generator) -> None:
    shapes: list[list[int]] = [[], [0], [-1], [2**62], [2**40, 2**40], [1] * 80, [1, 1], [-(2**63)]]
    tensor.shape[:] = shapes[random.integers(len(shapes))]


def _type(tensor: Any, random: np.random.Generator) -> None:
    tensor.datatype = str(random.choice(["", "INT64", "BYTES", "FP16", "x" * 5000]))


def _name(tensor: Any, random: np.random.Generator) -> None:
    tensor.name = str(random.choice(["", "event_timestamp", "\u2028", "x" * 20_000]))


def _values(tensor: Any, random: np.random.Generator) -> None:
    tensor.contents.fp64_contents.extend([float("nan"), float("inf"), 1e308])
    tensor.contents.bytes_contents.extend([b"\xff\xfe", b"", random.bytes(300)])


def _flipped(message: Any, random: np.random.Generator) -> bytes:
    data = bytearray(message.SerializeToString())
    for _ in range(random.integers(1, 5)):
        data[random.integers(len(data))] = random.integers(256)
    return bytes(data)


def _cut(message: Any, random: np.random.Generator) -> bytes:
    data: bytes = message.SerializeToString()
    return data[: random.integers(len(data))]


def _fewer(message: Any, random: np.random.Generator) -> bytes:
    del message.inputs[random.integers(len(message.inputs))]
    return bytes(message.SerializeToString())


def _again(message: Any, random: np.random.Generator) -> bytes:
    message.inputs.append(message.inputs[random.integers(len(message.inputs))])
    return bytes(message.SerializeToString())


def _raw(message: Any, random: np.random.Generator) -> bytes:
    message.raw_input_contents.append(random.bytes(int(random.integers(0, 50))))
    return bytes(message.SerializeToString())


MUTATIONS: Final[dict[str, Callable[[Any, np.random.Generator], bytes]]] = {
    "metadata": lambda message, _: bytes(message.SerializeToString()),
    "version": _set("model_version", ["7", "", "\u2028", "x" * 300]),
    "model": _set("model_name", ["other", "", "x" * 3000]),
    "shape": _tensor(_shape),
    "type": _tensor(_type),
    "name": _tensor(_name),
    "values": _tensor(_values),
    "flipped": _flipped,
    "cut": _cut,
    "fewer": _fewer,
    "again": _again,
    "raw": _raw,
    "noise": lambda _, random: random.bytes(int(random.integers(0, 300))),
}
