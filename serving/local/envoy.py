"""What runs here as Envoy's configuration: services in, the files' contents out. No I/O.

The settings are `envoy.yaml`'s; here is which port leads where. A gateway routes by the name of the model, in a path or
in a gRPC call; behind it every service has a port of its own, and so has its predictor, where the split between
revisions is made. `data_plane.py` writes the files and runs Envoy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from millrace.lake.atomic import sha256_text
from serving.local.manifest import LOOPBACK
from serving.local.state import AGENT, GATEWAY
from serving.local.traces import Traces

SETTINGS: Final = Path(__file__).with_name("envoy.yaml")
LUA: Final = Path(__file__).with_name("envoy.lua")
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
FILTERS: Final = ("whole_request", "grpc_statistics", "router")
RETRIES: Final = 4
AGENT_TIMEOUT_S: Final = 60.0

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Component:
    """Processes that are alike, by their ports for REST and for gRPC."""

    name: str
    ports: tuple[int, ...]
    grpc_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """An InferenceService: which of its components gets what. Names are those of `components`."""

    name: str
    port: int
    """Where the service is asked by those that know its port; the predictor's own is `predictor_port`."""
    predictor_port: int
    timeout_s: float
    stable: str
    canary: str = ""
    percent: int = 0
    """Of the canary."""
    transformer: str = ""
    logged_port: int = 0
    """Where the agent asks on for the service, whose logger it is; 0: there is no logger."""
    components: tuple[Component, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Where clients come in."""

    port: int
    grpc_port: int
    main: str
    """The service that a request is for that names none."""
    agent_port: int
    access_log: Path
    authorization: str = ""
    """What the header must say; empty: nothing."""
    certificate: Path | None = None
    key: Path | None = None
    rate_per_s: int = 0
    """Requests a second that are let in; 0: all."""
    traces: Traces | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """What Envoy follows: a file's name → its text, and the version of each part that is followed."""

    texts: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    """Name of Envoy's statistic → the version that it names once Envoy has that part."""


def bootstrap(folder: Path, admin: Path) -> str:
    """The file that Envoy starts with."""
    named = {
        "admin": str(admin),
        "listeners": str(folder / "listeners.json"),
        "clusters": str(folder / "clusters.json"),
    }
    return json.dumps(filled(settings()["bootstrap"], named))


def rendered(folder: Path, entrance: Entrance, services: Sequence[Routed]) -> Files:
    """All files that change while Envoy runs."""
    listeners = [_gateway_listener(folder, entrance)]
    routes = {GATEWAY: _gateway_routes(entrance, services)}
    for service in services:
        for name, port, found in _inner_routes(service):
            listeners.append(_listener(folder, name, port, FILTERS))
            routes[name] = found
    clusters = [_cluster(AGENT, [entrance.agent_port], http2=False)]
    if entrance.traces is not None:
        clusters.append(_collector(entrance.traces))
    clusters += [cluster for service in services for part in service.components for cluster in _clusters(part)]

    texts, versions = {}, {}
    texts["clusters.json"], versions["cluster_manager.cds.version_text"] = _response(clusters)
    for name, found in routes.items():
        document = _route_configuration(name, found, entrance if name == GATEWAY else None)
        texts[f"routes-{name}.json"], versions[f"http.{name}.rds.{name}.version_text"] = _response([document])
    if entrance.certificate is not None:
        secret = filled(settings()["secret"], {"certificate": str(entrance.certificate), "key": str(entrance.key)})
        texts["secrets.json"], _ = _response([secret])
    texts["listeners.json"], versions["listener_manager.lds.version_text"] = _response(listeners)
    return Files(texts, versions)


@cache
def settings() -> Document:
    document: Document = yaml.safe_load(SETTINGS.read_text())
    return document


def filled(part: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a part of the settings; `$name` stands for a value, and a key whose value is None is left out."""
    if isinstance(part, dict):
        found = {key: filled(value, values) for key, value in part.items()}
        return {key: value for key, value in found.items() if value is not None}
    if isinstance(part, list):
        return [filled(value, values) for value in part]
    if isinstance(part, str) and part.startswith("$"):
        return values[part[1:]]
    return part


def _response(resources: list[Document]) -> tuple[str, str]:
    """A file's text, and its version."""
    version = sha256_text(json.dumps(resources))[:16]
    return json.dumps({"version_info": version, "resources": resources}), version


# Ports


def _gateway_listener(folder: Path, entrance: Entrance) -> Document:
    parts = settings()
    limited = ["rate_limit"] if entrance.rate_per_s else []
    second = [{"address": _address(entrance.grpc_port)}] if entrance.grpc_port else None
    tls = filled(parts["tls"], {"secrets": str(folder / "secrets.json")}) if entrance.certificate else None
    return _listener(
        folder,
        GATEWAY,
        entrance.port,
        [*limited, "requests", *FILTERS],
        rate=entrance.rate_per_s,
        additional_addresses=second,
        transport_socket=tls,
        access_log=[filled(parts["access_log"], {"access_log_file": str(entrance.access_log)})],
        tracing=_tracing(entrance),
    )


def _tracing(entrance: Entrance) -> Document | None:
    traces = entrance.traces
    if traces is None:
        return None
    headers = [{"header": {"key": name, "value": value}} for name, value in traces.headers]
    values = {"percent": traces.percent, "service": traces.service, "url": traces.url, "headers": headers}
    return filled(settings()["tracing"], values)


def _listener(folder: Path, name: str, port: int, filters: Iterable[str], rate: int = 0, **more: Any) -> Document:
    """`more`: what only the gateway has."""
    parts = settings()
    gateway_only = dict.fromkeys(("additional_addresses", "transport_socket", "access_log", "tracing"))
    common = {
        "name": name,
        "address": _address(port),
        "routes": str(folder / f"routes-{name}.json"),
        "http_filters": [filled(parts["filters"][item], {"lua": str(LUA), "rate": rate}) for item in filters],
        "local_replies": parts["local_replies"],
    }
    return filled(parts["listener"], gateway_only | common | more)


def _address(port: int) -> Document:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


# Components


def _clusters(component: Component) -> Iterator[Document]:
    yield _cluster(component.name, component.ports, http2=False)
    if component.grpc_ports:
        yield _cluster(component.name + GRPC, component.grpc_ports, http2=True)


def _cluster(name: str, ports: Iterable[int], *, http2: bool) -> Document:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    protocol: Document = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    return filled(settings()["cluster"], {"name": name, "endpoints": endpoints, "protocol": protocol})


def _collector(traces: Traces) -> Document:
    host, port = traces.address
    tls = filled(settings()["collector_tls"], {"host": host}) if traces.encrypted else None
    address = {"socket_address": {"address": host, "port_value": port}}
    return filled(settings()["collector"], {"address": address, "transport_socket": tls})


# Routes


def _route_configuration(name: str, routes: list[Document], entrance: Entrance | None) -> Document:
    removed = [MODEL_HEADER, "x-envoy-external-address"]
    if entrance is not None and entrance.authorization:
        removed.append("authorization")  # it was the gateway's
    host = {"name": name, "domains": ["*"], "routes": routes, "request_headers_to_remove": removed}
    kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    return {"@type": kind, "name": name, "virtual_hosts": [host]}


def _gateway_routes(entrance: Entrance, services: Sequence[Routed]) -> list[Document]:
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


def _inner_routes(service: Routed) -> Iterator[tuple[str, int, list[Document]]]:
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
