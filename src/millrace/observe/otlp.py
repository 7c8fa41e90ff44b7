"""`millrace.observe.tracing` on the OpenTelemetry SDK: spans in batches to an OTLP/HTTP collector, from a thread of
their own.

Imported only where a collector is named. Sampler, resource, batches and exporter are the SDK's, set by its OTEL_*
variables. Spans are plain fields until the answer is out, at a fraction of what the SDK's own cost on the way there;
what is not sampled is a `traceparent` to send on and nothing else. A collector that is away costs spans, one line in
the log, and no answer.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
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
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, ParentBasedTraceIdRatio, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from millrace.observe.progress import log
from millrace.observe.telemetry import SPANS_LOST
from millrace.observe.tracing import CURRENT, OFF, TRACEPARENT, TRACESTATE, Header, Span, Value

FLUSH_S: Final = 2.0
"""What the end of the process waits for the collector."""
SWITCH_INTERVAL_S: Final = 0.0005
"""While the thread encodes spans: it need not hold up a request for 5 ms (Python's default)."""
MAX_LINKS: Final = 100
SAMPLED: Final = 0.1
"""Share of the requests that are traced where no caller decided, unless OTEL_TRACES_SAMPLER says another sampler."""

NOT_SAMPLED: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
"""A `traceparent` whose caller decided against a trace."""

_Record = tuple[str, int, int, Mapping[str, Value] | None]
_W3C: Final = TraceContextTextMapPropagator()
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


def start(service: str) -> SDKTracer:
    """A tracer for this process; what is queued is sent when it ends."""
    tracer = SDKTracer(service)
    atexit.register(tracer.stop)
    log("tracing_on", service=service)
    return tracer


class SDKTracer:
    """`millrace.observe.tracing.Tracer`."""

    def __init__(self, service: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line for every batch that fails
        number = version("millrace")
        about = Resource.create({"service.name": service, "service.version": number})
        # What the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) wins.
        about = about.merge(OTELResourceDetector().detect())
        sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else ParentBasedTraceIdRatio(SAMPLED)
        self._provider = TracerProvider(sampler, about, shutdown_on_exit=False)
        self._heeds_callers = isinstance(self._provider.sampler, ParentBased)
        self._rare = self._provider.sampler if sampler is None else ParentBased(ALWAYS_ON)
        self._scope = InstrumentationScope("millrace", number)

        self._exporter = _Exporter(OTLPSpanExporter())
        self._processor = BatchSpanProcessor(self._exporter)

    def server(self, name: str, headers: Mapping[bytes, bytes], attributes: Mapping[str, Value]) -> Span:
        if self._heeds_callers and NOT_SAMPLED.fullmatch(headers.get(TRACEPARENT, b"")):
            return OFF  # the caller's word goes on as it came
        return self._begun(RequestSpan, name, _extracted(headers), attributes, self._provider.sampler)

    def work(self, name: str, traceparent: str, attributes: Mapping[str, Value]) -> Span:
        caller = _extracted({TRACEPARENT: traceparent.encode("latin-1", "replace")})
        return self._begun(WorkSpan, name, caller, attributes, self._rare)

    def _begun(
        self, made: type[RequestSpan], name: str, caller: Context, attributes: Mapping[str, Value], sampler: Sampler
    ) -> Span:
        parent = trace.get_current_span(caller).get_span_context() if caller else None
        ids = self._provider.id_generator
        trace_id = parent.trace_id if parent else ids.generate_trace_id()
        sampling = sampler.should_sample(caller, trace_id, name, made.kind, attributes)
        if sampling.decision is not Decision.RECORD_AND_SAMPLE:
            return UntracedSpan(b"00-%032x-%016x-00" % (trace_id, ids.generate_span_id()), keeps_state=bool(parent))
        about = self.context(trace_id, TraceFlags(TraceFlags.SAMPLED), sampling.trace_state)
        return made(self, name, about, parent, dict(attributes))

    def context(self, trace_id: int, flags: TraceFlags, state: TraceState | None) -> SpanContext:
        """Context of a span that starts here, in the trace of this id."""
        return SpanContext(trace_id, self._provider.id_generator.generate_span_id(), False, flags, state)

    def send(
        self,
        name: str,
        about: SpanContext,
        parent: SpanContext | None,
        times_ns: tuple[int, int],
        kind: SpanKind,
        attributes: Mapping[str, Value] | None = None,
        links: Sequence[Link] = (),
        status: Status = _UNSET,
    ) -> None:
        """A span that is over, to the SDK: its own cost more than twice as much, and this class is what it exports."""
        began_ns, ended_ns = times_ns
        span = ReadableSpan(
            name, about, parent, self._provider.resource, attributes or {}, (), links, kind,
            status=status, start_time=began_ns, end_time=ended_ns, instrumentation_scope=self._scope,
        )  # fmt: skip
        self._processor.on_end(span)

    def stop(self) -> None:
        """Send what is queued for at most FLUSH_S; the SDK's own end would wait half a minute for a collector."""
        atexit.unregister(self.stop)
        flushing = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
        if flushing.is_alive():
            self._exporter.shutdown()


class UntracedSpan(Span):
    """Stands for a request that is not traced; its `traceparent` tells the next server, which then traces nothing."""

    __slots__ = ("_keeps_state", "_traceparent")

    def __init__(self, traceparent: bytes, *, keeps_state: bool) -> None:
        self._traceparent, self._keeps_state = traceparent, keeps_state

    def headers(self, given: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        return _handed(given, self._traceparent, keeps_state=self._keeps_state)

    def forward(self, headers: list[Header]) -> list[Header]:
        return _forwarded(headers, self._traceparent, keeps_state=self._keeps_state)

    @property
    def traceparent(self) -> str:
        return self._traceparent.decode()


class LiveSpan(Span):
    """A span with an identity; it is over when it is left."""

    __slots__ = ("_about", "_attributes", "_began_ns", "_ended_ns", "_error", "_name", "_parent", "_tracer")
    kind = SpanKind.CLIENT

    def __init__(
        self,
        tracer: SDKTracer,
        name: str,
        about: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Value],
    ) -> None:
        self._tracer, self._name, self._about, self._parent = tracer, name, about, parent
        self._attributes = attributes
        self._error = False
        self._began_ns = self._ended_ns = time.time_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended_ns = time.time_ns()
        if kind is not None:
            self._attributes["error.type"] = kind.__qualname__
            self._error = True

    def set(self, name: str, value: Value) -> None:
        self._attributes[name] = value

    def answered(self, status: int) -> None:
        self._attributes["http.response.status_code"] = status
        self._error = self._error or status >= 500

    def headers(self, given: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        return _handed(given, self._traceparent(), keeps_state=self._parent is not None)

    def forward(self, headers: list[Header]) -> list[Header]:
        return _forwarded(headers, self._traceparent(), keeps_state=self._parent is not None)

    @property
    def traceparent(self) -> str:
        return self._traceparent().decode()

    def child(self, name: str) -> Span:  # noqa: ARG002 - calls have no calls of their own
        return OFF

    def send(self, links: Sequence[Link] = ()) -> None:
        """Hands the span to the exporter, which sends it to the collector some time later."""
        times = (self._began_ns, self._ended_ns)
        status = _ERROR if self._error else _UNSET
        self._tracer.send(self._name, self._about, self._parent, times, self.kind, self._attributes, links, status)

    def _traceparent(self) -> bytes:
        about = self._about
        return b"00-%032x-%016x-%02x" % (about.trace_id, about.span_id, about.trace_flags)


class RequestSpan(LiveSpan):
    """A server's; while entered it is `CURRENT`, and calls are its children. All are sent when it is left."""

    __slots__ = ("_calls", "_links", "_records", "_token")
    kind = SpanKind.SERVER

    def __init__(
        self,
        tracer: SDKTracer,
        name: str,
        about: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Value],
    ) -> None:
        super().__init__(tracer, name, about, parent, attributes)
        self._calls: list[LiveSpan] = []
        self._records: list[_Record] = []
        self._links: list[Link] = []
        self._token: Token[Span] | None = None

    def __enter__(self) -> Span:
        self._token = CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self._token is not None:
            CURRENT.reset(self._token)

        for call in self._calls:
            call.send()
        for name, began_ns, ended_ns, attributes in self._records:
            about = self._child()
            self._tracer.send(name, about, self._about, (began_ns, ended_ns), SpanKind.INTERNAL, attributes)
        self.send(self._links)

    def link(self, traceparents: Iterable[str]) -> None:
        for text in list(dict.fromkeys(traceparents))[:MAX_LINKS]:
            about = trace.get_current_span(_W3C.extract({"traceparent": text}, Context())).get_span_context()
            if about.trace_flags.sampled:
                self._links.append(Link(about))

    def child(self, name: str) -> Span:
        call = LiveSpan(self._tracer, name, self._child(), self._about, {})
        self._calls.append(call)
        return call

    def record(self, name: str, began_ns: int, ended_ns: int, attributes: Mapping[str, Value] | None = None) -> None:
        self._records.append((name, began_ns, ended_ns, attributes))

    def _child(self) -> SpanContext:
        return self._tracer.context(self._about.trace_id, self._about.trace_flags, self._about.trace_state)


class WorkSpan(RequestSpan):
    """A span of work that nobody asked for over HTTP."""

    __slots__ = ()
    kind = SpanKind.INTERNAL


class _Exporter(SpanExporter):
    """The OTLP exporter; says once that the collector is away, and once that it is back."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._away_since: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, SWITCH_INTERVAL_S))
        try:
            result = self._inner.export(spans)
        except Exception:  # noqa: BLE001 - an address that is none, for one; whatever it is, requests go on
            result = SpanExportResult.FAILURE
        finally:
            sys.setswitchinterval(usual)

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


def _handed(given: Mapping[bytes, bytes], traceparent: bytes, *, keeps_state: bool) -> Mapping[bytes, bytes]:
    """A `tracestate` of a trace that this span does not belong to is left out."""
    changed = {**given, TRACEPARENT: traceparent}
    if not keeps_state:
        changed.pop(TRACESTATE, None)
    return changed


def _forwarded(headers: list[Header], traceparent: bytes, *, keeps_state: bool) -> list[Header]:
    dropped = (TRACEPARENT,) if keeps_state else (TRACEPARENT, TRACESTATE)
    return [(TRACEPARENT, traceparent), *(item for item in headers if item[0] not in dropped)]


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
