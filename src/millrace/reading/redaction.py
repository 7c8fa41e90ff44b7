"""Errors of stores without the credentials that a URI in them may hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import MillraceError, Unavailable
from millrace.uris import redacted


@contextmanager
def redacting() -> Iterator[None]:
    """Errors of a store that quote a URI with credentials come out as Unavailable, without them."""
    try:
        yield
    except MillraceError:
        raise
    except Exception as error:  # every store has its own
        message = str(error)
        if (told := redacted(message)) == message:
            raise
        raise Unavailable(f"the source cannot be read: {type(error).__name__}: {told}") from None
