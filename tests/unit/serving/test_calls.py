"""Calls of a server: kept-open connections, interim answers, honest failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from servers import free_port

from millrace.errors import Unavailable
from serving.calls import Calls

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(serve: Serve, scenario: Callable[[Calls], Awaitable[None]]) -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(closing, "127.0.0.1", 0)
        async with server, Calls("127.0.0.1", server.sockets[0].getsockname()[1]) as calls:
            await scenario(calls)

    asyncio.run(main())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return await reader.readexactly(length)


def answer(body: bytes, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (extra, len(body), body)


def test_requests_share_a_kept_open_connection():
    opened = []

    async def serve(reader, writer):
        opened.append(1)
        while True:
            writer.write(answer(b"<" + await read_request(reader) + b">", b"X-Id: 7\r\n"))

    async def scenario(calls):
        for body in (b"a", b"b", b""):
            response = await calls.request("POST", "/", body)
            assert (response.status, response.body) == (200, b"<" + body + b">")
            assert dict(response.headers)[b"X-Id"] == b"7"

    run(serve, scenario)
    assert len(opened) == 1


def test_a_chunked_answer_in_pieces_is_put_together():
    async def serve(reader, writer):
        await read_request(reader)
        for piece in (b"HTTP/1.1 200 OK\r\nTransfer-Enc", b"oding: chunked\r\n\r\n3\r\nab", b"c\r\n0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    async def scenario(calls):
        assert (await calls.request("POST", "/", b"x")).body == b"abc"

    run(serve, scenario)


def test_a_connection_that_was_closed_while_idle_is_not_used_again():
    async def serve(reader, writer):
        writer.write(answer(await read_request(reader)))
        await writer.drain()  # and closes without having said so: keep-alive was promised

    async def scenario(calls):
        for body in (b"a", b"b"):
            assert (await calls.request("POST", "/", body)).body == body
            await asyncio.sleep(0.02)

    run(serve, scenario)


def test_interim_answers_are_passed_over_and_the_next_call_gets_its_own():
    async def serve(reader, writer):
        while True:
            body = await read_request(reader)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + answer(body))

    async def scenario(calls):
        for body in (b"a", b"b", b"c"):
            response = await calls.request("POST", "/", body)
            assert (response.status, response.body) == (200, body)

    run(serve, scenario)


def test_what_is_compressed_or_elsewhere_is_given_as_it_came():
    async def serve(reader, writer):
        for extra in (b"Content-Encoding: gzip\r\n", b"Location: http://127.0.0.1:9/\r\n"):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"accept-encoding" not in head.lower()
            assert b"cookie" not in head.lower()
            status = b"302 Found" if b"Location" in extra else b"200 OK"
            writer.write(answer(b"as it is", extra + b"Set-Cookie: a=b\r\n").replace(b"200 OK", status))

    async def scenario(calls):
        packed, elsewhere = await calls.request("GET", "/"), await calls.request("GET", "/")
        assert packed.body == elsewhere.body == b"as it is"
        assert (elsewhere.status, dict(packed.headers)[b"Content-Encoding"]) == (302, b"gzip")

    run(serve, scenario)


def test_an_answer_that_breaks_off_is_an_error_and_not_sent_again():
    requests = []

    async def serve(reader, writer):
        requests.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        await writer.drain()

    async def scenario(calls):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await calls.request("POST", "/", b"a")

    run(serve, scenario)
    assert requests == [b"a"]


def test_a_server_that_does_not_answer_is_given_up_and_its_late_answer_goes_to_nobody():
    gate = asyncio.Event()

    async def serve(reader, writer):
        while body := await read_request(reader):
            if body == b"slow":
                await gate.wait()
            writer.write(answer(body))

    async def scenario(calls):
        with pytest.raises(Unavailable, match=r"did not answer within 0.05 s"):
            await calls.request("POST", "/", b"slow", timeout_s=0.05)
        gate.set()
        assert (await calls.request("POST", "/", b"next")).body == b"next"

    run(serve, scenario)


def test_nobody_listening_and_no_http_are_named():
    async def serve(reader, writer):
        await read_request(reader)
        writer.write(b"220 smtp ready\r\n")

    async def scenario(calls):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await calls.request("POST", "/", b"a")
        with pytest.raises(Unavailable, match="cannot be reached"):
            async with Calls("127.0.0.1", free_port()) as nobody:
                await nobody.request("GET", "/")

    run(serve, scenario)


def test_the_host_is_named_without_the_ordinary_port():
    heads = []

    async def serve(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(b""))

    async def scenario(calls):
        await calls.request("GET", "/")

    run(serve, scenario)

    assert b"\r\nhost: 127.0.0.1:" in heads[0].lower()
    assert Calls("gateway", 80)._base == "http://gateway"
