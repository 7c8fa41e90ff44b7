"""A KServe model server that is quiet, runs on uvloop, and answers its hot path on a lean route.

The SDK keeps metadata, readiness, CloudEvents, metrics and gRPC; a server of ours implements `HotModel`.
Wants kserve 0.21: it has no setting for a route before its own, so its ASGI application is wrapped.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kserve.model_server as kserve_server
import uvloop
from grpc import aio
from grpc_interceptor.exceptions import Unavailable as GRPCUnavailable
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput as KServeInvalidInput
from kserve.errors import ServerNotReady
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor

from millrace.errors import InvalidInput, Unavailable
from millrace.observe.progress import REQUEST
from millrace.observe.tracing import Span, Value, server_span
from serving.lean import MAX_BODY_BYTES, Headers, LeanRoutes, Measure, Reply
from serving.protocol import JSON_LENGTH_HEADER, V2Answer, V2Request, decode_json, decode_v2, encode_json, encode_v2
from serving.repository import RepositoryServicer, repository_routes
from serving.tensors import TensorSpec, from_binary, from_values, require_tensors
from serving.transport import OneWriteProtocol

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": "millrace.observe.progress.LogLines"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "lines"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    # Four lines a request otherwise: a third of the CPU of a small model.
    "loggers": {
        "kserve": {"level": "CRITICAL"},
        "kserve.trace": {"level": "CRITICAL"},
        "uvicorn": {"level": "WARNING"},
        "uvicorn.access": {"handlers": [], "level": "CRITICAL", "propagate": False},
    },
}

_GRPC_CALL: Mapping[str, Value] = {"rpc.system": "grpc", "rpc.method": "inference.GRPCInferenceService/ModelInfer"}
_EVENT: Mapping[str, Value] = {"http.request.method": "POST", "millrace.cloud_event": True}


class HotModel(Model):
    """A model that answers V1 and V2 from its own two methods, whichever way a request came."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    server = "server"
    """What metrics call it."""

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
        """A V1 request document → the response document; raises millrace errors."""
        raise NotImplementedError

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:
        """A decoded V2 request → output tensors; raises millrace errors."""
        raise NotImplementedError

    async def started(self) -> None:
        """Called inside the event loop, before the first request."""

    def tell_requests(self, count: Callable[[], int]) -> None:
        """Called once with what counts the HTTP requests under way, those not yet begun included."""

    async def reload(self, version: str = "") -> str:  # noqa: ARG002
        """Load what is served again, by the name `version`; answers its name. Raises millrace errors."""
        raise InvalidInput(f"{self.name} has nothing to load again")

    def get_input_types(self) -> list[dict[str, Any]]:
        return [spec.metadata() for spec in self.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [spec.metadata() for spec in self.outputs]

    async def predict(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """The SDK's door: CloudEvents over V1, and gRPC."""
        lower: Headers = {key.lower().encode(): value.encode() for key, value in (headers or {}).items()}
        grpc = isinstance(payload, InferRequest)
        with server_span("ModelInfer" if grpc else f"POST {self.name}", lower, _GRPC_CALL if grpc else _EVENT) as span:
            lower = span.headers(lower)
            REQUEST.set(lower)
            return await self._predict(payload, lower, span, grpc=grpc)

    async def _predict(self, payload: Any, lower: Headers, span: Span, *, grpc: bool) -> Any:
        measure = self._measures["grpc" if grpc else "event"]
        status, started = 500, time.perf_counter()
        try:
            answer = await (self._answer_grpc(payload, lower) if grpc else self._answer_event(payload, lower))
            status = 200
        except InvalidInput as error:
            status = 400
            raise KServeInvalidInput(str(error)) from error
        except Unavailable as error:
            status = 503
            # The SDK's own errors for this break its gRPC interceptor, which reads a `reason` that they lack.
            raise GRPCUnavailable(str(error)) if grpc else ServerNotReady(str(error)) from error
        finally:
            measure(status, started)
            span.answered(status)
        return answer

    async def _answer_grpc(self, payload: InferRequest, headers: Headers) -> InferResponse:
        request = _from_kserve(payload, self.inputs, self.outputs)
        return _to_kserve(request, await self.answer_v2(request, headers), self.name)

    async def _answer_event(self, payload: Any, headers: Headers) -> dict[str, Any]:
        if not isinstance(payload, Mapping):
            raise InvalidInput(f"the event's data is {type(payload).__name__}; wanted a JSON object")
        return await self.answer_v1(payload, headers)

    @functools.cached_property
    def _measures(self) -> dict[str, Measure]:
        return {route: Measure(self.server, route) for route in ("grpc", "event")}


class HotServer(ModelServer):
    """The SDK's server of one `HotModel`; `serve()` returns when SIGTERM has been obeyed and requests are drained."""

    def __init__(self, model: HotModel, options: argparse.Namespace) -> None:
        super().__init__(
            http_port=options.http_port,
            workers=1,
            enable_grpc=False,
            enable_latency_logging=False,
            event_loop="uvloop",
        )
        self._model = model
        self._options = options

    def serve(self) -> None:
        # The SDK's own --event-loop does nothing with one worker.
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.set_event_loop(asyncio.new_event_loop())  # start() touches it before it makes its own
        self.start([self._model])

    async def _serve(self) -> None:
        config = self._rest_server.config
        config.app = LeanRoutes(self._routes(), behind=kserve_server.app, server=self._model.server)
        config.host = self._options.host
        config.http = OneWriteProtocol
        config.proxy_headers = False  # nobody reads a client's address
        if self._options.enable_grpc:
            self._grpc_server = _GRPC(self)
            self.servers.append(self._grpc_server.serve(self._options.host, self._options.grpc_port))
        self._model.tell_requests(self._rest_server._server.server_state.tasks.__len__)
        await self._model.started()
        # What is loaded by now stays: collections need not walk it, which would halt answers for a tenth of a second.
        gc.collect()
        gc.freeze()
        await super()._serve()

    def _routes(self) -> dict[str, Any]:
        name = self._model.name
        hot = {f"/v1/models/{name}:predict": self._v1, f"/v2/models/{name}/infer": self._v2}
        return hot | repository_routes(self._model)

    async def _v1(self, body: bytes, headers: Headers) -> Reply:
        return Reply(encode_json(await self._model.answer_v1(decode_json(body), headers)))

    async def _v2(self, body: bytes, headers: Headers) -> Reply:
        length = headers.get(JSON_LENGTH_HEADER.encode())
        names = [spec.name for spec in self._model.outputs]
        request = decode_v2(body, length.decode("latin-1") if length else None, self._model.inputs, names)
        content, json_length = encode_v2(request, await self._model.answer_v2(request, headers), self._model.name)
        if json_length is None:
            return Reply(content)
        header = (JSON_LENGTH_HEADER.encode(), b"%d" % json_length)
        return Reply(content, content_type=b"application/octet-stream", headers=(header,))


class _GRPC:
    """The SDK's gRPC service on the host asked for (its own server listens on all), without a log line per call."""

    def __init__(self, server: HotServer) -> None:
        self._service = RepositoryServicer(server._model, server.dataplane, server.model_repository_extension)
        self._server: Any = None

    async def serve(self, host: str, port: int) -> None:
        limits = [(f"grpc.max_{way}_message_length", MAX_BODY_BYTES) for way in ("send", "receive")]
        self._server = aio.server(interceptors=(ExceptionToStatusInterceptor(),), options=limits)
        add_GRPCInferenceServiceServicer_to_server(self._service, self._server)
        self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self, _sig: int | None = None) -> None:
        if self._server is not None:
            await self._server.stop(grace=30)


def parser(description: str) -> argparse.ArgumentParser:
    """The SDK's arguments, and --host: where to listen, all interfaces by default as in a container."""
    arguments = argparse.ArgumentParser(description=description, parents=[kserve_server.parser])
    arguments.add_argument("--host", default="0.0.0.0", help="Address to listen on.")  # noqa: S104
    return arguments


def quiet() -> None:
    """Warnings and errors only; called before a server is made, so that the SDK leaves logging alone."""
    from kserve.logging import configure_logging

    configure_logging(LOGGING)
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # the SDK's use of FastAPI


def _from_kserve(payload: InferRequest, specs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> V2Request:
    """The SDK's gRPC request as ours; raw tensors are in a private attribute, the public way makes lists of them."""
    by_name = {spec.name: spec for spec in specs}
    tensors = {}
    for item in payload.inputs:
        spec = by_name.get(item.name)
        if spec is None:
            raise InvalidInput(f"unknown tensor {item.name!r}; wanted {', '.join(by_name)}")
        spec.require(item.datatype)
        shape = spec.fit(list(item.shape))
        raw = item._raw_data
        tensors[spec.name] = from_values(item.data, spec, shape) if raw is None else from_binary(raw, spec, shape)
    require_tensors(tensors, specs)
    wanted = tuple(output.name for output in payload.request_outputs or ())
    unknown = set(wanted) - {spec.name for spec in outputs}
    if unknown:
        raise InvalidInput(f"unknown output {unknown.pop()!r}; wanted {', '.join(spec.name for spec in outputs)}")
    return V2Request(tensors, payload.id or "", outputs=wanted)


def _to_kserve(request: V2Request, answer: V2Answer, model_name: str) -> InferResponse:
    found = []
    for name in request.outputs or tuple(answer.outputs):
        datatype, array = answer.outputs[name]
        output = InferOutput(name, list(array.shape), datatype)
        output.set_data_from_numpy(array, binary_data=True)
        output.parameters = None  # binary_data_size belongs to REST
        found.append(output)
    # The protocol's gRPC parameters have no floating point.
    parameters = {name: str(value) if isinstance(value, float) else value for name, value in answer.parameters.items()}
    return InferResponse(request.id, model_name, found, model_version=answer.model_version, parameters=parameters)
