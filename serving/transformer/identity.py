"""Customer ids of a request as pseudonyms, by the key that ingest used."""

from __future__ import annotations

from typing import Final

from millrace.errors import InvalidInput
from millrace.pseudonyms import pseudonym
from serving.lean import Headers

PSEUDONYMS_HEADER: Final = b"x-millrace-customer-ids"
"""With the value `pseudonyms`: the ids are pseudonyms already. Refused unless MILLRACE_ACCEPT_PSEUDONYMS is set."""


def pseudonyms(customer_ids: list[str], headers: Headers, key: bytes, *, accept: bool) -> list[str]:
    """Raises InvalidInput when the header says something else, or what this server does not accept."""
    said = headers.get(PSEUDONYMS_HEADER)
    if said is None:
        return [pseudonym(customer_id, key) for customer_id in customer_ids]
    if said != b"pseudonyms" or not accept:
        raise InvalidInput(
            f"header {PSEUDONYMS_HEADER.decode()} is {said.decode('latin-1')!r}; wanted it absent, "
            "or 'pseudonyms' at a server with MILLRACE_ACCEPT_PSEUDONYMS=true"
        )
    return customer_ids
