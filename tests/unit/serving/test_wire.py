"""Bounds of a connection, at a real server in this process whose patience is short."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from servers import free_port

from serving.wire import StrictProtocol


class Impatient(StrictProtocol):
    read_timeout_s = 0.3
    watch_s = 0.05


async def application(scope, receive, send):
    """Reads the body, then answers with its length."""
    length = 0
    message = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        length += len(message.get("body", b""))
    body = b"%d" % length
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port() -> Iterator[int]:
    found = free_port()
    config = uvicorn.Config(
        application, port=found, http=Impatient, ws="none", lifespan="off", log_level="error", loop="uvloop"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(20)


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
