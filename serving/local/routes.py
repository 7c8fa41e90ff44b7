"""Which path, which gRPC call and which port lead where: services in, Envoy's route configurations out.

The gateway routes by the name of the model, in a path or in a gRPC call; behind it every service has a port of its own,
and so has its predictor, where the split between revisions is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from serving.local.entrance import Entrance
from serving.local.routed import Routed
from serving.local.state import AGENT
from serving.local.template import Document, filled, settings

GRPC: Final = "_grpc"
"""Ends the name of a cluster that is asked over gRPC; a service's name has no underscore."""
SERVICE_HEADER: Final = "x-millrace-service"
"""Tells the agent whose request it is."""
MODEL_HEADER: Final = "x-millrace-model"
TAG_HEADER: Final = "knative-serving-tag"
UNANSWERED: Final = "connect-failure,refused-stream"
"""Nobody has seen the request: any may be sent again."""
REPEATABLE: Final = f"{UNANSWERED},reset"
"""Somebody may have seen it: it is sent again where twice is as good as once."""
RETRIES: Final = 4
AGENT_TIMEOUT_S: Final = 60.0


def route_configuration(name: str, routes: list[Document], entrance: Entrance | None) -> Document:
    removed = [MODEL_HEADER, "x-envoy-external-address"]
    if entrance is not None and entrance.authorization:
        removed.append("authorization")  # it was the gateway's
    host = {"name": name, "domains": ["*"], "routes": routes, "request_headers_to_remove": removed}
    kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    return {"@type": kind, "name": name, "virtual_hosts": [host]}


def gateway_routes(entrance: Entrance, services: Sequence[Routed]) -> list[Document]:
    """In the order in which they are tried."""
    routes = [_said({"path": "/healthz"}, 200, '{"status":"ok"}')]
    routes.append(_sent({"path": "/metrics"}, {"cluster": AGENT}, AGENT_TIMEOUT_S))
    if entrance.authorization:
        routes.append(_refusal(entrance.authorization))
    routes.append(_sent({"prefix": "/graphs/"}, {"cluster": AGENT}, AGENT_TIMEOUT_S))
    for service in services:
        named = {"name": MODEL_HEADER, "string_match": {"exact": service.name}}
        routes += _to_service(service, {"prefix": "/", "grpc": {}, "headers": [named]})
    for service in services:
        name = re.escape(service.name)
        asked = rf"/v[12]/models/{name}(?:/versions/[^/]+)?(?::predict|:explain|/infer)"
        routes += _to_service(service, {"safe_regex": {"regex": asked}})
        routes += _to_service(service, {"safe_regex": {"regex": rf"/v[12]/models/{name}(?:[:/].*[^/])?"}}, UNANSWERED)
    for service in services:
        if service.name == entrance.main:
            routes += _to_service(service, {"prefix": "/", "grpc": {}})
            routes += _to_service(service, {"safe_regex": {"regex": "/v1/.*[^/]|/v2(?:/.*[^/])?"}}, UNANSWERED)
    wanted = "wanted /v1/models/NAME:predict, /v2/models/NAME/infer or /healthz, without a slash at the end"
    routes.append(_said({"prefix": "/"}, 404, f"no such route; {wanted}"))
    return routes


def inner_routes(service: Routed) -> Iterator[tuple[str, int, list[Document]]]:
    """(name, port, routes) of the ports that are one service's own."""
    everything = {"prefix": "/"}
    outer = service.name if service.transformer else f"{service.name}-predictor"
    to_component = _to_component(service, everything)
    to_outer = _to_service(service, everything, REPEATABLE)
    yield outer, service.port, [*_to_component(service, {"prefix": "/", "grpc": {}}), *to_outer]
    if service.logged_port:
        yield f"{service.name}-logged", service.logged_port, to_component
    if service.transformer:
        yield f"{service.name}-predictor", service.predictor_port, _to_predictor(service, everything)


def _to_service(service: Routed, match: Document, retry_on: str = REPEATABLE) -> list[Document]:
    """Through the logger, where there is one; it is REST's alone."""
    if not service.logged_port or "grpc" in match:
        return _to_component(service, match, retry_on)
    route = _sent(match, {"cluster": AGENT}, service.timeout_s, UNANSWERED)
    said = {"header": {"key": SERVICE_HEADER, "value": service.name}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return [route | {"request_headers_to_add": [said]}]


def _to_component(service: Routed, match: Document, retry_on: str = REPEATABLE) -> list[Document]:
    """To the transformer, else to a predictor."""
    if not service.transformer:
        return _to_predictor(service, match, retry_on)
    to = {"cluster": service.transformer + (GRPC if "grpc" in match else "")}
    return [_sent(match, to, service.timeout_s, retry_on)]


def _to_predictor(service: Routed, match: Document, retry_on: str = REPEATABLE) -> list[Document]:
    """Knative's routing: a lot for each request, unless it names a revision."""
    kind = GRPC if "grpc" in match else ""
    stable = service.stable + kind
    if not service.canary:
        return [_sent(match, {"cluster": stable}, service.timeout_s, retry_on)]

    canary = service.canary + kind
    weights = ((stable, 100 - service.percent), (canary, service.percent))
    split = {"weighted_clusters": {"clusters": [{"name": name, "weight": weight} for name, weight in weights]}}
    return [
        _sent(_tagged(match, "prev"), {"cluster": stable}, service.timeout_s, retry_on),
        _sent(_tagged(match, "latest"), {"cluster": canary}, service.timeout_s, retry_on),
        _sent(match, split, service.timeout_s, retry_on),
    ]


def _tagged(match: Document, tag: str) -> Document:
    header = {"name": TAG_HEADER, "string_match": {"exact": tag}}
    return match | {"headers": [*match.get("headers", ()), header]}


def _sent(match: Document, to: Document, timeout_s: float, retry_on: str = UNANSWERED) -> Document:
    values = {"timeout": f"{timeout_s:g}s", "retry_on": retry_on, "retries": RETRIES}
    return {"match": match, "route": filled(settings()["route"], values) | to}


def _said(match: Document, status: int, text: str) -> Document:
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": text}}}


def _refusal(authorization: str) -> Document:
    """Of everything that does not bring the token."""
    other = {
        "name": "authorization",
        "string_match": {"exact": authorization},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }
    text = "the bearer token is missing or wrong; send `authorization: Bearer` with MILLRACE_GATEWAY_TOKEN"
    asking = {"header": {"key": "www-authenticate", "value": "Bearer"}}
    return _said({"prefix": "/", "headers": [other]}, 401, text) | {"response_headers_to_add": [asking]}
