"""The V2 model repository extension of a server with one model: it is loaded again on request, and never unloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from millrace.errors import InvalidInput
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
        raise InvalidInput(stays(model))

    where = f"/v2/repository/models/{model.name}"
    return {f"{where}/load": load, f"{where}/unload": unload}


def stays(model: Reloadable) -> str:
    return f"{model.name} is the only model of this server and stays; stop the server instead"


def _told_version(document: Mapping[str, Any]) -> str:
    parameters = document.get("parameters") or {}
    version = parameters.get("model_version", "") if isinstance(parameters, dict) else None
    if not isinstance(version, str):
        raise InvalidInput(f"parameter 'model_version' is a {kind(version)}; wanted a string")
    return version
