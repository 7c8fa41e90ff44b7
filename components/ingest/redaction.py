"""URIs as they may be shown and kept: without user information, query and fragment, where passwords and tokens are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from millrace.errors import MillraceError, Unavailable

_USER: Final = re.compile(r"(?<=://)[^/\s]*@")
_HTTP_QUERY: Final = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\")>]*?(?=::|[\s'\")>]|$)", re.IGNORECASE)
_QUERY: Final = re.compile(r"\?[\w.~%-]+=[^\s'\")>]*?(?=::|[\s'\")>]|$)")
"""Elsewhere than in HTTP a lone `?` is part of a glob."""


def redacted(text: str) -> str:
    """`text`, a URI or a sentence with URIs in it, without what may be a secret; a local path as it is."""
    if "://" not in text:
        return text
    return _QUERY.sub("", _HTTP_QUERY.sub(r"\1", _USER.sub("", text)))


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
