"""One event per step, and a bar on anything long when a terminal looks.

`log` writes one line (text, or JSON with MILLRACE_LOG_FORMAT=json); `track` draws a bar on a terminal and, elsewhere,
stays silent but for its closing line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.progress import track as rich_track

T = TypeVar("T")


def log(event: str, **fields: Any) -> None:
    """One line on stderr: time, event, fields. Never pass a secret or a raw customer id."""
    now = datetime.now(UTC)
    if os.environ.get("MILLRACE_LOG_FORMAT") == "json":
        line = json.dumps({"time": now.isoformat(timespec="milliseconds"), "event": event} | fields, default=str)
    else:
        line = " ".join([now.strftime("%H:%M:%S"), event, *(f"{key}={_short(value)}" for key, value in fields.items())])
    print(line, file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """Iterate with a progress bar on a terminal; log how long it took at the end."""
    start = time.perf_counter()
    if sys.stderr.isatty():
        yield from rich_track(items, what, total=total, transient=True)
    else:
        yield from items
    log(what, seconds=round(time.perf_counter() - start, 2))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
