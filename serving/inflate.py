"""Compressed bodies of requests: gzip and zstd are read, within a bound; every other encoding is refused by name."""

from __future__ import annotations

import zlib
from typing import Final

from millrace.errors import InvalidInput
from serving.tensors import TooLarge

READABLE: Final = "gzip, zstd"
GZIP: Final = frozenset({b"gzip", b"x-gzip"})
GZIP_MEMBERS: Final = 16
"""A body may be so many gzip files, one after the other; each costs a copy of what follows it."""
_GZIP_WINDOW: Final = 31
"""zlib's window bits: the largest window, and gzip's header."""


class UnknownEncoding(InvalidInput):
    """A body is encoded in a way that nobody here reads (HTTP 415)."""


def inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body as it was before `encoding`, the header's value; raises UnknownEncoding, InvalidInput, TooLarge."""
    wanted = encoding.strip().lower()
    if wanted in (b"", b"identity"):
        return body
    if not body:
        raise InvalidInput(f"content-encoding is {wanted.decode('latin-1')[:40]!r}; the body is empty")
    if wanted in GZIP:
        found = _gunzip(body, limit)
    elif wanted == b"zstd":
        found = _unzstd(body, limit)
    else:
        got = encoding[:40].decode("latin-1")
        raise UnknownEncoding(f"content-encoding is {got!r}; wanted one of {READABLE}, or none")
    if len(found) > limit:
        raise TooLarge(f"the body inflates to more than {limit} bytes. Send fewer rows.")
    return found


def _gunzip(body: bytes, limit: int) -> bytes:
    """Of one member after the other; at most a little more than `limit` bytes."""
    found = b""
    rest = body
    for _ in range(GZIP_MEMBERS):
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            found += member.decompress(rest, limit + 1 - len(found))
        except zlib.error as error:
            raise InvalidInput(f"content-encoding is gzip; the body is not: {error}") from error
        if len(found) > limit:
            return found
        if not member.eof:
            raise InvalidInput("content-encoding is gzip; the body ends before its data does")
        rest = member.unused_data
        if not rest:
            return found
    raise InvalidInput(f"content-encoding is gzip; the body has more than {GZIP_MEMBERS} members")


def _unzstd(body: bytes, limit: int) -> bytes:
    import pyarrow as pa  # a fifth of a second that only a sender of zstd pays for

    try:
        with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
            found: bytes = stream.read(limit + 1)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"content-encoding is zstd; the body is not: {error}") from error
    return found
