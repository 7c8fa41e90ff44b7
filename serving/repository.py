"""The V2 model repository extension of a server with one model: it is loaded again on request, and never unloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from grpc_interceptor.exceptions import NotFound as GRPCNotFound
from grpc_interceptor.exceptions import Unavailable as GRPCUnavailable
from kserve.errors import InvalidInput as KServeInvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.servicer import InferenceServicer

from millrace.errors import InvalidInput, Unavailable
from serving.lean import Handler, Headers, Reply
from serving.protocol import decode_json, encode_json
from serving.tensors import kind


class Reloadable(Protocol):
    """What a server serves."""

    name: str

    async def reload(self, version: str = "") -> str: ...


def repository_routes(model: Reloadable) -> dict[str, Handler]:
    """POST `load`, optionally with `{"parameters": {"model_version": "4"}}`, and `unload`, which is refused."""

    async def load(body: bytes, headers: Headers) -> Reply:  # noqa: ARG001
        version = await model.reload(_told_version(decode_json(body)) if body.strip() else "")
        return Reply(encode_json({"name": model.name, "load": True, "model_version": version}))

    async def unload(body: bytes, headers: Headers) -> Reply:  # noqa: ARG001
        raise InvalidInput(_stays(model))

    where = f"/v2/repository/models/{model.name}"
    return {f"{where}/load": load, f"{where}/unload": unload}


class RepositoryServicer(InferenceServicer):
    """The SDK's gRPC service, whose own load fails in kserve 0.21 after it has loaded."""

    def __init__(self, model: Reloadable, *of_the_sdk: Any) -> None:
        super().__init__(*of_the_sdk)
        self._model = model

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        self._require(request.model_name)
        try:
            await self._model.reload()
        except InvalidInput as error:
            raise KServeInvalidInput(str(error)) from error
        except Unavailable as error:
            raise GRPCUnavailable(str(error)) from error
        return pb.RepositoryModelLoadResponse(model_name=self._model.name, isLoaded=True)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        self._require(request.model_name)
        raise KServeInvalidInput(_stays(self._model))

    def _require(self, name: str) -> None:
        if name != self._model.name:
            raise GRPCNotFound(f"no model {name!r} here; wanted {self._model.name!r}")


def _stays(model: Reloadable) -> str:
    return f"{model.name} is the only model of this server and stays; stop the server instead"


def _told_version(document: Mapping[str, Any]) -> str:
    parameters = document.get("parameters") or {}
    version = parameters.get("model_version", "") if isinstance(parameters, dict) else None
    if not isinstance(version, str):
        raise InvalidInput(f"parameter 'model_version' is a {kind(version)}; wanted a string")
    return version
