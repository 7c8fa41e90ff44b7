"""Traces of requests: W3C `traceparent` in and out, and spans to an OTLP collector where one is named.

Without OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) nothing is imported and every span is `OFF`, one object
whose methods do nothing. `millrace.observe.otlp` has what needs the SDK. Children exist only within a request that is
sampled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Protocol

from millrace.observe.progress import log

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"

Header = tuple[bytes, bytes]
Value = str | int | float | bool
NONE: Final[Mapping[str, Value]] = {}


class Span:
    """A span that records nothing; `millrace.observe.otlp` has those that do. Entered, it is the request's."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def set(self, name: str, value: Value) -> None:
        """An attribute."""

    def answered(self, status: int) -> None:
        """The HTTP status; from 500 on the span is an error."""

    def link(self, traceparents: Iterable[str]) -> None:
        """Point to the traces that this work is about, where they were sampled; what is no traceparent is left out."""

    def headers(self, given: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """A request's headers as its handler should see them: the `traceparent` is this span's."""
        return given

    def forward(self, headers: list[Header]) -> list[Header]:
        """Headers of a request to the next server: the `traceparent` is this span's."""
        return headers

    @property
    def traceparent(self) -> str:
        """What says in a message that its receiver goes on with this span's trace; empty where there is none."""
        return ""

    def child(self, name: str) -> Span:  # noqa: ARG002
        """A call of somebody else, begun now."""
        return self

    def record(self, name: str, began_ns: int, ended_ns: int, attributes: Mapping[str, Value] | None = None) -> None:
        """A child that is over; times as of `time.time_ns`."""


OFF: Final = Span()
CURRENT: Final[ContextVar[Span]] = ContextVar("span", default=OFF)
"""The span of the request that is handled."""


class Tracer(Protocol):
    """Begins spans; `stop` sends what is left, within bounds."""

    def server(self, name: str, headers: Mapping[bytes, bytes], attributes: Mapping[str, Value]) -> Span: ...
    def work(self, name: str, traceparent: str, attributes: Mapping[str, Value]) -> Span: ...
    def stop(self) -> None: ...


_tracer: Tracer | None = None


def configure(service: str) -> None:
    """Trace this process as `service` (OTEL_SERVICE_NAME wins), if a collector is named; called once, at its start."""
    global _tracer
    if _tracer is not None or not _wanted():
        return
    try:
        from millrace.observe.otlp import start
    except ImportError as error:
        log("tracing_off", reason=f"a collector is named and the package {error.name} is not installed")
        return
    _tracer = start(service)


def stop() -> None:
    """Send what is left and trace no more."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is not None:
        tracer.stop()


def server_span(name: str, headers: Mapping[bytes, bytes], attributes: Mapping[str, Value] = NONE) -> Span:
    """The span of a request that came with these headers, to be entered; of its caller's trace, or of a new one."""
    return OFF if _tracer is None else _tracer.server(name, headers, attributes)


def work_span(name: str, traceparent: str = "", attributes: Mapping[str, Value] = NONE) -> Span:
    """The span of rare work that no request waits for (an alarm, a retraining, a move of traffic), to be entered.

    It goes on with the trace that `traceparent` names; its own is always sampled, or as OTEL_TRACES_SAMPLER says.
    """
    return OFF if _tracer is None else _tracer.work(name, traceparent, attributes)


def span(name: str) -> Span:
    """A call that the request waits for, to be entered."""
    return CURRENT.get().child(name)


def _wanted() -> bool:
    environment = os.environ
    named = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    return bool(named) and not off
