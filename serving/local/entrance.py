"""Where clients come in, as the settings say it: ports, token, certificate, limits, and where spans go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from millrace.errors import ConfigError, NotFound
from millrace.settings import Settings
from serving.local.state import Place
from serving.local.traces import Traces, traces


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


def entrance(configured: Settings, place: Place, main: str, agent_port: int) -> Entrance:
    """As it is configured; raises ConfigError, NotFound."""
    if (configured.tls_cert is None) != (configured.tls_key is None):
        raise ConfigError("MILLRACE_TLS_CERT and MILLRACE_TLS_KEY go together: one of them is not set")
    for path in (configured.tls_cert, configured.tls_key):
        if path is not None and not path.is_file():
            raise NotFound(f"no file at {path}, which MILLRACE_TLS_CERT or MILLRACE_TLS_KEY names")
    return Entrance(
        port=configured.gateway_port,
        grpc_port=0,
        main=main,
        agent_port=agent_port,
        access_log=place.logs / "access.jsonl",
        authorization=configured.gateway_headers.get("authorization", ""),
        certificate=configured.tls_cert,
        key=configured.tls_key,
        rate_per_s=configured.gateway_rate_limit,
        traces=traces(),
    )
