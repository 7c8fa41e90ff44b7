"""`millrace.tracing` on the OpenTelemetry SDK: spans in batches to an OTLP/HTTP collector, from a thread of their own.

Imported only where a collector is named. The SDK reads the OTEL_* variables: endpoint, headers, sampler (parent-based
unless told otherwise), queue, batch. A collector that is away costs spans, one line in the log, and no answer.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import Token
from importlib.metadata import version
from types import TracebackType
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from millrace.progress import log
from millrace.telemetry import SPANS_LOST
from millrace.tracing import CURRENT, OFF, TRACEPARENT, TRACESTATE, Header, Span, Value

FLUSH_S: Final = 2.0
"""What the end of the process waits for the collector."""
SWITCH_INTERVAL_S: Final = 0.0005
"""The thread that encodes spans need not hold up a request for 5 ms (Python's default)."""
MAX_LINKS: Final = 100

_Record = tuple[str, int, int, Mapping[str, Value] | None]
_W3C: Final = TraceContextTextMapPropagator()


def start(service: str) -> SDKTracer:
    """A tracer for this process; what is queued is sent when it ends."""
    tracer = SDKTracer(service)
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
    atexit.register(tracer.stop)
    log("tracing_on", service=service)
    return tracer


class SDKTracer:
    """`millrace.tracing.Tracer`."""

    def __init__(self, service: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line for every batch that fails
        about = Resource.create({"service.name": service, "service.version": version("millrace")})
        # What the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) wins.
        provider = TracerProvider(resource=about.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._exporter = _Exporter(OTLPSpanExporter())
        self._processor = BatchSpanProcessor(self._exporter)
        provider.add_span_processor(self._processor)
        self.sdk = provider.get_tracer("millrace")

    def server(self, name: str, headers: Mapping[bytes, bytes], attributes: Mapping[str, Value]) -> Span:
        parent = _extracted(headers)
        return RequestSpan(self, self.sdk.start_span(name, parent, SpanKind.SERVER, attributes), bool(parent))

    def stop(self) -> None:
        """Send what is queued for at most FLUSH_S; the SDK's own end would wait half a minute for a collector."""
        atexit.unregister(self.stop)
        flushing = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
        if flushing.is_alive():
            self._exporter.shutdown()


class SDKSpan(Span):
    """A span of the SDK that ends when it is left."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._span.set_attribute("error.type", kind.__qualname__)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))

    def link(self, traceparents: Iterable[str]) -> None:
        for text in list(dict.fromkeys(traceparents))[:MAX_LINKS]:
            about = trace.get_current_span(_W3C.extract({"traceparent": text}, Context())).get_span_context()
            if about.trace_flags.sampled:
                self._span.add_link(about)

    def headers(self, given: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        return {**given, TRACEPARENT: self._traceparent()}

    def forward(self, headers: list[Header]) -> list[Header]:
        return [(TRACEPARENT, self._traceparent()), *(item for item in headers if item[0] != TRACEPARENT)]

    def child(self, name: str) -> Span:  # noqa: ARG002 - calls have no calls of their own
        return OFF

    def _traceparent(self) -> bytes:
        about = self._span.get_span_context()
        return b"00-%032x-%016x-%02x" % (about.trace_id, about.span_id, about.trace_flags)


class RequestSpan(SDKSpan):
    """A server's; while entered it is `CURRENT`, and calls are its children."""

    __slots__ = ("_continues", "_records", "_token", "_tracer")

    def __init__(self, tracer: SDKTracer, span: trace.Span, continues: bool) -> None:
        super().__init__(span)
        self._tracer = tracer
        self._continues = continues
        self._records: list[_Record] = []
        self._token: Token[Span] | None = None

    def __enter__(self) -> Span:
        self._token = CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, began_ns, ended_ns, attributes in self._records:
            over = self._tracer.sdk.start_span(name, self._context(), attributes=attributes, start_time=began_ns)
            over.end(ended_ns)
        super().__exit__(kind, error, traceback)
        if self._token is not None:
            CURRENT.reset(self._token)

    def headers(self, given: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        changed = {**given, TRACEPARENT: self._traceparent()}
        if not self._continues:
            changed.pop(TRACESTATE, None)  # of a trace that this one does not belong to
        return changed

    def forward(self, headers: list[Header]) -> list[Header]:
        changed = super().forward(headers)
        return changed if self._continues else [item for item in changed if item[0] != TRACESTATE]

    def child(self, name: str) -> Span:
        if not self._span.is_recording():
            return OFF
        return SDKSpan(self._tracer.sdk.start_span(name, self._context(), SpanKind.CLIENT))

    def record(self, name: str, began_ns: int, ended_ns: int, attributes: Mapping[str, Value] | None = None) -> None:
        if self._span.is_recording():
            self._records.append((name, began_ns, ended_ns, attributes))  # made into spans after the answer

    def _context(self) -> Context:
        return trace.set_span_in_context(self._span, Context())


class _Exporter(SpanExporter):
    """The OTLP exporter; says once that the collector is away, and once that it is back."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._away_since: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception:  # noqa: BLE001 - an address that is none, for one; whatever it is, requests go on
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._back()
        else:
            SPANS_LOST.inc(len(spans))
            self._away()
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def _away(self) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log("trace_collector_away", endpoint=_endpoint())

    def _back(self) -> None:
        if self._away_since is not None:
            log("trace_collector_back", away_s=round(time.monotonic() - self._away_since, 1))
            self._away_since = None


def _extracted(headers: Mapping[bytes, bytes]) -> Context:
    """The caller's place in its trace; empty where the headers name none, or none that is one."""
    given = headers.get(TRACEPARENT)
    if given is None:
        return Context()
    carrier = {"traceparent": given.decode("latin-1"), "tracestate": headers.get(TRACESTATE, b"").decode("latin-1")}
    return _W3C.extract(carrier, Context())


def _endpoint() -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    url = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return url.rpartition("@")[2]  # no user, no password
