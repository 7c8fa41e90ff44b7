"""Where Envoy sends its spans, from OpenTelemetry's own variables; the servers' are `millrace.observe.tracing`'s."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

SAMPLED_PERCENT: Final = 10.0
"""Share of the requests that are traced where no caller decided, as in `millrace.observe.otlp`."""
SAMPLERS: Final = {"always_on": 100.0, "always_off": 0.0}


@dataclass(frozen=True, slots=True)
class Traces:
    """A collector of OTLP over HTTP."""

    url: str
    percent: float
    service: str
    headers: tuple[tuple[str, str], ...]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if self.encrypted else 80)

    @property
    def encrypted(self) -> bool:
        return self.url.startswith("https://")


def traces(environment: Mapping[str, str] = os.environ) -> Traces | None:
    """None where no collector is named."""
    url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/")
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if off or not (url or base):
        return None

    sampler = environment.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    percent = SAMPLERS.get(sampler, SAMPLED_PERCENT)
    if sampler == "traceidratio":
        percent = 100 * float(environment.get("OTEL_TRACES_SAMPLER_ARG", "1"))
    pairs = [pair.partition("=") for pair in environment.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if pair]
    headers = tuple((name.strip(), unquote(value.strip())) for name, _, value in pairs)
    service = environment.get("OTEL_SERVICE_NAME", "millrace-gateway")
    return Traces(url or f"{base}/v1/traces", percent, service, headers)
