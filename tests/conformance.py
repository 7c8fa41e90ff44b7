"""What HTTP/1.1 asks of a server, as a table: bytes in, statuses and own answers out. No library between them.

Each `Case` is tried at a `Target` on a connection of its own. The table is for our servers alone, and for the proxy in
front of them; a case that a proxy may rightly answer in another way says so in `beside`.
"""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

TIMEOUT_S: Final = 15.0
MIB: Final = 1 << 20
CLOSE: Final = "close"
"""Instead of bytes: the client closes its sending side."""
WAIT: Final = "wait"
"""Instead of bytes: the client waits for an interim answer."""
OK: Final = (200, 202)
REFUSED: Final = (400,)
ANY: Final = tuple(range(200, 500))


@dataclass(frozen=True)
class Target:
    """A server: where predictions are asked for, and how an answer is told from another's."""

    port: int
    path: str
    body: Callable[[int], bytes]
    """A valid request whose answer repeats the number."""
    id_of: Callable[[dict[str, Any]], int]
    model: str
    host: str = "127.0.0.1"

    def head(self, *headers: str, method: str = "POST", path: str | None = None, version: str = "1.1") -> bytes:
        lines = [f"{method} {path or self.path} HTTP/{version}", f"host: {self.host}:{self.port}", *headers, "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def ask(self, number: int, *headers: str, **changes: str) -> bytes:
        body = self.body(number)
        return self.head(*headers, f"content-length: {len(body)}", **changes) + body

    def with_body(self, body: bytes, *headers: str) -> bytes:
        return self.head(*headers, f"content-length: {len(body)}") + body

    def chunked(self, body: bytes, *headers: str, size: int = 40, trailers: bytes = b"") -> bytes:
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return self.head(*headers, "transfer-encoding: chunked") + chunks + b"0\r\n" + trailers + b"\r\n"


Steps = Sequence[bytes | str]


@dataclass(frozen=True)
class Case:
    """What a client sends, and the answers that it must get, in order: their statuses, and whose they are."""

    name: str
    steps: Callable[[Target], Steps]
    statuses: Sequence[tuple[int, ...]] = (OK,)
    numbers: Sequence[int | None] = ()
    """The number in each answer; None where an answer has none."""
    ends: bool = False
    """The server ends the connection after the last answer."""
    methods: Sequence[str] = ("POST",)
    """Of the requests, the last one for all that follow: an answer to HEAD has no body."""
    header: str = ""
    """What an answer's head must contain."""
    beside: tuple[int, ...] = ()
    """Statuses that a proxy in front may give instead of the first."""


@dataclass(frozen=True)
class Answer:
    status: int
    head: str
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class Client:
    """A socket, and what came out of it so far."""

    def __init__(self, target: Target) -> None:
        self.socket = socket.create_connection((target.host, target.port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, steps: Steps) -> None:
        for step in steps:
            if step == CLOSE:
                self.socket.shutdown(socket.SHUT_WR)
            elif step == WAIT:
                assert self.read("POST", interim=True).status == 100
            else:
                assert isinstance(step, bytes)
                try:
                    self.socket.sendall(step)
                except (BrokenPipeError, ConnectionResetError):
                    return  # refused before all of it was sent

    def read(self, method: str, *, interim: bool = False) -> Answer:
        """The next answer; interim ones are passed over unless they are asked for."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        raw, _, self._rest = self._rest.partition(b"\r\n\r\n")
        head = raw.decode("latin-1").lower()
        status = int(head.split(" ")[1])
        if 100 <= status < 200 and status != 101:
            return Answer(status, head, b"") if interim else self.read(method)
        if method == "HEAD" or status in (204, 304):
            return Answer(status, head, b"")
        return Answer(status, head, self._body(head))

    def ended(self) -> bool:
        """Whether the server closes the connection, after nothing else."""
        try:
            self.socket.settimeout(5)
            return not self._rest and not self.socket.recv(1)
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def _body(self, head: str) -> bytes:
        if "transfer-encoding: chunked" in head:
            return b"".join(iter(self._chunk, b""))
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
        return self._take(length)

    def _chunk(self) -> bytes:
        while b"\r\n" not in self._rest:
            self._more()
        size, _, self._rest = self._rest.partition(b"\r\n")
        chunk = self._take(int(size, 16))
        self._take(2)
        return chunk

    def _take(self, length: int) -> bytes:
        while len(self._rest) < length:
            self._more()
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken

    def _more(self) -> None:
        data = self.socket.recv(MIB)
        assert data, f"the connection ended; so far: {self._rest[:200]!r}"
        self._rest += data


def check(case: Case, target: Target, *, proxied: bool = False) -> None:
    """Try a case; raises AssertionError when it is answered in another way than it says."""
    with Client(target) as client:
        client.send(case.steps(target))
        for place, statuses in enumerate(case.statuses):
            method = case.methods[min(place, len(case.methods) - 1)]
            answer = client.read(method)
            wanted = (*statuses, *case.beside) if proxied else statuses
            assert answer.status in wanted, f"{case.name}: {answer.status} {answer.body[:300]!r}; wanted {wanted}"
            _check_body(case, answer, target, case.numbers[place] if place < len(case.numbers) else None)
        if case.ends:
            assert client.ended(), f"{case.name}: the connection is still open, or more was sent"


def _check_body(case: Case, answer: Answer, target: Target, number: int | None) -> None:
    assert case.header in answer.head, f"{case.name}: {answer.head}; wanted {case.header!r}"
    if answer.status >= 400 and answer.body and "json" in answer.head:
        assert isinstance(answer.document, dict), f"{case.name}: {answer.body[:300]!r}"
    if number is not None:
        assert target.id_of(answer.document) == number, f"{case.name}: {answer.body[:300]!r}; wanted {number}'s"


def one_by_one(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


def _upgrade(target: Target, number: int, protocol: str, *, segments: bool) -> Steps:
    offer = ("connection: Upgrade, HTTP2-Settings", f"upgrade: {protocol}", "http2-settings: AAMAAABkAAQAAP__")
    whole = target.ask(number, *offer)
    cut = whole.index(b"\r\n\r\n") + 4
    return [whole[:cut], whole[cut:]] if segments else [whole]


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)  # type: ignore[no-any-return]


FRAMING: Final = (
    Case("plain", lambda t: [t.ask(1)], numbers=[1]),
    Case("head and body apart", lambda t: [t.head(f"content-length: {len(t.body(2))}"), t.body(2)], numbers=[2]),
    Case("byte by byte", lambda t: one_by_one(t.ask(3)), numbers=[3]),
    Case("chunked", lambda t: [t.chunked(t.body(4))], numbers=[4]),
    Case("chunked, byte by byte", lambda t: one_by_one(t.chunked(t.body(5), size=7)), numbers=[5]),
    Case("trailers", lambda t: [t.chunked(t.body(6), trailers=b"x-deadline-ms: 0\r\nhost: x\r\n")], numbers=[6]),
    Case("kept open", lambda t: [t.ask(7), t.ask(8)], (OK, OK), [7, 8]),
    Case("pipelined", lambda t: [t.ask(9) + t.chunked(t.body(10)) + t.ask(11)], (OK, OK, OK), [9, 10, 11]),
    Case("pipelined, then no request", lambda t: [t.ask(12) + b"\x16\x03\x01\x02\r\n\r\n"], (OK, REFUSED), [12], True),
    Case(
        "pipelined, then a body that breaks",
        lambda t: [t.ask(13) + t.head("transfer-encoding: chunked") + b"zz\r\n"],
        (OK, REFUSED),
        [13],
        True,
    ),
    Case(
        "pipelined twice, then a body that breaks",
        lambda t: [t.ask(61) + t.ask(62) + t.head("transfer-encoding: chunked") + b"zz\r\n"],
        (OK, OK, REFUSED),
        [61, 62],
        True,
    ),
    Case(
        "pipelined twice, then half-closed in a body",
        lambda t: [t.ask(63) + t.ask(64) + t.ask(65)[:-5], CLOSE],
        (OK, OK, REFUSED),
        [63, 64],
        True,
    ),
    Case("last of its connection", lambda t: [t.ask(14, "connection: close")], numbers=[14], ends=True),
    Case("HTTP/1.0", lambda t: [t.ask(15, version="1.0")], numbers=[15], ends=True, beside=(426,)),
    Case("half-closed", lambda t: [t.ask(16), CLOSE], numbers=[16], ends=True),
    Case("half-closed, pipelined", lambda t: [t.ask(17) + t.ask(18), CLOSE], (OK, OK), [17, 18], True),
    Case("half-closed in a body", lambda t: [t.ask(19)[:-5], CLOSE], (REFUSED,), ends=True),
    Case(
        "large, and half a head behind it",
        lambda t: [t.head("content-length: 200000") + b" " * 200_000 + t.ask(66)[:40], t.ask(66)[40:]],
        (REFUSED, OK),
        [None, 66],
    ),
    Case("blank lines before", lambda t: [b"\r\n\r\n" + t.ask(20)], numbers=[20]),
    Case("expects 100", lambda t: [t.ask(21, "expect: 100-continue")], numbers=[21]),
    Case(
        "expects 100, and waits",
        lambda t: [t.head("expect: 100-continue", f"content-length: {len(t.body(22))}"), WAIT, t.body(22)],
        numbers=[22],
    ),
    Case("offers h2c", lambda t: _upgrade(t, 23, "h2c", segments=False), numbers=[23]),
    Case("offers h2c, in two segments", lambda t: _upgrade(t, 24, "h2c", segments=True), numbers=[24]),
    Case("offers h2c twice", lambda t: [*_upgrade(t, 25, "h2c", segments=True), t.ask(26)], (OK, OK), [25, 26]),
    Case("offers websocket", lambda t: _upgrade(t, 27, "websocket", segments=False), numbers=[27]),
    Case(
        "offers h2c, chunked, pipelined",
        lambda t: [t.chunked(t.body(28), "connection: upgrade", "upgrade: h2c") + t.ask(29)],
        (OK, OK),
        [28, 29],
    ),
    Case(
        "offers h2c and closes",
        lambda t: [t.ask(30, "connection: close, upgrade", "upgrade: h2c")],
        numbers=[30],
        ends=True,
    ),
    Case("speaks HTTP/2 at once", lambda t: [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], (REFUSED,), ends=True),
    Case("length twice", lambda t: [t.ask(1, "content-length: 3")], (REFUSED,), ends=True),
    Case("length and chunks", lambda t: [t.ask(1, "transfer-encoding: chunked")], (REFUSED,), ends=True),
    Case(
        "unknown framing",
        lambda t: [t.chunked(t.body(1), "transfer-encoding: gzip")],
        (REFUSED,),
        ends=True,
        beside=(501,),
    ),
    Case("length below nothing", lambda t: [t.head("content-length: -1")], (REFUSED,), ends=True),
    Case("length beyond 64 bits", lambda t: [t.head("content-length: 99999999999999999999")], (REFUSED,), ends=True),
    Case("folded header", lambda t: [t.head("x-one: 1\r\n two: 2")], (REFUSED,), ends=True),
    Case("blank before a colon", lambda t: [t.head("x-one : 1")], (REFUSED,), ends=True),
    Case("NUL in a header", lambda t: [t.head("x-one: \0")], (REFUSED,), ends=True),
    Case("two hosts", lambda t: [t.ask(1, "host: elsewhere")], (REFUSED,), ends=True),
    Case("no host", lambda t: [b"GET / HTTP/1.1\r\n\r\n"], (REFUSED,), ends=True),
    Case("no end of headers", lambda t: [t.head()[:-2], *[b"x: %s\r\n" % (b"y" * 8000)] * 20], ((431,),), ends=True),
    Case("no end of a header", lambda t: [t.head()[:-2] + b"x: ", *[b"y" * 8000] * 60], ((431,),), ends=True),
    Case("not HTTP", lambda t: [b"\x16\x03\x01\x00\xf4" * 20 + b"\r\n\r\n"], (REFUSED,), ends=True),
)
"""How a request is cut and framed."""

METHODS: Final = (
    Case("HEAD of health", lambda t: [t.head(method="HEAD", path="/v2/health/ready")], methods=("HEAD",)),
    Case("HEAD of a model", lambda t: [t.head(method="HEAD", path=f"/v2/models/{t.model}/ready")], methods=("HEAD",)),
    Case("HEAD of predictions", lambda t: [t.head(method="HEAD")], (ANY,), methods=("HEAD",)),
    Case(
        "HEAD, then a request",
        lambda t: [t.head(method="HEAD", path="/v2/health/live"), t.ask(33)],
        (OK, OK),
        [None, 33],
        methods=("HEAD", "POST"),
    ),
    Case("OPTIONS", lambda t: [t.head(method="OPTIONS")], (ANY,)),
    Case("OPTIONS *", lambda t: [t.head(method="OPTIONS", path="*")], (ANY,)),
    Case("TRACE", lambda t: [t.head(method="TRACE")], (ANY,)),
    Case("CONNECT", lambda t: [t.head(method="CONNECT", path="a:80")], (ANY,)),
    Case("PUT", lambda t: [t.ask(1, method="PUT")], (ANY,)),
    Case("unknown method", lambda t: [t.head(method="BREW")], (ANY,)),
    Case("GET of predictions", lambda t: [t.head(method="GET")], ((404, 405),)),
)

PATHS: Final = (
    Case("absolute URI", lambda t: [t.ask(31, path=f"http://{t.host}:{t.port}{t.path}")], numbers=[31]),
    Case("query", lambda t: [t.ask(32, path=f"{t.path}?x=1")], numbers=[32]),
    Case("slash behind", lambda t: [t.ask(1, path=f"{t.path}/")], ((404, 200),)),
    Case("slash behind /v2", lambda t: [t.head(method="GET", path="/v2/")], ((404, 200),)),
    Case("/v2", lambda t: [t.head(method="GET", path="/v2")]),
    Case("/v1/models", lambda t: [t.head(method="GET", path="/v1/models")]),
    Case("metadata", lambda t: [t.head(method="GET", path=f"/v2/models/{t.model}")]),
    Case("unknown model", lambda t: [t.ask(1, path="/v1/models/other:predict")], ((404,),)),
    Case(
        "NaN to an unknown model",
        lambda t: [t.head("content-length: 13", path="/v2/models/other/infer") + b'{"inputs":NaN'],
        ((404,),),
    ),
    Case("unknown version", lambda t: [t.ask(1, path=f"/v2/models/{t.model}/versions/77/infer")], ((404, 400),)),
    Case("unknown version's ready", lambda t: [t.head(method="GET", path=_version(t, "77/ready"))], ((404,),)),
    Case("unknown version's metadata", lambda t: [t.head(method="GET", path=_version(t, "77"))], ((404,),)),
    Case("version's ready", lambda t: [t.head(method="GET", path=_version(t, "1/ready"))]),
    Case("version's metadata", lambda t: [t.head(method="GET", path=_version(t, "1"))]),
    Case("unload", lambda t: [t.head("content-length: 0", path=f"/v2/repository/models/{t.model}/unload")], (REFUSED,)),
    Case("no path", lambda t: [t.head(method="GET", path="/../../etc/passwd")], (ANY,)),
    Case("escapes", lambda t: [t.head(method="GET", path="/v2/models/%00%ff%2e%2e/ready")], (ANY,)),
)


def _version(target: Target, rest: str) -> str:
    return f"/v2/models/{target.model}/versions/{rest}"


def _first_key(target: Target) -> bytes:
    return json.dumps(next(iter(json.loads(target.body(0))))).encode()


def _refused_body(name: str, body: bytes, *headers: str, statuses: tuple[int, ...] = REFUSED) -> Case:
    return Case(name, lambda t: [t.with_body(body, *headers)], (statuses,))


BODIES: Final = (
    Case("gzip", lambda t: [t.with_body(gzip.compress(t.body(41)), "content-encoding: gzip")], numbers=[41]),
    Case("x-gzip", lambda t: [t.with_body(gzip.compress(t.body(42)), "content-encoding: x-GZIP ")], numbers=[42]),
    Case("zstd", lambda t: [t.with_body(zstd(t.body(43)), "content-encoding: zstd")], numbers=[43]),
    Case("identity", lambda t: [t.ask(44, "content-encoding: identity")], numbers=[44]),
    Case("gzip in chunks", lambda t: [t.chunked(gzip.compress(t.body(45)), "content-encoding: gzip")], numbers=[45]),
    Case(
        "deflate",
        lambda t: [t.with_body(zlib.compress(t.body(1)), "content-encoding: deflate")],
        ((415,),),
        header="accept-encoding: gzip, zstd",
    ),
    _refused_body("br", b"xx", "content-encoding: br", statuses=(415,)),
    _refused_body("gzip twice", b"xx", "content-encoding: gzip", "content-encoding: gzip", statuses=(415,)),
    _refused_body("broken gzip", b"\x1f\x8bxx", "content-encoding: gzip"),
    _refused_body("gzip cut short", gzip.compress(b"{}" * 99)[:-9], "content-encoding: gzip"),
    _refused_body("broken zstd", b"xx", "content-encoding: zstd"),
    _refused_body("gzip bomb", gzip.compress(b" " * (9 * MIB)), "content-encoding: gzip", statuses=(413,)),
    _refused_body("zstd bomb", zstd(b" " * (9 * MIB)), "content-encoding: zstd", statuses=(413,)),
    Case("too large", lambda t: [t.with_body(b" " * (9 * MIB))], ((413,),)),
    Case("too large, in chunks", lambda t: [t.chunked(b" " * (9 * MIB), size=MIB)], ((413,),)),
    Case(
        "too large, and waits for 100",
        lambda t: [t.head(f"content-length: {9 * MIB}", "expect: 100-continue")],
        ((413,),),
    ),
    _refused_body("empty", b""),
    _refused_body("no JSON", b"x=1&y=2", "content-type: application/x-www-form-urlencoded"),
    _refused_body("NaN", b'{"instances":[NaN],"inputs":[NaN]}'),
    _refused_body("a list", b"[1,2]"),
    _refused_body("UTF-16", '{"instances":[]}'.encode("utf-16")),
    _refused_body("not UTF-8", b'{"instances":["\xff\xfe"]}'),
    _refused_body("lone surrogate", rb'{"instances":[{"\ud800":1}],"inputs":[{"name":"\ud800"}]}'),
    _refused_body("deep", b'{"instances":' + b"[" * 100_000),
    _refused_body("deep, whole", b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}"),
    _refused_body(
        "deep, in an event",
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"x":' + b"[" * 900 + b"]" * 900 + b"}}",
        "content-type: application/cloudevents+json",
    ),
    _refused_body("huge number", b'{"instances":[%s],"inputs":[%s]}' % (b"9" * 5000, b"9" * 5000)),
    _refused_body("garbage behind", b'{"instances":[],"inputs":[]} x'),
    Case("BOM", lambda t: [t.with_body(b"\xef\xbb\xbf" + t.body(46))], numbers=[46]),
    Case("key twice", lambda t: [t.with_body(b"{%s:1,%s" % (_first_key(t), t.body(47)[1:]))], numbers=[47]),
    _refused_body("binary length beyond", b"{}", "inference-header-content-length: 99"),
    _refused_body("binary length of nothing", b"{}", "inference-header-content-length: x"),
)

HEADERS: Final = (
    Case("deadline with blanks", lambda t: [t.ask(51, "x-deadline-ms:  60000 \t ")], numbers=[51]),
    Case("odd request id", lambda t: [t.ask(52, "x-request-id: \xe9\xff")], numbers=[52]),
    Case("empty headers", lambda t: [t.ask(53, "x-request-id:", "tracestate:", "traceparent:")], numbers=[53]),
    Case("odd content type", lambda t: [t.ask(54, "content-type: text/plain; charset=latin-1")], numbers=[54]),
    Case("header twice", lambda t: [t.ask(55, "x-request-id: a", "x-request-id: b")], numbers=[55]),
    Case("many headers", lambda t: [t.ask(56, *[f"x-{n}: {n}" for n in range(200)])], numbers=[56], beside=(431,)),
    Case("no attributes of an event", lambda t: [t.ask(57, "ce-id: 7")], numbers=[57]),
    Case("an event", lambda t: [_event(t, 58)], numbers=[58], header="ce-type: io.kserve.inference.response"),
    Case(
        "a structured event without data",
        lambda t: [t.with_body(b'{"specversion":"1.0","id":"1"}', "content-type: application/cloudevents+json")],
        (REFUSED,),
    ),
)


def _event(target: Target, number: int) -> bytes:
    return target.ask(number, "ce-specversion: 1.0", "ce-id: 7", "ce-source: s", "ce-type: t")


CASES: Final = (*FRAMING, *METHODS, *PATHS, *BODIES, *HEADERS)
