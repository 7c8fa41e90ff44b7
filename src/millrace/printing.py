"""What a program prints where the locale is not UTF-8: a character that the screen lacks becomes a question mark."""

from __future__ import annotations

import io
import sys


def accept_any_text() -> None:
    """Let stdout and stderr take every text; by default a `→` ends a program whose locale is Latin-1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
