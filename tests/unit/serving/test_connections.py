"""The small HTTP client: kept-open connections, honest failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from millrace.errors import Unavailable
from serving.connections import Connections
from serving.local.ports import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(serve: Serve, scenario: Callable[[Connections], Awaitable[None]]) -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(closing, "127.0.0.1", 0)
        async with server:
            connections = Connections("127.0.0.1", server.sockets[0].getsockname()[1])
            await scenario(connections)
            connections.close()
            await asyncio.sleep(0.01)

    asyncio.run(main())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return await reader.readexactly(length)


def answer(body: bytes, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (extra, len(body), body)


def test_requests_share_a_kept_open_connection():
    opened = []

    async def serve(reader, writer):
        opened.append(1)
        while True:
            writer.write(answer(b"<" + await read_request(reader) + b">", b"X-Id: 7\r\n"))

    async def scenario(connections):
        for body in (b"a", b"b", b""):
            response = await connections.request(b"POST", b"/", body)
            assert (response.status, response.body) == (200, b"<" + body + b">")
            assert response.header(b"x-id") == b"7"

    run(serve, scenario)
    assert len(opened) == 1


def test_a_chunked_answer_in_pieces_is_put_together():
    async def serve(reader, writer):
        await read_request(reader)
        for piece in (b"HTTP/1.1 200 OK\r\nTransfer-Enc", b"oding: chunked\r\n\r\n3\r\nab", b"c\r\n0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    async def scenario(connections):
        assert (await connections.request(b"POST", b"/", b"x")).body == b"abc"

    run(serve, scenario)


def test_a_connection_closed_while_idle_is_replaced_unseen():
    async def serve(reader, writer):
        writer.write(answer(await read_request(reader)))
        await writer.drain()  # and closes without having said so: keep-alive was promised

    async def scenario(connections):
        for body in (b"a", b"b"):
            assert (await connections.request(b"POST", b"/", body)).body == body
            await asyncio.sleep(0.02)

    run(serve, scenario)


def test_an_answer_that_breaks_off_is_an_error_and_not_sent_again():
    requests = []

    async def serve(reader, writer):
        requests.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        await writer.drain()

    async def scenario(connections):
        with pytest.raises(Unavailable, match="before the answer was complete"):
            await connections.request(b"POST", b"/", b"a")

    run(serve, scenario)
    assert requests == [b"a"]


def test_a_server_that_does_not_answer_is_given_up_and_its_late_answer_goes_to_nobody():
    gate = asyncio.Event()

    async def serve(reader, writer):
        while body := await read_request(reader):
            if body == b"slow":
                await gate.wait()
            writer.write(answer(body))

    async def scenario(connections):
        with pytest.raises(Unavailable, match=r"did not answer within 0.05 s"):
            await connections.request(b"POST", b"/", b"slow", timeout_s=0.05)
        gate.set()
        assert (await connections.request(b"POST", b"/", b"next")).body == b"next"

    run(serve, scenario)


def test_nobody_listening_and_no_http_are_named():
    async def serve(reader, writer):
        await read_request(reader)
        writer.write(b"220 smtp ready\r\n")

    async def scenario(connections):
        with pytest.raises(Unavailable, match="not HTTP"):
            await connections.request(b"POST", b"/", b"a")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await Connections("127.0.0.1", free_port()).request(b"GET", b"/")

    run(serve, scenario)


def test_the_host_is_named_without_the_ordinary_port():
    heads = []

    async def serve(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(b""))

    async def scenario(connections):
        await connections.request(b"GET", b"/")

    run(serve, scenario)

    assert b"\r\nhost: 127.0.0.1:" in heads[0]
    assert Connections("gateway", 80)._authority == b"gateway"
