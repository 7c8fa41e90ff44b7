"""Ids of events as whole numbers of 64 bits, whatever they were: what states, logs and feature sets are keyed by.

A whole number stays what it is; any other text (a UUID, `tx-00017`) becomes 63 bits of its MD5, the same everywhere:
ingest does it in SQL (`millrace.reading.kinds`), the endpoint and the readers of labels here. Among ten million ids two
collide once in 180,000 worlds. Why not text throughout: docs/adr/0031.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

WHOLE_ID: Final = r"[+-]?[0-9]+(\.0*)?"
"""Text of a whole number, also one that went through a float."""
_WHOLE: Final = re.compile(WHOLE_ID)
_LEAST, _MOST = -(2**63), 2**63 - 1


def event_key(raw: str | int | float) -> int:
    """The number that stands for an event's id.

    Text is read without surrounding blanks. Raises ValueError for what is no id: a fraction, NaN, empty text.
    """
    if isinstance(raw, float):
        if not raw.is_integer():
            raise ValueError(f"{raw!r} is no id")
        raw = int(raw)
    text = str(raw).strip()
    if not text:
        raise ValueError("an empty text is no id")

    if _WHOLE.fullmatch(text):
        whole = int(text.partition(".")[0])
        if _LEAST <= whole <= _MOST:
            return whole
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little") >> 1
