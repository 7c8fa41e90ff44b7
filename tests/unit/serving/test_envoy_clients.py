"""Envoy as the local runtime sets it: hostile and unusual clients."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from envoy_plane import MIB, PATH, Plane, Server, post, raw, routed, running


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> Iterator[tuple[Plane, Server]]:
    server = Server("m")
    with running(tmp_path_factory.mktemp("home"), routed("m", server.port)) as plane:
        yield plane, server
    server.close()


H2C = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__")
CHUNKED = b"transfer-encoding: chunked"


@pytest.mark.parametrize(
    "request_",
    [
        post(b"{}", *H2C),
        post(b"{}", b"connection: upgrade", b"upgrade: websocket"),
        post(b"{}", b"upgrade: TLS/1.0"),
        post(b"2\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
        post(b"1\r\n{\r\n1;x=y\r\n}\r\n0\r\na: b\r\n\r\n", CHUNKED, b"trailer: a", length=False),
        post(b"{}", path=f"http://other:99{PATH}"),
        post(b"{}", path="//v1//models/x/../m:predict"),
        post(b"{}", b"x-deadline-ms: 100 ", b"empty:"),
        post(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["h2c", "websocket", "tls", "chunked", "trailers", "absolute", "slashes", "blanks", "1.0"],
)
def test_an_unusual_request_is_answered(echo, request_):
    plane, server = echo

    answer = raw(plane.port, request_)

    assert answer.split()[1] == b"200", answer
    assert (server.seen[-1]["path"], server.seen[-1]["length"]) == (PATH, 2)
    assert not {"upgrade", "http2-settings", "transfer-encoding"} & server.seen[-1]["headers"].keys()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b"2\r\n{}\r\n0\r\n\r\n", CHUNKED, b"content-length: 2", length=False), 400),
        (post(b"{}", b"content-length: 2"), 400),
        (post(b"{}", b"content-length: 3"), 400),
        (post(b"{}", b"content-length: -1", length=False), 400),
        (post(b"{}", b"content-length: +2", length=False), 400),
        (post(b"{}", b"host: y"), 400),
        (post(b"{}").replace(b"host: x\r\n", b""), 400),
        (post(b"{}", b"x : y"), 400),
        (post(b"{}", b"x: a\0b"), 400),
        (post(b"2\r\n{}\r\n0\r\n\r\n", b"transfer-encoding: gzip, chunked", length=False), 501),
        (post(b"zz\r\n", CHUNKED, length=False), 400),
        (post(b"{}", path="/v1/models%2Fm:predict"), 400),
        (post(b"{}", b"x: " + b"y" * 70_000), 431),
        (post(b"", b"content-length: 900000000", length=False), 413),
        (post(b"", b"expect: 100-continue", b"content-length: 900000000", length=False), 413),
        (post(b"800001\r\n" + b"x" * (8 * MIB + 1) + b"\r\n0\r\n\r\n", CHUNKED, length=False), 413),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"TRACE / HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"\x16\x03\x01 hello\r\n\r\n", 400),
    ],
)
def test_what_is_not_right_is_refused_and_reaches_nobody(echo, request_, status):
    plane, server = echo
    before = len(server.seen)

    answer = raw(plane.port, request_)

    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1") and b" 100 " not in line]
    assert [int(line.split()[1]) for line in lines] == [status], answer
    assert len(server.seen) == before


def test_a_body_is_as_long_as_the_limit_and_not_longer(echo):
    plane, server = echo

    assert plane.ask(body=b"x" * 8 * MIB)[0] == 200
    assert server.seen[-1]["length"] == 8 * MIB
    status, document = plane.ask(body=b"x" * (8 * MIB + 1))

    assert (status, "8388608 bytes" in document["error"]) == (413, True)


def test_head_is_answered_at_once(echo):
    plane, _ = echo
    began = time.monotonic()

    for path in ("/healthz", "/v2/models/m/ready", "/elsewhere"):
        with socket.create_connection(("127.0.0.1", plane.port), timeout=5) as connection:
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            answer = connection.recv(65536)
        assert answer.endswith(b"\r\n\r\n")
        assert answer.split()[1] in (b"200", b"404")

    assert time.monotonic() - began < 2


def test_a_client_that_expects_100_continue_gets_its_own_answer(echo):
    plane, _ = echo
    whole = post(b"{}", b"expect: 100-continue", b"x-id: 7")

    answer = raw(plane.port, whole[:-2], whole[-2:])

    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["headers"]["x-id"] == "7"


def test_pipelined_requests_get_their_answers_in_order(echo):
    plane, _ = echo
    requests = b"".join(post(b"{}", b"x-id: %d" % number) for number in range(5))

    with socket.create_connection(("127.0.0.1", plane.port), timeout=5) as connection:
        connection.sendall(requests)
        received = b""
        while received.count(b'"x-id"') < 5:
            received += connection.recv(65536)

    order = [received.index(b'"x-id": "%d"' % number) for number in range(5)]
    assert order == sorted(order)


def test_envoy_ends_a_connection_whose_answers_pile_up_and_gives_nobody_anothers(echo):
    """Envoy's own limit: with two answers that wait to be written it takes no request more that came in the same go."""
    plane, _ = echo
    first, own, last = (
        post(b"{}", b"x-id: 1"),
        b"GET /elsewhere HTTP/1.1\r\nhost: x\r\n\r\n",
        post(b"{}", b"x-id: 3"),
    )

    received = b""
    with socket.create_connection(("127.0.0.1", plane.port), timeout=5) as connection:
        connection.sendall(first + own + last)
        while got := connection.recv(65536):
            received += got

    statuses = [answer[:3] for answer in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404"]
    assert b'"x-id": "3"' not in received
    assert plane.ask()[0] == 200


def test_a_client_cannot_say_how_long_envoy_waits_nor_whom_it_asks(echo):
    plane, server = echo
    headers = {"x_envoy_upstream_rq_timeout_ms": "1", "x_millrace_service": "x", "x_millrace_model": "x"}

    status, _ = plane.ask(**headers)

    assert status == 200
    assert not {name for name in server.seen[-1]["headers"] if name.startswith(("x-envoy", "x-millrace-model"))}


def test_http_2_without_an_upgrade_is_answered_on_the_same_port(echo):
    plane, server = echo
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    command = ["curl", "-s", "--http2-prior-knowledge", "-d", "{}", f"http://127.0.0.1:{plane.port}{PATH}"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=20)

    assert json.loads(answer.stdout)["name"] == server.name
