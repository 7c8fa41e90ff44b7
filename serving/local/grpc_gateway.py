"""The gateway's gRPC port: a call goes on as the bytes that it came in, and so does its answer.

It goes where a REST request goes: to the transformer of the model that it names, else to the revision that the splitter
picks; `knative-serving-tag` asks for one here too. The revision's figures count it with the others.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

import grpc
from grpc import StatusCode, aio

from serving.lean import MAX_BODY_BYTES
from serving.local.exchange import Upstream
from serving.local.gateway import STARTING
from serving.local.manifest import LOOPBACK

TAG: Final = "knative-serving-tag"
OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.max_send_message_length", MAX_BODY_BYTES),
    ("grpc.so_reuseport", 0),  # a port in use is to be refused, not shared
)
HTTP_STATUS: Final = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.NOT_FOUND: 404,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.CANCELLED: 504,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
"""What a revision's figures call an error; others are 500."""

Metadata = tuple[tuple[str, str | bytes], ...]


class Destination(Protocol):
    """A service that calls can be for."""

    @property
    def timeout_s(self) -> float: ...

    def grpc_target(self, tag: bytes) -> Awaitable[tuple[int, Upstream | None] | None]:
        """Port, and the revision where the splitter picked one; None while nobody is ready."""
        ...

    def record(self, upstream: Upstream, status: int, seconds: float) -> None: ...


class GrpcGateway(grpc.GenericRpcHandler):  # type: ignore[misc]
    """`find` gives the service for a model's name (empty: none in the message); see `Gateway` for `authorization`."""

    def __init__(self, find: Callable[[str], Any], authorization: str = "") -> None:
        self._find = find
        self._authorization = authorization
        self._channels: dict[int, aio.Channel] = {}
        self._server = aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((self,))

    async def start(self, ports: Iterable[int]) -> int:
        """Listen on the first of these ports that is free; 0 when none is."""
        for port in ports:
            try:
                self._server.add_insecure_port(f"{LOOPBACK}:{port}")
            except RuntimeError:
                continue
            await self._server.start()
            return port
        return 0

    async def close(self, grace_s: float) -> None:
        await self._server.stop(grace_s)
        for channel in self._channels.values():
            await channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata

        async def pass_on(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
            return await self._pass_on(method, tuple((str(key), value) for key, value in metadata), request, context)

        return grpc.unary_unary_rpc_method_handler(pass_on)

    async def _pass_on(
        self, method: str, metadata: Metadata, request: bytes, context: aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        given = dict(metadata)
        if self._authorization and not hmac.compare_digest(str(given.get("authorization", "")), self._authorization):
            await context.abort(StatusCode.UNAUTHENTICATED, "the metadata `authorization` is missing or wrong")
        service: Destination | None = self._find(model_name(request))
        target = await service.grpc_target(str(given.get(TAG, "")).encode()) if service is not None else None
        if service is None or target is None:
            await context.abort(StatusCode.UNAVAILABLE, STARTING)
            raise AssertionError  # abort has raised
        timeout_s = min(service.timeout_s, context.time_remaining() or service.timeout_s)
        try:
            return await self._ask(service, *target, method, request, _passed_on(metadata), timeout_s)
        except aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
            raise

    async def _ask(
        self,
        service: Destination,
        port: int,
        upstream: Upstream | None,
        method: str,
        request: bytes,
        metadata: Metadata,
        timeout_s: float,
    ) -> bytes:
        if port not in self._channels:
            self._channels[port] = aio.insecure_channel(f"{LOOPBACK}:{port}", options=OPTIONS)
        call = self._channels[port].unary_unary(method)
        if upstream is None:
            return bytes(await call(request, metadata=metadata, timeout=timeout_s))
        began, status = time.perf_counter(), 504  # unless it ends otherwise, who asked has given up
        upstream.in_flight += 1
        try:
            answer = bytes(await call(request, metadata=metadata, timeout=timeout_s))
            status = 200
        except aio.AioRpcError as error:
            status = HTTP_STATUS.get(error.code(), 500)
            raise
        finally:
            upstream.in_flight -= 1
            service.record(upstream, status, time.perf_counter() - began)
        return answer


def model_name(message: bytes) -> str:
    """Field 1 of a request of the protocol, which libraries write first; empty where there is none."""
    if message[:1] != b"\x0a":
        return ""
    length = 0
    for place, byte in enumerate(message[1:4]):
        length |= (byte & 127) << 7 * place
        if byte < 128:
            start = place + 2
            return message[start : start + length].decode(errors="replace")
    return ""


def _passed_on(metadata: Metadata) -> Metadata:
    dropped = {"authorization", "user-agent", "content-type", "te"}
    return tuple((key, value) for key, value in metadata if key not in dropped and not key.startswith(("grpc-", ":")))
