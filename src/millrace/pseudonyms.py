"""Pseudonyms of ids: a keyed hash, so that ids can be joined but not read or guessed without the key.

HMAC-SHA256 of the id as text, first 16 hex digits. Ingest hashes whole columns, the transformer single requests; both
come through `canonical`, so 596, "596", " 596", 596.0 and "596.0" are the same one everywhere. A single id needs no
pyarrow: an edge package carries this module without it.
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

DIGITS: Final = 16
"""Hex digits of a pseudonym: 64 bits, so that among ten million ids two collide once in 370,000 worlds."""
_THROUGH_A_FLOAT: Final = re.compile(r"([+-]?[0-9]+)\.0+")


def canonical(raw: str | int | float) -> str:
    """An id as text: no surrounding blanks, and no `.0` on one that went through a float."""
    if isinstance(raw, float) and raw.is_integer():
        return str(int(raw))
    text = str(raw).strip()
    through_a_float = _THROUGH_A_FLOAT.fullmatch(text) if "." in text else None
    return through_a_float[1] if through_a_float else text


def pseudonym(raw: str | int | float, key: bytes) -> str:
    """The pseudonym of one id, 16 hex digits."""
    return hmac.digest(key, canonical(raw).encode(), "sha256").hex()[:DIGITS]


def fingerprint(key: bytes) -> str:
    """Tells one key from another without telling either: a keyed hash of nothing, 64 hex digits."""
    return hmac.digest(key, b"", "sha256").hex()


def pseudonymise(ids: Any, key: bytes, known: dict[Any, str] | None = None) -> pa.Array:
    """The pseudonyms of a column (Arrow, NumPy or sequence); each distinct id is hashed once, a null stays null.

    `known` is filled with each id's pseudonym; handed in again, with the same key, it spares the ids of earlier
    columns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = {} if known is None else known
    column = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else pa.array(ids)
    column = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    distinct = column.dictionary.to_pylist()
    known.update({one: pseudonym(one, key) for one in distinct if one is not None and one not in known})
    names = pa.array([known.get(one) for one in distinct], pa.string())
    return names.take(column.indices)
