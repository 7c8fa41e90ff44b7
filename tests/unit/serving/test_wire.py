"""Bounds of a connection, at a real server in this process whose patience is short."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from servers import listening

from serving.wire import StrictProtocol


class Impatient(StrictProtocol):
    read_timeout_s = 0.3
    watch_s = 0.05


SLOW_S = 1.0
"""Longer than the client may be."""


async def application(scope, receive, send):
    """Reads the body, then answers with its length; at /slow not at once."""
    length = 0
    message = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        length += len(message.get("body", b""))
    if scope["path"] == "/slow":
        await asyncio.sleep(SLOW_S)
    body = b"%d" % length
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port() -> Iterator[int]:
    with listening(application, Impatient) as found:
        yield found


def conversation(port: int, *pieces: bytes) -> bytes:
    """What comes back, until the server ends the connection."""

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer

    return asyncio.run(talk())


@pytest.mark.parametrize(
    "pieces",
    [
        (b"POST / HTTP/1.1\r\n",),
        (b"POST / HTTP/1.1\r\nhost: x\r\n", b"x-one: 1\r\n"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", b"ab"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"3\r\nab"),
    ],
)
def test_a_request_that_never_ends_is_refused_in_time(port, pieces):
    answer = conversation(port, *pieces)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"was not complete within 0.3 s" in answer


@pytest.mark.parametrize("pieces", [(), (b"\r\n",)])
def test_a_connection_without_a_request_is_closed_without_a_word(port, pieces):
    assert conversation(port, *pieces) == b""


def test_what_was_answered_stays_answered_when_the_next_request_never_ends(port):
    whole = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab"

    answer = conversation(port, whole + whole[:-1])

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 408 ") == 1


def test_a_line_end_behind_a_request_does_not_cost_it_its_answer(port):
    """Some clients send one; it begins no request that could be late."""
    answer = conversation(port, b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab", b"\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"2")
