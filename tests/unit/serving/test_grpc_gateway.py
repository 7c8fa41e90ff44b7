"""gRPC through the gateway, over real sockets: who gets a call, what it says, what is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from itertools import count

import grpc
import pytest
from grpc import StatusCode, aio
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serving.local.exchange import Upstream
from serving.local.grpc_gateway import GrpcGateway, model_name
from serving.local.revision_metrics import RevisionMetrics
from serving.local.splitter import Splitter

INFER = "/inference.GRPCInferenceService/ModelInfer"
REQUEST = pb.ModelInferRequest(model_name="fraud", id="7").SerializeToString()


class Revision(grpc.GenericRpcHandler):
    """Answers a call with its own name, after the request's bytes; `fails` with a status."""

    def __init__(self, name: str, fails: StatusCode | None = None) -> None:
        self.name, self.fails = name, fails
        self.metadata: dict[str, str] = {}

    def service(self, handler_call_details):
        self.metadata = dict(handler_call_details.invocation_metadata)

        async def answer(request: bytes, context) -> bytes:
            if self.fails is not None:
                await context.abort(self.fails, "the revision says why")
            return request + self.name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


class Service:
    """A service without a transformer, as `RunningService` is one."""

    timeout_s = 5.0

    def __init__(self, splitter: Splitter) -> None:
        self.splitter, self.record = splitter, splitter.record

    async def grpc_target(self, tag: bytes):
        upstream = self.splitter.pick(tag)
        return None if upstream is None else (upstream.grpc_port, upstream)


@asynccontextmanager
async def serving(*revisions: Revision, percent: int = 0, authorization: str = ""):
    """A gateway before one or two revisions, a client's call, and the splitter; lots are drawn 0, 1, 2 …"""
    lots, servers, upstreams = count(), [], []
    for revision in revisions:
        server = aio.server()
        server.add_generic_rpc_handlers((revision,))
        upstream = Upstream(revision.name)
        upstream.grpc_port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        upstreams.append(upstream)
    splitter = Splitter("fraud", RevisionMetrics(), lambda: float(next(lots) % 100))
    splitter.route(*(upstreams or [None]), percent=percent)
    gateway = GrpcGateway({"fraud": Service(splitter)}.get, authorization)
    port = await gateway.start(range(42_000, 43_000))
    channel = aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield channel.unary_unary(INFER), splitter
    finally:
        await channel.close()
        await gateway.close(0)
        for server in servers:
            await server.stop(0)


async def refused(call) -> tuple[StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details()


def test_calls_are_split_by_percentage_and_a_tag_names_a_revision():
    async def story() -> None:
        async with serving(Revision("old"), Revision("new"), percent=10) as (ask, splitter):
            answers = Counter([(await ask(REQUEST))[len(REQUEST) :] for _ in range(100)])
            tagged = [await ask(REQUEST, metadata=[("knative-serving-tag", "prev")]) for _ in range(5)]
            text = splitter._metrics.text()
        assert answers == {b"old": 90, b"new": 10}
        assert set(tagged) == {REQUEST + b"old"}
        assert 'revision_name="old",response_code_class="2xx"} 95' in text

    asyncio.run(story())


def test_metadata_goes_on_and_the_gateways_token_does_not():
    async def story() -> None:
        revision = Revision("only")
        async with serving(revision, authorization="Bearer secret") as (ask, _):
            assert (await refused(ask(REQUEST)))[0] is StatusCode.UNAUTHENTICATED
            assert (await refused(ask(REQUEST, metadata=[("authorization", "Bearer x")])))[0] is (
                StatusCode.UNAUTHENTICATED
            )
            await ask(REQUEST, metadata=[("authorization", "Bearer secret"), ("ce-id", "17")])
        assert (revision.metadata["ce-id"], "authorization" in revision.metadata) == ("17", False)

    asyncio.run(story())


def test_an_error_is_the_revisions_own_and_counted_as_http_counts_it():
    async def story() -> None:
        async with serving(Revision("wrong", StatusCode.INVALID_ARGUMENT)) as (ask, splitter):
            assert await refused(ask(REQUEST)) == (StatusCode.INVALID_ARGUMENT, "the revision says why")
            assert 'revision_name="wrong",response_code_class="4xx"} 1' in splitter._metrics.text()
            assert splitter.pick(b"").in_flight == 0

    asyncio.run(story())


def test_a_call_that_nobody_can_answer_is_unavailable():
    async def story() -> None:
        async with serving() as (ask, _):
            assert (await refused(ask(REQUEST)))[0] is StatusCode.UNAVAILABLE
            other = pb.ModelInferRequest(model_name="another").SerializeToString()
            assert (await refused(ask(other)))[0] is StatusCode.UNAVAILABLE

    asyncio.run(story())


def test_a_port_in_use_is_not_shared():
    async def story() -> None:
        first, second = GrpcGateway({}.get), GrpcGateway({}.get)
        port = await first.start(range(43_000, 44_000))

        assert await second.start([port]) == 0
        assert await second.start([port, port + 1]) in (0, port + 1)
        await first.close(0)
        await second.close(0)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (REQUEST, "fraud"),
        (pb.ModelReadyRequest(name="m" * 300).SerializeToString(), "m" * 300),
        (pb.ServerLiveRequest().SerializeToString(), ""),
        (b"\x0a", ""),
        (b"\x0a\xff\xff\xff\xff", ""),
        (b"\x12\x01x", ""),
    ],
    ids=["infer", "long", "empty", "torn", "no length", "another field"],
)
def test_the_model_is_read_from_the_first_field(message, name):
    assert model_name(message) == name
