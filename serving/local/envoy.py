"""What runs here as Envoy's configuration: services in, the files' contents out. No I/O.

The settings are `envoy.yaml`'s, who gets what `routes.py`'s. `data_plane.py` writes the files and runs Envoy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from millrace.lake.atomic import sha256_text
from serving.local.entrance import Entrance
from serving.local.manifest import LOOPBACK
from serving.local.routed import Component, Routed
from serving.local.routes import GRPC, gateway_routes, inner_routes, route_configuration
from serving.local.state import AGENT, GATEWAY
from serving.local.template import Document, filled, settings
from serving.local.traces import Traces

LUA: Final = Path(__file__).with_name("envoy.lua")
FILTERS: Final = ("whole_request", "grpc_statistics", "router")


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
    routes = {GATEWAY: gateway_routes(entrance, services)}
    for service in services:
        for name, port, found in inner_routes(service):
            listeners.append(_listener(folder, name, port, FILTERS))
            routes[name] = found
    clusters = [_cluster(AGENT, [entrance.agent_port], http2=False)]
    if entrance.traces is not None:
        clusters.append(_collector(entrance.traces))
    clusters += [cluster for service in services for part in service.components for cluster in _clusters(part)]

    texts, versions = {}, {}
    texts["clusters.json"], versions["cluster_manager.cds.version_text"] = _response(clusters)
    for name, found in routes.items():
        document = route_configuration(name, found, entrance if name == GATEWAY else None)
        texts[f"routes-{name}.json"], versions[f"http.{name}.rds.{name}.version_text"] = _response([document])
    if entrance.certificate is not None:
        secret = filled(settings()["secret"], {"certificate": str(entrance.certificate), "key": str(entrance.key)})
        texts["secrets.json"], _ = _response([secret])
    texts["listeners.json"], versions["listener_manager.lds.version_text"] = _response(listeners)
    return Files(texts, versions)


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
