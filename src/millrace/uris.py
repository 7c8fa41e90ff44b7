"""URIs as they may be shown and kept: without user information, query and fragment, where passwords and tokens are."""

from __future__ import annotations

import re
from typing import Final

_USER: Final = re.compile(r"(?<=://)[^/\s]*@")
_HTTP_QUERY: Final = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\")>]*?(?=::|[\s'\")>]|$)", re.IGNORECASE)
_QUERY: Final = re.compile(r"\?[\w.~%-]+=[^\s'\")>]*?(?=::|[\s'\")>]|$)")
"""Elsewhere than in HTTP a lone `?` is part of a glob."""


def redacted(text: str) -> str:
    """`text`, a URI or a sentence with URIs in it, without what may be a secret; a local path as it is."""
    if "://" not in text:
        return text
    return _QUERY.sub("", _HTTP_QUERY.sub(r"\1", _USER.sub("", text)))
