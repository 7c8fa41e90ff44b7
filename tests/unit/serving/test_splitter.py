"""The splitter over real sockets: who gets a request, what is counted, and what happens when a revision goes away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest

from serving.connections import Connections
from serving.local.exchange import Upstream
from serving.local.revision_metrics import RevisionMetrics
from serving.local.splitter import Splitter

Answer = Callable[[bytes], Awaitable[bytes] | bytes]


def reply(body: bytes, status: int = 200, *extra: bytes) -> bytes:
    head = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n" % (status, len(body))
    return head + b"".join(line + b"\r\n" for line in extra) + b"\r\n" + body


@asynccontextmanager
async def server(upstream: Upstream, answer: Answer, *, closes: bool = False):
    """A revision that answers each request with `answer(request)`; it closes after an empty answer, or after any."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                found = answer(head + await reader.readexactly(length))
                data = await found if asyncio.iscoroutine(found) else found
                writer.write(data)
                if closes or not data:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", upstream.port)
    upstream.port = listening.sockets[0].getsockname()[1]
    try:
        yield listening
    finally:
        listening.close()


@asynccontextmanager
async def splitting(stable: Upstream | None, canary: Upstream | None = None, percent: int = 0):
    """A splitter whose lot is drawn 0, 1, 2 … 99, 0, …, and a client of it."""
    lots = count()
    splitter = Splitter("fraud", RevisionMetrics(), lambda: float(next(lots) % 100))
    splitter.route(stable, canary, percent)
    await splitter.start()
    client = Connections("127.0.0.1", splitter.port)
    try:
        yield splitter, client
    finally:
        client.close()
        splitter.close()


async def bodies(client: Connections, n: int, *headers: tuple[bytes, bytes]) -> Counter[bytes]:
    answers = [await client.request(b"POST", b"/v2/models/m/infer", b"x" * 100, headers) for _ in range(n)]
    return Counter(answer.body for answer in answers)


def test_requests_are_split_by_percentage_and_a_tag_names_a_revision():
    async def story() -> None:
        stable, canary = Upstream("m-00001"), Upstream("m-00002")
        async with (
            server(stable, lambda _: reply(b"old")),
            server(canary, lambda _: reply(b"new")),
            splitting(stable, canary, 10) as (splitter, client),
        ):
            assert await bodies(client, 200) == {b"old": 180, b"new": 20}
            assert await bodies(client, 20, (b"Knative-Serving-Tag", b"prev")) == {b"old": 20}
            assert await bodies(client, 20, (b"knative-serving-tag", b"latest")) == {b"new": 20}
            assert splitter.traffic == {"m-00001": 90, "m-00002": 10}
            splitter.route(canary)
            assert await bodies(client, 20, (b"knative-serving-tag", b"prev")) == {b"new": 20}
            text = splitter._metrics.text()
        labels = 'service_name="fraud",revision_name="m-00001"'
        assert f'revision_request_count{{{labels},response_code_class="2xx"}} 200' in text
        assert f'revision_request_latencies_bucket{{{labels},le="+Inf"}} 200' in text

    asyncio.run(story())


def test_a_request_and_its_answer_go_through_byte_for_byte():
    async def story() -> None:
        seen: list[bytes] = []
        stable = Upstream("m-00001")
        body = bytes(range(256)) * 3000
        async with (
            server(stable, lambda request: (seen.append(request), reply(request[-len(body) :], 200, b"x-a: B"))[1]),
            splitting(stable) as (_, client),
        ):
            answer = await client.request(b"POST", b"/v2/x?y=%20", body, [(b"Traceparent", b"00-aB")])
        assert answer.body == body
        assert answer.header(b"x-a") == b"B"
        assert seen[0].startswith(b"POST /v2/x?y=%20 HTTP/1.1\r\n")
        assert b"Traceparent: 00-aB\r\n" in seen[0]

    asyncio.run(story())


@pytest.mark.parametrize("half", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nha"])
def test_a_revision_that_drops_the_connection_is_a_503_and_counts_as_its_error(half):
    async def story() -> None:
        stable = Upstream("m-00001")
        async with server(stable, lambda _: half, closes=True), splitting(stable) as (splitter, client):
            got = await client.request(b"POST", b"/", b"x")
        assert got.status == 503
        assert 'response_code_class="5xx"} 1' in splitter._metrics.text()

    asyncio.run(story())


def test_nobody_there_is_a_503_and_a_port_without_a_server_too():
    async def story() -> None:
        async with splitting(None) as (splitter, client):
            nobody = await client.request(b"POST", b"/", b"x")
            gone = Upstream("m-00001")
            gone.port = 1
            splitter.route(gone)
            away = await client.request(b"POST", b"/", b"x")
        assert (nobody.status, away.status) == (503, 503)
        assert b"cannot be reached" in away.body
        assert gone.in_flight == 0

    asyncio.run(story())


def test_a_server_that_closed_an_idle_connection_is_asked_again_on_another():
    async def story() -> None:
        stable, answered = Upstream("m-00001"), count()

        def answer(_: bytes) -> bytes:
            return reply(b"ok") if next(answered) != 1 else b""

        async with server(stable, answer), splitting(stable) as (splitter, client):
            assert await bodies(client, 2) == {b"ok": 2}
            assert 'response_code_class="2xx"} 2' in splitter._metrics.text()

    asyncio.run(story())


def test_a_caller_that_gives_up_counts_against_the_revision_and_leaves_nothing_in_flight():
    async def story() -> None:
        stable, release = Upstream("m-00001"), asyncio.Event()

        async def slow(_: bytes) -> bytes:
            await release.wait()
            return reply(b"late")

        async with server(stable, slow), splitting(stable) as (splitter, client):
            with pytest.raises(Exception, match="did not answer"):
                await client.request(b"POST", b"/", b"x", timeout_s=0.05)
            assert await stable.drained(2.0)
            assert 'response_code_class="5xx"} 1' in splitter._metrics.text()
            release.set()

    asyncio.run(story())


def test_draining_waits_for_what_is_under_way():
    async def story() -> None:
        stable, canary, release = Upstream("m-00001"), Upstream("m-00002"), asyncio.Event()

        async def slow(_: bytes) -> bytes:
            await release.wait()
            return reply(b"old")

        async with (
            server(stable, slow),
            server(canary, lambda _: reply(b"new")),
            splitting(stable) as (splitter, client),
        ):
            waiting = asyncio.create_task(client.request(b"POST", b"/", b"x"))
            while not stable.in_flight:
                await asyncio.sleep(0)
            splitter.route(canary)
            assert await bodies(client, 3) == {b"new": 3}
            assert not await stable.drained(0.05)
            release.set()
            assert await stable.drained(2.0)
            assert (await waiting).body == b"old"

    asyncio.run(story())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"413"),
        (b"x" * 70_000, b"431"),
    ],
)
def test_what_cannot_be_passed_on_is_refused(request_, status):
    async def story() -> None:
        async with splitting(None) as (splitter, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", splitter.port)
            writer.write(request_)
            answer = await reader.read()
            writer.close()
        assert answer.startswith(b"HTTP/1.1 " + status)

    asyncio.run(story())
