"""One event per step, and a bar on anything long when somebody looks.

`log` writes one line (text, or JSON with MILLRACE_LOG_FORMAT=json); `track` draws a bar where somebody looks and,
elsewhere, stays silent but for its closing line. JSON lines that are written while a request is handled carry its ids.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from rich.progress import track as rich_track

T = TypeVar("T")

REQUEST: Final[ContextVar[Mapping[bytes, bytes]]] = ContextVar("request", default={})  # noqa: B039 - never changed
"""Headers of the request that is handled; a server sets it once for each."""
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


def log(event: str, **fields: Any) -> None:
    """One line on stderr: time, event, fields. Never pass a secret or a raw id."""
    print(_line(event, fields), file=sys.stderr, flush=True)


class LogLines(logging.Formatter):
    """Makes what libraries log into lines of `log`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _line(record.levelname.lower(), fields)


def _line(event: str, fields: Mapping[str, Any]) -> str:
    now = datetime.now(UTC)
    if os.environ.get("MILLRACE_LOG_FORMAT") == "json":
        about = {"time": now.isoformat(timespec="milliseconds"), "event": event} | _ids(REQUEST.get())
        return json.dumps({**about, **fields}, default=str)
    return " ".join([now.strftime("%H:%M:%S"), event, *(f"{key}={_short(value)}" for key, value in fields.items())])


def track(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """Iterate with a progress bar where somebody looks; log how long it took at the end."""
    start = time.perf_counter()
    if sys.stderr.isatty():
        yield from rich_track(items, what, total=total, transient=True)
    else:
        yield from items
    log(what, seconds=round(time.perf_counter() - start, 2))


def _ids(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """`request_id` and `trace_id`, as far as the headers say them."""
    request_id = headers.get(b"ce-id") or headers.get(b"x-request-id")
    trace = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    found = {"request_id": request_id, "trace_id": trace and trace["trace"]}
    return {name: value.decode("latin-1")[:128] for name, value in found.items() if value}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
