"""Ids of a request as the states know them: pseudonyms, by the key that ingest used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from millrace.errors import InvalidInput
from millrace.pseudonyms import pseudonym
from serving.lean import Headers

PSEUDONYMS_HEADER: Final = b"x-millrace-keys"
"""With the value `pseudonyms`: the ids are pseudonyms already. Refused unless MILLRACE_ACCEPT_PSEUDONYMS is set."""


def naming(headers: Headers, key: bytes, *, accept: bool) -> Callable[[str], str]:
    """What makes the state's id of an id in the request, for entities that are pseudonymised.

    Raises InvalidInput when the header says something else, or what this server does not accept.
    """
    said = headers.get(PSEUDONYMS_HEADER)
    if said is None:
        return lambda id_: pseudonym(id_, key)
    if said != b"pseudonyms" or not accept:
        raise InvalidInput(
            f"header {PSEUDONYMS_HEADER.decode()} is {said.decode('latin-1')!r}; wanted it absent, "
            "or 'pseudonyms' at a server with MILLRACE_ACCEPT_PSEUDONYMS=true"
        )
    return str
