"""What is done to a valid request: to its headers, its document, its bytes, its way onto the wire."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from benchmarks.fuzz.requests import Request

Random = np.random.Generator
Mutation = Callable[[Request, Random], Request]

ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -1e308, 1e-320, "", " ", "x" * 300,
    "\x00", "\u2028", "\ud7ff", "é", "7.0", [], {}, [[]], [None], {"": 0}, {"a": {"b": []}},
)  # fmt: skip
LITERALS: Final = (b"NaN", b"Infinity", b"-Infinity", b'"\\ud800"', b"1e999", b"-0", b"0x1", b"'a'", b"9" * 400)
"""What JSON lacks, or can hardly hold."""
ODD_HEADERS: Final = (
    ("x-deadline-ms", "60000 "), ("x-deadline-ms", "1"), ("x-deadline-ms", "-5"), ("x-deadline-ms", "9" * 30),
    ("x-deadline-ms", "\xff"), ("x-millrace-keys", "pseudonyms"), ("x-millrace-keys", "?"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("traceparent", "00-zz"),
    ("tracestate", "a=" + "b" * 500), ("ce-id", "\xe9"), ("ce-specversion", "1.0"), ("ce-specversion", "9"),
    ("ce-type", "x"), ("ce-source", ""), ("content-type", "application/cloudevents+json"),
    ("content-type", "application/cloudevents-batch+json"), ("content-type", "text/csv"), ("content-type", "\xff/\xfe"),
    ("inference-header-content-length", "1"), ("inference-header-content-length", "-1"),
    ("inference-header-content-length", "99999999"), ("content-encoding", "identity"), ("content-encoding", "br"),
    ("content-encoding", "gzip"), ("content-encoding", "zstd"), ("content-encoding", "gzip, gzip"), ("accept", "\xff"),
    ("accept-encoding", "gzip;q=0"), ("x-request-id", "another"), ("x-request-id", ""), ("x-forwarded-for", "1"),
    ("cookie", "a=b" * 50), ("range", "bytes=0-1"), ("if-none-match", "*"), ("connection", "keep-alive, x"),
    ("upgrade", "h2c"), ("te", "trailers"), ("knative-serving-tag", "prev"), ("x-one", " \t 1 \t "),
    ("x-" + "y" * 200, ""),
    ("authorization", "Basic \xff"), ("expect", "nothing"), ("host2", "x"),
)  # fmt: skip
METHODS: Final = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "post")
FRAGMENTS: Final = (
    "/", "//", "/..", "/%2e%2e", "%00", "%ff", "?a=b", "#x", ";x", ":explain", "/versions/1/infer",
    "/versions/77/infer",
)  # fmt: skip


def odd_header(request: Request, random: Random) -> Request:
    name, value = ODD_HEADERS[random.integers(len(ODD_HEADERS))]
    return request.with_header(name, value)


def odd_headers(request: Request, random: Random) -> Request:
    for _ in range(random.integers(2, 6)):
        request = odd_header(request, random)
    return request


def many_headers(request: Request, random: Random) -> Request:
    return replace(request, headers=(*request.headers, *((f"x-{n}", "1" * 20) for n in range(random.integers(20, 90)))))


def odd_method(request: Request, random: Random) -> Request:
    return replace(request, method=METHODS[random.integers(len(METHODS))])


def odd_path(request: Request, random: Random) -> Request:
    fragment = FRAGMENTS[random.integers(len(FRAGMENTS))]
    place = int(random.integers(1, len(request.path) + 1))
    return replace(request, path=request.path[:place] + fragment + request.path[place:])


def absolute(request: Request, random: Random) -> Request:  # noqa: ARG001
    return replace(request, path=f"http://{request.address}{request.path}")


def odd_value(request: Request, random: Random) -> Request:
    """Somewhere in the document another value."""
    document, length = _document(request)
    places = list(_places(document))
    holder, key = places[random.integers(len(places))]
    holder[key] = ODD_VALUES[random.integers(len(ODD_VALUES))]
    return _with_document(request, document, length)


def odd_literal(request: Request, random: Random) -> Request:
    """Somewhere in the document what JSON has no word for."""
    document, length = _document(request)
    places = list(_places(document))
    holder, key = places[random.integers(len(places))]
    holder[key] = "\x01here\x01"
    made = _with_document(request, document, length)
    literal = LITERALS[random.integers(len(LITERALS))]
    return replace(made, body=made.body.replace(b'"\\u0001here\\u0001"', literal))


def less(request: Request, random: Random) -> Request:
    """Somewhere in the document something is missing."""
    document, length = _document(request)
    places = list(_places(document))
    holder, key = places[random.integers(len(places))]
    del holder[key]
    return _with_document(request, document, length)


def more(request: Request, random: Random) -> Request:
    """Somewhere in the document something more, or again."""
    document, length = _document(request)
    places = list(_places(document))
    holder, key = places[random.integers(len(places))]
    if isinstance(holder, list):
        holder.extend([holder[key]] * int(random.choice([1, 2, 40, 1100])))
    else:
        holder[f"{key}_"] = holder[key]
    return _with_document(request, document, length)


def odd_shape(request: Request, random: Random) -> Request:
    """Tensors of other shapes and types; documents without tensors get another value."""
    document, length = _document(request)
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not inputs:
        return odd_value(request, random)
    tensor = inputs[random.integers(len(inputs))]
    shapes: list[Any] = [[-1, 35], [], [0], [2**40, 2**40], [1] * 70, [1.5], "1", None, [[1]], [2**64], [1, 1]]
    types = ["FP64", "BYTES", "INT8", "", None, 7]
    if random.random() < 0.7:
        tensor["shape"] = shapes[random.integers(len(shapes))]
    else:
        tensor["datatype"] = types[random.integers(len(types))]
    return _with_document(request, document, length)


def flipped(request: Request, random: Random) -> Request:
    body = bytearray(request.body)
    for _ in range(random.integers(1, 6)):
        body[random.integers(len(body))] = random.integers(256)
    return replace(request, body=bytes(body))


def cut(request: Request, random: Random) -> Request:
    return replace(request, body=request.body[: random.integers(len(request.body))])


def inserted(request: Request, random: Random) -> Request:
    place = int(random.integers(len(request.body)))
    noise = random.bytes(int(random.integers(1, 40)))
    return replace(request, body=request.body[:place] + noise + request.body[place:])


def noise(request: Request, random: Random) -> Request:
    return replace(request, body=random.bytes(int(random.integers(0, 2000))))


def nested(request: Request, random: Random) -> Request:
    depth = int(random.choice([50, 500, 1100, 50_000]))
    return replace(request, body=b'{"instances":' + b"[" * depth + b"]" * depth + b"}")


def byte_order_mark(request: Request, random: Random) -> Request:  # noqa: ARG001
    mark = b"\xef\xbb\xbf"
    told = dict(request.headers).get("inference-header-content-length")
    longer = {} if told is None else {"inference-header-content-length": str(int(told) + len(mark))}
    headers = tuple((name, longer.get(name, value)) for name, value in request.headers)
    return replace(request, headers=headers, body=mark + request.body)


def utf16(request: Request, random: Random) -> Request:  # noqa: ARG001
    return replace(request, body=request.body.decode("latin-1").encode("utf-16"))


def compressed(request: Request, random: Random) -> Request:
    made = replace(request, body=gzip.compress(request.body, int(random.integers(1, 10)), mtime=0))
    return made.with_header("content-encoding", "gzip")


def badly_compressed(request: Request, random: Random) -> Request:
    packed = gzip.compress(request.body, mtime=0) if random.random() < 0.7 else zlib.compress(request.body)
    return flipped(replace(request, body=packed), random).with_header("content-encoding", "gzip")


def chunked(request: Request, random: Random) -> Request:
    trailer = b"x-trailer: 1\r\n" if random.random() < 0.3 else b""
    chunks = b"".join(
        b"%x%s\r\n%s\r\n" % (len(piece), b";a=b" if random.random() < 0.1 else b"", piece)
        for piece in _pieces(request.body, random)
    )
    whole = request.head(("transfer-encoding", "chunked")) + chunks + b"0\r\n" + trailer + b"\r\n"
    return replace(request, pieces=_pieces(whole, random))


def in_segments(request: Request, random: Random) -> Request:
    return replace(request, pieces=_pieces(request.written()[0], random))


def expecting(request: Request, random: Random) -> Request:  # noqa: ARG001
    return request.with_header("expect", "100-continue")


def upgrading(request: Request, random: Random) -> Request:
    protocol = str(random.choice(["h2c", "websocket", "TLS/1.0", ""]))
    offer = request.with_header("connection", "Upgrade, HTTP2-Settings").with_header("upgrade", protocol)
    offer = offer.with_header("http2-settings", "AAMAAABkAAQAAP__")
    return in_segments(offer, random) if random.random() < 0.5 else offer


def half_closed(request: Request, random: Random) -> Request:  # noqa: ARG001
    return replace(request, ends=True)


def wrong_length(request: Request, random: Random) -> Request:
    length = max(0, len(request.body) + int(random.choice([-50, -1, 1, 50])))
    whole = request.head(("content-length", str(length))) + request.body
    return replace(request, pieces=(whole,), framed=False, ends=True)


def conflicting(request: Request, random: Random) -> Request:
    length = ("content-length", str(len(request.body)))
    second = [("content-length", "3"), ("transfer-encoding", "chunked"), ("transfer-encoding", "gzip"), ("host", "x")]
    whole = request.head(length, second[random.integers(len(second))]) + request.body
    return replace(request, pieces=(whole,), framed=False, ends=True)


def broken_head(request: Request, random: Random) -> Request:
    whole = bytearray(request.written()[0])
    end = whole.index(b"\r\n\r\n")
    for _ in range(random.integers(1, 4)):
        whole[random.integers(end)] = random.integers(256)
    return replace(request, pieces=(bytes(whole),), framed=False, ends=True)


def ended_early(request: Request, random: Random) -> Request:
    whole = request.written()[0]
    return replace(request, pieces=(whole[: random.integers(1, len(whole))],), framed=False, ends=True)


def no_http(request: Request, random: Random) -> Request:
    pieces = (random.bytes(int(random.integers(1, 400))) + b"\r\n\r\n",)
    return replace(request, pieces=pieces, framed=False, ends=True)


KEEPING: Final[tuple[Mutation, ...]] = (
    compressed, chunked, in_segments, expecting, upgrading, half_closed, byte_order_mark, absolute, many_headers,
)  # fmt: skip
"""After these a request is still the same request, and is answered with 200 or 202."""
BREAKING: Final[tuple[Mutation, ...]] = (
    odd_header, odd_headers, odd_method, odd_path, odd_value, odd_value, odd_value, odd_literal, less, more, odd_shape,
    flipped, cut, inserted, noise, nested, utf16, badly_compressed,
)  # fmt: skip
UNFRAMED: Final[tuple[Mutation, ...]] = (wrong_length, conflicting, broken_head, ended_early, no_http)
"""After these nobody knows where the request ends: the connection is not used again."""


def mutated(request: Request, random: Random) -> Request:
    """One of everything, about as often."""
    kinds = (KEEPING, BREAKING, BREAKING, UNFRAMED)
    chosen = kinds[random.integers(len(kinds))]
    mutation = chosen[random.integers(len(chosen))]
    return replace(mutation(request, random), mutation=mutation.__name__)


def is_kept(request: Request) -> bool:
    """Whether a request is answered as if nothing had been done to it."""
    return request.mutation == "" or any(request.mutation == mutation.__name__ for mutation in KEEPING)


def _document(request: Request) -> tuple[Any, int | None]:
    """The JSON part, and its length where binary tensors follow."""
    told = dict(request.headers).get("inference-header-content-length")
    length = None if told is None else int(told)
    return json.loads(request.body[:length]), length


def _with_document(request: Request, document: Any, length: int | None) -> Request:
    body = json.dumps(document).encode()
    if length is None:
        return replace(request, body=body)
    headers = tuple(
        (name, str(len(body)) if name == "inference-header-content-length" else value)
        for name, value in request.headers
    )
    return replace(request, headers=headers, body=body + request.body[length:])


def _places(document: Any) -> Any:
    """(holder, key) of every value in a document, but of few numbers of a long list."""
    items: Any = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))[:8]
    for key, value in items:
        yield document, key
        yield from _places(value)


def _pieces(data: bytes, random: Random) -> tuple[bytes, ...]:
    if not data:
        return ()
    cuts = sorted({int(place) for place in random.integers(1, len(data) + 1, random.integers(1, 5))} | {len(data)})
    starts = [0, *cuts[:-1]]
    return tuple(data[start:end] for start, end in zip(starts, cuts, strict=True))
