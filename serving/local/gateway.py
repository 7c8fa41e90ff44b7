"""The one port that clients see: passes /v1 and /v2 on to the service behind, on kept-open connections.

What a mesh does on a cluster, and no more: bodies and headers go through unchanged. The model's name in the path says
which service; POST /graphs/NAME goes where the InferenceGraph says. /healthz answers for the gateway; /metrics are what
the splitters saw of the revisions. Where a service has a logger, that gets its requests and answers as well.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from millrace.errors import NotFound, Unavailable
from millrace.observe.progress import REQUEST
from millrace.observe.tracing import OFF, Span, server_span
from serving.connections import Connections, Header, Response
from serving.lean import Receive, Reply, Send, error_reply, read_body, respond
from serving.local.graph import Graph
from serving.local.logger import EventLogger
from serving.local.manifest import LOOPBACK

HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length"}
)
OWN_HEADERS: Final = HOP_BY_HOP | {b"content-type", b"date", b"server"}
"""Of an answer: the gateway writes them itself."""
GRAPH_TIMEOUT_S: Final = 60.0
STARTING: Final = "the service is starting; try again in a moment"
OWN_ROUTES: Final = frozenset({"/healthz", "/metrics"})
REFUSED: Final = Reply(
    b'{"error":"the bearer token is missing or wrong; send `authorization: Bearer` with MILLRACE_GATEWAY_TOKEN"}',
    401,
    headers=((b"www-authenticate", b"Bearer"),),
)
METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Destination(Protocol):
    """A service that requests can be for."""

    @property
    def timeout_s(self) -> float: ...

    @property
    def logger(self) -> EventLogger | None: ...

    def connections(self) -> Awaitable[Connections | None]: ...


class Gateway:
    """ASGI application; `find` gives the service for a model's name (empty: none in the path), `metrics` a text.

    With an `authorization` everything but /healthz and /metrics wants that header; it is not passed on.
    """

    def __init__(
        self,
        find: Callable[[str], Destination | None],
        metrics: Callable[[], str],
        graphs: Mapping[str, Graph] | None = None,
        authorization: str = "",
    ) -> None:
        self._find = find
        self._metrics = metrics
        self._graphs = graphs if graphs is not None else {}
        self._to_steps: dict[int, Connections] = {}
        self._authorization = authorization.encode()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        REQUEST.set(headers)
        with OFF if scope["path"] in OWN_ROUTES else server_span("gateway", headers) as span:
            span.set("http.request.method", scope["method"])
            span.set("url.path", scope["path"])
            try:
                reply = await self._answer(scope, receive, span)
            except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
                reply = error_reply(error)
            await respond(send, reply)
            span.answered(reply.status)

    async def _answer(self, scope: dict[str, Any], receive: Receive, span: Span) -> Reply:
        path = scope["path"]
        if path == "/healthz":
            return Reply(b'{"status":"ok"}')
        if path == "/metrics":
            return Reply(self._metrics().encode(), content_type=METRICS_TYPE)
        if self._authorization:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):
                return REFUSED
            scope["headers"] = [item for item in scope["headers"] if item[0] != b"authorization"]
        if path.startswith("/graphs/"):
            return await self._answer_graph(path.removeprefix("/graphs/"), scope, receive, span)
        if not path.startswith(("/v1/", "/v2/")) and path != "/v2":
            raise NotFound(f"no route {path!r}; wanted /v1/models/NAME:predict, /v2/models/NAME/infer or /healthz")
        service = self._find(model_name(path))
        if service is None:
            raise Unavailable(STARTING)
        body = await read_body(receive, dict(scope["headers"]))
        headers = span.forward([item for item in scope["headers"] if item[0] not in HOP_BY_HOP])
        answer = await _ask(service, scope["method"].encode(), _target(scope), body, headers)
        if service.logger is not None and answer.status == 200 and path.endswith((":predict", "/infer")):
            types = (_content_type(scope["headers"]), _content_type(answer.headers))
            service.logger.exchanged(headers, body, answer.body, types)
        return Reply(answer.body, answer.status, _content_type(answer.headers), _passed_on(answer.headers))

    async def _answer_graph(self, name: str, scope: dict[str, Any], receive: Receive, span: Span) -> Reply:
        graph = self._graphs.get(name)
        if graph is None:
            raise NotFound(f"no InferenceGraph {name!r}; there are {sorted(self._graphs)}")
        body = await read_body(receive, dict(scope["headers"]))
        step = graph.choose(body)
        upstream = self._to_steps.setdefault(step.port, Connections(LOOPBACK, step.port, limit=256))
        headers = span.forward([item for item in scope["headers"] if item[0] not in HOP_BY_HOP])
        answer = await upstream.request(b"POST", step.path.encode(), body, headers, timeout_s=GRAPH_TIMEOUT_S)
        return Reply(answer.body, answer.status, _content_type(answer.headers), _passed_on(answer.headers))


async def _ask(service: Destination, method: bytes, target: bytes, body: bytes, headers: list[Header]) -> Response:
    """The service's answer; asked once more where a process that is being replaced took no connection any more."""
    for last in (False, True):
        upstream = await service.connections()
        if upstream is None:
            break
        try:
            return await upstream.request(method, target, body, headers, timeout_s=service.timeout_s)
        except Unavailable as error:
            if last or not isinstance(error.__cause__, ConnectionRefusedError):
                raise
    raise Unavailable(STARTING)


def model_name(path: str) -> str:
    """NAME of /v1/models/NAME:predict and /v2/models/NAME/…; empty where there is none."""
    parts = path.split("/", 4)
    return parts[3].partition(":")[0] if len(parts) > 3 and parts[2] == "models" else ""


def _target(scope: dict[str, Any]) -> bytes:
    query: bytes = scope.get("query_string", b"")
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path


def _content_type(headers: list[Header]) -> bytes:
    return next((value for name, value in headers if name == b"content-type"), b"application/json")


def _passed_on(headers: list[Header]) -> tuple[Header, ...]:
    return tuple(item for item in headers if item[0] not in OWN_HEADERS)
