"""What Envoy is told of a service: its components, and who gets what."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Where the service is asked by those that know its port; the predictor's own where there is no transformer."""
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
