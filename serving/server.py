"""A KServe model server that is quiet, runs on uvloop, and answers inference over REST and gRPC itself.

The SDK keeps metadata, readiness, metrics and the process; a server of ours implements `HotModel`. Below the SDK's
public interface stand, each held by tests/contract/test_sdk.py: its ASGI application is wrapped and its uvicorn
configured before it starts (kserve 0.21 has no setting for a route before its own), and redirects are switched off.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import kserve.model_server as kserve_server
import uvloop
from kserve import Model, ModelServer

from millrace.errors import InvalidInput
from serving import rpc
from serving.event_answers import events_too
from serving.lean import Headers, LeanRoutes, Reply
from serving.protocol import JSON_LENGTH_HEADER, V2Answer, V2Request, decode_json, decode_v2, encode_json, encode_v2
from serving.repository import repository_routes
from serving.tensors import TensorSpec
from serving.versions import VersionedPaths, require_answered_by
from serving.wire import StrictProtocol

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

MODELS: Final = ("/v1/models/", "/v2/models/", "/v2/repository/")
"""Below these a POST is answered here or not at all: the SDK's own errors quote what JSON cannot."""


class HotModel(Model):
    """A model that answers V1 and V2 from its own two methods, whichever way a request came."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    passes_over_others = False
    """Whether tensors that are none of `inputs` are passed over; else a request with one is refused."""
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

    async def serves(self, version: str) -> bool:  # noqa: ARG002
        """Whether this version of the model answers here."""
        return False

    async def reload(self, version: str = "") -> str:  # noqa: ARG002
        """Load what is served again, by the name `version`; answers its name. Raises millrace errors."""
        raise InvalidInput(f"{self.name} has nothing to load again")

    def place(self, headers: Headers) -> int | None:  # noqa: ARG002
        """Which of several inputs in a request is this model's (`serving.reads`); None where it brings one alone."""
        return None

    def get_input_types(self) -> list[dict[str, Any]]:
        return [spec.metadata() for spec in self.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [spec.metadata() for spec in self.outputs]


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
        kserve_server.app.router.redirect_slashes = False  # a redirect would lead past whatever stands in front
        lean = LeanRoutes(self._routes(), behind=kserve_server.app, server=self._model.server, owned=MODELS)
        config = self._rest_server.config
        config.app = VersionedPaths(self._model, behind=lean)
        config.host = self._options.host
        config.http = StrictProtocol
        config.proxy_headers = False  # nobody reads a client's address
        if self._options.enable_grpc:
            service = rpc.Service(self._model, self.dataplane, self.model_repository_extension)
            self._grpc_server = rpc.Server(service, self._options.host, self._options.grpc_port)
            self.servers.append(self._grpc_server.serve())
        self._model.tell_requests(self._rest_server._server.server_state.tasks.__len__)
        await self._model.started()
        # What is loaded by now stays: collections need not walk it, which would halt answers for a tenth of a second.
        gc.collect()
        gc.freeze()
        await super()._serve()

    def _routes(self) -> dict[str, Any]:
        name = self._model.name
        hot = {
            f"/v1/models/{name}:predict": events_too(self._v1, name),
            f"/v2/models/{name}/infer": events_too(self._v2, name),
        }
        return hot | repository_routes(self._model)

    async def _v1(self, body: bytes, headers: Headers) -> Reply:
        return Reply(encode_json(await self._model.answer_v1(decode_json(body), headers)))

    async def _v2(self, body: bytes, headers: Headers) -> Reply:
        length = headers.get(JSON_LENGTH_HEADER.encode())
        names = [spec.name for spec in self._model.outputs]
        json_length = length.decode("latin-1") if length else None
        place, others = self._model.place(headers), self._model.passes_over_others
        request = decode_v2(body, json_length, self._model.inputs, names, place=place, passing_over_others=others)
        answer = await self._model.answer_v2(request, headers)
        require_answered_by(headers, answer.model_version)
        content, told = encode_v2(request, answer, self._model.name)
        if told is None:
            return Reply(content)
        header = (JSON_LENGTH_HEADER.encode(), b"%d" % told)
        return Reply(content, content_type=b"application/octet-stream", headers=(header,))


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
