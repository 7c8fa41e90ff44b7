"""The one port that clients see: passes /v1 and /v2 on to the service behind, on kept-open connections.

What a mesh does on a cluster, and no more: bodies and headers go through unchanged. /healthz answers for the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from millrace.errors import NotFound, Unavailable
from serving.connections import Connections, Header
from serving.lean import Receive, Reply, Send, error_reply, read_body, respond

HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length"}
)
PREFIXES: Final = ("/v1/", "/v2/", "/metrics")


class Gateway:
    """ASGI application; `upstream` gives the connections to where requests go now, or None while nothing is up."""

    def __init__(self, upstream: Callable[[], Connections | None], timeout_s: float) -> None:
        self._upstream = upstream
        self._timeout_s = timeout_s

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            reply = await self._answer(scope, receive)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            reply = error_reply(error)
        await respond(send, reply)

    async def _answer(self, scope: dict[str, Any], receive: Receive) -> Reply:
        path = scope["path"]
        if path == "/healthz":
            return Reply(b'{"status":"ok"}')
        if not path.startswith(PREFIXES) and path != "/v2":
            raise NotFound(f"no route {path!r}; wanted /v1/models/NAME:predict, /v2/models/NAME/infer or /healthz")
        upstream = self._upstream()
        if upstream is None:
            raise Unavailable("the service is starting; try again in a moment")
        body = await read_body(receive, dict(scope["headers"]))
        headers = [item for item in scope["headers"] if item[0] not in HOP_BY_HOP]
        answer = await upstream.request(
            scope["method"].encode(), _target(scope), body, headers, timeout_s=self._timeout_s
        )
        return Reply(answer.body, answer.status, _content_type(answer.headers), _passed_on(answer.headers))


def _target(scope: dict[str, Any]) -> bytes:
    query: bytes = scope.get("query_string", b"")
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path


def _content_type(headers: list[Header]) -> bytes:
    return next((value for name, value in headers if name == b"content-type"), b"application/json")


def _passed_on(headers: list[Header]) -> tuple[Header, ...]:
    dropped = HOP_BY_HOP | {b"content-type", b"date", b"server"}
    return tuple(item for item in headers if item[0] not in dropped)
