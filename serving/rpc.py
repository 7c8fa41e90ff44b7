"""The protocol's gRPC service: the SDK's, with inference, versions and the repository answered here.

kserve 0.21 hands a model the metadata as text, which the bytes of a `-bin` key are not; it ignores the version that is
asked for; it keeps raw tensors in a private attribute; its errors for an unready server break its own interceptor; its
repository load fails after it has loaded. So these calls read the protocol's public messages themselves.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio
from grpc_interceptor.exceptions import GrpcException
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer

from millrace.errors import InvalidInput, NotFound
from millrace.observe.progress import REQUEST
from millrace.observe.tracing import Value, server_span
from serving.lean import MAX_BODY_BYTES, Headers, Measure, said
from serving.protocol import V2Answer, V2Request, require_output
from serving.repository import stays
from serving.tensors import TensorSpec, from_binary, from_values, require_tensors, spec_of, to_binary
from serving.versions import VERSION, require_answered_by, require_version

CODES: Final = {
    400: StatusCode.INVALID_ARGUMENT,
    404: StatusCode.NOT_FOUND,
    413: StatusCode.INVALID_ARGUMENT,
    503: StatusCode.UNAVAILABLE,
}
"""By the status that an error has over HTTP; any other is INTERNAL."""
CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_CALL: Final[Mapping[str, Value]] = {"rpc.system": "grpc", "rpc.method": "inference.GRPCInferenceService/ModelInfer"}


class Served(Protocol):
    """What a server serves."""

    name: str
    server: str

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer: ...

    async def serves(self, version: str) -> bool: ...

    async def reload(self, version: str = "") -> str: ...


class Service(InferenceServicer):
    """The calls of the protocol for one model."""

    def __init__(self, model: Served, *of_the_sdk: Any) -> None:
        super().__init__(*of_the_sdk)
        self._model = model
        self._measure = Measure(model.server, "grpc")

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        headers = _headers(context, request.model_version)
        with server_span("ModelInfer", headers, _CALL) as span:
            headers = span.headers(headers)
            REQUEST.set(headers)
            status, started = 500, time.perf_counter()
            try:
                answer = await self._infer(request, headers)
                status = 200
            except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
                status, text = said(error)
            finally:
                self._measure(status, started)
                span.answered(status)
        if status != 200:
            raise refused(status, text)
        return answer

    async def ModelReady(self, request: Any, context: Any) -> Any:
        await _refusing(require_version(self._model, request.version))
        return await super().ModelReady(request, context)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        await _refusing(require_version(self._model, request.version))
        return await super().ModelMetadata(request, context)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        await _refusing(self._load(request.model_name))
        return pb.RepositoryModelLoadResponse(model_name=self._model.name, isLoaded=True)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        await _refusing(self._unload(request.model_name))

    async def _infer(self, request: Any, headers: Headers) -> Any:
        self._require(request.model_name)
        tensors = _tensors(request, self._model.inputs, passing_over_others=self._model.passes_over_others)
        outputs = [spec.name for spec in self._model.outputs]
        wanted = tuple(output.name for output in request.outputs)
        for name in wanted:
            require_output(name, outputs)
        asked = V2Request(tensors, request.id, outputs=wanted)
        answer = await self._model.answer_v2(asked, headers)
        require_answered_by(headers, answer.model_version)
        return _response(asked, answer, self._model.name)

    async def _load(self, name: str) -> None:
        self._require(name)
        await self._model.reload()

    async def _unload(self, name: str) -> None:
        self._require(name)
        raise InvalidInput(stays(self._model))

    def _require(self, name: str) -> None:
        if name != self._model.name:
            raise NotFound(f"no model {name[:80]!r} here; wanted {self._model.name!r}")


class Server:
    """The service on the host asked for (the SDK's own server listens on all), without a log line per call."""

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._service, self._address = service, f"{host}:{port}"
        self._server: Any = None

    async def serve(self) -> None:
        limits = [(f"grpc.max_{way}_message_length", MAX_BODY_BYTES) for way in ("send", "receive")]
        self._server = aio.server(interceptors=(ExceptionToStatusInterceptor(), Undecodable()), options=limits)
        add_GRPCInferenceServiceServicer_to_server(self._service, self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self, _sig: int | None = None) -> None:
        if self._server is not None:
            await self._server.stop(grace=30)


class Undecodable(aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """A message that is not the call's is the caller's fault: INVALID_ARGUMENT, where gRPC alone says INTERNAL."""

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler

        def decode(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except (DecodeError, ValueError) as error:
                return error

        async def answer(request: Any, context: Any) -> Any:
            if isinstance(request, Exception):
                raise refused(400, f"the message is not a request: {request}"[:200])
            return await handler.unary_unary(request, context)

        serializer = handler.response_serializer
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=decode, response_serializer=serializer)


def refused(status: int, text: str) -> GrpcException:
    """What the SDK's interceptor makes a status of; ending the call here as well would be one end too many for it."""
    return GrpcException(text, CODES.get(status, StatusCode.INTERNAL))


async def _refusing(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:
        raise refused(*said(error)) from error


def _headers(context: Any, version: str) -> dict[bytes, bytes]:
    """Metadata as headers; those in bytes (`-bin`) are nobody's here."""
    found: dict[bytes, bytes] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found[name.lower().encode()] = value.strip().encode()
    if version:
        found[VERSION] = version.encode()
    return found


def _tensors(request: Any, specs: Sequence[TensorSpec], *, passing_over_others: bool) -> dict[str, Any]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs; wanted as many")
    by_name = {spec.name: spec for spec in specs}
    tensors: dict[str, Any] = {}
    for place, item in enumerate(request.inputs):
        if passing_over_others and item.name not in by_name:
            continue
        spec = spec_of(item.name, item.datatype, by_name, tensors)
        if raw and item.HasField("contents"):
            raise InvalidInput(f"tensor {item.name!r} has contents and raw_input_contents; wanted one of them")
        shape = spec.fit(list(item.shape))
        if raw:
            tensors[spec.name] = from_binary(raw[place], spec, shape)
        else:
            tensors[spec.name] = from_values(list(getattr(item.contents, CONTENTS[spec.datatype])), spec, shape)
    require_tensors(tensors, specs)
    return tensors


def _response(request: V2Request, answer: V2Answer, model_name: str) -> Any:
    """Outputs as raw tensors."""
    message = pb.ModelInferResponse(model_name=model_name, model_version=answer.model_version, id=request.id)
    for name in request.outputs or tuple(answer.outputs):
        datatype, array = answer.outputs[name]
        message.outputs.add(name=name, datatype=datatype, shape=array.shape)
        message.raw_output_contents.append(to_binary(datatype, array))
    for name, value in answer.parameters.items():
        _set(message.parameters[name], value)
    return message


def _set(parameter: Any, value: Any) -> None:
    """The protocol's parameters have no floating point: such a value is text."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = str(value)
