"""Who an A/B test gives to the challenger: a pure function of an id, a key and a percentage.

Sticky: an id stays with an arm as long as the key does. Monotone: raising the percentage moves ids to the challenger
and none back.
"""

from __future__ import annotations

import hashlib
from typing import Final

_BUCKETS: Final = 1 << 64


def challenged(id_: str, percent: float, key: bytes) -> bool:
    """Whether what this id names is the challenger's, at `percent` in [0, 100]."""
    return bucket(id_, key) < percent


def bucket(id_: str, key: bytes) -> float:
    """The id's place in [0, 100), uniform and without relation to anything else hashed with the key."""
    secret = hashlib.sha256(key).digest()
    digest = hashlib.blake2b(id_.encode(), digest_size=8, key=secret, person=b"millrace-ab").digest()
    return 100.0 * (int.from_bytes(digest) >> 11) / (_BUCKETS >> 11)
