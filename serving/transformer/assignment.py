"""Which customers an A/B test gives to the challenger: a pure function of pseudonym, key and percentage.

Sticky: a customer stays with an arm as long as the key does. Monotone: raising the percentage moves customers to the
challenger and none back.
"""

from __future__ import annotations

import hashlib
from typing import Final

_BUCKETS: Final = 1 << 64


def challenged(pseudonym: str, percent: float, key: bytes) -> bool:
    """Whether this customer's transactions are the challenger's, at `percent` in [0, 100]."""
    return bucket(pseudonym, key) < percent


def bucket(pseudonym: str, key: bytes) -> float:
    """The customer's place in [0, 100), uniform and without relation to anything else hashed with the key."""
    secret = hashlib.sha256(key).digest()
    digest = hashlib.blake2b(pseudonym.encode(), digest_size=8, key=secret, person=b"millrace-ab").digest()
    return 100.0 * (int.from_bytes(digest) >> 11) / (_BUCKETS >> 11)
