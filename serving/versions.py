"""Paths and calls that name a version of the model: `/v2/models/NAME/versions/7/infer`.

The version that answers is known only when it has answered, where two share the traffic. So what was asked for goes on
as a header whose name no client can send, and whoever answers compares.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from millrace.errors import NotFound
from serving.lean import Headers, Receive, Send, error_reply, respond

VERSION: Final = b":version"
"""A colon is no character of a header's name in HTTP/1.1."""


class Versioned(Protocol):
    """What a server serves."""

    name: str

    async def serves(self, version: str) -> bool: ...


class VersionedPaths:
    """ASGI: a path with a version goes on without it, if the model is served in that version; else 404."""

    def __init__(self, model: Versioned, behind: Callable[..., Awaitable[None]]) -> None:
        self._model, self._behind = model, behind
        self._base = f"/v2/models/{model.name}"
        self._prefix = f"{self._base}/versions/"

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            return await self._behind(scope, receive, send)
        version, slash, rest = scope["path"][len(self._prefix) :].partition("/")
        try:
            if scope["method"] != "POST":  # an answer says itself which version it is of
                await require_version(self._model, version)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            return await respond(send, error_reply(error))
        path = f"{self._base}{slash}{rest}"
        headers = [*scope["headers"], (VERSION, version.encode())]
        return await self._behind(scope | {"path": path, "headers": headers}, receive, send)


async def require_version(model: Versioned, version: str) -> None:
    """Raise NotFound when a version is named that is not served."""
    if version and not await model.serves(version):
        raise NotFound(f"no version {version[:80]!r} of {model.name} is served here")


def require_answered_by(headers: Headers, version: str) -> None:
    """Raise NotFound when the request named another version than the one that answered."""
    wanted = headers.get(VERSION)
    if wanted is not None and wanted.decode() != version:
        raise NotFound(f"version {version} answers here; {wanted.decode()[:80]!r} was asked for")
