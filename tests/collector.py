"""An OTLP/HTTP collector for tests: a real socket, and every span that came, as its protocol says it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from millrace.observe import tracing


class Collector:
    """A receiver; `go.clear()` keeps it from answering."""

    def __init__(self) -> None:
        self.spans: list[SimpleNamespace] = []
        self.go = threading.Event()
        self.go.set()
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.go.wait(10)
                body = b"".join(self.parts())
                collector.take(self.path, ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def parts(self) -> Iterator[bytes]:
                """Of a body with a length, or in chunks."""
                if "content-length" in self.headers:
                    yield self.rfile.read(int(self.headers["content-length"]))
                    return
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, request: ExportTraceServiceRequest) -> None:
        assert path == "/v1/traces"
        for resource in request.resource_spans:
            about = {item.key: item.value.string_value for item in resource.resource.attributes}
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                known = {item.key: item.value for item in span.attributes}
                self.spans.append(SimpleNamespace(span=span, about=about, attributes=known, name=span.name))

    def named(self, name: str) -> Any:
        return next((item for item in self.spans if item.name == name), None)


@contextmanager
def collecting() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        made.go.set()
        made.server.shutdown()
        thread.join()
        made.server.server_close()


@contextmanager
def tracing_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`begin(url)`: this process sends its spans there, soon, and every one of them."""

    def begin(url: str) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        tracing.configure("of-the-test")

    yield begin
    tracing.stop()
